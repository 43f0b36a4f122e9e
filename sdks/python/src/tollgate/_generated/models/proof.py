from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.amount import Amount
    from ..models.customer_charge import CustomerCharge
    from ..models.rated_calls import RatedCalls
    from ..models.rated_plan import RatedPlan
    from ..models.signed_amount import SignedAmount


T = TypeVar("T", bound="Proof")


@_attrs_define
class Proof:
    """Calculation of a charge."""

    charge: CustomerCharge
    """ A charge for the overage of a month, or if its amount is negative, a credit. """
    charged_before: SignedAmount
    """ Amount that may be negative, such as `{"micro_usd": -230000, "display": "-$0.23"}`. """
    cumulative_overage: Amount
    """ Amount, such as `{"micro_usd": 230000, "display": "$0.23"}`. """
    kept_from: datetime.date
    """ UTC day. """
    plans: list[RatedPlan]
    """ Versions of the plans of these calls. """
    usage: list[RatedCalls]
    """ Calls from which the charge was computed; empty if a release that did not keep them made it. """
    usage_digest: str
    """ SHA-256 of a line `<day> <plan> <calls>` for each of `usage`, with ` <adjusted calls>` after it, signed,
    unless
    they are 0. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        charge = self.charge.to_dict()

        charged_before = self.charged_before.to_dict()

        cumulative_overage = self.cumulative_overage.to_dict()

        kept_from = self.kept_from.isoformat()

        plans = []
        for plans_item_data in self.plans:
            plans_item = plans_item_data.to_dict()
            plans.append(plans_item)

        usage = []
        for usage_item_data in self.usage:
            usage_item = usage_item_data.to_dict()
            usage.append(usage_item)

        usage_digest = self.usage_digest

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "charge": charge,
                "charged_before": charged_before,
                "cumulative_overage": cumulative_overage,
                "kept_from": kept_from,
                "plans": plans,
                "usage": usage,
                "usage_digest": usage_digest,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.amount import Amount  # noqa: PLC0415
        from ..models.customer_charge import CustomerCharge  # noqa: PLC0415
        from ..models.rated_calls import RatedCalls  # noqa: PLC0415
        from ..models.rated_plan import RatedPlan  # noqa: PLC0415
        from ..models.signed_amount import SignedAmount  # noqa: PLC0415

        d = dict(src_dict)
        charge = CustomerCharge.from_dict(d.pop("charge"))

        charged_before = SignedAmount.from_dict(d.pop("charged_before"))

        cumulative_overage = Amount.from_dict(d.pop("cumulative_overage"))

        kept_from = datetime.date.fromisoformat(d.pop("kept_from"))

        plans = []
        _plans = d.pop("plans")
        for plans_item_data in _plans:
            plans_item = RatedPlan.from_dict(plans_item_data)

            plans.append(plans_item)

        usage = []
        _usage = d.pop("usage")
        for usage_item_data in _usage:
            usage_item = RatedCalls.from_dict(usage_item_data)

            usage.append(usage_item)

        usage_digest = d.pop("usage_digest")

        proof = cls(
            charge=charge,
            charged_before=charged_before,
            cumulative_overage=cumulative_overage,
            kept_from=kept_from,
            plans=plans,
            usage=usage,
            usage_digest=usage_digest,
        )

        proof.additional_properties = d
        return proof

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
