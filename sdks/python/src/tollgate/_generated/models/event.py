from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.event_kind import EventKind, check_event_kind

T = TypeVar("T", bound="Event")


@_attrs_define
class Event:
    """An event, as it is listed, put on the bus, and sent to webhooks."""

    customer_id: None | str
    data: Any
    """ Members that depend on the type. """
    id: str
    """ Id of an event, the same in all messages about it: `evt_` and 32 hexadecimal digits. """
    number: int
    """ Position in the order of all events, from 1 and without gaps. """
    timestamp: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    type_: EventKind
    """ Kinds of events, as they are described. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        customer_id: None | str
        customer_id = self.customer_id

        data = self.data

        id = self.id

        number = self.number

        timestamp = self.timestamp.isoformat()

        type_: str = self.type_

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "customer_id": customer_id,
                "data": data,
                "id": id,
                "number": number,
                "timestamp": timestamp,
                "type": type_,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)

        def _parse_customer_id(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        customer_id = _parse_customer_id(d.pop("customer_id"))

        data = d.pop("data")

        id = d.pop("id")

        number = d.pop("number")

        timestamp = datetime.datetime.fromisoformat(d.pop("timestamp"))

        type_ = check_event_kind(d.pop("type"))

        event = cls(
            customer_id=customer_id,
            data=data,
            id=id,
            number=number,
            timestamp=timestamp,
            type_=type_,
        )

        event.additional_properties = d
        return event

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
