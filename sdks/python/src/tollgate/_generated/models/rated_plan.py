from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.month_policy_blocked import MonthPolicyBlocked
    from ..models.month_policy_overage import MonthPolicyOverage
    from ..models.month_policy_unlimited import MonthPolicyUnlimited


T = TypeVar("T", bound="RatedPlan")


@_attrs_define
class RatedPlan:
    """Version of a plan by which a month is rated."""

    month: MonthPolicyBlocked | MonthPolicyOverage | MonthPolicyUnlimited
    """ Calls of a UTC month that are included, and what applies beyond them. """
    plan: str
    """ Id of a plan. """
    version: int
    """ Number of the version. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        from ..models.month_policy_blocked import MonthPolicyBlocked  # noqa: PLC0415
        from ..models.month_policy_overage import MonthPolicyOverage  # noqa: PLC0415

        month: dict[str, Any]
        if isinstance(self.month, MonthPolicyBlocked):
            month = self.month.to_dict()
        elif isinstance(self.month, MonthPolicyOverage):
            month = self.month.to_dict()
        else:
            month = self.month.to_dict()

        plan = self.plan

        version = self.version

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "month": month,
                "plan": plan,
                "version": version,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.month_policy_blocked import MonthPolicyBlocked  # noqa: PLC0415
        from ..models.month_policy_overage import MonthPolicyOverage  # noqa: PLC0415
        from ..models.month_policy_unlimited import MonthPolicyUnlimited  # noqa: PLC0415

        d = dict(src_dict)

        def _parse_month(data: object) -> MonthPolicyBlocked | MonthPolicyOverage | MonthPolicyUnlimited:
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                componentsschemas_month_policy_month_policy_blocked = MonthPolicyBlocked.from_dict(data)

                return componentsschemas_month_policy_month_policy_blocked
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                componentsschemas_month_policy_month_policy_overage = MonthPolicyOverage.from_dict(data)

                return componentsschemas_month_policy_month_policy_overage
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            if not isinstance(data, dict):
                raise TypeError()
            componentsschemas_month_policy_month_policy_unlimited = MonthPolicyUnlimited.from_dict(data)

            return componentsschemas_month_policy_month_policy_unlimited

        month = _parse_month(d.pop("month"))

        plan = d.pop("plan")

        version = d.pop("version")

        rated_plan = cls(
            month=month,
            plan=plan,
            version=version,
        )

        rated_plan.additional_properties = d
        return rated_plan

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
