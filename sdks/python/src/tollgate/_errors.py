"""Errors of the client, and the problems (RFC 9457) of the API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, cast

PREFIX = "urn:tollgate:problem:"


class TollgateError(Exception):
    """Base of all errors of this package."""


class NoResponseError(TollgateError):
    """No response was received. The request may have taken effect; `__cause__` is the error of the connection."""


class InvalidResponseError(TollgateError):
    """A response is not one of the API's, for example the page of a proxy."""


class Defect(NamedTuple):
    """A usage event, record or adjustment that cannot be counted."""

    pointer: str
    """JSON pointer (RFC 6901) into the body of the request."""
    reason: str


class ProblemError(TollgateError):
    """A problem (RFC 9457). Its subclasses are the types that clients handle; other types have this class."""

    type: str
    """URI of the problem's type, such as `urn:tollgate:problem:not-found`."""
    title: str
    status: int
    """Status of the response."""
    detail: str | None
    request_id: str | None
    """Request id, under which the log has more."""
    field: str | None
    """Part of the body or query at fault."""
    retry_after_s: float | None
    """Seconds after which a retry can succeed, if the response says so."""
    members: Mapping[str, Any]
    """All members of the problem, with those that only some types have."""

    def __init__(self, status: int, members: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.members = members
        self.type = self.text("type") or "about:blank"
        self.title = self.text("title") or reason_phrase(status)
        self.detail = self.text("detail")
        self.request_id = self.text("request_id")
        self.field = self.text("field")
        self.retry_after_s = retry_after_s
        message = f"{status} {self.title}"
        if self.detail:
            message += f": {self.detail}"
        if self.request_id:
            message += f" (request {self.request_id})"
        super().__init__(message)

    def text(self, name: str) -> str | None:
        """Returns a member that is a text."""
        value = self.members.get(name)
        return value if isinstance(value, str) else None

    def integer(self, name: str) -> int | None:
        """Returns a member that is an integer."""
        value = self.members.get(name)
        return value if isinstance(value, int) else None

    def texts(self, name: str) -> list[str]:
        """Returns a member that is a list of texts; if there is none, an empty one."""
        return [item for item in self._list(name) if isinstance(item, str)]

    def _list(self, name: str) -> list[object]:
        value = self.members.get(name)
        return cast(list[object], value) if isinstance(value, list) else []

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.status, self.members, self.retry_after_s))


class BadRequestError(ProblemError):
    """The body, the query or a header field is invalid; `field` names it."""


class UnauthorizedError(ProblemError):
    """The key is missing, unknown, expired, revoked or suspended."""


class ForbiddenError(ProblemError):
    """The key is valid, but for other requests."""


class InsufficientRoleError(ForbiddenError):
    """The request needs a key with the role `manage`."""


class NotFoundError(ProblemError):
    """The resource does not exist."""


class ConflictError(ProblemError):
    """The resource's state does not allow the request."""

    @property
    def conflicts(self) -> list[str]:
        """JSON pointers to the usage events whose identity another event has; all others were counted."""
        return self.texts("conflicts")


class BodyTooLargeError(ProblemError):
    """The body has more than 1 MB."""


class UnprocessableError(ProblemError):
    """The request is valid in form, but cannot be carried out."""

    @property
    def defects(self) -> list[Defect]:
        """Usage that cannot be counted. If there is any, nothing of the request was counted."""
        defects: list[Defect] = []
        for item in self._list("defects"):
            if isinstance(item, dict):
                members = cast(dict[str, object], item)
                defects.append(Defect(str(members.get("pointer", "")), str(members.get("reason", ""))))
        return defects


class LimitError(ProblemError):
    """The key's calls of the hour, or the customer's of the month, are used up."""

    @property
    def limit(self) -> int | None:
        """Calls allowed in the window."""
        return self.integer("limit")

    @property
    def window(self) -> str | None:
        """`hour` or `month`."""
        return self.text("window")

    @property
    def resets_at(self) -> str | None:
        """Start of the next window (RFC 3339)."""
        return self.text("resets_at")


class RateLimitedError(LimitError):
    """The key's limit for the hour is exhausted."""


class QuotaExceededError(LimitError):
    """The customer's quota for the month is exhausted."""

    @property
    def upgrade_url(self) -> str | None:
        """Page to subscribe to a larger plan, if the operator has one."""
        return self.text("upgrade_url")


class CustomerSuspendedError(ProblemError):
    """The customer is suspended."""


class ThrottledError(ProblemError):
    """The gateway's limit for all callers together is exceeded."""


class UnavailableError(ProblemError):
    """The service is temporarily unavailable. The request may have taken effect."""


class PaymentsNotConfiguredError(ProblemError):
    """The request needs Stripe, which the operator has not configured."""


CLASSES: dict[str, type[ProblemError]] = {
    "bad-request": BadRequestError,
    "unauthorized": UnauthorizedError,
    "forbidden": ForbiddenError,
    "insufficient-role": InsufficientRoleError,
    "not-found": NotFoundError,
    "conflict": ConflictError,
    "body-too-large": BodyTooLargeError,
    "unprocessable": UnprocessableError,
    "rate-limited": RateLimitedError,
    "quota-exceeded": QuotaExceededError,
    "customer-suspended": CustomerSuspendedError,
    "throttled": ThrottledError,
    "temporarily-unavailable": UnavailableError,
    "payments-not-configured": PaymentsNotConfiguredError,
}


def reason_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unexpected status"


def problem_of(status: int, body: bytes, retry_after_s: float | None) -> ProblemError:
    """Returns the problem of a response. A body of another form, such as a proxy's, leaves it without members."""
    members: dict[str, Any] = {}
    try:
        parsed: object = json.loads(body)
    except ValueError:
        parsed = None
    if isinstance(parsed, dict):
        members = cast(dict[str, Any], parsed)
    name = str(members.get("type", "")).removeprefix(PREFIX)
    return CLASSES.get(name, ProblemError)(status, members, retry_after_s)


def may_pass(error: TollgateError) -> bool:
    """Returns whether the same request can succeed later: after a 429 only if the response names the time."""
    if isinstance(error, ProblemError):
        if error.status == 429:
            return error.retry_after_s is not None
        return error.status in (502, 503, 504) and not isinstance(error, PaymentsNotConfiguredError)
    return isinstance(error, NoResponseError)
