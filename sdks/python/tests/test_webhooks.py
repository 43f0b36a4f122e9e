"""Signatures of webhooks, and the types of their events."""

from __future__ import annotations

import base64
import hmac
import json
import re
import unittest
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from typing import Any, get_args, get_type_hints

from tollgate import WebhookEvent, WebhookVerificationError, verify_webhook

from fake import DOCUMENT, ROOT

NOW = datetime(2026, 11, 23, 2, 0, 7, tzinfo=timezone.utc)
BODY = '{"id":"evt_1","type":"charge.failed","data":{"failure_reason":"1–15 Nov ✓"}}'


def secret(byte: int, length: int = 32) -> str:
    return f"whsec_{base64.b64encode(bytes([byte]) * length).decode()}"


def sign(by: int, body: str = BODY, id: str = "evt_1", at: datetime = NOW) -> dict[str, str]:
    seconds = str(int(at.timestamp()))
    code = hmac.digest(bytes([by]) * 32, f"{id}.{seconds}.{body}".encode(), sha256)
    signature = f"v1,{base64.b64encode(code).decode()}"
    return {"Webhook-Id": id, "Webhook-Timestamp": seconds, "Webhook-Signature": signature}


class SignaturesTest(unittest.TestCase):
    def check(
        self,
        headers: Mapping[str, str],
        expected: str | None,
        body: str | bytes = BODY,
        secrets: str | Sequence[str] = secret(1),
        now: datetime = NOW,
    ) -> None:
        """Checks the message of the error, or that there is none."""
        try:
            verify_webhook(secrets, headers, body, now=now)
        except WebhookVerificationError as error:
            self.assertEqual(str(error), expected)
        else:
            self.assertIsNone(expected)

    def test_signature_of_standard_webhooks(self) -> None:
        # The example of https://www.standardwebhooks.com; its body is no event.
        headers = {
            "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp": "1614265330",
            "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        }
        at = datetime.fromtimestamp(1614265330, timezone.utc)
        key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        self.check(headers, "The body is not an event.", '{"test": 2432232314}', key, at)
        self.check(headers, "No signature matches.", '{"test": 2432232315}', key, at)

    def test_good(self) -> None:
        self.check(sign(1), None)
        self.check(sign(1), None, BODY.encode())
        self.assertEqual(verify_webhook(secret(1), sign(1), BODY, now=NOW)["id"], "evt_1")
        present = datetime.now(timezone.utc)
        self.assertEqual(verify_webhook(secret(1), sign(1, at=present), BODY)["type"], "charge.failed")

    def test_several_secrets_and_signatures(self) -> None:
        self.check(sign(2), None, secrets=[secret(1), secret(2)])
        both = sign(1)
        both["Webhook-Signature"] += " " + sign(2)["Webhook-Signature"]
        self.check(both, None, secrets=secret(2))
        self.check(both, None, secrets=[secret(3), secret(1)])
        self.check(both, "No signature matches.", secrets=[secret(3), secret(4)])
        self.check(sign(1), "No signature matches.", secrets=[])

    def test_bad(self) -> None:
        no_match = "No signature matches."
        self.check(sign(2), no_match)
        self.check(sign(1), no_match, BODY + " ")
        self.check({**sign(1), "Webhook-Id": "evt_2"}, no_match)
        self.check({**sign(1), "Webhook-Timestamp": str(int(NOW.timestamp()) + 1)}, no_match)
        signature = sign(1)["Webhook-Signature"]
        for malformed in ("", "v1,", signature.replace("v1,", "v2,"), signature[3:], signature + "=", "v1,é"):
            self.check({**sign(1), "Webhook-Signature": malformed}, no_match)
        for malformed in ("", "now", "-1", "1e9", "²", "9" * 13):
            expected = "The field webhook-timestamp is not a number of seconds."
            self.check({**sign(1), "Webhook-Timestamp": malformed}, expected)
        self.check({"webhook-signature": signature}, "The field webhook-id is missing.")
        for body in ("[]", "{}", "null", "no JSON"):
            self.check(sign(1, body), "The body is not an event.", body)

    def test_age(self) -> None:
        self.check(sign(1), None, now=NOW + timedelta(seconds=300))
        self.check(sign(1), "The message is too old.", now=NOW + timedelta(seconds=301))
        self.check(sign(1), None, now=NOW - timedelta(seconds=300))
        self.check(sign(1), "The message is in the future.", now=NOW - timedelta(seconds=301))
        # Only who has the secret learns that a message is old.
        self.check(sign(2), "No signature matches.", now=NOW + timedelta(days=1))

    def test_malformed_secrets(self) -> None:
        base64_faults = (secret(1)[:-1], secret(1) + "*", "whsec_" + "*" * 44)
        for malformed in ("", "whsec_", secret(1)[6:], secret(1, 23), secret(1, 65), *base64_faults):
            with self.assertRaises(ValueError) as caught:
                verify_webhook(malformed, sign(1), BODY, now=NOW)
            self.assertEqual(str(caught.exception), "a webhook secret is whsec_ and 24 to 64 bytes in base64")


class TypesTest(unittest.TestCase):
    def test_events_are_as_documented(self) -> None:
        text = (ROOT / "docs/events.md").read_text().split("## Webhooks")[0]
        documented = dict(re.findall(r"^`([a-z.]+)`: .*?```json\n(.*?)```", text, re.MULTILINE | re.DOTALL))
        types: dict[str, Any] = {}
        for event in get_args(WebhookEvent):
            hints = get_type_hints(event)
            types[get_args(hints["type"])[0]] = hints
        self.assertLessEqual(types.keys(), documented.keys())
        self.assertLessEqual(types.keys(), set(DOCUMENT["components"]["schemas"]["EventKindSchema"]["enum"]))
        form = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])
        for name, hints in types.items():
            self.assertEqual(hints.keys(), form.keys(), name)
            self.assertLessEqual(hints["data"].__annotations__.keys(), json.loads(documented[name]).keys(), name)


if __name__ == "__main__":
    unittest.main()
