from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.signed_amount import SignedAmount


T = TypeVar("T", bound="Adjustment")


@_attrs_define
class Adjustment:
    """A counted adjustment."""

    billable_calls: int
    """ Billable calls added, or if negative, removed. """
    cost: SignedAmount
    """ Amount that may be negative, such as `{"micro_usd": -230000, "display": "-$0.23"}`. """
    id: str
    """ Id of the usage event with the adjustment. """
    plan: str
    """ Id of a plan. """
    reason: str
    """ Reason. """
    received_at: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    source: str
    """ Source of the usage event with the adjustment. """
    time: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        billable_calls = self.billable_calls

        cost = self.cost.to_dict()

        id = self.id

        plan = self.plan

        reason = self.reason

        received_at = self.received_at.isoformat()

        source = self.source

        time = self.time.isoformat()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "billable_calls": billable_calls,
                "cost": cost,
                "id": id,
                "plan": plan,
                "reason": reason,
                "received_at": received_at,
                "source": source,
                "time": time,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.signed_amount import SignedAmount  # noqa: PLC0415

        d = dict(src_dict)
        billable_calls = d.pop("billable_calls")

        cost = SignedAmount.from_dict(d.pop("cost"))

        id = d.pop("id")

        plan = d.pop("plan")

        reason = d.pop("reason")

        received_at = datetime.datetime.fromisoformat(d.pop("received_at"))

        source = d.pop("source")

        time = datetime.datetime.fromisoformat(d.pop("time"))

        adjustment = cls(
            billable_calls=billable_calls,
            cost=cost,
            id=id,
            plan=plan,
            reason=reason,
            received_at=received_at,
            source=source,
            time=time,
        )

        adjustment.additional_properties = d
        return adjustment

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
