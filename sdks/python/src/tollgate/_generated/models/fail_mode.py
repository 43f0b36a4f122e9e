from typing import Literal, cast

FailMode = Literal["closed", "open"]


def check_fail_mode(value: str) -> FailMode:
    """Accepts any value: later releases of the API may add some, and a client in use must go on working."""
    return cast(FailMode, value)
