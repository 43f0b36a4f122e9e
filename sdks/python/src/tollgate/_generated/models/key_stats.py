from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.key_counts import KeyCounts
    from ..models.key_stats_by_plan import KeyStatsByPlan


T = TypeVar("T", bound="KeyStats")


@_attrs_define
class KeyStats:
    """Numbers of keys by state and plan."""

    active: int
    """ Keys that work. """
    expired: int
    """ Expired keys. """
    revoked: int
    """ Revoked keys. """
    suspended: int
    """ Suspended keys. """
    total: int
    """ All keys. """
    admin: KeyCounts
    """ Numbers of keys by state. """
    by_plan: KeyStatsByPlan
    """ Keys of customers, by the current plan of their customer. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        active = self.active

        expired = self.expired

        revoked = self.revoked

        suspended = self.suspended

        total = self.total

        admin = self.admin.to_dict()

        by_plan = self.by_plan.to_dict()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "active": active,
                "expired": expired,
                "revoked": revoked,
                "suspended": suspended,
                "total": total,
                "admin": admin,
                "by_plan": by_plan,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.key_counts import KeyCounts  # noqa: PLC0415
        from ..models.key_stats_by_plan import KeyStatsByPlan  # noqa: PLC0415

        d = dict(src_dict)
        active = d.pop("active")

        expired = d.pop("expired")

        revoked = d.pop("revoked")

        suspended = d.pop("suspended")

        total = d.pop("total")

        admin = KeyCounts.from_dict(d.pop("admin"))

        by_plan = KeyStatsByPlan.from_dict(d.pop("by_plan"))

        key_stats = cls(
            active=active,
            expired=expired,
            revoked=revoked,
            suspended=suspended,
            total=total,
            admin=admin,
            by_plan=by_plan,
        )

        key_stats.additional_properties = d
        return key_stats

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
