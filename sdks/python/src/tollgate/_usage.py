"""Reporting of usage that was metered elsewhere than in Tollgate's layer."""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import secrets
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, NotRequired, Self, TypedDict, cast

from ._errors import (
    BadRequestError,
    BodyTooLargeError,
    ConflictError,
    ProblemError,
    TollgateError,
    UnprocessableError,
    may_pass,
)
from ._retry import Clock, Retries

logger = logging.getLogger("tollgate")

# Bounds of docs/usage-event.md. A request has at most 1 MB, and a full usage event of the longest records fits.
MAX_RECORDS = 100
MAX_EVENTS = 100
MAX_REQUEST_BYTES = 900_000
MAX_COSTS = 16
MAX_COUNT = 100_000_000
MAX_BYTES = 1_000_000_000_000
MAX_MICRO_USD = 100_000_000_000
# Longest wait of the background thread between attempts, unless `Retry-After` is longer.
MAX_WAIT_S = 60.0

PLAN = re.compile(r"[a-z0-9-]{1,32}")
KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
CUSTOMER_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]{1,64}")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
POINTER = re.compile(r"/events/([0-9]+)(?:/data/records/([0-9]+))?(?:/.*)?")


class Cost(TypedDict):
    """A provider cost of a call. Tokens are `input_tokens` and `output_tokens`, or `tokens` if not distinguished."""

    micro_usd: int
    """Millionths of a US dollar."""
    provider: NotRequired[str]
    model: NotRequired[str]
    input_tokens: NotRequired[int]
    output_tokens: NotRequired[int]
    tokens: NotRequired[int]
    unpriced: NotRequired[bool]
    """Whether the tokens have no known price."""


@dataclass(frozen=True)
class UndeliveredEvent:
    """A usage event, or the rejected records of one, that the API does not count."""

    event: Mapping[str, Any]
    """The usage event; if only some of its records were rejected, it has only those."""
    kind: Literal["rejected", "conflict", "unsent"]
    """`rejected`: it is invalid, or the key may not report it; report its records again once they are corrected.
    `conflict`: another event has its identity. `unsent`: the API could not be reached; `resend` sends it unchanged,
    so that it is counted once even if it arrived."""
    reasons: tuple[str, ...]
    """A reason for the event, or one for each of its rejected records."""
    error: TollgateError

    def records(self) -> int:
        """Returns the number of records."""
        return len(self.event["data"]["records"])


class InvalidRecordError(TollgateError, ValueError):
    """A usage record that the API would reject. It was not buffered."""


class BufferFullError(TollgateError):
    """The buffer is full, because usage comes faster than it is delivered or nothing can be delivered. The record was
    not buffered: report it again later, or keep it elsewhere."""


class UndeliveredUsageError(TollgateError):
    """Usage that cannot be delivered. The reporter no longer has it."""

    def __init__(self, undelivered: Sequence[UndeliveredEvent]) -> None:
        self.undelivered = tuple(undelivered)
        records = sum(one.records() for one in self.undelivered)
        reasons = "; ".join(dict.fromkeys(reason for one in self.undelivered for reason in one.reasons))
        super().__init__(f"{records} usage records were not delivered: {reasons}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.undelivered,))


class _Event:
    """A usage event as it is sent each time: its text never changes, since another one would be another event."""

    def __init__(self, event: Mapping[str, Any], number: int) -> None:
        self.event = event
        self.number = number
        self.text = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()

    @property
    def records(self) -> list[dict[str, Any]]:
        return self.event["data"]["records"]

    def with_records(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.event, "data": {"records": records}}


def uuid7(clock: Clock) -> str:
    """Returns a UUID of version 7 (RFC 9562), which makes counting cheaper than other ids."""
    ms = int(clock.time() * 1000)
    return str(uuid.UUID(int=ms << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)))


def timestamp(at: datetime) -> str:
    return at.astimezone(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


class UsageReporter:
    """Buffers usage records, and sends them in usage events of up to 100 records of one customer.

    A thread sends what is buffered when a customer has 100 records, and after `flush_interval_s`. `flush` sends at
    once; `close`, the end of a `with` statement, and the exit of the interpreter send the rest. Usage that cannot be
    sent for the moment stays in the buffer, and is sent again under the same identity, so that it is counted once.
    What the API rejects is handed over, and the rest of its event is sent without it, under the same identity.

    Create it by `Client.usage_reporter`. It can be shared by threads; a forked process begins with an empty buffer.
    """

    def __init__(
        self,
        post: Callable[[bytes], None],
        source: str,
        *,
        flush_interval_s: float,
        max_buffered_records: int,
        close_timeout_s: float,
        on_undelivered: Callable[[Sequence[UndeliveredEvent]], None] | None,
        retries: Retries,
        clock: Clock,
    ) -> None:
        _check_text("source", source, 128)
        self._post = post
        self._source = source
        self._flush_interval_s = flush_interval_s
        self._max_buffered_records = max_buffered_records
        self._close_timeout_s = close_timeout_s
        self._on_undelivered = on_undelivered
        self._retries = retries
        self._clock = clock
        self._closed = False
        self._empty()
        _reporters.add(self)
        atexit.register(self._close_at_exit)

    def _empty(self) -> None:
        self._condition = threading.Condition()
        # Held by the thread that sends, so that two never send the same event at once.
        self._sending = threading.Lock()
        self._sender: int | None = None
        self._thread: threading.Thread | None = None
        # Records of events to come, by customer; and the time since which there are any.
        self._open: dict[str, list[dict[str, Any]]] = {}
        self._open_since = 0.0
        # Events to be sent, by number.
        self._sealed: dict[int, _Event] = {}
        self._next_number = 0
        self._undelivered: list[UndeliveredEvent] = []
        # Records that are open, sealed, or undelivered and not yet handed over.
        self._buffered = 0
        # Rounds that failed since the last success, and the time before which the thread begins none.
        self._failures = 0
        self._not_before = 0.0

    @property
    def buffered_records(self) -> int:
        """Number of records that are neither counted nor handed over."""
        with self._condition:
            return self._buffered

    def report(
        self,
        customer_id: str,
        *,
        key_id: str,
        plan: str,
        method: str,
        endpoint: str,
        status: int,
        latency_ms: int,
        time: datetime | None = None,
        request_id: str | None = None,
        request_bytes: int | None = None,
        response_bytes: int | None = None,
        truncated: Literal["failed", "dropped", "interrupted"] | None = None,
        billable: bool | None = None,
        costs: Sequence[Cost] = (),
    ) -> None:
        """Buffers the usage record of a call. docs/usage-event.md describes its members.

        Args:
            time: Time at which the call arrived; by default now. It needs a time zone.
            request_id: Text that identifies the request; by default a random one.

        Raises:
            InvalidRecordError: The API would reject the record.
            BufferFullError: The buffer is full.
        """
        _check("customer_id", _matches(CUSTOMER_ID, customer_id))
        at = datetime.fromtimestamp(self._clock.time(), timezone.utc) if time is None else time
        _check("time", at.tzinfo is not None)
        record: dict[str, Any] = {
            "time": timestamp(at),
            "request_id": str(uuid.uuid4()) if request_id is None else request_id,
            "key_id": key_id,
            "plan": plan,
            "method": method,
            "endpoint": endpoint,
            "status": status,
            "latency_ms": latency_ms,
        }
        optional = {
            "request_bytes": request_bytes,
            "response_bytes": response_bytes,
            "truncated": truncated,
            "billable": billable,
        }
        record |= {name: value for name, value in optional.items() if value is not None}
        if costs:
            record["costs"] = [dict(cost) for cost in costs]
        check_record(record)
        with self._condition:
            self._make_room(1)
            if not self._open:
                self._open_since = self._clock.monotonic()
            records = self._open.setdefault(customer_id, [])
            records.append(record)
            if len(records) == MAX_RECORDS:
                del self._open[customer_id]
                self._seal(customer_id, records)
            self._condition.notify_all()

    def resend(self, event: Mapping[str, Any]) -> None:
        """Buffers a usage event that could not be delivered, such as that of an `UndeliveredEvent` of the kind
        `unsent`. It is sent unchanged, so that it is counted once even if an earlier attempt was counted.

        Raises:
            BufferFullError: The buffer is full.
        """
        with self._condition:
            self._make_room(len(event["data"]["records"]))
            self._enqueue(event)
            self._condition.notify_all()

    def flush(self, timeout_s: float = 30.0) -> None:
        """Sends everything that has been reported so far.

        Raises:
            NoResponseError, ProblemError: The API could not be reached in this time. What was not sent stays in the
                buffer, and the thread goes on sending it.
            UndeliveredUsageError: Some usage cannot be delivered, now or since the last call, and there is no
                `on_undelivered`.
        """
        self._send_all(timeout_s)
        self._raise_undelivered()

    def close(self) -> None:
        """Sends the rest, for at most `close_timeout_s` and the attempt that is under way, and ends the thread.

        Raises:
            UndeliveredUsageError: Some usage was not delivered, and there is no `on_undelivered`. The events have the
                kind `unsent` if the API could not be reached.
        """
        atexit.unregister(self._close_at_exit)
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        try:
            self._send_all(self._close_timeout_s)
        except TollgateError as error:
            with self._condition:
                events = list(self._sealed.values())
            self._give_up(events, "unsent", error)
        self._raise_undelivered()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close_at_exit(self) -> None:
        try:
            self.close()
        except UndeliveredUsageError as error:
            # Nobody can handle the error any more. As text the events can still be sent.
            for one in error.undelivered:
                text = json.dumps(one.event, ensure_ascii=False)
                logger.error("usage was not delivered (%s): %s", "; ".join(one.reasons), text)

    def _make_room(self, records: int) -> None:
        """Takes up room in the buffer for records, and starts the thread if there is none."""
        if self._closed:
            raise RuntimeError("the reporter is closed")
        if self._buffered + records > self._max_buffered_records:
            raise BufferFullError(f"{self._buffered} usage records are buffered")
        self._buffered += records
        if self._thread is None:
            # An open reporter must not keep the interpreter from exiting; the exit sends the rest.
            self._thread = threading.Thread(target=self._run, name="tollgate-usage", daemon=True)
            self._thread.start()

    def _seal(self, customer_id: str, records: list[dict[str, Any]]) -> None:
        """Makes an event of records, which decides its identity."""
        now = datetime.fromtimestamp(self._clock.time(), timezone.utc)
        self._enqueue(
            {
                "specversion": "1.0",
                "id": uuid7(self._clock),
                "source": self._source,
                "type": "tollgate.usage.v1",
                "time": timestamp(now),
                "subject": customer_id,
                "data": {"records": records},
            }
        )

    def _enqueue(self, event: Mapping[str, Any]) -> None:
        self._sealed[self._next_number] = _Event(event, self._next_number)
        self._next_number += 1

    def _run(self) -> None:
        """Sends what is due, until the reporter is closed."""
        while True:
            with self._condition:
                while not self._closed and (wait := self._wait_s()) != 0:
                    self._condition.wait(wait)
                if self._closed:
                    return
            try:
                self._send_round()
            except Exception as error:
                # Of any kind: a thread that ends would leave the buffer to fill up.
                logger.warning("usage could not be sent, and is sent again: %s", error)

    def _wait_s(self) -> float | None:
        """Returns the time until something is due; `None` if nothing is buffered."""
        due = 0.0
        if not self._sealed:
            if not self._open:
                return None
            due = self._open_since + self._flush_interval_s
        return max(0.0, max(due, self._not_before) - self._clock.monotonic())

    def _send_all(self, timeout_s: float) -> None:
        """Sends what is buffered, with retries. Raises the error of the last attempt."""
        started = self._clock.monotonic()
        retries = Retries(2**31, self._retries.first_delay_s, self._retries.max_delay_s, timeout_s)
        attempt = 1
        while True:
            try:
                return self._send_round()
            except TollgateError as error:
                after = error.retry_after_s if isinstance(error, ProblemError) else None
                elapsed = self._clock.monotonic() - started
                delay = retries.delay_s(min(attempt, 32), elapsed, after, self._clock)
                if delay is None:
                    raise
            self._clock.sleep(delay)
            attempt += 1

    def _send_round(self) -> None:
        """Sends each event of the buffer until it is counted or given up. Raises if the API cannot be reached; what
        was not sent then stays in the buffer."""
        if self._sender == threading.get_ident():
            raise RuntimeError("on_undelivered cannot send usage, it can only report it")
        with self._sending:
            self._sender = threading.get_ident()
            try:
                with self._condition:
                    open_records, self._open = self._open, {}
                    for customer_id, records in open_records.items():
                        self._seal(customer_id, records)
                    events = list(self._sealed.values())
                for batch in _batches(events):
                    self._deliver(batch)
                self._failures = 0
            except Exception as error:
                self._failures += 1
                after = error.retry_after_s if isinstance(error, ProblemError) else None
                wait = max(after or 0.0, min(MAX_WAIT_S, self._flush_interval_s * 2 ** min(self._failures - 1, 10)))
                self._not_before = self._clock.monotonic() + wait
                raise
            finally:
                self._sender = None

    def _deliver(self, batch: list[_Event]) -> None:
        """Sends the events of one request."""
        todo = [batch]
        while todo:
            events = todo.pop()
            try:
                self._post(b'{"events":[' + b",".join(event.text for event in events) + b"]}")
            except ConflictError as error:
                conflicts = {found[0] for found in _pointed(error.conflicts) if found[0] < len(events)}
                # A conflict that names none cannot be one of usage events.
                named = [events[index] for index in sorted(conflicts)] or events
                self._settle(event for event in events if event not in named)
                self._give_up(named, "conflict", error)
            except UnprocessableError as error:
                rest = self._separate(events, error)
                if rest:
                    todo.append(rest)
            except (BadRequestError, BodyTooLargeError) as error:
                if len(events) == 1:
                    self._give_up(events, "rejected", error)
                else:
                    middle = len(events) // 2
                    todo += [events[middle:], events[:middle]]
            except ProblemError as error:
                if may_pass(error) or error.status >= 500:
                    raise
                self._give_up(events, "rejected", error)
            else:
                self._settle(events)

    def _separate(self, events: list[_Event], error: UnprocessableError) -> list[_Event]:
        """Gives up the invalid events and records of a request of which nothing was counted. Returns the rest."""
        reasons: dict[int, dict[int | None, str]] = {}
        for defect in error.defects:
            for index, record in _pointed([defect.pointer]):
                if index < len(events):
                    reasons.setdefault(index, {})[record] = defect.reason
        if not reasons:
            self._give_up(events, "rejected", error)
            return []
        rest: list[_Event] = []
        for index, event in enumerate(events):
            found = reasons.get(index)
            if found is None:
                rest.append(event)
                continue
            rejected = {at: reason for at, reason in found.items() if at is not None and at < len(event.records)}
            valid = [record for at, record in enumerate(event.records) if at not in rejected]
            if len(rejected) < len(found) or not valid:
                self._give_up([event], "rejected", error, tuple(found.values()))
                continue
            # The identity stays: should an attempt without a response have been counted after all, this one is a
            # conflict, while another identity would count the valid records twice.
            trimmed = _Event(event.with_records(valid), event.number)
            invalid = event.with_records([event.records[at] for at in sorted(rejected)])
            with self._condition:
                self._sealed[event.number] = trimmed
            of_invalid = tuple(rejected[at] for at in sorted(rejected))
            self._hand_over([UndeliveredEvent(invalid, "rejected", of_invalid, error)])
            rest.append(trimmed)
        return rest

    def _settle(self, events: Iterable[_Event]) -> None:
        """Forgets events that are counted."""
        with self._condition:
            for event in events:
                del self._sealed[event.number]
                self._buffered -= len(event.records)

    def _give_up(
        self,
        events: list[_Event],
        kind: Literal["rejected", "conflict", "unsent"],
        error: TollgateError,
        reasons: tuple[str, ...] | None = None,
    ) -> None:
        with self._condition:
            for event in events:
                del self._sealed[event.number]
        self._hand_over([UndeliveredEvent(event.event, kind, reasons or (str(error),), error) for event in events])

    def _hand_over(self, undelivered: list[UndeliveredEvent]) -> None:
        """Passes usage to `on_undelivered`, or keeps it for the next `flush` or `close`."""
        if not undelivered:
            return
        if self._on_undelivered is not None:
            try:
                self._on_undelivered(undelivered)
            except Exception:
                logger.exception("on_undelivered failed; flush or close will raise what it did not take")
            else:
                with self._condition:
                    self._buffered -= sum(one.records() for one in undelivered)
                return
        with self._condition:
            self._undelivered += undelivered

    def _raise_undelivered(self) -> None:
        with self._condition:
            undelivered, self._undelivered = self._undelivered, []
            self._buffered -= sum(one.records() for one in undelivered)
        if undelivered:
            raise UndeliveredUsageError(undelivered)


def _batches(events: list[_Event]) -> Iterable[list[_Event]]:
    """Divides events into requests of at most 100 events and 900 kB."""
    batch: list[_Event] = []
    size = 0
    for event in events:
        if batch and (len(batch) == MAX_EVENTS or size + len(event.text) > MAX_REQUEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += len(event.text) + 1
    if batch:
        yield batch


def _pointed(pointers: Iterable[str]) -> Iterable[tuple[int, int | None]]:
    """Yields the indexes of event and record of JSON pointers into a request."""
    for pointer in pointers:
        if found := POINTER.fullmatch(pointer):
            yield int(found[1]), None if found[2] is None else int(found[2])


def check_record(record: Mapping[str, Any]) -> None:
    """Checks a usage record as the API does, except what depends on the current time and on stored keys: one invalid
    record delays all others of its request.

    Raises:
        InvalidRecordError: A member is invalid.
    """
    _check_text("request_id", record["request_id"], 128)
    _check_text("method", record["method"], 16)
    _check("method", " " not in record["method"])
    _check_text("endpoint", record["endpoint"], 256)
    _check("key_id", _matches(KEY_ID, record["key_id"]))
    _check("plan", _matches(PLAN, record["plan"]))
    _check_integer("status", record["status"], 100, 599)
    _check_integer("latency_ms", record["latency_ms"], 0, MAX_COUNT)
    for name in ("request_bytes", "response_bytes"):
        if name in record:
            _check_integer(name, record[name], 0, MAX_BYTES)
    _check("truncated", record.get("truncated") in (None, "failed", "dropped", "interrupted"))
    _check("billable", isinstance(record.get("billable", True), bool))
    costs = cast(list[dict[str, object]], record.get("costs", []))
    _check("costs", len(costs) <= MAX_COSTS)
    for cost in costs:
        _check("costs", cost.keys() <= Cost.__annotations__.keys())
        _check_integer("micro_usd", cost.get("micro_usd"), 0, MAX_MICRO_USD)
        for name in ("input_tokens", "output_tokens", "tokens"):
            _check_integer(name, cost.get(name, 0), 0, MAX_COUNT)
        for name, length in (("provider", 64), ("model", 128)):
            if name in cost:
                _check_text(name, cost[name], length)
        _check("unpriced", isinstance(cost.get("unpriced", False), bool))


def _check(name: str, is_valid: object) -> None:
    if not is_valid:
        raise InvalidRecordError(f"{name} is not valid in a usage record")


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _check_text(name: str, value: object, max_bytes: int) -> None:
    _check(name, isinstance(value, str) and value and not CONTROL.search(value))
    try:
        _check(name, len(str(value).encode()) <= max_bytes)
    except UnicodeEncodeError:
        _check(name, False)


def _check_integer(name: str, value: object, least: int, most: int) -> None:
    # A bool is an int, and not a number.
    _check(name, isinstance(value, int) and not isinstance(value, bool) and least <= value <= most)


_reporters: weakref.WeakSet[UsageReporter] = weakref.WeakSet()


def _empty_buffers() -> None:
    for reporter in _reporters:
        reporter._empty()


# The parent sends what it has buffered. If the child sent it too, under other ids, it would be counted twice.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_empty_buffers)
