from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.pin import Pin
    from ..models.stripe_link import StripeLink
    from ..models.unpaid import Unpaid


T = TypeVar("T", bound="Customer")


@_attrs_define
class Customer:
    """A customer."""

    created_at: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    email: None | str
    """ E-mail address. """
    enabled: bool
    """ Whether the customer is not suspended. A `PATCH` changes this member. """
    erased_at: datetime.datetime | None
    id: str
    """ Id of a customer: chosen at creation, or drawn as `cus_` and 20 letters and digits. It must not
    identify a person: it stays in usage and ledger when the customer is erased. """
    name: str
    """ Name; empty if the customer is erased. """
    pins: list[Pin]
    """ Pins to versions of plans. A pin applies from its month until another of the same plan does; without
    one, the customer follows the plan. """
    plan: str
    """ Id of a plan. """
    stripe: None | StripeLink
    suspended_at: datetime.datetime | None
    unpaid: None | Unpaid
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        from ..models.stripe_link import StripeLink  # noqa: PLC0415
        from ..models.unpaid import Unpaid  # noqa: PLC0415

        created_at = self.created_at.isoformat()

        email: None | str
        email = self.email

        enabled = self.enabled

        erased_at: None | str
        if isinstance(self.erased_at, datetime.datetime):
            erased_at = self.erased_at.isoformat()
        else:
            erased_at = self.erased_at

        id = self.id

        name = self.name

        pins = []
        for pins_item_data in self.pins:
            pins_item = pins_item_data.to_dict()
            pins.append(pins_item)

        plan = self.plan

        stripe: dict[str, Any] | None
        if isinstance(self.stripe, StripeLink):
            stripe = self.stripe.to_dict()
        else:
            stripe = self.stripe

        suspended_at: None | str
        if isinstance(self.suspended_at, datetime.datetime):
            suspended_at = self.suspended_at.isoformat()
        else:
            suspended_at = self.suspended_at

        unpaid: dict[str, Any] | None
        if isinstance(self.unpaid, Unpaid):
            unpaid = self.unpaid.to_dict()
        else:
            unpaid = self.unpaid

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "created_at": created_at,
                "email": email,
                "enabled": enabled,
                "erased_at": erased_at,
                "id": id,
                "name": name,
                "pins": pins,
                "plan": plan,
                "stripe": stripe,
                "suspended_at": suspended_at,
                "unpaid": unpaid,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.pin import Pin  # noqa: PLC0415
        from ..models.stripe_link import StripeLink  # noqa: PLC0415
        from ..models.unpaid import Unpaid  # noqa: PLC0415

        d = dict(src_dict)
        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        def _parse_email(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        email = _parse_email(d.pop("email"))

        enabled = d.pop("enabled")

        def _parse_erased_at(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                erased_at_type_0 = datetime.datetime.fromisoformat(data)

                return erased_at_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        erased_at = _parse_erased_at(d.pop("erased_at"))

        id = d.pop("id")

        name = d.pop("name")

        pins = []
        _pins = d.pop("pins")
        for pins_item_data in _pins:
            pins_item = Pin.from_dict(pins_item_data)

            pins.append(pins_item)

        plan = d.pop("plan")

        def _parse_stripe(data: object) -> None | StripeLink:
            if data is None:
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                stripe_type_0 = StripeLink.from_dict(data)

                return stripe_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(None | StripeLink, data)

        stripe = _parse_stripe(d.pop("stripe"))

        def _parse_suspended_at(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                suspended_at_type_0 = datetime.datetime.fromisoformat(data)

                return suspended_at_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        suspended_at = _parse_suspended_at(d.pop("suspended_at"))

        def _parse_unpaid(data: object) -> None | Unpaid:
            if data is None:
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                unpaid_type_0 = Unpaid.from_dict(data)

                return unpaid_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(None | Unpaid, data)

        unpaid = _parse_unpaid(d.pop("unpaid"))

        customer = cls(
            created_at=created_at,
            email=email,
            enabled=enabled,
            erased_at=erased_at,
            id=id,
            name=name,
            pins=pins,
            plan=plan,
            stripe=stripe,
            suspended_at=suspended_at,
            unpaid=unpaid,
        )

        customer.additional_properties = d
        return customer

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
