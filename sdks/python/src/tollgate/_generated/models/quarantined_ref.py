from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.quarantined_status import QuarantinedStatus, check_quarantined_status

T = TypeVar("T", bound="QuarantinedRef")


@_attrs_define
class QuarantinedRef:
    """A quarantined item of an earlier usage event with the same source and id."""

    id: str
    """ Opaque position in one list. It is valid for that list only. """
    pointer: str
    """ JSON pointer to the usage event in the request that has the same source and id. """
    status: QuarantinedStatus
    """ State of a quarantined item. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        id = self.id

        pointer = self.pointer

        status: str = self.status

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "id": id,
                "pointer": pointer,
                "status": status,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        id = d.pop("id")

        pointer = d.pop("pointer")

        status = check_quarantined_status(d.pop("status"))

        quarantined_ref = cls(
            id=id,
            pointer=pointer,
            status=status,
        )

        quarantined_ref.additional_properties = d
        return quarantined_ref

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
