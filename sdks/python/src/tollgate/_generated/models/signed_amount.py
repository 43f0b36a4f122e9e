from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

T = TypeVar("T", bound="SignedAmount")


@_attrs_define
class SignedAmount:
    """Amount that may be negative, such as `{"micro_usd": -230000, "display": "-$0.23"}`."""

    display: str
    """ Amount in dollars, for display. """
    micro_usd: int
    """ Amount in millionths of a US dollar. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        display = self.display

        micro_usd = self.micro_usd

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "display": display,
                "micro_usd": micro_usd,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        display = d.pop("display")

        micro_usd = d.pop("micro_usd")

        signed_amount = cls(
            display=display,
            micro_usd=micro_usd,
        )

        signed_amount.additional_properties = d
        return signed_amount

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
