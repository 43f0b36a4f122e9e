"""Sending of requests: attempts, retries and errors."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Protocol, TypeVar

import httpx

from ._errors import (
    InvalidResponseError,
    NoResponseError,
    ProblemError,
    TollgateError,
    may_pass,
    problem_of,
)
from ._generated.client import AuthenticatedClient
from ._generated.types import Response
from ._retry import Clock, Retries, retry_after_s


class Received(Protocol):
    """A response, in httpx's form or the generated one."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def content(self) -> bytes: ...


Result = TypeVar("Result")
AnyReceived = TypeVar("AnyReceived", bound=Received)


def new_idempotency_key() -> str:
    return str(uuid.uuid4())


def path_segment(value: str) -> str:
    """Returns a path parameter. These values would lead to another resource, since URLs are normalised.

    Raises:
        ValueError: The value is empty, `.` or `..`.
    """
    if value in ("", ".", ".."):
        raise ValueError(f"{value!r} cannot be part of a path")
    return value


class Caller:
    """Sends the requests of the operations."""

    _http: httpx.Client
    _generated: AuthenticatedClient
    _retries: Retries
    _clock: Clock

    def _call(self, send: Callable[[AuthenticatedClient], Response[Result]], *, is_repeatable: bool) -> Result:
        """Sends a request and returns the content of its response."""
        response = self._send(send, is_repeatable=is_repeatable)
        if response.parsed is None:
            raise InvalidResponseError(f"The status {response.status_code:d} is not one of the operation's.")
        return response.parsed

    def _send(
        self, send: Callable[[AuthenticatedClient], Response[Result]], *, is_repeatable: bool
    ) -> Response[Result]:
        """Sends a request, and again if that is allowed and can help."""
        started = self._clock.monotonic()
        attempt = 1
        while True:
            try:
                return self._attempt(lambda: send(self._generated))
            except TollgateError as error:
                if not (is_repeatable and may_pass(error)):
                    raise
                after = error.retry_after_s if isinstance(error, ProblemError) else None
                delay = self._retries.delay_s(attempt, self._clock.monotonic() - started, after, self._clock)
                if delay is None:
                    raise
            self._clock.sleep(delay)
            attempt += 1

    def _attempt(self, send: Callable[[], AnyReceived]) -> AnyReceived:
        """Sends a request once. Returns only successes."""
        try:
            response = send()
        except httpx.RequestError as cause:
            raise NoResponseError(f"No response was received: {type(cause).__name__}: {cause}") from cause
        if not 200 <= response.status_code < 300:
            if response.status_code < 400:
                raise InvalidResponseError(f"The status {response.status_code:d} is not one of the API's.")
            after = retry_after_s(response.headers, self._clock)
            raise problem_of(int(response.status_code), response.content, after)
        return response


def check_content(response: httpx.Response) -> None:
    """Raises an error if a success is not JSON, before the generated code reads it."""
    if response.is_success and response.status_code != HTTPStatus.NO_CONTENT:
        response.read()
        try:
            response.json()
        except ValueError:
            kind = response.headers.get("content-type", "no type")
            raise InvalidResponseError(f"The response is not JSON; its content has {kind}.") from None
