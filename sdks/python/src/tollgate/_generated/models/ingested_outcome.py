from typing import Literal, cast

IngestedOutcome = Literal["counted", "duplicate"]


def check_ingested_outcome(value: str) -> IngestedOutcome:
    """Accepts any value: later releases of the API may add some, and a client in use must go on working."""
    return cast(IngestedOutcome, value)
