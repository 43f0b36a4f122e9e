from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.amount import Amount


T = TypeVar("T", bound="UnbilledCustomer")


@_attrs_define
class UnbilledCustomer:
    """Unbilled usage of one customer. `calls`, `overage` and `due` are `null` if they cannot be computed."""

    calls: int | None
    """ Overage calls that no charge covers. """
    customer_id: str
    """ Id of a customer: chosen at creation, or drawn as `cus_` and 20 letters and digits. It must not
    identify a person: it stays in usage and ledger when the customer is erased. """
    due: Amount | None
    overage: Amount | None
    reason: None | str
    """ Reason why the numbers cannot be computed. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        from ..models.amount import Amount  # noqa: PLC0415

        calls: int | None
        calls = self.calls

        customer_id = self.customer_id

        due: dict[str, Any] | None
        if isinstance(self.due, Amount):
            due = self.due.to_dict()
        else:
            due = self.due

        overage: dict[str, Any] | None
        if isinstance(self.overage, Amount):
            overage = self.overage.to_dict()
        else:
            overage = self.overage

        reason: None | str
        reason = self.reason

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "calls": calls,
                "customer_id": customer_id,
                "due": due,
                "overage": overage,
                "reason": reason,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.amount import Amount  # noqa: PLC0415

        d = dict(src_dict)

        def _parse_calls(data: object) -> int | None:
            if data is None:
                return data
            return cast(int | None, data)

        calls = _parse_calls(d.pop("calls"))

        customer_id = d.pop("customer_id")

        def _parse_due(data: object) -> Amount | None:
            if data is None:
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                due_type_0 = Amount.from_dict(data)

                return due_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(Amount | None, data)

        due = _parse_due(d.pop("due"))

        def _parse_overage(data: object) -> Amount | None:
            if data is None:
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                overage_type_0 = Amount.from_dict(data)

                return overage_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(Amount | None, data)

        overage = _parse_overage(d.pop("overage"))

        def _parse_reason(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        reason = _parse_reason(d.pop("reason"))

        unbilled_customer = cls(
            calls=calls,
            customer_id=customer_id,
            due=due,
            overage=overage,
            reason=reason,
        )

        unbilled_customer.additional_properties = d
        return unbilled_customer

    @property
    def additional_keys(self) -> list[str]:
        return list(self.additional_properties.keys())

    def __getitem__(self, key: str) -> Any:
        return self.additional_properties[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.additional_properties[key] = value

    def __delitem__(self, key: str) -> None:
        del self.additional_properties[key]

    def __contains__(self, key: str) -> bool:
        return key in self.additional_properties
