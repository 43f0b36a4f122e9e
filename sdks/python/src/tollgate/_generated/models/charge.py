from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.charge_status import ChargeStatus, check_charge_status

if TYPE_CHECKING:
    from ..models.amount import Amount
    from ..models.charge_overage_by_plan import ChargeOverageByPlan
    from ..models.signed_amount import SignedAmount


T = TypeVar("T", bound="Charge")


@_attrs_define
class Charge:
    """A charge in the ledger, or if its amount is negative, a credit."""

    adjusted_calls: int
    """ Sum of the adjustments of the month's billable calls when the charge was made. """
    amount: SignedAmount
    """ Amount that may be negative, such as `{"micro_usd": -230000, "display": "-$0.23"}`. """
    attempts: int
    """ Attempts to submit the charge to Stripe. """
    created_at: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    cumulative_overage: Amount
    """ Amount, such as `{"micro_usd": 230000, "display": "$0.23"}`. """
    description: str
    """ Text on the customer's invoice. """
    failure_reason: None | str
    """ Reason of a failed charge, for the operator. """
    from_call: int
    """ Number of the first overage call that the charge covers or the credit takes back, from 1. """
    id: str
    """ Id of a charge: customer, month, and number within the month. """
    invoice_item: None | str
    """ Id of Stripe's invoice item, once the charge is settled. """
    last_attempt_at: datetime.datetime | None
    month: str
    """ UTC month. """
    next_try: datetime.datetime | None
    number: int
    """ Number of the charge within the month, from 1. """
    overage_by_plan: ChargeOverageByPlan
    """ Cumulative overage by plan. Empty for charges of releases that did not store it. """
    overage_calls: int
    """ Overage calls that the month's charges cover, this one included. """
    settled_at: datetime.datetime | None
    status: ChargeStatus
    """ State of a charge. """
    to_call: int
    """ Number of the last overage call that the charge covers or the credit takes back. """
    usage_digest: str
    """ SHA-256 of the billable calls by day and plan that the charge was computed from. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        adjusted_calls = self.adjusted_calls

        amount = self.amount.to_dict()

        attempts = self.attempts

        created_at = self.created_at.isoformat()

        cumulative_overage = self.cumulative_overage.to_dict()

        description = self.description

        failure_reason: None | str
        failure_reason = self.failure_reason

        from_call = self.from_call

        id = self.id

        invoice_item: None | str
        invoice_item = self.invoice_item

        last_attempt_at: None | str
        if isinstance(self.last_attempt_at, datetime.datetime):
            last_attempt_at = self.last_attempt_at.isoformat()
        else:
            last_attempt_at = self.last_attempt_at

        month = self.month

        next_try: None | str
        if isinstance(self.next_try, datetime.datetime):
            next_try = self.next_try.isoformat()
        else:
            next_try = self.next_try

        number = self.number

        overage_by_plan = self.overage_by_plan.to_dict()

        overage_calls = self.overage_calls

        settled_at: None | str
        if isinstance(self.settled_at, datetime.datetime):
            settled_at = self.settled_at.isoformat()
        else:
            settled_at = self.settled_at

        status: str = self.status

        to_call = self.to_call

        usage_digest = self.usage_digest

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "adjusted_calls": adjusted_calls,
                "amount": amount,
                "attempts": attempts,
                "created_at": created_at,
                "cumulative_overage": cumulative_overage,
                "description": description,
                "failure_reason": failure_reason,
                "from_call": from_call,
                "id": id,
                "invoice_item": invoice_item,
                "last_attempt_at": last_attempt_at,
                "month": month,
                "next_try": next_try,
                "number": number,
                "overage_by_plan": overage_by_plan,
                "overage_calls": overage_calls,
                "settled_at": settled_at,
                "status": status,
                "to_call": to_call,
                "usage_digest": usage_digest,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.amount import Amount  # noqa: PLC0415
        from ..models.charge_overage_by_plan import ChargeOverageByPlan  # noqa: PLC0415
        from ..models.signed_amount import SignedAmount  # noqa: PLC0415

        d = dict(src_dict)
        adjusted_calls = d.pop("adjusted_calls")

        amount = SignedAmount.from_dict(d.pop("amount"))

        attempts = d.pop("attempts")

        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        cumulative_overage = Amount.from_dict(d.pop("cumulative_overage"))

        description = d.pop("description")

        def _parse_failure_reason(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        failure_reason = _parse_failure_reason(d.pop("failure_reason"))

        from_call = d.pop("from_call")

        id = d.pop("id")

        def _parse_invoice_item(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        invoice_item = _parse_invoice_item(d.pop("invoice_item"))

        def _parse_last_attempt_at(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                last_attempt_at_type_0 = datetime.datetime.fromisoformat(data)

                return last_attempt_at_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        last_attempt_at = _parse_last_attempt_at(d.pop("last_attempt_at"))

        month = d.pop("month")

        def _parse_next_try(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                next_try_type_0 = datetime.datetime.fromisoformat(data)

                return next_try_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        next_try = _parse_next_try(d.pop("next_try"))

        number = d.pop("number")

        overage_by_plan = ChargeOverageByPlan.from_dict(d.pop("overage_by_plan"))

        overage_calls = d.pop("overage_calls")

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

        usage_digest = d.pop("usage_digest")

        charge = cls(
            adjusted_calls=adjusted_calls,
            amount=amount,
            attempts=attempts,
            created_at=created_at,
            cumulative_overage=cumulative_overage,
            description=description,
            failure_reason=failure_reason,
            from_call=from_call,
            id=id,
            invoice_item=invoice_item,
            last_attempt_at=last_attempt_at,
            month=month,
            next_try=next_try,
            number=number,
            overage_by_plan=overage_by_plan,
            overage_calls=overage_calls,
            settled_at=settled_at,
            status=status,
            to_call=to_call,
            usage_digest=usage_digest,
        )

        charge.additional_properties = d
        return charge

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
