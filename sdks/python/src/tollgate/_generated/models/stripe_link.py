from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="StripeLink")


@_attrs_define
class StripeLink:
    """Link of a customer to a Stripe customer."""

    customer: str
    """ Id of a Stripe customer. """
    subscription: None | str

    def to_dict(self) -> dict[str, Any]:
        customer = self.customer

        subscription: None | str
        subscription = self.subscription

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "customer": customer,
                "subscription": subscription,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        customer = d.pop("customer")

        def _parse_subscription(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        subscription = _parse_subscription(d.pop("subscription"))

        stripe_link = cls(
            customer=customer,
            subscription=subscription,
        )

        return stripe_link
