from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.event_kind import EventKind, check_event_kind

if TYPE_CHECKING:
    from ..models.delivery_failure import DeliveryFailure


T = TypeVar("T", bound="Webhook")


@_attrs_define
class Webhook:
    """A webhook."""

    created_at: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    disabled_at: datetime.datetime | None
    id: str
    """ Id of a webhook: `wh_` and 20 letters and digits. """
    last_failure: DeliveryFailure | None
    types: list[EventKind] | None
    """ Types of the events that are sent; `null` for all. """
    url: str
    """ Address of a webhook: `https`, and public. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        from ..models.delivery_failure import DeliveryFailure  # noqa: PLC0415

        created_at = self.created_at.isoformat()

        disabled_at: None | str
        if isinstance(self.disabled_at, datetime.datetime):
            disabled_at = self.disabled_at.isoformat()
        else:
            disabled_at = self.disabled_at

        id = self.id

        last_failure: dict[str, Any] | None
        if isinstance(self.last_failure, DeliveryFailure):
            last_failure = self.last_failure.to_dict()
        else:
            last_failure = self.last_failure

        types: list[str] | None
        if isinstance(self.types, list):
            types = []
            for types_type_0_item_data in self.types:
                types_type_0_item: str = types_type_0_item_data
                types.append(types_type_0_item)

        else:
            types = self.types

        url = self.url

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "created_at": created_at,
                "disabled_at": disabled_at,
                "id": id,
                "last_failure": last_failure,
                "types": types,
                "url": url,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.delivery_failure import DeliveryFailure  # noqa: PLC0415

        d = dict(src_dict)
        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        def _parse_disabled_at(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                disabled_at_type_0 = datetime.datetime.fromisoformat(data)

                return disabled_at_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        disabled_at = _parse_disabled_at(d.pop("disabled_at"))

        id = d.pop("id")

        def _parse_last_failure(data: object) -> DeliveryFailure | None:
            if data is None:
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                last_failure_type_0 = DeliveryFailure.from_dict(data)

                return last_failure_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(DeliveryFailure | None, data)

        last_failure = _parse_last_failure(d.pop("last_failure"))

        def _parse_types(data: object) -> list[EventKind] | None:
            if data is None:
                return data
            try:
                if not isinstance(data, list):
                    raise TypeError()
                types_type_0 = []
                _types_type_0 = data
                for types_type_0_item_data in _types_type_0:
                    types_type_0_item = check_event_kind(types_type_0_item_data)

                    types_type_0.append(types_type_0_item)

                return types_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(list[EventKind] | None, data)

        types = _parse_types(d.pop("types"))

        url = d.pop("url")

        webhook = cls(
            created_at=created_at,
            disabled_at=disabled_at,
            id=id,
            last_failure=last_failure,
            types=types,
            url=url,
        )

        webhook.additional_properties = d
        return webhook

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
