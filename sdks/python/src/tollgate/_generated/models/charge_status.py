from typing import Literal, cast

ChargeStatus = Literal["failed", "pending", "settled", "submitted"]


def check_charge_status(value: str) -> ChargeStatus:
    """Accepts any value: later releases of the API may add some, and a client in use must go on working."""
    return cast(ChargeStatus, value)
