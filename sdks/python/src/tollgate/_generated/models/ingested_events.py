from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.ingested_event import IngestedEvent
    from ..models.quarantined_ref import QuarantinedRef


T = TypeVar("T", bound="IngestedEvents")


@_attrs_define
class IngestedEvents:
    """Outcomes of usage events, in the order of the request."""

    data: list[IngestedEvent]
    """ Outcome of each usage event. """
    quarantined: list[QuarantinedRef]
    """ Quarantined items with the sources and ids of duplicates: their records were not counted when the rest of
    the event
    was. """
    quarantined_more: list[str]
    """ Pointers to the duplicates that have more quarantined items than listed. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        data = []
        for data_item_data in self.data:
            data_item = data_item_data.to_dict()
            data.append(data_item)

        quarantined = []
        for quarantined_item_data in self.quarantined:
            quarantined_item = quarantined_item_data.to_dict()
            quarantined.append(quarantined_item)

        quarantined_more = self.quarantined_more

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "data": data,
                "quarantined": quarantined,
                "quarantined_more": quarantined_more,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.ingested_event import IngestedEvent  # noqa: PLC0415
        from ..models.quarantined_ref import QuarantinedRef  # noqa: PLC0415

        d = dict(src_dict)
        data = []
        _data = d.pop("data")
        for data_item_data in _data:
            data_item = IngestedEvent.from_dict(data_item_data)

            data.append(data_item)

        quarantined = []
        _quarantined = d.pop("quarantined")
        for quarantined_item_data in _quarantined:
            quarantined_item = QuarantinedRef.from_dict(quarantined_item_data)

            quarantined.append(quarantined_item)

        quarantined_more = cast(list[str], d.pop("quarantined_more"))

        ingested_events = cls(
            data=data,
            quarantined=quarantined,
            quarantined_more=quarantined_more,
        )

        ingested_events.additional_properties = d
        return ingested_events

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
