from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.quarantined_kind import QuarantinedKind, check_quarantined_kind
from ..models.quarantined_status import QuarantinedStatus, check_quarantined_status

if TYPE_CHECKING:
    from ..models.rejected import Rejected


T = TypeVar("T", bound="Quarantined")


@_attrs_define
class Quarantined:
    """A quarantined item."""

    customer_id: None | str
    id: str
    """ Opaque position in one list. It is valid for that list only. """
    kind: QuarantinedKind
    """ Kind of a quarantined item. """
    received_at: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    rejected: list[Rejected]
    """ Rejected records or adjustments; one with index 0 if the whole item is rejected. """
    status: QuarantinedStatus
    """ State of a quarantined item. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        customer_id: None | str
        customer_id = self.customer_id

        id = self.id

        kind: str = self.kind

        received_at = self.received_at.isoformat()

        rejected = []
        for rejected_item_data in self.rejected:
            rejected_item = rejected_item_data.to_dict()
            rejected.append(rejected_item)

        status: str = self.status

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "customer_id": customer_id,
                "id": id,
                "kind": kind,
                "received_at": received_at,
                "rejected": rejected,
                "status": status,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.rejected import Rejected  # noqa: PLC0415

        d = dict(src_dict)

        def _parse_customer_id(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        customer_id = _parse_customer_id(d.pop("customer_id"))

        id = d.pop("id")

        kind = check_quarantined_kind(d.pop("kind"))

        received_at = datetime.datetime.fromisoformat(d.pop("received_at"))

        rejected = []
        _rejected = d.pop("rejected")
        for rejected_item_data in _rejected:
            rejected_item = Rejected.from_dict(rejected_item_data)

            rejected.append(rejected_item)

        status = check_quarantined_status(d.pop("status"))

        quarantined = cls(
            customer_id=customer_id,
            id=id,
            kind=kind,
            received_at=received_at,
            rejected=rejected,
            status=status,
        )

        quarantined.additional_properties = d
        return quarantined

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
