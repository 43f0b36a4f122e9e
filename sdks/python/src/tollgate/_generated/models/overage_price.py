from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define

T = TypeVar("T", bound="OveragePrice")


@_attrs_define
class OveragePrice:
    """Price of an overage call from a UTC day on."""

    from_: datetime.date
    """ UTC day. """
    micro_usd_per_call: int
    """ Price of one call in millionths of a US dollar. """

    def to_dict(self) -> dict[str, Any]:
        from_ = self.from_.isoformat()

        micro_usd_per_call = self.micro_usd_per_call

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "from": from_,
                "micro_usd_per_call": micro_usd_per_call,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        from_ = datetime.date.fromisoformat(d.pop("from"))

        micro_usd_per_call = d.pop("micro_usd_per_call")

        overage_price = cls(
            from_=from_,
            micro_usd_per_call=micro_usd_per_call,
        )

        return overage_price
