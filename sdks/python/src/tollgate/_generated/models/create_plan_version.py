from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.plan_definition import PlanDefinition


T = TypeVar("T", bound="CreatePlanVersion")


@_attrs_define
class CreatePlanVersion:
    """Request to add a version to a plan."""

    definition: PlanDefinition
    """ Limits and prices of a version of a plan. """
    dry_run: bool
    """ Whether to write nothing and only list the customers to whom the version would apply. Required. """
    expected_version: int
    """ Number of the latest version, on which the new one is based. """
    takes_effect: str
    """ UTC month. """

    def to_dict(self) -> dict[str, Any]:
        definition = self.definition.to_dict()

        dry_run = self.dry_run

        expected_version = self.expected_version

        takes_effect = self.takes_effect

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "definition": definition,
                "dry_run": dry_run,
                "expected_version": expected_version,
                "takes_effect": takes_effect,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.plan_definition import PlanDefinition  # noqa: PLC0415

        d = dict(src_dict)
        definition = PlanDefinition.from_dict(d.pop("definition"))

        dry_run = d.pop("dry_run")

        expected_version = d.pop("expected_version")

        takes_effect = d.pop("takes_effect")

        create_plan_version = cls(
            definition=definition,
            dry_run=dry_run,
            expected_version=expected_version,
            takes_effect=takes_effect,
        )

        return create_plan_version
