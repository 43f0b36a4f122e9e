"""An API and a clock for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from tollgate import Client, Retries
from tollgate._retry import Clock

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = json.loads((ROOT / "infra/openapi.json").read_text())
KEY = "tg_admin_EXAMPLE0EXAMPLE0EXAMPLE0EXAMPLE0ABCDEF"

Reply = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


class FakeClock(Clock):
    """A clock that only waits advance. Chance is always one half."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def random(self) -> float:
        return 0.5


class FakeApi(httpx.BaseTransport):
    """Replies with what it was given, in this order, and keeps the requests."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []
        self.clock = FakeClock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply(request) if callable(reply) else reply

    def client(self, retries: Retries = Retries()) -> Client:
        return Client("https://api.example/v1", KEY, transport=self, retries=retries, _clock=self.clock)

    def bodies(self) -> list[Any]:
        """Returns the bodies of all requests."""
        return [json.loads(request.content) for request in self.requests]


def success(body: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=body)


def problem(status: int, name: str, headers: dict[str, str] | None = None, **members: Any) -> httpx.Response:
    body = {
        "type": f"urn:tollgate:problem:{name}",
        "title": "A title",
        "status": status,
        "detail": "A detail.",
        "request_id": "r-1",
        **members,
    }
    content = json.dumps(body).encode()
    fields = {"content-type": "application/problem+json", **(headers or {})}
    return httpx.Response(status, content=content, headers=fields)


def unavailable(retry_after: str | None = None) -> httpx.Response:
    return problem(503, "temporarily-unavailable", {"retry-after": retry_after} if retry_after else None)


def example(operation_id: str) -> dict[str, Any]:
    """Returns the example of a success in the document of the API."""
    for item in DOCUMENT["paths"].values():
        for operation in item.values():
            if operation["operationId"] == operation_id:
                responses = operation["responses"]
                success = responses.get("201") or responses["200"]
                return success["content"]["application/json"]["example"]
    raise KeyError(operation_id)


def page(*ids: str, following: str | None = None) -> httpx.Response:
    customers = [example("createCustomer") | {"id": id} for id in ids]
    return success({"data": customers, "next_cursor": following})
