"""Tests against the local product, with the plans of infra/proof. Other than test_*.py, sdks/test runs it alone.

`TOLLGATE_URL` and `TOLLGATE_KEY` are those of the product. What it sends is kept in the file that `LIVE_CASES` names:
proofs with records and the outcome of docs/proof.py, and messages of webhooks, for the tests in JavaScript.
"""

from __future__ import annotations

import json
import os
import random
import threading
import unittest
from datetime import date, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import tollgate
from tollgate import Client, UndeliveredEvent, verify_charge, verify_webhook

from proof_cases import due, outcome, reference

URL = os.environ["TOLLGATE_URL"]
FIRST = date(2026, 11, 1)
DAYS = 34

kept: dict[str, Any] = {"proofs": [], "messages": []}


def local(route: str, body: dict[str, Any]) -> Any:
    """Sends a request that sets the clock, or runs what is scheduled."""
    response = httpx.post(f"{URL}/_local/{route}", json=body, timeout=60)
    response.raise_for_status()
    return response.json() if response.content else None


def report(usage: tollgate.UsageReporter, customer: str, plan: str, at: datetime, **members: Any) -> None:
    call: dict[str, Any] = {"key_id": "elsewhere", "method": "GET", "endpoint": "/", "status": 200, "latency_ms": 1}
    usage.report(customer, plan=plan, time=at, **(call | members))


def adjustment(customer: str, plan: str, at: datetime, calls: int) -> dict[str, Any]:
    time = at.isoformat()
    correction = {"time": time, "plan": plan, "billable_calls": calls, "reason": "a correction"}
    return {
        "specversion": "1.0", "id": f"{customer}-{time}", "source": "support", "type": "tollgate.adjustment.v1",
        "time": time, "subject": customer, "data": {"adjustments": [correction]},
    }  # fmt: skip


class Receiver:
    """A server that keeps the webhooks that it receives."""

    def __init__(self) -> None:
        received: list[tuple[dict[str, str], bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append((dict(self.headers), self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.received = received
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class LiveTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.admin = Client()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.admin.close()
        with open(os.environ["LIVE_CASES"], "w") as file:
            json.dump(kept, file)

    def test_charges_of_a_month(self) -> None:
        draw = random.Random(1)
        local("clock", {"now": f"{FIRST}T00:00:30Z"})
        receiver = Receiver()
        self.addCleanup(receiver.close)
        webhook = self.admin.create_webhook(url=f"http://127.0.0.1:{receiver.server.server_port}/hook")
        customers = {f"live-{number}": draw.choice(["starter", "pro"]) for number in range(6)}
        for customer, plan in customers.items():
            self.admin.create_customer(id=customer, plan=plan)
        with self.admin.usage_reporter("live") as usage:
            for number in range(DAYS):
                day = datetime.combine(FIRST, datetime.min.time(), timezone.utc) + timedelta(number)
                local("clock", {"now": (day + timedelta(hours=23, minutes=59)).isoformat()})
                for customer, plan in customers.items():
                    if day.month == FIRST.month:
                        for _ in range(draw.choice([0, 3, 9, 120 if number == 20 else 15])):
                            report(usage, customer, plan, day + timedelta(minutes=draw.randrange(1439)))
                    if number % 9 == 8:
                        at = day - timedelta(draw.randrange(5))
                        self.admin.ingest_usage_events(events=[adjustment(customer, plan, at, draw.choice([-30, 4]))])
                usage.flush()
                local("clock", {"now": (day + timedelta(days=1, hours=2)).isoformat()})
                self.assertEqual(local("nightly", {})["failures"], [])
        local("publish", {})

        checked = sum(self.check_charges(customer) for customer in customers)
        self.assertGreater(checked, 20)
        self.check_webhooks(webhook.secret, receiver.received)

    def check_charges(self, customer: str) -> int:
        """Checks the charges of a customer against docs/proof.py. Returns how many there are."""
        key = self.admin.create_key(customer_id=customer, role="manage").key
        client = Client(key=key)
        self.addCleanup(client.close)
        # The key of docs/proof.py.
        os.environ["TOLLGATE_KEY"], admin_key = key or "", os.environ["TOLLGATE_KEY"]
        charges = list(client.list_charges(month="2026-11"))
        for charge in charges:
            check = verify_charge(client.get_charge_proof(charge.id), client.list_records(month="2026-11").by_page())
            proof = reference.get(URL, f"/api/billing/charges/{charge.id}/proof")
            expected, changed = reference.check(proof, *reference.records(URL, "2026-11"))
            self.assertEqual((check.wrong, expected), ((), []))
            self.assertEqual(check.due_micro_usd, charge.amount.micro_usd)
            self.assertEqual([(str(day), plan) for day, plan in check.changed], changed)
            pages: list[Any] = []
            cursor = ""
            while cursor is not None:
                following = cursor and f"&cursor={cursor}"
                pages.append(reference.get(URL, f"/api/usage/records?month=2026-11{following}"))
                cursor = pages[-1]["next_cursor"]
            kept["proofs"].append({"proof": proof, "pages": pages, "due_micro_usd": due(proof)} | outcome(proof, pages))
        os.environ["TOLLGATE_KEY"] = admin_key
        return len(charges)

    def check_webhooks(self, secret: str, received: list[tuple[dict[str, str], bytes]]) -> None:
        types: set[str] = set()
        for headers, body in received:
            sent_at = int(headers["webhook-timestamp"])
            event = verify_webhook(secret, headers, body, now=datetime.fromtimestamp(sent_at, timezone.utc))
            self.assertEqual(event["id"], headers["webhook-id"])
            types.add(event["type"])
            message = {"secret": secret, "headers": headers, "body": body.decode(), "sent_at": sent_at}
            kept["messages"].append(message)
        self.assertIn("billing.run.completed", types)
        self.assertIn("charge.failed", types)

    def test_rejected_usage(self) -> None:
        now = datetime.fromisoformat(local("clock", {"advance_s": 0})["now"])
        given: list[UndeliveredEvent] = []
        self.admin.create_customer(id="rejected", plan="pro")
        with self.admin.usage_reporter("rejected", on_undelivered=given.extend) as usage:
            for age in (0, 36, 1):
                report(usage, "rejected", "pro", now - timedelta(days=age), request_id=f"of day {age}")
        [one] = given
        self.assertEqual((one.kind, one.event["data"]["records"][0]["request_id"]), ("rejected", "of day 36"))
        yesterday = (now - timedelta(days=1)).date()
        counted = list(self.admin.list_usage_events(customer_id="rejected", from_=yesterday))
        self.assertEqual(sum(event.records for event in counted), 2)

        # The same event is counted once, and another one of its identity is a conflict.
        event: dict[str, Any] = counted[0].event
        other = event | {"subject": "else"}
        with self.admin.usage_reporter("again", on_undelivered=given.extend) as usage:
            usage.resend(event)
            usage.resend(other)
        self.assertEqual([one.kind for one in given], ["rejected", "conflict"])
        self.assertEqual(given[1].event["subject"], "else")

    def test_idempotency(self) -> None:
        first = self.admin.create_customer(plan="pro", idempotency_key="live-1")
        self.assertEqual(self.admin.create_customer(plan="pro", idempotency_key="live-1").id, first.id)
        with self.assertRaises(tollgate.UnprocessableError):
            self.admin.create_customer(plan="starter", idempotency_key="live-1")
        self.assertIn(first.id, [one.id for one in self.admin.list_customers(limit=2)])

    def test_problems(self) -> None:
        with self.assertRaises(tollgate.NotFoundError) as caught:
            self.admin.get_customer("nobody")
        self.assertIsNotNone(caught.exception.request_id)
        with self.assertRaises(tollgate.UnauthorizedError), Client(key="tg_live_unknown") as client:
            client.ping()
        self.admin.create_customer(id="problems", plan="pro")
        key = self.admin.create_key(customer_id="problems")
        with self.assertRaises(tollgate.InsufficientRoleError), Client(key=key.key) as client:
            client.get_subscription()
        with self.assertRaises(tollgate.ForbiddenError):
            self.admin.ping()
        with self.assertRaises(tollgate.BadRequestError) as malformed:
            list(self.admin.list_customers(cursor="another-list"))
        self.assertEqual(malformed.exception.field, "cursor")


if __name__ == "__main__":
    unittest.main()
