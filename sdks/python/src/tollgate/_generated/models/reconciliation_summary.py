from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

T = TypeVar("T", bound="ReconciliationSummary")


@_attrs_define
class ReconciliationSummary:
    """Sums of a reconciliation."""

    admitted: int
    """ Admitted calls. """
    customers: int
    """ Customers with calls in either ledger. """
    discrepancies: int
    """ Customers whose ledgers differ by more than is tolerated. """
    metered: int
    """ Metered calls. """
    reconciled_at: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        admitted = self.admitted

        customers = self.customers

        discrepancies = self.discrepancies

        metered = self.metered

        reconciled_at = self.reconciled_at.isoformat()

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "admitted": admitted,
                "customers": customers,
                "discrepancies": discrepancies,
                "metered": metered,
                "reconciled_at": reconciled_at,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        admitted = d.pop("admitted")

        customers = d.pop("customers")

        discrepancies = d.pop("discrepancies")

        metered = d.pop("metered")

        reconciled_at = datetime.datetime.fromisoformat(d.pop("reconciled_at"))

        reconciliation_summary = cls(
            admitted=admitted,
            customers=customers,
            discrepancies=discrepancies,
            metered=metered,
            reconciled_at=reconciled_at,
        )

        reconciliation_summary.additional_properties = d
        return reconciliation_summary

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
