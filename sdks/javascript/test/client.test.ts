// Retries, idempotency keys, paging, problems and the key.

import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {test} from 'node:test';
import {inspect} from 'node:util';

import {CLASSES} from '../src/errors.js';
import {
  Client,
  CustomerSuspendedError,
  InvalidResponseError,
  NoResponseError,
  NotFoundError,
  PaymentsNotConfiguredError,
  ProblemError,
  QuotaExceededError,
  RateLimitedError,
  type Retries,
  UnavailableError,
  UnprocessableError,
} from '../src/index.js';
import {retryAfterS} from '../src/retry.js';
import {VERSION} from '../src/version.js';
import {
  FakeApi,
  FakeClock,
  KEY,
  ROOT,
  type Reply,
  example,
  operations,
  page,
  problem,
  success,
  unavailable,
} from './fake.js';

type ErrorClass = new (...given: never[]) => Error;

const lost = () => new TypeError('fetch failed', {cause: new Error('ECONNRESET')});
const pong = () => success(example('ping'));

/** Checks the waits between the attempts of a call, and that each reply is used. */
async function check(
  replies: Reply[],
  waits: number[],
  fails?: ErrorClass,
  call: (client: Client) => Promise<unknown> = client => client.ping(),
  retries: Partial<Retries> = {},
): Promise<FakeApi> {
  const api = new FakeApi(...replies);
  const called = call(api.client(retries));
  await (fails ? assert.rejects(called, fails) : called);
  assert.deepEqual(api.clock.waits, waits);
  assert.deepEqual(api.replies, []);
  return api;
}

test('waits double and are random', async () => {
  await check([unavailable(), unavailable(), unavailable(), pong()], [125, 250, 500]);
  await check([new Response(null, {status: 502}), new Response(null, {status: 504}), pong()], [125, 250]);
  await check([lost(), lost(), pong()], [125, 250]);
});

test('attempts end', async () => {
  await check(Array.from({length: 4}, () => unavailable()), [125, 250, 500], UnavailableError);
  await check(Array.from({length: 4}, lost), [125, 250, 500], NoResponseError);
  await check([unavailable()], [], UnavailableError, undefined, {attempts: 1});
});

test('Retry-After is obeyed', async () => {
  await check([unavailable('3'), pong()], [3_125]);
  await check([problem(429, 'throttled', {'retry-after': '2'}), pong()], [2_125]);
  await check([unavailable(new Date(new FakeClock().now() + 4_000).toUTCString()), pong()], [4_125]);
});

test('Retry-After beyond the limit is no wait', async () => {
  await check([problem(429, 'quota-exceeded', {'retry-after': '864000'}, {window: 'month'})], [], QuotaExceededError);
  await check([unavailable('20'), unavailable('20')], [20_125], UnavailableError);
});

test('forms of Retry-After', () => {
  const checkForm = (value: string, expected?: number) => {
    const headers = new Headers({'retry-after': value});
    assert.equal(retryAfterS(headers, new FakeClock(784_111_777_000)), expected, value);
  };
  checkForm('0', 0);
  checkForm('120', 120);
  checkForm('Sun, 06 Nov 1994 08:49:47 GMT', 10);
  checkForm('Sunday, 06-Nov-94 08:49:47 GMT', 10);
  checkForm('Sun Nov  6 08:49:47 1994', 10);
  checkForm('Sun, 06 Nov 1994 08:49:27 GMT', 0);
  for (const malformed of ['', '-1', '1.5', 'soon']) checkForm(malformed);
});

test('final responses are not retried', async () => {
  await check([problem(404, 'not-found')], [], NotFoundError);
  await check([problem(500, 'internal')], [], ProblemError);
  // Waiting does not end a 429 without Retry-After.
  await check([problem(429, 'customer-suspended')], [], CustomerSuspendedError);
  await check([problem(503, 'payments-not-configured')], [], PaymentsNotConfiguredError);
});

test('only repeatable requests are retried', async () => {
  const calls = [
    (client: Client) => client.createWebhook({url: 'https://hooks.example'}),
    (client: Client) => client.updateCustomer('acme', {name: 'Acme'}),
  ];
  for (const call of calls) {
    await check([unavailable('1')], [], UnavailableError, call);
    await check([lost()], [], NoResponseError, call);
  }
  const revoked = new Response(null, {status: 204});
  await check([unavailable(), revoked], [125], undefined, client => client.revokeKey('key_1'));
});

test('an idempotency key stays over retries', async () => {
  const created = success(example('createCustomer'), 201);
  const create = (client: Client) => client.createCustomer({id: 'acme', plan: 'pro'});
  const keys = (api: FakeApi) => new Set(api.requests.map(({headers}) => headers.get('idempotency-key')));
  const first = keys(await check([unavailable(), lost(), created], [125, 250], undefined, create));
  assert.equal(first.size, 1);
  const second = keys(await check([created], [], undefined, create));
  assert.notDeepEqual(first, second);
  const createWithKey = (client: Client) => client.createCustomer({plan: 'pro'}, {idempotencyKey: 'own'});
  assert.deepEqual(keys(await check([created], [], undefined, createWithKey)), new Set(['own']));
});

test('every operation that declares an idempotency key has one', async () => {
  let declared = 0;
  for (const {operationId, parameters = []} of operations) {
    if (!parameters.some(({name}) => name === 'Idempotency-Key')) continue;
    declared += 1;
    const api = new FakeApi(problem(404, 'not-found'));
    const client = api.client() as unknown as Record<string, (...given: unknown[]) => Promise<unknown>>;
    const path = Array.from({length: client[operationId]!.length - 2}, () => 'id');
    await assert.rejects(client[operationId]!(...path, {}), NotFoundError);
    assert.match(api.requests[0]!.headers.get('idempotency-key') ?? '', /^[0-9a-f-]{36}$/, operationId);
  }
  assert(declared > 4);
});

test('an aborted call is not retried', async () => {
  const reason = new Error('enough');
  const controller = new AbortController();
  const api = new FakeApi(() => {
    controller.abort(reason);
    return unavailable();
  });
  await assert.rejects(api.client().ping({signal: controller.signal}), reason);
  await assert.rejects(new FakeApi().client().ping({signal: AbortSignal.abort(reason)}), reason);

  const underway = new AbortController();
  const waits = new FakeApi((_, request) => {
    underway.abort(reason);
    request.signal.throwIfAborted();
    return unavailable();
  });
  await assert.rejects(waits.client().ping({signal: underway.signal}), reason);
});

test('items of all pages', async () => {
  const api = new FakeApi(page(['a', 'b'], 'c1'), page([], 'c2'), page(['c']));
  const customers = api.client().listCustomers({limit: 2});
  assert.equal(api.requests.length, 0);
  const ids = [];
  for await (const {id} of customers) ids.push(id);
  assert.deepEqual(ids, ['a', 'b', 'c']);
  assert.deepEqual(
    api.requests.map(({url}) => new URL(url).search),
    ['?limit=2', '?limit=2&cursor=c1', '?limit=2&cursor=c2'],
  );
});

test('pages are fetched when reached', async () => {
  const api = new FakeApi(page(['a'], 'c1'));
  for await (const {id} of api.client().listCustomers()) {
    assert.equal(id, 'a');
    break;
  }
  assert.equal(api.requests.length, 1);
});

test('pages of a list', async () => {
  const pages = [];
  for await (const {data} of new FakeApi(page(['a'], 'c1'), page(['b'])).client().listCustomers().byPage()) {
    pages.push(data.map(({id}) => id));
  }
  assert.deepEqual(pages, [['a'], ['b']]);
});

test('events are read until a page is empty', async () => {
  const api = new FakeApi(success(example('listEvents')), success({data: [], next_after: 42}));
  const numbers = [];
  for await (const {number} of api.client().listEvents({after: 40})) numbers.push(number);
  assert.deepEqual(numbers, [42]);
  assert.deepEqual(api.requests.map(({url}) => new URL(url).searchParams.get('after')), ['40', '42']);
});

async function problemFrom(reply: Reply): Promise<ProblemError> {
  try {
    await new FakeApi(reply).client({attempts: 1}).ping();
  } catch (error) {
    assert(error instanceof ProblemError);
    return error;
  }
  throw new Error('no problem');
}

test('members of a problem', async () => {
  const error = await problemFrom(problem(422, 'unprocessable', {}, {field: 'plan', plans: ['free']}));
  assert.equal(error.constructor, UnprocessableError);
  assert.equal(error.name, 'UnprocessableError');
  assert.equal(error.type, 'urn:tollgate:problem:unprocessable');
  assert.deepEqual([error.status, error.title, error.detail], [422, 'A title', 'A detail.']);
  assert.deepEqual([error.requestId, error.field, error.members['plans']], ['r-1', 'plan', ['free']]);
  assert.equal(error.message, '422 A title: A detail. (request r-1)');
});

test('members of a limit', async () => {
  const error = await problemFrom(problem(429, 'rate-limited', {'retry-after': '60'}, {limit: 100, window: 'hour'}));
  assert(error instanceof RateLimitedError);
  assert.deepEqual([error.limit, error.window, error.retryAfterS], [100, 'hour', 60]);
});

test('each class is of a documented type', () => {
  const text = readFileSync(join(ROOT, 'docs/problems.md'), 'utf8');
  const documented = new Set([...text.matchAll(/^\| `([a-z-]+)` \| [45]/gm)].map(found => found[1]));
  assert(documented.size > 20);
  assert.deepEqual(Object.keys(CLASSES).filter(name => !documented.has(name)), []);
});

test('types without a class', async () => {
  assert.equal((await problemFrom(problem(418, 'of-a-later-release'))).constructor, ProblemError);
  assert.equal((await problemFrom(problem(418, 'constructor'))).constructor, ProblemError);
});

test('responses of others', async () => {
  for (const body of ['<h1>Bad gateway</h1>', '', '[1]', '{"type": 7, "status": "x"}']) {
    const {type, status} = await problemFrom(new Response(body, {status: 502}));
    assert.deepEqual([type, status], ['about:blank', 502]);
  }
});

test('successes of others', async () => {
  const replies = [
    new Response('<h1>Sign in</h1>', {headers: {'content-type': 'text/html'}}),
    new Response(null, {status: 302, headers: {location: 'https://elsewhere.example/'}}),
    new Response(null, {status: 204}),
  ];
  for (const reply of replies) await assert.rejects(new FakeApi(reply).client().ping(), InvalidResponseError);
});

test('a request', async () => {
  const api = new FakeApi(success(example('updateCustomer')));
  await api.client().updateCustomer('a/b?', {name: null, plan: 'pro'});
  const {method, url, headers, redirect} = api.requests[0]!;
  assert.deepEqual([method, url], ['PATCH', 'https://api.example/v1/admin/customers/a%2Fb%3F']);
  assert.equal(redirect, 'manual');
  assert.equal(headers.get('authorization'), `Bearer ${KEY}`);
  assert.equal(api.texts[0], '{"name":null,"plan":"pro"}');
});

test('the package has the version that requests name', () => {
  const text = readFileSync(join(ROOT, 'sdks/javascript/package.json'), 'utf8');
  assert.equal((JSON.parse(text) as {version: string}).version, VERSION);
});

test('path parameters cannot change the path', async () => {
  for (const value of ['', '.', '..']) {
    await assert.rejects(new FakeApi().client().eraseCustomer(value, {dry_run: false}), TypeError);
  }
});

test('what is no JSON is not sent', async () => {
  const limit = 1n as unknown as number;
  await assert.rejects(new FakeApi().client().rotateKey('key_1', {grace_period_s: limit}), TypeError);
});

test('key and URL are of the environment', async () => {
  process.env['TOLLGATE_URL'] = 'https://api.example';
  process.env['TOLLGATE_KEY'] = KEY;
  try {
    assert.equal(new Client().baseUrl, 'https://api.example');
  } finally {
    delete process.env['TOLLGATE_URL'];
    delete process.env['TOLLGATE_KEY'];
  }
});

test('missing and malformed keys and URLs', () => {
  const baseUrl = 'https://api.example';
  for (const options of [{baseUrl}, {key: KEY}, {baseUrl: 'api.example', key: KEY}, {baseUrl: 'file:///', key: KEY}]) {
    assert.throws(() => new Client(options), TypeError);
  }
  // The key of a lost response must not be replaced by another one.
  process.env['TOLLGATE_KEY'] = KEY;
  assert.throws(() => new Client({baseUrl, key: null}), TypeError);
  delete process.env['TOLLGATE_KEY'];
  assert.throws(
    () => new Client({baseUrl, key: `${KEY}\n`}),
    (error: Error) => error instanceof TypeError && !error.message.includes(KEY),
  );
});

test('the key is not printed', async () => {
  const client = new FakeApi(lost()).client({attempts: 1});
  const error: unknown = await client.ping().catch((thrown: unknown) => thrown);
  const printed = [
    inspect(client, {depth: 9, showHidden: true}), inspect({client}), String(client), JSON.stringify(client),
    inspect(client.usageReporter('test'), {depth: 9, showHidden: true}), inspect(error, {depth: 9}),
  ];
  for (const text of printed) assert(!text.includes(KEY), text);
  assert.equal(inspect(client), 'Client(https://api.example/v1)');
  assert.match(String(error), /NoResponseError: No response was received: Error: ECONNRESET/);
});
