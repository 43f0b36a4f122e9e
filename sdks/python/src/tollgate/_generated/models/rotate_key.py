from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define

from ..types import UNSET, Unset

T = TypeVar("T", bound="RotateKey")


@_attrs_define
class RotateKey:
    """Request to rotate a key."""

    grace_period_s: int | Unset = 86400
    """ Grace period in seconds, at the end of which the old key expires; a day if absent. With 0 it expires at
    once. """

    def to_dict(self) -> dict[str, Any]:
        grace_period_s = self.grace_period_s

        field_dict: dict[str, Any] = {}

        field_dict.update({})
        if grace_period_s is not UNSET:
            field_dict["grace_period_s"] = grace_period_s

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        grace_period_s = d.pop("grace_period_s", UNSET)

        rotate_key = cls(
            grace_period_s=grace_period_s,
        )

        return rotate_key
