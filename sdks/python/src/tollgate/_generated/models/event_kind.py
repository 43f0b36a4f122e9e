from typing import Literal, cast

EventKind = Literal[
    "billing.run.completed",
    "charge.failed",
    "charge.settled",
    "payment.failed",
    "quota.threshold",
    "subscription.changed",
]


def check_event_kind(value: str) -> EventKind:
    """Accepts any value: later releases of the API may add some, and a client in use must go on working."""
    return cast(EventKind, value)
