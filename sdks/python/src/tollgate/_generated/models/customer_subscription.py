from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.plan_summary import PlanSummary
    from ..models.subscription import Subscription


T = TypeVar("T", bound="CustomerSubscription")


@_attrs_define
class CustomerSubscription:
    """Plan and subscription of a customer."""

    plan: PlanSummary
    """ Plan of a customer. """
    subscription: None | Subscription
    unpaid_since: datetime.datetime | None
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        from ..models.subscription import Subscription  # noqa: PLC0415

        plan = self.plan.to_dict()

        subscription: dict[str, Any] | None
        if isinstance(self.subscription, Subscription):
            subscription = self.subscription.to_dict()
        else:
            subscription = self.subscription

        unpaid_since: None | str
        if isinstance(self.unpaid_since, datetime.datetime):
            unpaid_since = self.unpaid_since.isoformat()
        else:
            unpaid_since = self.unpaid_since

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "plan": plan,
                "subscription": subscription,
                "unpaid_since": unpaid_since,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.plan_summary import PlanSummary  # noqa: PLC0415
        from ..models.subscription import Subscription  # noqa: PLC0415

        d = dict(src_dict)
        plan = PlanSummary.from_dict(d.pop("plan"))

        def _parse_subscription(data: object) -> None | Subscription:
            if data is None:
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                subscription_type_0 = Subscription.from_dict(data)

                return subscription_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(None | Subscription, data)

        subscription = _parse_subscription(d.pop("subscription"))

        def _parse_unpaid_since(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                unpaid_since_type_0 = datetime.datetime.fromisoformat(data)

                return unpaid_since_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        unpaid_since = _parse_unpaid_since(d.pop("unpaid_since"))

        customer_subscription = cls(
            plan=plan,
            subscription=subscription,
            unpaid_since=unpaid_since,
        )

        customer_subscription.additional_properties = d
        return customer_subscription

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
