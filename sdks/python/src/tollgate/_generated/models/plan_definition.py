from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define

from ..models.fail_mode import FailMode, check_fail_mode
from ..models.submission_cadence import SubmissionCadence, check_submission_cadence
from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.month_policy_blocked import MonthPolicyBlocked
    from ..models.month_policy_overage import MonthPolicyOverage
    from ..models.month_policy_unlimited import MonthPolicyUnlimited


T = TypeVar("T", bound="PlanDefinition")


@_attrs_define
class PlanDefinition:
    """Limits and prices of a version of a plan."""

    fail_mode: FailMode
    """ Decision on calls while the store is unavailable. """
    month: MonthPolicyBlocked | MonthPolicyOverage | MonthPolicyUnlimited
    """ Calls of a UTC month that are included, and what applies beyond them. """
    name: str
    """ Name, for people: without control characters. """
    requests_per_hour: int
    """ Calls of a key in a UTC hour. """
    max_lease: int | Unset = 1000
    """ Most units of a limit that an instance of the authorizer reserves at once, and that are lost if it
    crashes. With 1, exactly the limit is allowed. """
    monthly_fee_cents: int | Unset = 0
    """ Monthly fee in US cents, charged by the customer's subscription. """
    stripe_price: None | str | Unset = UNSET
    submission: SubmissionCadence | Unset = UNSET
    """ Cadence at which charges are made and submitted to Stripe. In between, the overage adds up. """

    def to_dict(self) -> dict[str, Any]:
        from ..models.month_policy_blocked import MonthPolicyBlocked  # noqa: PLC0415
        from ..models.month_policy_overage import MonthPolicyOverage  # noqa: PLC0415

        fail_mode: str = self.fail_mode

        month: dict[str, Any]
        if isinstance(self.month, MonthPolicyBlocked):
            month = self.month.to_dict()
        elif isinstance(self.month, MonthPolicyOverage):
            month = self.month.to_dict()
        else:
            month = self.month.to_dict()

        name = self.name

        requests_per_hour = self.requests_per_hour

        max_lease = self.max_lease

        monthly_fee_cents = self.monthly_fee_cents

        stripe_price: None | str | Unset
        if isinstance(self.stripe_price, Unset):
            stripe_price = UNSET
        else:
            stripe_price = self.stripe_price

        submission: str | Unset = UNSET
        if not isinstance(self.submission, Unset):
            submission = self.submission

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "fail_mode": fail_mode,
                "month": month,
                "name": name,
                "requests_per_hour": requests_per_hour,
            }
        )
        if max_lease is not UNSET:
            field_dict["max_lease"] = max_lease
        if monthly_fee_cents is not UNSET:
            field_dict["monthly_fee_cents"] = monthly_fee_cents
        if stripe_price is not UNSET:
            field_dict["stripe_price"] = stripe_price
        if submission is not UNSET:
            field_dict["submission"] = submission

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.month_policy_blocked import MonthPolicyBlocked  # noqa: PLC0415
        from ..models.month_policy_overage import MonthPolicyOverage  # noqa: PLC0415
        from ..models.month_policy_unlimited import MonthPolicyUnlimited  # noqa: PLC0415

        d = dict(src_dict)
        fail_mode = check_fail_mode(d.pop("fail_mode"))

        def _parse_month(data: object) -> MonthPolicyBlocked | MonthPolicyOverage | MonthPolicyUnlimited:
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                componentsschemas_month_policy_month_policy_blocked = MonthPolicyBlocked.from_dict(data)

                return componentsschemas_month_policy_month_policy_blocked
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                componentsschemas_month_policy_month_policy_overage = MonthPolicyOverage.from_dict(data)

                return componentsschemas_month_policy_month_policy_overage
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            if not isinstance(data, dict):
                raise TypeError()
            componentsschemas_month_policy_month_policy_unlimited = MonthPolicyUnlimited.from_dict(data)

            return componentsschemas_month_policy_month_policy_unlimited

        month = _parse_month(d.pop("month"))

        name = d.pop("name")

        requests_per_hour = d.pop("requests_per_hour")

        max_lease = d.pop("max_lease", UNSET)

        monthly_fee_cents = d.pop("monthly_fee_cents", UNSET)

        def _parse_stripe_price(data: object) -> None | str | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            return cast(None | str | Unset, data)

        stripe_price = _parse_stripe_price(d.pop("stripe_price", UNSET))

        _submission = d.pop("submission", UNSET)
        submission: SubmissionCadence | Unset
        if isinstance(_submission, Unset):
            submission = UNSET
        else:
            submission = check_submission_cadence(_submission)

        plan_definition = cls(
            fail_mode=fail_mode,
            month=month,
            name=name,
            requests_per_hour=requests_per_hour,
            max_lease=max_lease,
            monthly_fee_cents=monthly_fee_cents,
            stripe_price=stripe_price,
            submission=submission,
        )

        return plan_definition
