from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.amount import Amount
    from ..models.model_usage import ModelUsage


T = TypeVar("T", bound="Analysis")


@_attrs_define
class Analysis:
    """Response of the analysis example."""

    analysis: str
    """ Canned analysis. """
    cost: Amount
    """ Amount, such as `{"micro_usd": 230000, "display": "$0.23"}`. """
    usage: list[ModelUsage]
    """ Tokens by provider. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        analysis = self.analysis

        cost = self.cost.to_dict()

        usage = []
        for usage_item_data in self.usage:
            usage_item = usage_item_data.to_dict()
            usage.append(usage_item)

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "analysis": analysis,
                "cost": cost,
                "usage": usage,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.amount import Amount  # noqa: PLC0415
        from ..models.model_usage import ModelUsage  # noqa: PLC0415

        d = dict(src_dict)
        analysis = d.pop("analysis")

        cost = Amount.from_dict(d.pop("cost"))

        usage = []
        _usage = d.pop("usage")
        for usage_item_data in _usage:
            usage_item = ModelUsage.from_dict(usage_item_data)

            usage.append(usage_item)

        analysis = cls(
            analysis=analysis,
            cost=cost,
            usage=usage,
        )

        analysis.additional_properties = d
        return analysis

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
