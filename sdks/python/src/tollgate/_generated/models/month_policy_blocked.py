from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

T = TypeVar("T", bound="MonthPolicyBlocked")


@_attrs_define
class MonthPolicyBlocked:
    """Calls beyond the included ones are denied."""

    included: int
    """ Calls allowed in a month. """
    kind: Literal["blocked"]
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        included = self.included

        kind = self.kind

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "included": included,
                "kind": kind,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        included = d.pop("included")

        kind = cast(Literal["blocked"], d.pop("kind"))
        if kind != "blocked":
            raise ValueError(f"kind must match const 'blocked', got '{kind}'")

        month_policy_blocked = cls(
            included=included,
            kind=kind,
        )

        month_policy_blocked.additional_properties = d
        return month_policy_blocked

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
