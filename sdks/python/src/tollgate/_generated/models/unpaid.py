from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.unpaid_consequence import UnpaidConsequence, check_unpaid_consequence

T = TypeVar("T", bound="Unpaid")


@_attrs_define
class Unpaid:
    """Outstanding payment of a subscription."""

    consequence: None | UnpaidConsequence
    since: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        consequence: None | str
        if isinstance(self.consequence, str):
            consequence = self.consequence
        else:
            consequence = self.consequence

        since = self.since.isoformat()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "consequence": consequence,
                "since": since,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)

        def _parse_consequence(data: object) -> None | UnpaidConsequence:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                consequence_type_0 = check_unpaid_consequence(data)

                return consequence_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(None | UnpaidConsequence, data)

        consequence = _parse_consequence(d.pop("consequence"))

        since = datetime.datetime.fromisoformat(d.pop("since"))

        unpaid = cls(
            consequence=consequence,
            since=since,
        )

        unpaid.additional_properties = d
        return unpaid

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
