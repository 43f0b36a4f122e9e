from typing import Literal, cast

UnpaidConsequence = Literal["moved", "suspended", "waived"]


def check_unpaid_consequence(value: str) -> UnpaidConsequence:
    """Accepts any value: later releases of the API may add some, and a client in use must go on working."""
    return cast(UnpaidConsequence, value)
