from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.charge_status import ChargeStatus, check_charge_status

if TYPE_CHECKING:
    from ..models.signed_amount import SignedAmount


T = TypeVar("T", bound="CustomerCharge")


@_attrs_define
class CustomerCharge:
    """A charge for the overage of a month, or if its amount is negative, a credit."""

    amount: SignedAmount
    """ Amount that may be negative, such as `{"micro_usd": -230000, "display": "-$0.23"}`. """
    cents: int
    """ Amount in US cents; negative for a credit. """
    created_at: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    description: str
    """ Text on the invoice. """
    from_call: int
    """ Number of the first overage call that the charge covers or the credit takes back, from 1. """
    id: str
    """ Id of a charge: customer, month, and number within the month. """
    invoice_item: None | str
    """ Id of Stripe's invoice item, once the charge is settled. """
    month: str
    """ UTC month. """
    number: int
    """ Number of the charge within the month, from 1. """
    settled_at: datetime.datetime | None
    status: ChargeStatus
    """ State of a charge. """
    to_call: int
    """ Number of the last overage call that the charge covers or the credit takes back. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        amount = self.amount.to_dict()

        cents = self.cents

        created_at = self.created_at.isoformat()

        description = self.description

        from_call = self.from_call

        id = self.id

        invoice_item: None | str
        invoice_item = self.invoice_item

        month = self.month

        number = self.number

        settled_at: None | str
        if isinstance(self.settled_at, datetime.datetime):
            settled_at = self.settled_at.isoformat()
        else:
            settled_at = self.settled_at

        status: str = self.status

        to_call = self.to_call

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "amount": amount,
                "cents": cents,
                "created_at": created_at,
                "description": description,
                "from_call": from_call,
                "id": id,
                "invoice_item": invoice_item,
                "month": month,
                "number": number,
                "settled_at": settled_at,
                "status": status,
                "to_call": to_call,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.signed_amount import SignedAmount  # noqa: PLC0415

        d = dict(src_dict)
        amount = SignedAmount.from_dict(d.pop("amount"))

        cents = d.pop("cents")

        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        description = d.pop("description")

        from_call = d.pop("from_call")

        id = d.pop("id")

        def _parse_invoice_item(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        invoice_item = _parse_invoice_item(d.pop("invoice_item"))

        month = d.pop("month")

        number = d.pop("number")

        def _parse_settled_at(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                settled_at_type_0 = datetime.datetime.fromisoformat(data)

                return settled_at_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        settled_at = _parse_settled_at(d.pop("settled_at"))

        status = check_charge_status(d.pop("status"))

        to_call = d.pop("to_call")

        customer_charge = cls(
            amount=amount,
            cents=cents,
            created_at=created_at,
            description=description,
            from_call=from_call,
            id=id,
            invoice_item=invoice_item,
            month=month,
            number=number,
            settled_at=settled_at,
            status=status,
            to_call=to_call,
        )

        customer_charge.additional_properties = d
        return customer_charge

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
