"""Authorizer of a common design in Python: one read of the key, one conditional write of its counter.
infra/bench compares it with Tollgate's authorizer."""

import hashlib
import os
import time
from datetime import datetime, timezone

import boto3

REGISTRY_TABLE = os.environ["REGISTRY_TABLE"]
COUNTERS_TABLE = os.environ["COUNTERS_TABLE"]
HOUR_S = 3600
KEPT_AFTER_WINDOW_S = 48 * HOUR_S

client = boto3.client("dynamodb")


def key_of(event):
    authorization = ""
    for name, value in (event.get("headers") or {}).items():
        lower = name.lower()
        if lower == "x-api-key":
            return value
        if lower == "authorization":
            authorization = value
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def find_key(text):
    digest = hashlib.sha256(text.encode()).hexdigest()
    found = client.get_item(
        TableName=REGISTRY_TABLE,
        Key={"pk": {"S": f"KEY#{digest}"}},
        ConsistentRead=True,
    )
    return found.get("Item")


def count(key_id, limit, hour, resets_at):
    """Returns the calls counted in the hour, this one included, or None if the limit is reached."""
    try:
        counted = client.update_item(
            TableName=COUNTERS_TABLE,
            Key={"pk": {"S": f"HOUR#{key_id}#{hour}"}},
            UpdateExpression="SET expires = :expires ADD used :one",
            ConditionExpression="attribute_not_exists(used) OR used < :limit",
            ExpressionAttributeValues={
                ":one": {"N": "1"},
                ":limit": {"N": str(limit)},
                ":expires": {"N": str(resets_at + KEPT_AFTER_WINDOW_S)},
            },
            ReturnValues="UPDATED_NEW",
        )
    except client.exceptions.ConditionalCheckFailedException:
        return None
    return int(counted["Attributes"]["used"]["N"])


def is_valid(key, now):
    if key is None or "revoked_at" in key:
        return False
    expires_at = key.get("expires_at")
    return expires_at is None or datetime.fromisoformat(expires_at["S"]).timestamp() > now


def handler(event, _context):
    text = key_of(event)
    key = find_key(text) if text else None
    now = time.time()
    if not is_valid(key, now):
        raise Exception("Unauthorized")

    limit = int(key["requests_per_hour"]["N"])
    resets_at = (int(now) // HOUR_S + 1) * HOUR_S
    hour = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H")
    used = count(key["id"]["S"], limit, hour, resets_at)
    remaining = 0 if used is None else limit - used
    resets_in = resets_at - int(now)
    return {
        "principalId": key["id"]["S"],
        "policyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Action": "execute-api:Invoke",
                    "Effect": "Deny" if used is None else "Allow",
                    "Resource": event["methodArn"],
                }
            ],
        },
        "context": {
            "role": "call",
            "customerId": key["customer"]["S"],
            "plan": key["plan"]["S"],
            "keyId": key["id"]["S"],
            "keyPrefix": key["prefix"]["S"],
            "rateLimitLimit": str(limit),
            "rateLimitRemaining": str(remaining),
            "rateLimitReset": str(resets_at),
            "rateLimit": f'"hour";r={remaining};t={resets_in}',
            "rateLimitPolicy": f'"hour";q={limit};w={HOUR_S}',
        },
    }
