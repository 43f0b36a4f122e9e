"""Verification of the webhooks that Tollgate sends."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal, TypedDict, cast

from ._errors import TollgateError

PREFIX = "whsec_"
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64


class WebhookVerificationError(TollgateError):
    """A message is not from the sender with the secret, was changed, or is too old."""


class _Event(TypedDict):
    id: str
    """The same whenever the event is repeated: ignore an id that was seen before."""
    number: int
    """Position in the order of all events, from 1 and without gaps."""
    timestamp: str
    """Time at which it happened, or was found to have (RFC 3339)."""


class _CustomerEvent(_Event):
    customer_id: str


class QuotaThreshold(TypedDict):
    month: str
    plan: str
    included: int
    threshold_percent: int
    calls: int


class QuotaThresholdEvent(_CustomerEvent):
    """A customer has used 80 % or all of the included calls of a month."""

    type: Literal["quota.threshold"]
    data: QuotaThreshold


class _ChargeData(TypedDict):
    charge: str
    month: str
    amount_cents: int
    """Negative for a credit."""
    description: str


class ChargeSettled(_ChargeData):
    invoice_item: str


class ChargeSettledEvent(_CustomerEvent):
    """A charge is at Stripe. It says nothing about payment."""

    type: Literal["charge.settled"]
    data: ChargeSettled


class ChargeFailed(_ChargeData):
    failure_reason: str


class ChargeFailedEvent(_CustomerEvent):
    """Stripe rejected a charge, or the customer has no Stripe customer."""

    type: Literal["charge.failed"]
    data: ChargeFailed


class BillingRunCompleted(TypedDict):
    scheduled_at: str
    billing_periods: int
    charge_count: int
    amount_cents: int
    failed: int


class BillingRunCompletedEvent(_Event):
    """A scheduled billing run has ended."""

    type: Literal["billing.run.completed"]
    customer_id: None
    data: BillingRunCompleted


class SubscriptionChanged(TypedDict):
    subscription: str | None
    subscription_before: str | None
    plan: str
    plan_before: str


class SubscriptionChangedEvent(_CustomerEvent):
    """A customer's subscription was started, changed or ended, or moved the customer to another plan."""

    type: Literal["subscription.changed"]
    data: SubscriptionChanged


class PaymentFailed(TypedDict):
    subscription: str | None
    unpaid_since: str


class PaymentFailedEvent(_CustomerEvent):
    """A payment of a customer is outstanding."""

    type: Literal["payment.failed"]
    data: PaymentFailed


WebhookEvent = (
    QuotaThresholdEvent
    | ChargeSettledEvent
    | ChargeFailedEvent
    | BillingRunCompletedEvent
    | SubscriptionChangedEvent
    | PaymentFailedEvent
)
"""An event, as docs/events.md describes it. Its `type` decides the type of its `data`. Later releases may send other
types, and other members: ignore what you do not handle."""


def verify_webhook(
    secret: str | Sequence[str],
    headers: Mapping[str, str],
    body: bytes | str,
    *,
    now: datetime | None = None,
    tolerance_s: int = 300,
) -> WebhookEvent:
    """Verifies a message and returns its event. It is in the form of Standard Webhooks.

    Args:
        secret: Secret of the webhook, `whsec_…`; several while one replaces another.
        headers: Header fields of the request. Their case does not matter.
        body: Body of the request, exactly as it was received.
        now: Time of the check; by default the present. It needs a time zone.
        tolerance_s: Greatest difference between `now` and the time of the message.

    Raises:
        WebhookVerificationError: The message must not be used. Respond with a status other than 2xx.
        ValueError: A secret is malformed.
    """
    secrets = [_decoded(one) for one in ([secret] if isinstance(secret, str) else secret)]
    fields = {name.lower(): value for name, value in headers.items()}
    message_id, sent_at = fields.get("webhook-id", ""), fields.get("webhook-timestamp", "")
    content = body.encode() if isinstance(body, str) else body
    if not message_id:
        raise WebhookVerificationError("The field webhook-id is missing.")
    if not (sent_at.isascii() and sent_at.isdecimal() and len(sent_at) <= 12):
        raise WebhookVerificationError("The field webhook-timestamp is not a number of seconds.")
    signed = b".".join([message_id.encode(), sent_at.encode(), content])
    received = [
        signature.removeprefix("v1,").encode()
        for signature in fields.get("webhook-signature", "").split(" ")
        if signature.startswith("v1,")
    ]
    is_signed = False
    for key in secrets:
        expected = base64.b64encode(hmac.digest(key, signed, sha256))
        for signature in received:
            # Every comparison is made, so that the time does not depend on which one matches.
            is_signed |= hmac.compare_digest(expected, signature)
    if not is_signed:
        raise WebhookVerificationError("No signature matches.")
    age_s = (time.time() if now is None else now.timestamp()) - int(sent_at)
    if abs(age_s) > tolerance_s:
        raise WebhookVerificationError(f"The message is {'too old' if age_s > 0 else 'in the future'}.")
    try:
        event: object = json.loads(content)
    except ValueError:
        event = None
    if not (isinstance(event, dict) and isinstance(cast(dict[str, Any], event).get("type"), str)):
        raise WebhookVerificationError("The body is not an event.")
    return cast(WebhookEvent, event)


def _decoded(secret: str) -> bytes:
    """Returns the bytes of a secret. No error has its text."""
    key = b""
    if secret.startswith(PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except binascii.Error:
            pass
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError("a webhook secret is whsec_ and 24 to 64 bytes in base64")
    return key
