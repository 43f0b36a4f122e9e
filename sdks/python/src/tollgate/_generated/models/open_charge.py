from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.charge import Charge


T = TypeVar("T", bound="OpenCharge")


@_attrs_define
class OpenCharge:
    """An open charge with its customer."""

    charge: Charge
    """ A charge in the ledger, or if its amount is negative, a credit. """
    customer_id: str
    """ Id of a customer: chosen at creation, or drawn as `cus_` and 20 letters and digits. It must not
    identify a person: it stays in usage and ledger when the customer is erased. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        charge = self.charge.to_dict()

        customer_id = self.customer_id

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "charge": charge,
                "customer_id": customer_id,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.charge import Charge  # noqa: PLC0415

        d = dict(src_dict)
        charge = Charge.from_dict(d.pop("charge"))

        customer_id = d.pop("customer_id")

        open_charge = cls(
            charge=charge,
            customer_id=customer_id,
        )

        open_charge.additional_properties = d
        return open_charge

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
