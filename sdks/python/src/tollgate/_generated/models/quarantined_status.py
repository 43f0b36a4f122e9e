from typing import Literal, cast

QuarantinedStatus = Literal["discarded", "open", "replayed"]


def check_quarantined_status(value: str) -> QuarantinedStatus:
    """Accepts any value: later releases of the API may add some, and a client in use must go on working."""
    return cast(QuarantinedStatus, value)
