from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define

T = TypeVar("T", bound="StartCheckout")


@_attrs_define
class StartCheckout:
    """Request to start a checkout."""

    cancel_url: str
    """ Address of a page on one of the origins that the operator allows. """
    plan: str
    """ Id of a plan. """
    success_url: str
    """ Address of a page on one of the origins that the operator allows. """

    def to_dict(self) -> dict[str, Any]:
        cancel_url = self.cancel_url

        plan = self.plan

        success_url = self.success_url

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "cancel_url": cancel_url,
                "plan": plan,
                "success_url": success_url,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        cancel_url = d.pop("cancel_url")

        plan = d.pop("plan")

        success_url = d.pop("success_url")

        start_checkout = cls(
            cancel_url=cancel_url,
            plan=plan,
            success_url=success_url,
        )

        return start_checkout
