// Authorizer of a common design in Node.js: one read of the key, one conditional write of its counter.
// infra/bench compares it with Tollgate's authorizer.

import { createHash } from "node:crypto";
import {
  ConditionalCheckFailedException,
  DynamoDBClient,
  GetItemCommand,
  UpdateItemCommand,
} from "@aws-sdk/client-dynamodb";

const { REGISTRY_TABLE, COUNTERS_TABLE } = process.env;
const HOUR_S = 3600;
const KEPT_AFTER_WINDOW_S = 48 * HOUR_S;

const client = new DynamoDBClient({});

function keyOf(event) {
  let authorization;
  for (const [name, value] of Object.entries(event.headers ?? {})) {
    const lower = name.toLowerCase();
    if (lower === "x-api-key") return value;
    if (lower === "authorization") authorization = value;
  }
  return /^bearer +(.+)$/i.exec(authorization ?? "")?.[1];
}

async function findKey(text) {
  const digest = createHash("sha256").update(text).digest("hex");
  const { Item: item } = await client.send(
    new GetItemCommand({
      TableName: REGISTRY_TABLE,
      Key: { pk: { S: `KEY#${digest}` } },
      ConsistentRead: true,
    }),
  );
  return item;
}

/** Returns the calls counted in the hour, this one included, or `undefined` if the limit is reached. */
async function count(keyId, limit, hour, resetsAt) {
  try {
    const { Attributes: counted } = await client.send(
      new UpdateItemCommand({
        TableName: COUNTERS_TABLE,
        Key: { pk: { S: `HOUR#${keyId}#${hour}` } },
        UpdateExpression: "SET expires = :expires ADD used :one",
        ConditionExpression: "attribute_not_exists(used) OR used < :limit",
        ExpressionAttributeValues: {
          ":one": { N: "1" },
          ":limit": { N: String(limit) },
          ":expires": { N: String(resetsAt + KEPT_AFTER_WINDOW_S) },
        },
        ReturnValues: "UPDATED_NEW",
      }),
    );
    return Number(counted.used.N);
  } catch (error) {
    if (error instanceof ConditionalCheckFailedException) return undefined;
    throw error;
  }
}

export async function handler(event) {
  const text = keyOf(event);
  const key = text && (await findKey(text));
  const now = Date.now();
  const isExpired = key?.expires_at && Date.parse(key.expires_at.S) <= now;
  if (!key || key.revoked_at || isExpired) throw new Error("Unauthorized");

  const limit = Number(key.requests_per_hour.N);
  const resetsAt = (Math.floor(now / 1000 / HOUR_S) + 1) * HOUR_S;
  const hour = new Date(now).toISOString().slice(0, 13);
  const used = await count(key.id.S, limit, hour, resetsAt);
  const remaining = limit - (used ?? limit);
  const resetsIn = resetsAt - Math.floor(now / 1000);
  return {
    principalId: key.id.S,
    policyDocument: {
      Version: "2012-10-17",
      Statement: [
        {
          Action: "execute-api:Invoke",
          Effect: used === undefined ? "Deny" : "Allow",
          Resource: event.methodArn,
        },
      ],
    },
    context: {
      role: "call",
      customerId: key.customer.S,
      plan: key.plan.S,
      keyId: key.id.S,
      keyPrefix: key.prefix.S,
      rateLimitLimit: String(limit),
      rateLimitRemaining: String(remaining),
      rateLimitReset: String(resetsAt),
      rateLimit: `"hour";r=${remaining};t=${resetsIn}`,
      rateLimitPolicy: `"hour";q=${limit};w=${HOUR_S}`,
    },
  };
}
