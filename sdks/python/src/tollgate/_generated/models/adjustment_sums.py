from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.signed_amount import SignedAmount


T = TypeVar("T", bound="AdjustmentSums")


@_attrs_define
class AdjustmentSums:
    """Sums of the adjustments of a month."""

    billable_calls: int
    """ Billable calls added, or if negative, removed. """
    cost: SignedAmount
    """ Amount that may be negative, such as `{"micro_usd": -230000, "display": "-$0.23"}`. """
    count: int
    """ Number of adjustments. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        billable_calls = self.billable_calls

        cost = self.cost.to_dict()

        count = self.count

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "billable_calls": billable_calls,
                "cost": cost,
                "count": count,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.signed_amount import SignedAmount  # noqa: PLC0415

        d = dict(src_dict)
        billable_calls = d.pop("billable_calls")

        cost = SignedAmount.from_dict(d.pop("cost"))

        count = d.pop("count")

        adjustment_sums = cls(
            billable_calls=billable_calls,
            cost=cost,
            count=count,
        )

        adjustment_sums.additional_properties = d
        return adjustment_sums

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
