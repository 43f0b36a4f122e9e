from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.amount import Amount


T = TypeVar("T", bound="PlanOverage")


@_attrs_define
class PlanOverage:
    """Overage of one plan in a month."""

    billable_calls: int
    """ Billable calls on the plan, adjustments included. """
    calls: int
    """ Overage calls. """
    cost: Amount
    """ Amount, such as `{"micro_usd": 230000, "display": "$0.23"}`. """
    included: int
    """ Calls that the plan includes in a month. """
    plan: str
    """ Id of a plan. """
    remaining: int
    """ Included calls that are left. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        billable_calls = self.billable_calls

        calls = self.calls

        cost = self.cost.to_dict()

        included = self.included

        plan = self.plan

        remaining = self.remaining

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "billable_calls": billable_calls,
                "calls": calls,
                "cost": cost,
                "included": included,
                "plan": plan,
                "remaining": remaining,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.amount import Amount  # noqa: PLC0415

        d = dict(src_dict)
        billable_calls = d.pop("billable_calls")

        calls = d.pop("calls")

        cost = Amount.from_dict(d.pop("cost"))

        included = d.pop("included")

        plan = d.pop("plan")

        remaining = d.pop("remaining")

        plan_overage = cls(
            billable_calls=billable_calls,
            calls=calls,
            cost=cost,
            included=included,
            plan=plan,
            remaining=remaining,
        )

        plan_overage.additional_properties = d
        return plan_overage

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
