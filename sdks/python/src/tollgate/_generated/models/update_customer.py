from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.pin import Pin
    from ..models.stripe_link import StripeLink


T = TypeVar("T", bound="UpdateCustomer")


@_attrs_define
class UpdateCustomer:
    """Changes of a customer: a merge patch (RFC 7396). An absent member stays, `null` removes one."""

    email: None | str | Unset = UNSET
    enabled: bool | Unset = UNSET
    """ `false` suspends the customer, `true` enables it again. """
    name: None | str | Unset = UNSET
    pin: Pin | Unset = UNSET
    """ Pin of a customer to a version of a plan. """
    plan: str | Unset = UNSET
    """ Id of a plan. """
    stripe: None | StripeLink | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        from ..models.stripe_link import StripeLink  # noqa: PLC0415

        email: None | str | Unset
        if isinstance(self.email, Unset):
            email = UNSET
        else:
            email = self.email

        enabled = self.enabled

        name: None | str | Unset
        if isinstance(self.name, Unset):
            name = UNSET
        else:
            name = self.name

        pin: dict[str, Any] | Unset = UNSET
        if not isinstance(self.pin, Unset):
            pin = self.pin.to_dict()

        plan = self.plan

        stripe: dict[str, Any] | None | Unset
        if isinstance(self.stripe, Unset):
            stripe = UNSET
        elif isinstance(self.stripe, StripeLink):
            stripe = self.stripe.to_dict()
        else:
            stripe = self.stripe

        field_dict: dict[str, Any] = {}

        field_dict.update({})
        if email is not UNSET:
            field_dict["email"] = email
        if enabled is not UNSET:
            field_dict["enabled"] = enabled
        if name is not UNSET:
            field_dict["name"] = name
        if pin is not UNSET:
            field_dict["pin"] = pin
        if plan is not UNSET:
            field_dict["plan"] = plan
        if stripe is not UNSET:
            field_dict["stripe"] = stripe

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.pin import Pin  # noqa: PLC0415
        from ..models.stripe_link import StripeLink  # noqa: PLC0415

        d = dict(src_dict)

        def _parse_email(data: object) -> None | str | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            return cast(None | str | Unset, data)

        email = _parse_email(d.pop("email", UNSET))

        enabled = d.pop("enabled", UNSET)

        def _parse_name(data: object) -> None | str | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            return cast(None | str | Unset, data)

        name = _parse_name(d.pop("name", UNSET))

        _pin = d.pop("pin", UNSET)
        pin: Pin | Unset
        if isinstance(_pin, Unset):
            pin = UNSET
        else:
            pin = Pin.from_dict(_pin)

        plan = d.pop("plan", UNSET)

        def _parse_stripe(data: object) -> None | StripeLink | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                stripe_type_0 = StripeLink.from_dict(data)

                return stripe_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(None | StripeLink | Unset, data)

        stripe = _parse_stripe(d.pop("stripe", UNSET))

        update_customer = cls(
            email=email,
            enabled=enabled,
            name=name,
            pin=pin,
            plan=plan,
            stripe=stripe,
        )

        return update_customer
