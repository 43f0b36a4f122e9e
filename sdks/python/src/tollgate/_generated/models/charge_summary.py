from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

T = TypeVar("T", bound="ChargeSummary")


@_attrs_define
class ChargeSummary:
    """A charge in the result of a billing run."""

    adjusted_calls: int
    """ Sum of the adjustments of the month's billable calls when the charge was made. """
    cents: int
    """ Amount, in US cents; negative for a credit. """
    customer_id: str
    """ Id of a customer: chosen at creation, or drawn as `cus_` and 20 letters and digits. It must not
    identify a person: it stays in usage and ledger when the customer is erased. """
    from_call: int
    """ Number of the first overage call that the charge covers or the credit takes back, from 1. """
    id: str
    """ Id of a charge: customer, month, and number within the month. """
    month: str
    """ UTC month. """
    to_call: int
    """ Number of the last overage call that the charge covers or the credit takes back. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        adjusted_calls = self.adjusted_calls

        cents = self.cents

        customer_id = self.customer_id

        from_call = self.from_call

        id = self.id

        month = self.month

        to_call = self.to_call

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "adjusted_calls": adjusted_calls,
                "cents": cents,
                "customer_id": customer_id,
                "from_call": from_call,
                "id": id,
                "month": month,
                "to_call": to_call,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        adjusted_calls = d.pop("adjusted_calls")

        cents = d.pop("cents")

        customer_id = d.pop("customer_id")

        from_call = d.pop("from_call")

        id = d.pop("id")

        month = d.pop("month")

        to_call = d.pop("to_call")

        charge_summary = cls(
            adjusted_calls=adjusted_calls,
            cents=cents,
            customer_id=customer_id,
            from_call=from_call,
            id=id,
            month=month,
            to_call=to_call,
        )

        charge_summary.additional_properties = d
        return charge_summary

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
