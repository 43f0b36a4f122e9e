from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define
from attrs import field as _attrs_field

from ..models.key_status import KeyStatus, check_key_status
from ..models.role import Role, check_role

if TYPE_CHECKING:
    from ..models.overrides import Overrides


T = TypeVar("T", bound="IssuedKey")


@_attrs_define
class IssuedKey:
    """A new key, in the response to the request that created it. Its `Debug` does not show the secret."""

    created_at: datetime.datetime
    """ Instant in UTC (RFC 3339). """
    customer_id: None | str
    enabled: bool
    """ Whether the key is not suspended. A `PATCH` changes this member. """
    expires_at: datetime.datetime | None
    id: str
    """ Id of a key: `key_` and 20 letters and digits. """
    name: str
    """ Name, for people. """
    overrides: Overrides
    """ Limits of one key that replace its plan's. """
    prefix: str
    """ Visible prefix of a key, which identifies it and is safe to show. """
    revoked_at: datetime.datetime | None
    role: Role
    """ Role of a key, which decides the routes it may call. `call`: the API, on behalf of one customer, and
    the customer's usage. `manage`: the same, and the customer's keys, billing and sign-in. `admin`: `/admin`;
    the key belongs to no customer, and is neither limited nor metered. """
    rotated_to: None | str
    status: KeyStatus
    """ State of a key. """
    suspended_at: datetime.datetime | None
    key: None | str = _attrs_field(repr=False)
    """ The whole key, a secret that is returned only once; `null` in the response to a repeated request. """
    additional_properties: dict[str, Any] = _attrs_field(init=False, repr=False, factory=dict)

    def to_dict(self) -> dict[str, Any]:
        created_at = self.created_at.isoformat()

        customer_id: None | str
        customer_id = self.customer_id

        enabled = self.enabled

        expires_at: None | str
        if isinstance(self.expires_at, datetime.datetime):
            expires_at = self.expires_at.isoformat()
        else:
            expires_at = self.expires_at

        id = self.id

        name = self.name

        overrides = self.overrides.to_dict()

        prefix = self.prefix

        revoked_at: None | str
        if isinstance(self.revoked_at, datetime.datetime):
            revoked_at = self.revoked_at.isoformat()
        else:
            revoked_at = self.revoked_at

        role: str = self.role

        rotated_to: None | str
        rotated_to = self.rotated_to

        status: str = self.status

        suspended_at: None | str
        if isinstance(self.suspended_at, datetime.datetime):
            suspended_at = self.suspended_at.isoformat()
        else:
            suspended_at = self.suspended_at

        key: None | str
        key = self.key

        field_dict: dict[str, Any] = {}
        field_dict.update(self.additional_properties)
        field_dict.update(
            {
                "created_at": created_at,
                "customer_id": customer_id,
                "enabled": enabled,
                "expires_at": expires_at,
                "id": id,
                "name": name,
                "overrides": overrides,
                "prefix": prefix,
                "revoked_at": revoked_at,
                "role": role,
                "rotated_to": rotated_to,
                "status": status,
                "suspended_at": suspended_at,
                "key": key,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.overrides import Overrides  # noqa: PLC0415

        d = dict(src_dict)
        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        def _parse_customer_id(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        customer_id = _parse_customer_id(d.pop("customer_id"))

        enabled = d.pop("enabled")

        def _parse_expires_at(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                expires_at_type_0 = datetime.datetime.fromisoformat(data)

                return expires_at_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        expires_at = _parse_expires_at(d.pop("expires_at"))

        id = d.pop("id")

        name = d.pop("name")

        overrides = Overrides.from_dict(d.pop("overrides"))

        prefix = d.pop("prefix")

        def _parse_revoked_at(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                revoked_at_type_0 = datetime.datetime.fromisoformat(data)

                return revoked_at_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        revoked_at = _parse_revoked_at(d.pop("revoked_at"))

        role = check_role(d.pop("role"))

        def _parse_rotated_to(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        rotated_to = _parse_rotated_to(d.pop("rotated_to"))

        status = check_key_status(d.pop("status"))

        def _parse_suspended_at(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                suspended_at_type_0 = datetime.datetime.fromisoformat(data)

                return suspended_at_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        suspended_at = _parse_suspended_at(d.pop("suspended_at"))

        def _parse_key(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        key = _parse_key(d.pop("key"))

        issued_key = cls(
            created_at=created_at,
            customer_id=customer_id,
            enabled=enabled,
            expires_at=expires_at,
            id=id,
            name=name,
            overrides=overrides,
            prefix=prefix,
            revoked_at=revoked_at,
            role=role,
            rotated_to=rotated_to,
            status=status,
            suspended_at=suspended_at,
            key=key,
        )

        issued_key.additional_properties = d
        return issued_key

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
