from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.plan_version import PlanVersion


T = TypeVar("T", bound="Plan")


@_attrs_define
class Plan:
    """A plan with all of its versions."""

    current_version: int
    """ Number of the version that applies to the current month, unless a customer is pinned to another. """
    id: str
    """ Id of a plan. """
    retired: bool
    """ Whether the plan takes no new customers. A `PATCH` changes this member. """
    retired_at: datetime.datetime | None
    versions: list[PlanVersion]
    """ Versions, oldest first. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        current_version = self.current_version

        id = self.id

        retired = self.retired

        retired_at: None | str
        if isinstance(self.retired_at, datetime.datetime):
            retired_at = self.retired_at.isoformat()
        else:
            retired_at = self.retired_at

        versions = []
        for versions_item_data in self.versions:
            versions_item = versions_item_data.to_dict()
            versions.append(versions_item)

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "current_version": current_version,
                "id": id,
                "retired": retired,
                "retired_at": retired_at,
                "versions": versions,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.plan_version import PlanVersion  # noqa: PLC0415

        d = dict(src_dict)
        current_version = d.pop("current_version")

        id = d.pop("id")

        retired = d.pop("retired")

        def _parse_retired_at(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                retired_at_type_0 = datetime.datetime.fromisoformat(data)

                return retired_at_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        retired_at = _parse_retired_at(d.pop("retired_at"))

        versions = []
        _versions = d.pop("versions")
        for versions_item_data in _versions:
            versions_item = PlanVersion.from_dict(versions_item_data)

            versions.append(versions_item)

        plan = cls(
            current_version=current_version,
            id=id,
            retired=retired,
            retired_at=retired_at,
            versions=versions,
        )

        plan.additional_properties = d
        return plan

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
