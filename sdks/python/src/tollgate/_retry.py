"""When to send a request again."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime


class Clock:
    """Time and chance. Tests have another one."""

    def monotonic(self) -> float:
        """Returns seconds since any fixed time."""
        return time.monotonic()

    def time(self) -> float:
        """Returns the Unix time in seconds."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def random(self) -> float:
        """Returns a number from 0 to 1, 1 excluded."""
        return random.random()


@dataclass(frozen=True)
class Retries:
    """Limits of the attempts to send one request.

    A wait is random between 0 and a bound that doubles with each attempt, from `first_delay_s` to `max_delay_s`. If
    the response has `Retry-After`, the wait is that time and a random part of `first_delay_s`, so that clients that
    were rejected together do not come back together.
    """

    attempts: int = 4
    """Number of attempts, the first one included. With 1 there are no retries."""
    first_delay_s: float = 0.25
    max_delay_s: float = 8.0
    total_s: float = 30.0
    """Time from the first attempt after which no other one begins."""

    def delay_s(self, attempt: int, elapsed_s: float, retry_after_s: float | None, clock: Clock) -> float | None:
        """Returns the wait after a failed attempt, the first of which is 1; `None` if it was the last."""
        if attempt >= self.attempts:
            return None
        if retry_after_s is None:
            delay = clock.random() * min(self.max_delay_s, self.first_delay_s * 2 ** (attempt - 1))
        else:
            delay = retry_after_s + clock.random() * self.first_delay_s
        return delay if elapsed_s + delay <= self.total_s else None


def retry_after_s(headers: Mapping[str, str], clock: Clock) -> float | None:
    """Returns the time of the field `Retry-After`, which has seconds or a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)
    return max(0.0, at.timestamp() - clock.time())
