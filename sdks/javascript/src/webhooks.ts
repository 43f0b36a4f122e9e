// Verification of the webhooks that Tollgate sends.

import {createHmac, timingSafeEqual} from 'node:crypto';

import {TollgateError} from './errors.js';

const PREFIX = 'whsec_';
const MIN_SECRET_BYTES = 24;
const MAX_SECRET_BYTES = 64;

/** A message is not from the sender with the secret, was changed, or is too old. */
export class WebhookVerificationError extends TollgateError {}

interface EventOf<Type extends string, Data, CustomerId = string> {
  /** The same whenever the event is repeated: ignore an id that was seen before. */
  id: string;
  type: Type;
  /** Position in the order of all events, from 1 and without gaps. */
  number: number;
  /** Time at which it happened, or was found to have (RFC 3339). */
  timestamp: string;
  /** Customer to whom it happened; `null` if it concerns the stack. */
  customer_id: CustomerId;
  data: Data;
}

interface ChargeData {
  charge: string;
  month: string;
  /** Negative for a credit. */
  amount_cents: number;
  description: string;
}

/** A customer has used 80 % or all of the included calls of a month. */
export type QuotaThresholdEvent = EventOf<'quota.threshold', {
  month: string;
  plan: string;
  included: number;
  threshold_percent: number;
  calls: number;
}>;

/** A charge is at Stripe. It says nothing about payment. */
export type ChargeSettledEvent = EventOf<'charge.settled', ChargeData & {invoice_item: string}>;

/** Stripe rejected a charge, or the customer has no Stripe customer. */
export type ChargeFailedEvent = EventOf<'charge.failed', ChargeData & {failure_reason: string}>;

/** A scheduled billing run has ended. */
export type BillingRunCompletedEvent = EventOf<'billing.run.completed', {
  scheduled_at: string;
  billing_periods: number;
  charge_count: number;
  amount_cents: number;
  failed: number;
}, null>;

/** A customer's subscription was started, changed or ended, or moved the customer to another plan. */
export type SubscriptionChangedEvent = EventOf<'subscription.changed', {
  subscription: string | null;
  subscription_before: string | null;
  plan: string;
  plan_before: string;
}>;

/** A payment of a customer is outstanding. */
export type PaymentFailedEvent = EventOf<'payment.failed', {
  subscription: string | null;
  unpaid_since: string;
}>;

/**
 * An event, as docs/events.md describes it. Its `type` decides the type of its `data`. Later releases may send other
 * types, and other members: ignore what you do not handle.
 */
export type WebhookEvent =
  | QuotaThresholdEvent
  | ChargeSettledEvent
  | ChargeFailedEvent
  | BillingRunCompletedEvent
  | SubscriptionChangedEvent
  | PaymentFailedEvent;

/** Header fields of a request, as `fetch` or Node.js have them. */
export type WebhookHeaders = Headers | Readonly<Record<string, string | readonly string[] | undefined>>;

export interface VerifyWebhookOptions {
  /** Time of the check; by default the present. */
  now?: Date;
  /** Greatest difference in seconds between `now` and the time of the message; 300 by default. */
  toleranceS?: number;
}

/**
 * Verifies a message and returns its event. It is in the form of Standard Webhooks.
 *
 * `secret` is the webhook's, `whsec_…`, or several while one replaces another; `body` is the body of the request,
 * exactly as it was received. Throws a `WebhookVerificationError` if the message must not be used: respond with a
 * status other than 2xx. Throws a `TypeError` if a secret is malformed.
 */
export function verifyWebhook(
  secret: string | readonly string[],
  headers: WebhookHeaders,
  body: string | Uint8Array,
  {now = new Date(), toleranceS = 300}: VerifyWebhookOptions = {},
): WebhookEvent {
  const secrets = (typeof secret === 'string' ? [secret] : secret).map(decoded);
  const [id, sentAt] = [field(headers, 'webhook-id'), field(headers, 'webhook-timestamp')];
  if (!id) throw new WebhookVerificationError('The field webhook-id is missing.');
  if (!/^[0-9]{1,12}$/.test(sentAt)) {
    throw new WebhookVerificationError('The field webhook-timestamp is not a number of seconds.');
  }
  const received = field(headers, 'webhook-signature')
    .split(' ')
    .filter(signature => signature.startsWith('v1,'))
    .map(signature => Buffer.from(signature.slice('v1,'.length)));
  let isSigned = false;
  for (const key of secrets) {
    const expected = Buffer.from(createHmac('sha256', key).update(`${id}.${sentAt}.`).update(body).digest('base64'));
    for (const signature of received) {
      // Every comparison is made, so that the time does not depend on which one matches.
      const isEqual = signature.length === expected.length && timingSafeEqual(signature, expected);
      isSigned = isEqual || isSigned;
    }
  }
  if (!isSigned) throw new WebhookVerificationError('No signature matches.');
  const ageS = now.getTime() / 1_000 - Number(sentAt);
  if (!(Math.abs(ageS) <= toleranceS)) {
    throw new WebhookVerificationError(`The message is ${ageS > 0 ? 'too old' : 'in the future'}.`);
  }
  let event: unknown;
  try {
    event = JSON.parse(typeof body === 'string' ? body : new TextDecoder().decode(body));
  } catch {
    // Not an object, as below.
  }
  if (typeof (event as Partial<WebhookEvent> | null | undefined)?.type !== 'string') {
    throw new WebhookVerificationError('The body is not an event.');
  }
  return event as WebhookEvent;
}

function field(headers: WebhookHeaders, name: string): string {
  if (headers instanceof Headers) return headers.get(name) ?? '';
  const found = Object.keys(headers).find(key => key.toLowerCase() === name);
  const value = found === undefined ? undefined : headers[found];
  return typeof value === 'string' ? value : value?.length === 1 ? value[0]! : '';
}

/** Returns the bytes of a secret. No error has its text. */
function decoded(secret: string): Buffer {
  const encoded = secret.startsWith(PREFIX) ? secret.slice(PREFIX.length) : '';
  const key = Buffer.from(encoded, 'base64');
  // Buffer ignores what is not base64.
  if (key.toString('base64') !== encoded || key.length < MIN_SECRET_BYTES || key.length > MAX_SECRET_BYTES) {
    throw new TypeError('a webhook secret is whsec_ and 24 to 64 bytes in base64');
  }
  return key;
}
