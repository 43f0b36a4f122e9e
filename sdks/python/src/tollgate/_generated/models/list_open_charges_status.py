from typing import Literal, cast

ListOpenChargesStatus = Literal["failed", "pending", "submitted"]


def check_list_open_charges_status(value: str) -> ListOpenChargesStatus:
    """Accepts any value: later releases of the API may add some, and a client in use must go on working."""
    return cast(ListOpenChargesStatus, value)
