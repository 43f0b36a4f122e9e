// Signatures of webhooks, and the types of their events.

import assert from 'node:assert/strict';
import {createHmac} from 'node:crypto';
import {readFileSync} from 'node:fs';
import {test} from 'node:test';

import {type WebhookHeaders, WebhookVerificationError, verifyWebhook} from '../src/index.js';
import {document} from './fake.js';

const NOW = new Date('2026-11-23T02:00:07Z');
const BODY = '{"id":"evt_1","type":"charge.failed","data":{"failure_reason":"1–15 Nov ✓"}}';
const NO_MATCH = 'No signature matches.';

const secret = (byte: number, length = 32) => `whsec_${Buffer.alloc(length, byte).toString('base64')}`;

function sign(by: number, body = BODY, at = NOW): Record<string, string> {
  const seconds = String(Math.floor(at.getTime() / 1_000));
  const code = createHmac('sha256', Buffer.alloc(32, by)).update(`evt_1.${seconds}.${body}`).digest('base64');
  return {'Webhook-Id': 'evt_1', 'Webhook-Timestamp': seconds, 'Webhook-Signature': `v1,${code}`};
}

/** Checks the message of the error, or that there is none. */
function check(
  headers: WebhookHeaders,
  expected: string | undefined,
  {body = BODY as string | Uint8Array, secrets = secret(1) as string | string[], now = NOW} = {},
): void {
  let found: string | undefined;
  try {
    verifyWebhook(secrets, headers, body, {now});
  } catch (error) {
    assert(error instanceof WebhookVerificationError);
    found = error.message;
  }
  assert.equal(found, expected);
}

const later = (seconds: number) => new Date(NOW.getTime() + seconds * 1_000);

test('the signature of Standard Webhooks', () => {
  // The example of https://www.standardwebhooks.com; its body is no event.
  const headers = {
    'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
    'webhook-timestamp': '1614265330',
    'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
  };
  const given = {secrets: 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', now: new Date(1_614_265_330_000)};
  check(headers, 'The body is not an event.', {...given, body: '{"test": 2432232314}'});
  check(headers, NO_MATCH, {...given, body: '{"test": 2432232315}'});
});

test('messages of the local product', () => {
  interface Message {
    secret: string;
    headers: Record<string, string>;
    body: string;
    sent_at: number;
  }
  const {messages} = JSON.parse(readFileSync(process.env['LIVE_CASES']!, 'utf8')) as {messages: Message[]};
  assert(messages.length > 10);
  for (const {secret: own, headers, body, sent_at: sentAt} of messages) {
    assert.equal(verifyWebhook(own, headers, body, {now: new Date(sentAt * 1_000)}).id, headers['webhook-id']);
  }
});

test('good signatures', () => {
  check(sign(1), undefined);
  check(sign(1), undefined, {body: new TextEncoder().encode(BODY)});
  check(new Headers(sign(1)), undefined);
  const [id, timestamp, signature] = Object.values(sign(1)).map(value => [value]);
  check({'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signature}, undefined);
  const event = verifyWebhook(secret(1), sign(1, BODY, new Date()), BODY);
  assert(event.type === 'charge.failed' && event.data.failure_reason === '1–15 Nov ✓');
});

test('several secrets and signatures', () => {
  check(sign(2), undefined, {secrets: [secret(1), secret(2)]});
  const both = {...sign(1), 'Webhook-Signature': `${sign(1)['Webhook-Signature']} ${sign(2)['Webhook-Signature']}`};
  check(both, undefined, {secrets: secret(2)});
  check(both, undefined, {secrets: [secret(3), secret(1)]});
  check(both, NO_MATCH, {secrets: [secret(3), secret(4)]});
  check(sign(1), NO_MATCH, {secrets: []});
});

test('bad signatures', () => {
  check(sign(2), NO_MATCH);
  check(sign(1), NO_MATCH, {body: `${BODY} `});
  check({...sign(1), 'Webhook-Id': 'evt_2'}, NO_MATCH);
  check({...sign(1), 'Webhook-Timestamp': String(NOW.getTime() / 1_000 + 1)}, NO_MATCH);
  const signature = sign(1)['Webhook-Signature']!;
  for (const malformed of ['', 'v1,', signature.replace('v1,', 'v2,'), signature.slice(3), `${signature}=`, 'v1,é']) {
    check({...sign(1), 'Webhook-Signature': malformed}, NO_MATCH);
  }
  for (const malformed of ['', 'now', '-1', '1e9', '²', '9'.repeat(13)]) {
    check({...sign(1), 'Webhook-Timestamp': malformed}, 'The field webhook-timestamp is not a number of seconds.');
  }
  check({'webhook-signature': signature}, 'The field webhook-id is missing.');
  for (const body of ['[]', '{}', 'null', 'no JSON']) check(sign(1, body), 'The body is not an event.', {body});
});

test('age', () => {
  check(sign(1), undefined, {now: later(300)});
  check(sign(1), 'The message is too old.', {now: later(301)});
  check(sign(1), undefined, {now: later(-300)});
  check(sign(1), 'The message is in the future.', {now: later(-301)});
  check(sign(1), 'The message is in the future.', {now: new Date(NaN)});
  // Only who has the secret learns that a message is old.
  check(sign(2), NO_MATCH, {now: later(86_400)});
});

test('malformed secrets', () => {
  const base64Faults = [secret(1).slice(0, -1), `${secret(1)}*`, `whsec_${'*'.repeat(44)}`];
  for (const malformed of ['', 'whsec_', secret(1).slice(6), secret(1, 23), secret(1, 65), ...base64Faults]) {
    const expected = new TypeError('a webhook secret is whsec_ and 24 to 64 bytes in base64');
    assert.throws(() => verifyWebhook(malformed, sign(1), BODY, {now: NOW}), expected);
  }
});

test('the types of events are documented', () => {
  // Fails to compile if one is missing here or has another name.
  const types: Record<ReturnType<typeof verifyWebhook>['type'], true> = {
    'billing.run.completed': true,
    'charge.failed': true,
    'charge.settled': true,
    'payment.failed': true,
    'quota.threshold': true,
    'subscription.changed': true,
  };
  const documented = document.components.schemas['EventKindSchema']!.enum;
  assert.deepEqual(Object.keys(types).filter(type => !documented.includes(type)), []);
});
