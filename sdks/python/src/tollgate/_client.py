"""The client."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from typing import Self
from urllib.parse import urlsplit

import httpx

from ._call import check_content
from ._errors import NoResponseError
from ._generated.client import AuthenticatedClient
from ._generated.operations import Operations
from ._generated.types import UNSET, Unset
from ._retry import Clock, Retries
from ._usage import UndeliveredEvent, UsageReporter
from ._version import VERSION


class Client(Operations):
    """Client of a Tollgate API. It can be shared by threads.

    Requests that have the same effect however often they are sent are retried as `retries` says, after a 429 with
    `Retry-After`, a 502, 503 or 504, and if there is no response.

    Args:
        base_url: URL of the API; by default the variable `TOLLGATE_URL`.
        key: API key; by default the variable `TOLLGATE_KEY`. It is never printed. `None`, which a repeated creation
            returns in place of the key, is an error, so that no other key takes its place.
        timeout_s: Longest wait for a connection, and for each part of a response.
        retries: Limits of the attempts to send a request.
        transport: Transport of httpx, for proxies or certificates of your own.

    Raises:
        ValueError: There is no key, or no URL with `https` or `http`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        key: str | None | Unset = UNSET,
        *,
        timeout_s: float = 30.0,
        retries: Retries = Retries(),
        transport: httpx.BaseTransport | None = None,
        _clock: Clock = Clock(),
    ) -> None:
        base_url = base_url or os.environ.get("TOLLGATE_URL", "")
        if isinstance(key, Unset):
            key = os.environ.get("TOLLGATE_KEY")
        parts = urlsplit(base_url)
        if parts.scheme not in ("https", "http") or not parts.netloc:
            raise ValueError("base_url, or the variable TOLLGATE_URL, must be the URL of a Tollgate API")
        if not key:
            raise ValueError("key, or the variable TOLLGATE_KEY, must be an API key")
        # httpx reports an invalid field with its value.
        if not key.isascii() or not key.isprintable():
            raise ValueError("the API key has characters that no key has")
        self._base_url = base_url
        self._retries = retries
        self._clock = _clock

        def connect() -> httpx.Client:
            return httpx.Client(
                base_url=base_url,
                headers={"authorization": f"Bearer {key}", "user-agent": f"tollgate-python/{VERSION}"},
                timeout=timeout_s,
                transport=transport,
                event_hooks={"response": [check_content]},
            )

        self._connect = connect
        self._open()
        _clients.add(self)

    def _open(self) -> None:
        self._http = self._connect()
        # The generated code only uses the client below it, which has the key.
        self._generated = AuthenticatedClient(base_url=self._base_url, token="").set_httpx_client(self._http)

    def usage_reporter(
        self,
        source: str,
        *,
        flush_interval_s: float = 5.0,
        max_buffered_records: int = 10_000,
        close_timeout_s: float = 10.0,
        on_undelivered: Callable[[Sequence[UndeliveredEvent]], None] | None = None,
    ) -> UsageReporter:
        """Creates a reporter of usage that was metered elsewhere. It needs an admin key.

        Args:
            source: Name of the producer. With an id, it is the identity of a usage event.
            flush_interval_s: Longest time that a record is buffered before it is sent.
            max_buffered_records: Bound beyond which `report` raises `BufferFullError`.
            close_timeout_s: Time that `close` tries to send what is left.
            on_undelivered: Function that takes usage that cannot be delivered, in the thread that sends. Without it,
                `flush` and `close` raise `UndeliveredUsageError`.
        """

        def post(body: bytes) -> None:
            if self._http.is_closed:
                raise NoResponseError("The client was closed before its reporter of usage.")
            headers = {"content-type": "application/json"}
            self._attempt(lambda: self._http.post("/admin/usage/events", content=body, headers=headers))

        return UsageReporter(
            post,
            source,
            flush_interval_s=flush_interval_s,
            max_buffered_records=max_buffered_records,
            close_timeout_s=close_timeout_s,
            on_undelivered=on_undelivered,
            retries=self._retries,
            clock=self._clock,
        )

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._base_url!r})"


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _reconnect() -> None:
    for client in _clients:
        client._open()


# A forked process must not write to the connections of its parent.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reconnect)
