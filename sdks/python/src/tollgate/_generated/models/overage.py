from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.amount import Amount
    from ..models.plan_overage import PlanOverage


T = TypeVar("T", bound="Overage")


@_attrs_define
class Overage:
    """Overage of a month."""

    calls: int
    """ Overage calls on all plans. """
    cost: Amount
    """ Amount, such as `{"micro_usd": 230000, "display": "$0.23"}`. """
    plans: list[PlanOverage]
    """ Plans that charge overage: the customer's plan, and those of this month's calls. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        calls = self.calls

        cost = self.cost.to_dict()

        plans = []
        for plans_item_data in self.plans:
            plans_item = plans_item_data.to_dict()
            plans.append(plans_item)

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "calls": calls,
                "cost": cost,
                "plans": plans,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.amount import Amount  # noqa: PLC0415
        from ..models.plan_overage import PlanOverage  # noqa: PLC0415

        d = dict(src_dict)
        calls = d.pop("calls")

        cost = Amount.from_dict(d.pop("cost"))

        plans = []
        _plans = d.pop("plans")
        for plans_item_data in _plans:
            plans_item = PlanOverage.from_dict(plans_item_data)

            plans.append(plans_item)

        overage = cls(
            calls=calls,
            cost=cost,
            plans=plans,
        )

        overage.additional_properties = d
        return overage

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
