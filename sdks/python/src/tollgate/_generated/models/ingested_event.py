from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.ingested_outcome import IngestedOutcome, check_ingested_outcome

T = TypeVar("T", bound="IngestedEvent")


@_attrs_define
class IngestedEvent:
    """Outcome of one usage event."""

    id: str
    """ Id of the usage event. """
    outcome: IngestedOutcome
    """ Outcome of ingesting a usage event. """
    source: str
    """ Source of the usage event. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        id = self.id

        outcome: str = self.outcome

        source = self.source

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "id": id,
                "outcome": outcome,
                "source": source,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        id = d.pop("id")

        outcome = check_ingested_outcome(d.pop("outcome"))

        source = d.pop("source")

        ingested_event = cls(
            id=id,
            outcome=outcome,
            source=source,
        )

        ingested_event.additional_properties = d
        return ingested_event

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
