from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="Pin")


@_attrs_define
class Pin:
    """Pin of a customer to a version of a plan."""

    from_: str
    """ UTC month. """
    plan: str
    """ Id of a plan. """
    version: int | None
    """ Number of the version; `null` ends the pin, so that the customer follows the plan again. """

    def to_dict(self) -> dict[str, Any]:
        from_ = self.from_

        plan = self.plan

        version: int | None
        version = self.version

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "from": from_,
                "plan": plan,
                "version": version,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        from_ = d.pop("from")

        plan = d.pop("plan")

        def _parse_version(data: object) -> int | None:
            if data is None:
                return data
            return cast(int | None, data)

        version = _parse_version(d.pop("version"))

        pin = cls(
            from_=from_,
            plan=plan,
            version=version,
        )

        return pin
