from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.discrepancy import Discrepancy
    from ..models.reconciliation_summary import ReconciliationSummary


T = TypeVar("T", bound="Reconciliation")


@_attrs_define
class Reconciliation:
    """Result of the nightly reconciliation of a UTC day."""

    data: list[Discrepancy]
    """ Customers whose ledgers differ by more than is tolerated. """
    day: datetime.date
    """ UTC day. """
    next_cursor: None | str
    summary: None | ReconciliationSummary
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        from ..models.reconciliation_summary import ReconciliationSummary  # noqa: PLC0415

        data = []
        for data_item_data in self.data:
            data_item = data_item_data.to_dict()
            data.append(data_item)

        day = self.day.isoformat()

        next_cursor: None | str
        next_cursor = self.next_cursor

        summary: dict[str, Any] | None
        if isinstance(self.summary, ReconciliationSummary):
            summary = self.summary.to_dict()
        else:
            summary = self.summary

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "data": data,
                "day": day,
                "next_cursor": next_cursor,
                "summary": summary,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.discrepancy import Discrepancy  # noqa: PLC0415
        from ..models.reconciliation_summary import ReconciliationSummary  # noqa: PLC0415

        d = dict(src_dict)
        data = []
        _data = d.pop("data")
        for data_item_data in _data:
            data_item = Discrepancy.from_dict(data_item_data)

            data.append(data_item)

        day = datetime.date.fromisoformat(d.pop("day"))

        def _parse_next_cursor(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        next_cursor = _parse_next_cursor(d.pop("next_cursor"))

        def _parse_summary(data: object) -> None | ReconciliationSummary:
            if data is None:
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                summary_type_0 = ReconciliationSummary.from_dict(data)

                return summary_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(None | ReconciliationSummary, data)

        summary = _parse_summary(d.pop("summary"))

        reconciliation = cls(
            data=data,
            day=day,
            next_cursor=next_cursor,
            summary=summary,
        )

        reconciliation.additional_properties = d
        return reconciliation

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
