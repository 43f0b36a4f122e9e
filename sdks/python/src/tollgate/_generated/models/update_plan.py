from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define

from ..types import UNSET, Unset

T = TypeVar("T", bound="UpdatePlan")


@_attrs_define
class UpdatePlan:
    """Changes of a plan: a merge patch (RFC 7396)."""

    retired: bool | Unset = UNSET
    """ `true` retires the plan: it applies to the customers who are on it, and takes no others. `false` ends
    the retirement. """

    def to_dict(self) -> dict[str, Any]:
        retired = self.retired

        field_dict: dict[str, Any] = {}

        field_dict.update({})
        if retired is not UNSET:
            field_dict["retired"] = retired

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        retired = d.pop("retired", UNSET)

        update_plan = cls(
            retired=retired,
        )

        return update_plan
