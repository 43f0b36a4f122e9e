from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

T = TypeVar("T", bound="KeyCounts")


@_attrs_define
class KeyCounts:
    """Numbers of keys by state."""

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
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        active = self.active

        expired = self.expired

        revoked = self.revoked

        suspended = self.suspended

        total = self.total

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "active": active,
                "expired": expired,
                "revoked": revoked,
                "suspended": suspended,
                "total": total,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        active = d.pop("active")

        expired = d.pop("expired")

        revoked = d.pop("revoked")

        suspended = d.pop("suspended")

        total = d.pop("total")

        key_counts = cls(
            active=active,
            expired=expired,
            revoked=revoked,
            suspended=suspended,
            total=total,
        )

        key_counts.additional_properties = d
        return key_counts

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
