from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

T = TypeVar("T", bound="RatedCalls")


@_attrs_define
class RatedCalls:
    """Billable calls of a day on a plan."""

    adjusted_calls: int
    """ Billable calls that adjustments added, or if negative, removed. """
    calls: int
    """ Billable calls by the usage records. """
    day: datetime.date
    """ UTC day. """
    plan: str
    """ Id of a plan. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        adjusted_calls = self.adjusted_calls

        calls = self.calls

        day = self.day.isoformat()

        plan = self.plan

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "adjusted_calls": adjusted_calls,
                "calls": calls,
                "day": day,
                "plan": plan,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        adjusted_calls = d.pop("adjusted_calls")

        calls = d.pop("calls")

        day = datetime.date.fromisoformat(d.pop("day"))

        plan = d.pop("plan")

        rated_calls = cls(
            adjusted_calls=adjusted_calls,
            calls=calls,
            day=day,
            plan=plan,
        )

        rated_calls.additional_properties = d
        return rated_calls

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
