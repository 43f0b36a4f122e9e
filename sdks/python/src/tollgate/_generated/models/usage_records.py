from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.adjustment import Adjustment
    from ..models.counted_record import CountedRecord
    from ..models.rated_plan import RatedPlan


T = TypeVar("T", bound="UsageRecords")


@_attrs_define
class UsageRecords:
    """A page of the counted usage of a customer's month, from which its bill can be recomputed."""

    adjustments: list[Adjustment]
    """ Adjustments, by day. """
    data: list[CountedRecord]
    """ Records, by day. A page may be empty and still be followed by another. """
    kept_from: datetime.date
    """ UTC day. """
    month: str
    """ UTC month. """
    next_cursor: None | str
    plans: list[RatedPlan]
    """ Versions of the plans by which the month is rated: of those of this page's records and adjustments. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        adjustments = []
        for adjustments_item_data in self.adjustments:
            adjustments_item = adjustments_item_data.to_dict()
            adjustments.append(adjustments_item)

        data = []
        for data_item_data in self.data:
            data_item = data_item_data.to_dict()
            data.append(data_item)

        kept_from = self.kept_from.isoformat()

        month = self.month

        next_cursor: None | str
        next_cursor = self.next_cursor

        plans = []
        for plans_item_data in self.plans:
            plans_item = plans_item_data.to_dict()
            plans.append(plans_item)

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "adjustments": adjustments,
                "data": data,
                "kept_from": kept_from,
                "month": month,
                "next_cursor": next_cursor,
                "plans": plans,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.adjustment import Adjustment  # noqa: PLC0415
        from ..models.counted_record import CountedRecord  # noqa: PLC0415
        from ..models.rated_plan import RatedPlan  # noqa: PLC0415

        d = dict(src_dict)
        adjustments = []
        _adjustments = d.pop("adjustments")
        for adjustments_item_data in _adjustments:
            adjustments_item = Adjustment.from_dict(adjustments_item_data)

            adjustments.append(adjustments_item)

        data = []
        _data = d.pop("data")
        for data_item_data in _data:
            data_item = CountedRecord.from_dict(data_item_data)

            data.append(data_item)

        kept_from = datetime.date.fromisoformat(d.pop("kept_from"))

        month = d.pop("month")

        def _parse_next_cursor(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        next_cursor = _parse_next_cursor(d.pop("next_cursor"))

        plans = []
        _plans = d.pop("plans")
        for plans_item_data in _plans:
            plans_item = RatedPlan.from_dict(plans_item_data)

            plans.append(plans_item)

        usage_records = cls(
            adjustments=adjustments,
            data=data,
            kept_from=kept_from,
            month=month,
            next_cursor=next_cursor,
            plans=plans,
        )

        usage_records.additional_properties = d
        return usage_records

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
