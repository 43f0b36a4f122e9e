from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

T = TypeVar("T", bound="CountedRecord")


@_attrs_define
class CountedRecord:
    """A counted usage record."""

    billable: bool
    """ Whether the call counts towards the included and charged ones. """
    endpoint: str
    """ Route template. """
    id: str
    """ Id of the usage event with the record. """
    key_id: str
    """ Id of a key: `key_` and 20 letters and digits. """
    method: str
    """ HTTP method. """
    plan: str
    """ Id of a plan. """
    received_at: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    request_id: str
    """ Request id. """
    source: str
    """ Source of the usage event with the record. """
    status: int
    """ HTTP status of the response. """
    time: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        billable = self.billable

        endpoint = self.endpoint

        id = self.id

        key_id = self.key_id

        method = self.method

        plan = self.plan

        received_at = self.received_at.isoformat()

        request_id = self.request_id

        source = self.source

        status = self.status

        time = self.time.isoformat()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "billable": billable,
                "endpoint": endpoint,
                "id": id,
                "key_id": key_id,
                "method": method,
                "plan": plan,
                "received_at": received_at,
                "request_id": request_id,
                "source": source,
                "status": status,
                "time": time,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        billable = d.pop("billable")

        endpoint = d.pop("endpoint")

        id = d.pop("id")

        key_id = d.pop("key_id")

        method = d.pop("method")

        plan = d.pop("plan")

        received_at = datetime.datetime.fromisoformat(d.pop("received_at"))

        request_id = d.pop("request_id")

        source = d.pop("source")

        status = d.pop("status")

        time = datetime.datetime.fromisoformat(d.pop("time"))

        counted_record = cls(
            billable=billable,
            endpoint=endpoint,
            id=id,
            key_id=key_id,
            method=method,
            plan=plan,
            received_at=received_at,
            request_id=request_id,
            source=source,
            status=status,
            time=time,
        )

        counted_record.additional_properties = d
        return counted_record

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
