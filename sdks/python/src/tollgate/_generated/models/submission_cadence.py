from typing import Literal, cast

SubmissionCadence = Literal["monthly", "nightly", "weekly"]


def check_submission_cadence(value: str) -> SubmissionCadence:
    """Accepts any value: later releases of the API may add some, and a client in use must go on working."""
    return cast(SubmissionCadence, value)
