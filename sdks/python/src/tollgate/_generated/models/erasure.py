from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

if TYPE_CHECKING:
    from ..models.customer import Customer


T = TypeVar("T", bound="Erasure")


@_attrs_define
class Erasure:
    """Effects of an erasure, or in a dry run, the effects that it would have."""

    customer: Customer
    """ A customer. """
    dry_run: bool
    """ Whether nothing was erased. """
    erases: list[str]
    """ Attributes that are erased, irrecoverably. """
    expires: list[str]
    """ Personal attributes that are not erased and expire by themselves. """
    keeps: list[str]
    """ Tables that stay as they are, under the customer's id. """
    keys: int
    """ Keys of the customer, revoked ones included. """
    keys_revoked: int
    """ Keys that the erasure revokes. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        customer = self.customer.to_dict()

        dry_run = self.dry_run

        erases = self.erases

        expires = self.expires

        keeps = self.keeps

        keys = self.keys

        keys_revoked = self.keys_revoked

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "customer": customer,
                "dry_run": dry_run,
                "erases": erases,
                "expires": expires,
                "keeps": keeps,
                "keys": keys,
                "keys_revoked": keys_revoked,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.customer import Customer  # noqa: PLC0415

        d = dict(src_dict)
        customer = Customer.from_dict(d.pop("customer"))

        dry_run = d.pop("dry_run")

        erases = cast(list[str], d.pop("erases"))

        expires = cast(list[str], d.pop("expires"))

        keeps = cast(list[str], d.pop("keeps"))

        keys = d.pop("keys")

        keys_revoked = d.pop("keys_revoked")

        erasure = cls(
            customer=customer,
            dry_run=dry_run,
            erases=erases,
            expires=expires,
            keeps=keeps,
            keys=keys,
            keys_revoked=keys_revoked,
        )

        erasure.additional_properties = d
        return erasure

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
