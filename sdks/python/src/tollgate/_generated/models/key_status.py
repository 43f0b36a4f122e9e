from typing import Literal, cast

KeyStatus = Literal["active", "expired", "revoked", "suspended"]


def check_key_status(value: str) -> KeyStatus:
    """Accepts any value: later releases of the API may add some, and a client in use must go on working."""
    return cast(KeyStatus, value)
