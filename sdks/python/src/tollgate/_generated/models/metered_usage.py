from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.amount import Amount


T = TypeVar("T", bound="MeteredUsage")


@_attrs_define
class MeteredUsage:
    """Metered calls of a month."""

    average_latency_ms: int
    """ Mean latency, in milliseconds. """
    billable_calls: int
    """ Metered calls that count towards the included and charged ones. """
    calls: int
    """ Metered calls. """
    client_errors: int
    """ Calls with a 4xx status. """
    cost: Amount
    """ Amount, such as `{"micro_usd": 230000, "display": "$0.23"}`. """
    server_errors: int
    """ Calls with a 5xx status. """
    tokens: int
    """ Language-model tokens. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        average_latency_ms = self.average_latency_ms

        billable_calls = self.billable_calls

        calls = self.calls

        client_errors = self.client_errors

        cost = self.cost.to_dict()

        server_errors = self.server_errors

        tokens = self.tokens

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "average_latency_ms": average_latency_ms,
                "billable_calls": billable_calls,
                "calls": calls,
                "client_errors": client_errors,
                "cost": cost,
                "server_errors": server_errors,
                "tokens": tokens,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.amount import Amount  # noqa: PLC0415

        d = dict(src_dict)
        average_latency_ms = d.pop("average_latency_ms")

        billable_calls = d.pop("billable_calls")

        calls = d.pop("calls")

        client_errors = d.pop("client_errors")

        cost = Amount.from_dict(d.pop("cost"))

        server_errors = d.pop("server_errors")

        tokens = d.pop("tokens")

        metered_usage = cls(
            average_latency_ms=average_latency_ms,
            billable_calls=billable_calls,
            calls=calls,
            client_errors=client_errors,
            cost=cost,
            server_errors=server_errors,
            tokens=tokens,
        )

        metered_usage.additional_properties = d
        return metered_usage

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
