from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.overage_price import OveragePrice


T = TypeVar("T", bound="MonthPolicyOverage")


@_attrs_define
class MonthPolicyOverage:
    """Calls beyond the included ones are allowed and charged."""

    included: int
    """ Calls of a month that are not charged. """
    kind: Literal["overage"]
    prices: list[OveragePrice]
    """ Prices of an overage call, in ascending order of their first day. The first price also applies to
    all earlier days. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        included = self.included

        kind = self.kind

        prices = []
        for prices_item_data in self.prices:
            prices_item = prices_item_data.to_dict()
            prices.append(prices_item)

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "included": included,
                "kind": kind,
                "prices": prices,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.overage_price import OveragePrice  # noqa: PLC0415

        d = dict(src_dict)
        included = d.pop("included")

        kind = cast(Literal["overage"], d.pop("kind"))
        if kind != "overage":
            raise ValueError(f"kind must match const 'overage', got '{kind}'")

        prices = []
        _prices = d.pop("prices")
        for prices_item_data in _prices:
            prices_item = OveragePrice.from_dict(prices_item_data)

            prices.append(prices_item)

        month_policy_overage = cls(
            included=included,
            kind=kind,
            prices=prices,
        )

        month_policy_overage.additional_properties = d
        return month_policy_overage

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
