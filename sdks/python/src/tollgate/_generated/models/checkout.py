from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

T = TypeVar("T", bound="Checkout")


@_attrs_define
class Checkout:
    """Checkout session: a page of Stripe's on which the customer subscribes to a plan. The plan changes when Stripe
    reports the payment.

    """

    expires_at: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    id: str
    """ Id of the session. """
    plan: str
    """ Id of a plan. """
    status: str
    """ State: `open`, `complete` or `expired`. """
    url: None | str
    """ Address of the page, for the customer alone; `null` unless the session is open. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        expires_at = self.expires_at.isoformat()

        id = self.id

        plan = self.plan

        status = self.status

        url: None | str
        url = self.url

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "expires_at": expires_at,
                "id": id,
                "plan": plan,
                "status": status,
                "url": url,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        expires_at = datetime.datetime.fromisoformat(d.pop("expires_at"))

        id = d.pop("id")

        plan = d.pop("plan")

        status = d.pop("status")

        def _parse_url(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        url = _parse_url(d.pop("url"))

        checkout = cls(
            expires_at=expires_at,
            id=id,
            plan=plan,
            status=status,
            url=url,
        )

        checkout.additional_properties = d
        return checkout

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
