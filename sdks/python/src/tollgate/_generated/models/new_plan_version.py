from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.affected_customers import AffectedCustomers
    from ..models.plan_version import PlanVersion


T = TypeVar("T", bound="NewPlanVersion")


@_attrs_define
class NewPlanVersion:
    """A new version of a plan, or in a dry run, the one that would be added."""

    affected: AffectedCustomers | None
    dry_run: bool
    """ Whether nothing was written. """
    plan: str
    """ Id of a plan. """
    version: PlanVersion
    """ A version of a plan. It never changes. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        from ..models.affected_customers import AffectedCustomers  # noqa: PLC0415

        affected: dict[str, Any] | None
        if isinstance(self.affected, AffectedCustomers):
            affected = self.affected.to_dict()
        else:
            affected = self.affected

        dry_run = self.dry_run

        plan = self.plan

        version = self.version.to_dict()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "affected": affected,
                "dry_run": dry_run,
                "plan": plan,
                "version": version,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.affected_customers import AffectedCustomers  # noqa: PLC0415
        from ..models.plan_version import PlanVersion  # noqa: PLC0415

        d = dict(src_dict)

        def _parse_affected(data: object) -> AffectedCustomers | None:
            if data is None:
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                affected_type_0 = AffectedCustomers.from_dict(data)

                return affected_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(AffectedCustomers | None, data)

        affected = _parse_affected(d.pop("affected"))

        dry_run = d.pop("dry_run")

        plan = d.pop("plan")

        version = PlanVersion.from_dict(d.pop("version"))

        new_plan_version = cls(
            affected=affected,
            dry_run=dry_run,
            plan=plan,
            version=version,
        )

        new_plan_version.additional_properties = d
        return new_plan_version

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
