from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="IngestEvents")


@_attrs_define
class IngestEvents:
    """Request to count usage events."""

    events: list[Any]
    """ 1 to 100 usage events, in the format of `docs/usage-event.md`. """

    def to_dict(self) -> dict[str, Any]:
        events = self.events

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "events": events,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        events = cast(list[Any], d.pop("events"))

        ingest_events = cls(
            events=events,
        )

        return ingest_events
