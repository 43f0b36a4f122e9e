from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.charge_summary import ChargeSummary
    from ..models.failed_period import FailedPeriod


T = TypeVar("T", bound="BillingRun")


@_attrs_define
class BillingRun:
    """Result of a billing run."""

    billing_periods: int
    """ Billing periods with billable usage: one for each customer and month. """
    cents: int
    """ Sum of these charges and credits, in US cents. """
    charge_count: int
    """ Charges and credits created, or in a dry run, those that would be. """
    charges: list[ChargeSummary]
    """ The first hundred charges. """
    closed: list[str]
    """ Months that this run closed. """
    destination: str
    """ Destination of the charges: `stripe`, or `ledger_only` while no payment provider is configured. """
    dry_run: bool
    """ Whether nothing was written. """
    failed: int
    """ Billing periods that could not be billed. The next run tries them again. """
    failures: list[FailedPeriod]
    """ The first hundred failures. """
    months: list[str]
    """ Months that were open. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        billing_periods = self.billing_periods

        cents = self.cents

        charge_count = self.charge_count

        charges = []
        for charges_item_data in self.charges:
            charges_item = charges_item_data.to_dict()
            charges.append(charges_item)

        closed = self.closed

        destination = self.destination

        dry_run = self.dry_run

        failed = self.failed

        failures = []
        for failures_item_data in self.failures:
            failures_item = failures_item_data.to_dict()
            failures.append(failures_item)

        months = self.months

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "billing_periods": billing_periods,
                "cents": cents,
                "charge_count": charge_count,
                "charges": charges,
                "closed": closed,
                "destination": destination,
                "dry_run": dry_run,
                "failed": failed,
                "failures": failures,
                "months": months,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.charge_summary import ChargeSummary  # noqa: PLC0415
        from ..models.failed_period import FailedPeriod  # noqa: PLC0415

        d = dict(src_dict)
        billing_periods = d.pop("billing_periods")

        cents = d.pop("cents")

        charge_count = d.pop("charge_count")

        charges = []
        _charges = d.pop("charges")
        for charges_item_data in _charges:
            charges_item = ChargeSummary.from_dict(charges_item_data)

            charges.append(charges_item)

        closed = cast(list[str], d.pop("closed"))

        destination = d.pop("destination")

        dry_run = d.pop("dry_run")

        failed = d.pop("failed")

        failures = []
        _failures = d.pop("failures")
        for failures_item_data in _failures:
            failures_item = FailedPeriod.from_dict(failures_item_data)

            failures.append(failures_item)

        months = cast(list[str], d.pop("months"))

        billing_run = cls(
            billing_periods=billing_periods,
            cents=cents,
            charge_count=charge_count,
            charges=charges,
            closed=closed,
            destination=destination,
            dry_run=dry_run,
            failed=failed,
            failures=failures,
            months=months,
        )

        billing_run.additional_properties = d
        return billing_run

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
