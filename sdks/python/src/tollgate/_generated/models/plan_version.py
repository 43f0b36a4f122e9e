from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.plan_definition import PlanDefinition


T = TypeVar("T", bound="PlanVersion")


@_attrs_define
class PlanVersion:
    """A version of a plan. It never changes."""

    created_at: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    definition: PlanDefinition
    """ Limits and prices of a version of a plan. """
    takes_effect: str
    """ UTC month. """
    version: int
    """ Number, from 1. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        created_at = self.created_at.isoformat()

        definition = self.definition.to_dict()

        takes_effect = self.takes_effect

        version = self.version

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "created_at": created_at,
                "definition": definition,
                "takes_effect": takes_effect,
                "version": version,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.plan_definition import PlanDefinition  # noqa: PLC0415

        d = dict(src_dict)
        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        definition = PlanDefinition.from_dict(d.pop("definition"))

        takes_effect = d.pop("takes_effect")

        version = d.pop("version")

        plan_version = cls(
            created_at=created_at,
            definition=definition,
            takes_effect=takes_effect,
            version=version,
        )

        plan_version.additional_properties = d
        return plan_version

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
