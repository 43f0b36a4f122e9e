from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.plan_definition import PlanDefinition


T = TypeVar("T", bound="CreatePlan")


@_attrs_define
class CreatePlan:
    """Request to create a plan."""

    definition: PlanDefinition
    """ Limits and prices of a version of a plan. """
    id: str
    """ Id of a plan. """

    def to_dict(self) -> dict[str, Any]:
        definition = self.definition.to_dict()

        id = self.id

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "definition": definition,
                "id": id,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.plan_definition import PlanDefinition  # noqa: PLC0415

        d = dict(src_dict)
        definition = PlanDefinition.from_dict(d.pop("definition"))

        id = d.pop("id")

        create_plan = cls(
            definition=definition,
            id=id,
        )

        return create_plan
