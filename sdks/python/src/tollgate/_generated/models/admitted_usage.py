from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

T = TypeVar("T", bound="AdmittedUsage")


@_attrs_define
class AdmittedUsage:
    """Admitted calls of a month."""

    calls: int
    """ Admitted calls. """
    limit: int | None
    """ Monthly quota of the calling key; `null` if it has none. """
    remaining: int | None
    """ Calls left of the quota; `null` if there is none. """
    reserved: int
    """ Units that authorizer instances hold in quota leases, or have spent since they last wrote to the
    store. They count towards the limit, and are not part of `calls`. """
    uncounted: int
    """ Admitted calls that count towards no limit, because they were allowed while the store was down. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        calls = self.calls

        limit: int | None
        limit = self.limit

        remaining: int | None
        remaining = self.remaining

        reserved = self.reserved

        uncounted = self.uncounted

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "calls": calls,
                "limit": limit,
                "remaining": remaining,
                "reserved": reserved,
                "uncounted": uncounted,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        calls = d.pop("calls")

        def _parse_limit(data: object) -> int | None:
            if data is None:
                return data
            return cast(int | None, data)

        limit = _parse_limit(d.pop("limit"))

        def _parse_remaining(data: object) -> int | None:
            if data is None:
                return data
            return cast(int | None, data)

        remaining = _parse_remaining(d.pop("remaining"))

        reserved = d.pop("reserved")

        uncounted = d.pop("uncounted")

        admitted_usage = cls(
            calls=calls,
            limit=limit,
            remaining=remaining,
            reserved=reserved,
            uncounted=uncounted,
        )

        admitted_usage.additional_properties = d
        return admitted_usage

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
