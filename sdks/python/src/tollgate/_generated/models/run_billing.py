from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define

T = TypeVar("T", bound="RunBilling")


@_attrs_define
class RunBilling:
    """Request to run billing."""

    dry_run: bool
    """ Whether to write nothing and only report what would be charged. Required, so that a request without
    it cannot charge customers. """

    def to_dict(self) -> dict[str, Any]:
        dry_run = self.dry_run

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "dry_run": dry_run,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        dry_run = d.pop("dry_run")

        run_billing = cls(
            dry_run=dry_run,
        )

        return run_billing
