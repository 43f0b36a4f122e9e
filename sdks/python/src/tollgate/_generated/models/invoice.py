from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.currency_amount import CurrencyAmount


T = TypeVar("T", bound="Invoice")


@_attrs_define
class Invoice:
    """Invoice at Stripe."""

    amount_due: CurrencyAmount
    """ Amount in the currency of an invoice, such as `{"cents": 4900, "display": "$49.00"}`. """
    amount_paid: CurrencyAmount
    """ Amount in the currency of an invoice, such as `{"cents": 4900, "display": "$49.00"}`. """
    amount_remaining: CurrencyAmount
    """ Amount in the currency of an invoice, such as `{"cents": 4900, "display": "$49.00"}`. """
    created_at: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    currency: str
    """ Currency. """
    hosted_invoice_url: None | str
    """ Page on which the invoice can be read and paid, by whoever has the address. """
    id: str
    """ Id. """
    invoice_pdf: None | str
    """ Address of the invoice as a PDF file. """
    number: None | str
    """ Number on the invoice. """
    status: str
    """ State: `open`, `paid`, `uncollectible`, `void`, or one that Stripe adds. """
    total: CurrencyAmount
    """ Amount in the currency of an invoice, such as `{"cents": 4900, "display": "$49.00"}`. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        amount_due = self.amount_due.to_dict()

        amount_paid = self.amount_paid.to_dict()

        amount_remaining = self.amount_remaining.to_dict()

        created_at = self.created_at.isoformat()

        currency = self.currency

        hosted_invoice_url: None | str
        hosted_invoice_url = self.hosted_invoice_url

        id = self.id

        invoice_pdf: None | str
        invoice_pdf = self.invoice_pdf

        number: None | str
        number = self.number

        status = self.status

        total = self.total.to_dict()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "amount_due": amount_due,
                "amount_paid": amount_paid,
                "amount_remaining": amount_remaining,
                "created_at": created_at,
                "currency": currency,
                "hosted_invoice_url": hosted_invoice_url,
                "id": id,
                "invoice_pdf": invoice_pdf,
                "number": number,
                "status": status,
                "total": total,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.currency_amount import CurrencyAmount  # noqa: PLC0415

        d = dict(src_dict)
        amount_due = CurrencyAmount.from_dict(d.pop("amount_due"))

        amount_paid = CurrencyAmount.from_dict(d.pop("amount_paid"))

        amount_remaining = CurrencyAmount.from_dict(d.pop("amount_remaining"))

        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        currency = d.pop("currency")

        def _parse_hosted_invoice_url(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        hosted_invoice_url = _parse_hosted_invoice_url(d.pop("hosted_invoice_url"))

        id = d.pop("id")

        def _parse_invoice_pdf(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        invoice_pdf = _parse_invoice_pdf(d.pop("invoice_pdf"))

        def _parse_number(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        number = _parse_number(d.pop("number"))

        status = d.pop("status")

        total = CurrencyAmount.from_dict(d.pop("total"))

        invoice = cls(
            amount_due=amount_due,
            amount_paid=amount_paid,
            amount_remaining=amount_remaining,
            created_at=created_at,
            currency=currency,
            hosted_invoice_url=hosted_invoice_url,
            id=id,
            invoice_pdf=invoice_pdf,
            number=number,
            status=status,
            total=total,
        )

        invoice.additional_properties = d
        return invoice

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
