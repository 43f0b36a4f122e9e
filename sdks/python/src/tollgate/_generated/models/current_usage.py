from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.adjustment_sums import AdjustmentSums
    from ..models.admitted_usage import AdmittedUsage
    from ..models.metered_usage import MeteredUsage
    from ..models.overage import Overage
    from ..models.period import Period


T = TypeVar("T", bound="CurrentUsage")


@_attrs_define
class CurrentUsage:
    """Usage of a customer in the current UTC month."""

    adjustments: AdjustmentSums
    """ Sums of the adjustments of a month. """
    admitted: AdmittedUsage
    """ Admitted calls of a month. """
    customer_id: str
    """ Id of a customer: chosen at creation, or drawn as `cus_` and 20 letters and digits. It must not
    identify a person: it stays in usage and ledger when the customer is erased. """
    metered: MeteredUsage
    """ Metered calls of a month. """
    overage: None | Overage
    period: Period
    """ A UTC month. """
    plan: str
    """ Id of a plan. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        from ..models.overage import Overage  # noqa: PLC0415

        adjustments = self.adjustments.to_dict()

        admitted = self.admitted.to_dict()

        customer_id = self.customer_id

        metered = self.metered.to_dict()

        overage: dict[str, Any] | None
        if isinstance(self.overage, Overage):
            overage = self.overage.to_dict()
        else:
            overage = self.overage

        period = self.period.to_dict()

        plan = self.plan

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "adjustments": adjustments,
                "admitted": admitted,
                "customer_id": customer_id,
                "metered": metered,
                "overage": overage,
                "period": period,
                "plan": plan,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.adjustment_sums import AdjustmentSums  # noqa: PLC0415
        from ..models.admitted_usage import AdmittedUsage  # noqa: PLC0415
        from ..models.metered_usage import MeteredUsage  # noqa: PLC0415
        from ..models.overage import Overage  # noqa: PLC0415
        from ..models.period import Period  # noqa: PLC0415

        d = dict(src_dict)
        adjustments = AdjustmentSums.from_dict(d.pop("adjustments"))

        admitted = AdmittedUsage.from_dict(d.pop("admitted"))

        customer_id = d.pop("customer_id")

        metered = MeteredUsage.from_dict(d.pop("metered"))

        def _parse_overage(data: object) -> None | Overage:
            if data is None:
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                overage_type_0 = Overage.from_dict(data)

                return overage_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(None | Overage, data)

        overage = _parse_overage(d.pop("overage"))

        period = Period.from_dict(d.pop("period"))

        plan = d.pop("plan")

        current_usage = cls(
            adjustments=adjustments,
            admitted=admitted,
            customer_id=customer_id,
            metered=metered,
            overage=overage,
            period=period,
            plan=plan,
        )

        current_usage.additional_properties = d
        return current_usage

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
