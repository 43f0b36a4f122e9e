from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

T = TypeVar("T", bound="Discrepancy")


@_attrs_define
class Discrepancy:
    """A customer whose ledgers differ by more than is tolerated."""

    admitted: int
    """ Admitted calls. """
    customer_id: str
    """ Id of a customer: chosen at creation, or drawn as `cus_` and 20 letters and digits. It must not
    identify a person: it stays in usage and ledger when the customer is erased. """
    metered: int
    """ Calls that were metered when the run compared them. """
    metered_now: int
    """ Calls that are metered now. Usage may arrive late. """
    silent: bool
    """ Whether the customer has admitted calls and no metered ones. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        admitted = self.admitted

        customer_id = self.customer_id

        metered = self.metered

        metered_now = self.metered_now

        silent = self.silent

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "admitted": admitted,
                "customer_id": customer_id,
                "metered": metered,
                "metered_now": metered_now,
                "silent": silent,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        admitted = d.pop("admitted")

        customer_id = d.pop("customer_id")

        metered = d.pop("metered")

        metered_now = d.pop("metered_now")

        silent = d.pop("silent")

        discrepancy = cls(
            admitted=admitted,
            customer_id=customer_id,
            metered=metered,
            metered_now=metered_now,
            silent=silent,
        )

        discrepancy.additional_properties = d
        return discrepancy

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
