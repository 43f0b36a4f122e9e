"""The reporter of usage."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import unittest
import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from tollgate import (
    BufferFullError,
    InvalidRecordError,
    UndeliveredEvent,
    UndeliveredUsageError,
    UnauthorizedError,
    UnavailableError,
    UsageReporter,
)
from tollgate._retry import Clock
from tollgate._usage import check_record

from fake import KEY, ROOT, FakeApi, Reply, problem, success, unavailable

# The thread of a reporter does nothing by itself within this time.
NEVER_S = 3600.0


def counted(request: httpx.Request) -> httpx.Response:
    """Replies that all events were counted."""
    events = json.loads(request.content)["events"]
    data = [{"source": event["source"], "id": event["id"], "outcome": "counted"} for event in events]
    return success({"data": data, "quarantined": [], "quarantined_more": []})


def report(usage: UsageReporter, customer: str = "acme", **members: Any) -> None:
    call: dict[str, Any] = {
        "key_id": "key_1", "plan": "pro", "method": "GET", "endpoint": "/things/{id}", "status": 200, "latency_ms": 5,
    }  # fmt: skip
    usage.report(customer, **(call | members))


def rejecting(*pointers: str) -> httpx.Response:
    return problem(422, "unprocessable", defects=[{"pointer": one, "reason": f"bad {one}"} for one in pointers])


class ReporterTest(unittest.TestCase):
    def reporter(self, *replies: Reply, **options: Any) -> tuple[FakeApi, UsageReporter]:
        api = FakeApi(*replies)
        usage = api.client().usage_reporter("test", flush_interval_s=NEVER_S, **options)
        self.addCleanup(self.forget, usage)
        return api, usage

    def forget(self, usage: UsageReporter) -> None:
        usage._empty()
        usage.close()

    def events(self, api: FakeApi) -> list[list[dict[str, Any]]]:
        """Returns the events of all requests."""
        return [body["events"] for body in api.bodies()]

    def test_event_is_as_documented(self) -> None:
        api, usage = self.reporter(counted)
        at = datetime(2026, 11, 22, 10, 0, 0, 123_000, timezone.utc)
        report(usage, time=at, request_id="r-1", costs=[{"provider": "anthropic", "tokens": 9, "micro_usd": 7}])
        usage.flush()
        request = api.requests[0]
        self.assertEqual((request.method, request.url.path), ("POST", "/v1/admin/usage/events"))
        [[event]] = self.events(api)
        self.assertEqual(uuid.UUID(event["id"]).version, 7)
        self.assertEqual(uuid.UUID(event["id"]).int >> 80, int(api.clock.now * 1000))
        expected = {
            "specversion": "1.0",
            "id": event["id"],
            "source": "test",
            "type": "tollgate.usage.v1",
            "time": "2027-01-15T08:00:00.000000Z",
            "subject": "acme",
            "data": {
                "records": [
                    {
                        "time": "2026-11-22T10:00:00.123000Z", "request_id": "r-1", "key_id": "key_1", "plan": "pro",
                        "method": "GET", "endpoint": "/things/{id}", "status": 200, "latency_ms": 5,
                        "costs": [{"provider": "anthropic", "tokens": 9, "micro_usd": 7}],
                    }
                ]
            },
        }  # fmt: skip
        self.assertEqual(event, expected)
        self.assertEqual(usage.buffered_records, 0)

    def test_an_event_has_100_records_of_one_customer(self) -> None:
        api, usage = self.reporter(counted, counted, max_buffered_records=1000)
        with usage._sending:
            for number in range(250):
                report(usage, "even" if number % 2 == 0 else "odd", request_id=str(number))
        usage.flush()
        events = [event for request in self.events(api) for event in request]
        sizes = sorted((event["subject"], len(event["data"]["records"])) for event in events)
        self.assertEqual(sizes, [("even", 25), ("even", 100), ("odd", 25), ("odd", 100)])
        self.assertEqual(len({event["id"] for event in events}), 4)

    def test_requests_are_bounded(self) -> None:
        api, usage = self.reporter(counted, counted)
        with usage._sending:
            for number in range(150):
                report(usage, f"c-{number}")
        usage.flush()
        self.assertEqual([len(events) for events in self.events(api)], [100, 50])

        # The longest records that are valid: an event of 100 is a request of its own, of less than 1 MB.
        longest: dict[str, Any] = {
            "request_id": '"' * 128, "key_id": "k" * 64, "plan": "p" * 32, "method": '"' * 16, "endpoint": '"' * 256,
            "status": 599, "latency_ms": 100_000_000, "request_bytes": 10**12, "response_bytes": 10**12,
            "truncated": "interrupted", "billable": False,
            "costs": [
                {
                    "provider": '"' * 64, "model": '"' * 128, "input_tokens": 10**8, "output_tokens": 10**8,
                    "tokens": 10**8, "micro_usd": 10**11, "unpriced": False,
                }
            ] * 16,
        }  # fmt: skip
        api, usage = self.reporter(counted, counted)
        with usage._sending:
            for _ in range(200):
                report(usage, **longest)
        usage.flush()
        self.assertEqual([len(events) for events in self.events(api)], [1, 1])
        self.assertLess(max(len(request.content) for request in api.requests), 1 << 20)

    def test_size_and_time_send(self) -> None:
        for records, interval in ((100, NEVER_S), (1, 0.01)):
            sent = threading.Event()

            def reply(request: httpx.Request) -> httpx.Response:
                sent.set()
                return counted(request)

            api = FakeApi(reply, reply)
            usage = api.client().usage_reporter("test", flush_interval_s=interval)
            # The waits of the thread are real, so the time must pass.
            usage._clock = Clock()
            for _ in range(records):
                report(usage)
            self.assertTrue(sent.wait(10), f"{records} records are not sent")
            usage.close()
            self.assertEqual(len(api.requests), 1)

    def test_a_lost_response_is_sent_again_as_the_same_event(self) -> None:
        lost = httpx.ReadTimeout("lost")
        api, usage = self.reporter(lost, unavailable(), problem(500, "internal"), counted)
        report(usage)
        usage.flush()
        self.assertEqual(len({request.content for request in api.requests}), 1)
        self.assertEqual(api.clock.waits, [0.125, 0.25, 0.5])

    def test_usage_stays_while_it_cannot_be_sent(self) -> None:
        api, usage = self.reporter(unavailable("60"), counted)
        report(usage)
        with self.assertRaises(UnavailableError):
            usage.flush(timeout_s=30)
        self.assertEqual((usage.buffered_records, api.clock.waits), (1, []))
        report(usage)
        usage.flush()
        first, second = self.events(api)
        self.assertEqual(second[0], first[0])
        self.assertEqual(len(second), 2)
        self.assertEqual(usage.buffered_records, 0)

    def test_invalid_records_are_separated(self) -> None:
        first = rejecting("/events/0/data/records/1", "/events/0/data/records/3/time", "/events/2/data/records/0")
        given: list[UndeliveredEvent] = []
        api, usage = self.reporter(first, httpx.ReadTimeout("lost"), counted, on_undelivered=given.extend)
        for number in range(4):
            report(usage, "a", request_id=f"a{number}")
        report(usage, "b", request_id="b0")
        report(usage, "c", request_id="c0")
        usage.flush()
        found = [
            (one.kind, [record["request_id"] for record in one.event["data"]["records"]], one.reasons) for one in given
        ]
        expected = [
            ("rejected", ["a1", "a3"], ("bad /events/0/data/records/1", "bad /events/0/data/records/3/time")),
            ("rejected", ["c0"], ("bad /events/2/data/records/0",)),
        ]
        self.assertEqual(found, expected)
        before, lost, again = self.events(api)
        self.assertEqual(lost, again)
        # The rest keeps its identity.
        self.assertEqual([event["id"] for event in again], [event["id"] for event in before[:2]])
        sent = [[record["request_id"] for record in event["data"]["records"]] for event in again]
        self.assertEqual(sent, [["a0", "a2"], ["b0"]])
        self.assertEqual(usage.buffered_records, 0)

    def test_invalid_events_are_separated(self) -> None:
        given: list[UndeliveredEvent] = []
        api, usage = self.reporter(rejecting("/events/0"), counted, on_undelivered=given.extend)
        report(usage, "a")
        report(usage, "b")
        usage.flush()
        self.assertEqual([(one.event["subject"], one.reasons) for one in given], [("a", ("bad /events/0",))])
        self.assertEqual([event["subject"] for event in self.events(api)[1]], ["b"])

    def test_rejections_without_pointers(self) -> None:
        for reply in (rejecting(), rejecting("/events/7"), rejecting("elsewhere")):
            _, usage = self.reporter(reply)
            report(usage)
            with self.assertRaises(UndeliveredUsageError):
                usage.flush()

    def test_a_malformed_request_is_divided(self) -> None:
        def reply(request: httpx.Request) -> httpx.Response:
            return problem(400, "bad-request") if b'"subject":"c-2"' in request.content else counted(request)

        given: list[UndeliveredEvent] = []
        _, usage = self.reporter(*[reply] * 5, on_undelivered=given.extend)
        for number in range(4):
            report(usage, f"c-{number}")
        usage.flush()
        self.assertEqual([one.event["subject"] for one in given], ["c-2"])
        self.assertEqual(usage.buffered_records, 0)

    def test_conflicts_are_handed_over_and_the_rest_is_counted(self) -> None:
        given: list[UndeliveredEvent] = []
        conflict = problem(409, "conflict", conflicts=["/events/1"], quarantined=[])
        api, usage = self.reporter(conflict, on_undelivered=given.extend)
        for customer in ("a", "b", "c"):
            report(usage, customer)
        usage.flush()
        self.assertEqual([(one.kind, one.event["subject"]) for one in given], [("conflict", "b")])
        self.assertEqual((len(api.requests), usage.buffered_records), (1, 0))

    def test_a_rejected_key_is_raised_with_the_events(self) -> None:
        _, usage = self.reporter(problem(401, "unauthorized"))
        report(usage)
        with self.assertRaises(UndeliveredUsageError) as caught:
            usage.flush()
        [one] = caught.exception.undelivered
        self.assertEqual((one.kind, one.event["subject"]), ("rejected", "acme"))
        self.assertIsInstance(one.error, UnauthorizedError)
        usage.flush()

    def test_a_full_buffer_raises_and_drops_nothing(self) -> None:
        api, usage = self.reporter(counted, max_buffered_records=3)
        for number in range(3):
            report(usage, request_id=str(number))
        for _ in range(2):
            with self.assertRaises(BufferFullError):
                report(usage, request_id="3")
        usage.flush()
        [[event]] = self.events(api)
        self.assertEqual([record["request_id"] for record in event["data"]["records"]], ["0", "1", "2"])
        report(usage)
        self.assertEqual(usage.buffered_records, 1)

    def test_usage_that_nobody_took_is_kept(self) -> None:
        def fails(_: Sequence[UndeliveredEvent]) -> None:
            raise RuntimeError("not now")

        _, usage = self.reporter(rejecting("/events/0"), on_undelivered=fails)
        report(usage)
        with self.assertLogs("tollgate"), self.assertRaises(UndeliveredUsageError):
            usage.flush()
        self.assertEqual(usage.buffered_records, 0)

    def test_on_undelivered_can_report_and_not_flush(self) -> None:
        errors: list[RuntimeError] = []

        def corrects(undelivered: Sequence[UndeliveredEvent]) -> None:
            report(usage, request_id="corrected")
            try:
                usage.flush()
            except RuntimeError as error:
                errors.append(error)

        api, usage = self.reporter(rejecting("/events/0"), counted, on_undelivered=corrects)
        report(usage)
        usage.flush()
        usage.flush()
        self.assertEqual((len(errors), len(api.requests), usage.buffered_records), (1, 2, 0))

    def test_close_hands_over_the_rest_which_can_be_sent_again(self) -> None:
        api, usage = self.reporter(*[httpx.ConnectError("down")] * 9, close_timeout_s=4.0)
        report(usage)
        with self.assertRaises(UndeliveredUsageError) as caught:
            usage.close()
        self.assertLessEqual(sum(api.clock.waits), 4.0)
        [one] = caught.exception.undelivered
        self.assertEqual(one.kind, "unsent")
        with self.assertRaises(RuntimeError):
            report(usage)
        usage.close()

        again, later = self.reporter(counted)
        later.resend(json.loads(json.dumps(one.event)))
        later.flush()
        self.assertEqual(again.requests[0].content, api.requests[0].content)

    def test_threads(self) -> None:
        records: list[str] = []

        def keep(request: httpx.Request) -> httpx.Response:
            for event in json.loads(request.content)["events"]:
                records.extend(record["request_id"] for record in event["data"]["records"])
            return counted(request)

        _, usage = self.reporter(*[keep] * 1000)

        def work(thread: int) -> None:
            for number in range(500):
                report(usage, f"c-{number % 3}", request_id=f"{thread}-{number}")
                if number % 100 == 0:
                    usage.flush()

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        usage.close()
        self.assertEqual(sorted(records), sorted(f"{thread}-{number}" for thread in range(8) for number in range(500)))

    def test_invalid_records_are_raised_at_once(self) -> None:
        def check(**members: Any) -> None:
            with self.assertRaises(InvalidRecordError, msg=str(members)):
                report(usage, **members)

        _, usage = self.reporter()
        with self.assertRaises(InvalidRecordError):
            report(usage, "..")
        check(time=datetime(2026, 11, 22))
        check(request_id="")
        check(request_id="é" * 65)
        check(request_id="\ud800")
        check(endpoint="/a\n")
        check(method="GET ")
        check(key_id="key 1")
        check(plan="Pro")
        check(status=200.0)
        check(status=99)
        check(latency_ms=True)
        check(latency_ms=-1)
        check(request_bytes=10**12 + 1)
        check(truncated="cut")
        check(billable="yes")
        check(costs=[{"micro_usd": 1}] * 17)
        check(costs=[{"tokens": 1}])
        check(costs=[{"micro_usd": 1.5}])
        check(costs=[{"micro_usd": 1, "modell": "x"}])
        check(costs=[{"micro_usd": 1, "provider": ""}])
        self.assertEqual(usage.buffered_records, 0)

    def test_records_of_the_documentation_are_valid(self) -> None:
        text = (ROOT / "docs/usage-event.md").read_text()
        event = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])
        for record in event["data"]["records"]:
            check_record(record)


class ExitTest(unittest.TestCase):
    """Programs that end without closing the reporter."""

    def run_program(self, url: str) -> subprocess.CompletedProcess[str]:
        program = (
            "from tollgate import Client\n"
            "usage = Client().usage_reporter('test', close_timeout_s=0.0)\n"
            "usage.report('acme', key_id='k', plan='pro', method='GET', endpoint='/', status=200, latency_ms=1)\n"
        )
        environment = {**os.environ, "TOLLGATE_URL": url, "TOLLGATE_KEY": KEY}
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
        )

    def test_exit_sends_the_rest(self) -> None:
        bodies: list[bytes] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                body = b'{"data": [], "quarantined": [], "quarantined_more": []}'
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            result = self.run_program(f"http://127.0.0.1:{server.server_port}")
            server.shutdown()
            thread.join()
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        [event] = json.loads(bodies[0])["events"]
        self.assertEqual(event["subject"], "acme")

    def test_exit_prints_what_it_cannot_send(self) -> None:
        # Nothing listens on port 1.
        result = self.run_program("http://127.0.0.1:1")
        self.assertEqual(result.returncode, 0)
        self.assertIn("usage was not delivered", result.stderr)
        event = json.loads(result.stderr[result.stderr.index('{"specversion"') :])
        self.assertEqual(event["subject"], "acme")
        self.assertNotIn(KEY, result.stderr)


if __name__ == "__main__":
    unittest.main()
