from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

from ..types import UNSET, Unset

T = TypeVar("T", bound="UpdateOverrides")


@_attrs_define
class UpdateOverrides:
    """Changes of a key's own limits: `null` restores the plan's."""

    monthly_quota: int | None | Unset = UNSET
    """ Number of the customer's calls in a UTC month from which calls with this key are denied. """
    requests_per_hour: int | None | Unset = UNSET
    """ Calls with the key in a UTC hour. """

    def to_dict(self) -> dict[str, Any]:
        monthly_quota: int | None | Unset
        if isinstance(self.monthly_quota, Unset):
            monthly_quota = UNSET
        else:
            monthly_quota = self.monthly_quota

        requests_per_hour: int | None | Unset
        if isinstance(self.requests_per_hour, Unset):
            requests_per_hour = UNSET
        else:
            requests_per_hour = self.requests_per_hour

        field_dict: dict[str, Any] = {}

        field_dict.update({})
        if monthly_quota is not UNSET:
            field_dict["monthly_quota"] = monthly_quota
        if requests_per_hour is not UNSET:
            field_dict["requests_per_hour"] = requests_per_hour

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)

        def _parse_monthly_quota(data: object) -> int | None | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            return cast(int | None | Unset, data)

        monthly_quota = _parse_monthly_quota(d.pop("monthly_quota", UNSET))

        def _parse_requests_per_hour(data: object) -> int | None | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            return cast(int | None | Unset, data)

        requests_per_hour = _parse_requests_per_hour(d.pop("requests_per_hour", UNSET))

        update_overrides = cls(
            monthly_quota=monthly_quota,
            requests_per_hour=requests_per_hour,
        )

        return update_overrides
