from typing import Literal, cast

QuarantinedKind = Literal["conflict", "items", "message"]


def check_quarantined_kind(value: str) -> QuarantinedKind:
    """Accepts any value: later releases of the API may add some, and a client in use must go on working."""
    return cast(QuarantinedKind, value)
