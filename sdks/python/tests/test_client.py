"""Retries, idempotency keys, paging, problems and the key."""

from __future__ import annotations

import copy
import os
import pickle
import re
import unittest
from collections.abc import Callable
from email.utils import formatdate
from typing import Any
from unittest.mock import patch

import httpx
import tollgate
from tollgate import (
    UNSET,
    Client,
    InvalidResponseError,
    NoResponseError,
    ProblemError,
    Retries,
    TollgateError,
    UnavailableError,
    models,
)
from tollgate._errors import CLASSES
from tollgate._retry import retry_after_s

from fake import DOCUMENT, KEY, ROOT, FakeApi, FakeClock, Reply, example, page, problem, success, unavailable


class RetriesTest(unittest.TestCase):
    def check(
        self,
        replies: list[Reply],
        waits: list[float],
        fails: type[TollgateError] | None = None,
        call: Callable[[Client], object] = Client.ping,
        retries: Retries = Retries(),
    ) -> FakeApi:
        """Checks the waits between the attempts of a call, and that each reply is used."""
        api = FakeApi(*replies)
        if fails:
            with self.assertRaises(fails):
                call(api.client(retries))
        else:
            call(api.client(retries))
        self.assertEqual(api.clock.waits, waits)
        self.assertEqual(api.replies, [])
        return api

    def test_waits_double_and_are_random(self) -> None:
        pong = success(example("ping"))
        self.check([unavailable(), unavailable(), unavailable(), pong], [0.125, 0.25, 0.5])
        self.check([httpx.Response(502), httpx.Response(504), pong], [0.125, 0.25])
        self.check([httpx.ConnectError("no route"), httpx.ReadTimeout("slow"), pong], [0.125, 0.25])

    def test_attempts_end(self) -> None:
        self.check([unavailable()] * 4, [0.125, 0.25, 0.5], fails=UnavailableError)
        self.check([httpx.ConnectError("no route")] * 4, [0.125, 0.25, 0.5], fails=NoResponseError)
        self.check([unavailable()], [], fails=UnavailableError, retries=Retries(attempts=1))

    def test_retry_after_is_obeyed(self) -> None:
        pong = success(example("ping"))
        self.check([unavailable("3"), pong], [3.125])
        self.check([problem(429, "throttled", {"retry-after": "2"}), pong], [2.125])
        in_a_while = formatdate(FakeClock().now + 4, usegmt=True)
        self.check([unavailable(in_a_while), pong], [4.125])

    def test_retry_after_beyond_the_limit_is_no_wait(self) -> None:
        month = problem(429, "quota-exceeded", {"retry-after": "864000"}, limit=1000, window="month")
        self.check([month], [], fails=tollgate.QuotaExceededError)
        self.check([unavailable("20"), unavailable("20")], [20.125], fails=UnavailableError)

    def test_forms_of_retry_after(self) -> None:
        def check(value: str, expected: float | None) -> None:
            self.assertEqual(retry_after_s({"retry-after": value}, FakeClock(784111777.0)), expected, value)

        check("0", 0.0)
        check("120", 120.0)
        check("Sun, 06 Nov 1994 08:49:47 GMT", 10.0)
        check("Sunday, 06-Nov-94 08:49:47 GMT", 10.0)
        check("Sun Nov  6 08:49:47 1994", 10.0)
        check("Sun, 06 Nov 1994 08:49:27 GMT", 0.0)
        for malformed in ("", "-1", "1.5", "soon", "²"):
            check(malformed, None)

    def test_final_responses_are_not_retried(self) -> None:
        self.check([problem(404, "not-found")], [], fails=tollgate.NotFoundError)
        self.check([problem(500, "internal")], [], fails=ProblemError)
        # Waiting does not end a 429 without Retry-After.
        self.check([problem(429, "customer-suspended")], [], fails=tollgate.CustomerSuspendedError)
        self.check([problem(503, "payments-not-configured")], [], fails=tollgate.PaymentsNotConfiguredError)

    def test_only_repeatable_requests_are_retried(self) -> None:
        def creates_webhook(client: Client) -> object:
            return client.create_webhook(url="https://hooks.example")

        def updates(client: Client) -> object:
            return client.update_customer("acme", name="Acme")

        for call in (creates_webhook, updates):
            self.check([unavailable("1")], [], fails=UnavailableError, call=call)
            self.check([httpx.ReadTimeout("slow")], [], fails=NoResponseError, call=call)
        self.check([unavailable(), httpx.Response(204)], [0.125], call=lambda client: client.revoke_key("key_1"))

    def test_idempotency_key_stays_over_retries(self) -> None:
        created = success(example("createCustomer"), 201)

        def create(client: Client) -> object:
            return client.create_customer(id="acme", plan="pro")

        api = self.check([unavailable(), httpx.ReadTimeout("lost"), created], [0.125, 0.25], call=create)
        keys = {request.headers["idempotency-key"] for request in api.requests}
        self.assertEqual(len(keys), 1)
        other = self.check([created], [], call=create)
        self.assertNotIn(other.requests[0].headers["idempotency-key"], keys)
        own = self.check([created], [], call=lambda client: client.create_customer(plan="pro", idempotency_key="own"))
        self.assertEqual(own.requests[0].headers["idempotency-key"], "own")

    def test_every_operation_that_declares_an_idempotency_key_has_one(self) -> None:
        for item in DOCUMENT["paths"].values():
            for operation in item.values():
                declares = any(one["name"] == "Idempotency-Key" for one in operation.get("parameters", []))
                if declares:
                    name = re.sub("(?=[A-Z])", "_", operation["operationId"]).lower()
                    method = getattr(Client, name)
                    self.assertIn("idempotency_key", method.__kwdefaults__, name)


class PagesTest(unittest.TestCase):
    def test_items_of_all_pages(self) -> None:
        api = FakeApi(page("a", "b", following="c1"), page(following="c2"), page("c"))
        customers = api.client().list_customers(limit=2)
        self.assertEqual(api.requests, [])
        self.assertEqual([one.id for one in customers], ["a", "b", "c"])
        self.assertEqual(
            [str(request.url.query, "ascii") for request in api.requests],
            ["limit=2", "limit=2&cursor=c1", "limit=2&cursor=c2"],
        )

    def test_pages_are_fetched_when_reached(self) -> None:
        api = FakeApi(page("a", following="c1"))
        self.assertEqual(next(iter(api.client().list_customers())).id, "a")
        self.assertEqual(len(api.requests), 1)

    def test_by_page(self) -> None:
        pages = FakeApi(page("a", following="c1"), page("b")).client().list_customers().by_page()
        self.assertEqual([[one.id for one in page.data] for page in pages], [["a"], ["b"]])

    def test_events_are_read_until_a_page_is_empty(self) -> None:
        first = example("listEvents")
        api = FakeApi(success(first), success({"data": [], "next_after": first["next_after"]}))
        events = list(api.client().list_events(after=40))
        self.assertEqual([event.number for event in events], [42])
        self.assertEqual([request.url.params["after"] for request in api.requests], ["40", "42"])


class ProblemsTest(unittest.TestCase):
    def raised(self, reply: Reply) -> ProblemError:
        with self.assertRaises(ProblemError) as caught:
            FakeApi(reply).client(Retries(attempts=1)).ping()
        return caught.exception

    def test_members(self) -> None:
        error = self.raised(problem(422, "unprocessable", field="plan", plans=["free"]))
        self.assertIs(type(error), tollgate.UnprocessableError)
        self.assertEqual(error.type, "urn:tollgate:problem:unprocessable")
        self.assertEqual((error.status, error.title, error.detail), (422, "A title", "A detail."))
        self.assertEqual((error.request_id, error.field, error.members["plans"]), ("r-1", "plan", ["free"]))
        self.assertEqual(str(error), "422 A title: A detail. (request r-1)")
        self.assertEqual(str(pickle.loads(pickle.dumps(error))), str(error))

    def test_limits(self) -> None:
        error = self.raised(problem(429, "rate-limited", {"retry-after": "60"}, limit=100, window="hour"))
        assert isinstance(error, tollgate.RateLimitedError)
        self.assertEqual((error.limit, error.window, error.retry_after_s), (100, "hour", 60.0))

    def test_each_class_is_of_a_documented_type(self) -> None:
        documented = set(re.findall(r"^\| `([a-z-]+)` \| [45]", (ROOT / "docs/problems.md").read_text(), re.MULTILINE))
        self.assertGreater(len(documented), 20)
        self.assertLessEqual(CLASSES.keys(), documented)

    def test_types_without_a_class(self) -> None:
        error = self.raised(problem(418, "of-a-later-release"))
        self.assertIs(type(error), ProblemError)

    def test_responses_of_others(self) -> None:
        for body in (b"<h1>Bad gateway</h1>", b"", b"[1]", b'{"type": 7, "status": "x"}'):
            error = self.raised(httpx.Response(502, content=body))
            self.assertEqual((error.type, error.status, error.title), ("about:blank", 502, "Bad Gateway"))

    def test_successes_of_others(self) -> None:
        replies = [
            httpx.Response(200, html="<h1>Sign in</h1>"),
            httpx.Response(302, headers={"location": "https://elsewhere.example/"}),
            httpx.Response(206, json={}),
        ]
        for reply in replies:
            with self.assertRaises(InvalidResponseError):
                FakeApi(reply).client().ping()


class RequestsTest(unittest.TestCase):
    def test_request(self) -> None:
        api = FakeApi(success(example("updateCustomer")))
        api.client().update_customer("a/b?", name=None, plan="pro")
        request = api.requests[0]
        self.assertEqual(request.method, "PATCH")
        self.assertEqual(str(request.url), "https://api.example/v1/admin/customers/a%2Fb%3F")
        self.assertEqual(request.headers["authorization"], f"Bearer {KEY}")
        self.assertEqual(api.bodies(), [{"name": None, "plan": "pro"}])

    def test_path_parameters_cannot_change_the_path(self) -> None:
        for value in ("", ".", ".."):
            with self.assertRaises(ValueError):
                FakeApi().client().erase_customer(value, dry_run=False)

    def test_values_of_later_releases(self) -> None:
        members: dict[str, Any] = {"status": "of-a-later-release", "added": 1}
        key = FakeApi(success(example("getKey") | members)).client().get_key("key_1")
        self.assertEqual(key.status, "of-a-later-release")

    def test_money_is_integral(self) -> None:
        proof = models.Proof.from_dict(example("getChargeProof"))
        self.assertIs(type(proof.charge.amount.micro_usd), int)


class KeyTest(unittest.TestCase):
    def test_key_and_url_are_of_the_environment(self) -> None:
        with patch.dict(os.environ, {"TOLLGATE_URL": "https://api.example", "TOLLGATE_KEY": KEY}):
            api = FakeApi(success(example("ping")))
            Client(transport=api).ping()
            self.assertEqual(api.requests[0].headers["authorization"], f"Bearer {KEY}")

    def test_missing_and_malformed(self) -> None:
        with patch.dict(os.environ, clear=True):
            for url, key in [("https://api.example", UNSET), (None, KEY), ("api.example", KEY), ("file:///", KEY)]:
                with self.assertRaises(ValueError):
                    Client(url, key)
        # The key of a lost response must not be replaced by another one.
        with patch.dict(os.environ, {"TOLLGATE_KEY": KEY}), self.assertRaises(ValueError):
            Client("https://api.example", None)
        with self.assertRaises(ValueError) as caught:
            Client("https://api.example", f"{KEY}\n")
        self.assertNotIn(KEY, str(caught.exception))

    def test_key_is_not_printed(self) -> None:
        api = FakeApi(httpx.ConnectError("no route"))
        client = api.client(Retries(attempts=1))
        with self.assertRaises(NoResponseError) as caught:
            client.ping()
        reporter = client.usage_reporter("test")
        printed = [client, reporter, client._generated, client._http, caught.exception, caught.exception.__cause__]
        for one in printed:
            self.assertNotIn(KEY, repr(one) + str(one))
        self.assertNotIn(KEY, repr(vars(client)))
        reporter.close()

    def test_new_secrets_are_not_printed(self) -> None:
        issued = models.IssuedKey.from_dict(example("createKey") | {"key": KEY, "later": "of a later release"})
        created = models.CreatedWebhook.from_dict(example("createWebhook") | {"secret": "whsec_EXAMPLE"})
        self.assertEqual((issued.key, created.secret), (KEY, "whsec_EXAMPLE"))
        printed = repr([issued, created, copy.copy(issued)])
        for secret in (KEY, "whsec_EXAMPLE", "of a later release"):
            self.assertNotIn(secret, printed)


class ForkTest(unittest.TestCase):
    @unittest.skipUnless(hasattr(os, "fork"), "needs fork")
    def test_child_has_connections_and_buffer_of_its_own(self) -> None:
        client = FakeApi().client()
        reporter = client.usage_reporter("test")
        reporter.report("acme", key_id="k", plan="pro", method="GET", endpoint="/", status=200, latency_ms=1)
        before = client._http
        child = os.fork()
        if child == 0:
            is_right = client._http is not before and reporter.buffered_records == 0
            os._exit(0 if is_right else 1)
        _, status = os.waitpid(child, 0)
        self.assertEqual(os.waitstatus_to_exitcode(status), 0)
        self.assertEqual(reporter.buffered_records, 1)
        with self.assertRaises(tollgate.UndeliveredUsageError):
            client.close()
            reporter.close()


if __name__ == "__main__":
    unittest.main()
