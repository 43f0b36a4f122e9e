// The reporter of usage.

import assert from 'node:assert/strict';
import {execFile} from 'node:child_process';
import {once} from 'node:events';
import {readFileSync} from 'node:fs';
import {createServer} from 'node:http';
import type {AddressInfo} from 'node:net';
import {join} from 'node:path';
import {test} from 'node:test';
import {promisify} from 'node:util';

import {
  BufferFullError,
  InvalidRecordError,
  type UndeliveredEvent,
  UndeliveredUsageError,
  UnauthorizedError,
  UnavailableError,
  type UsageEvent,
  type UsageRecord,
  type UsageReporter,
  type UsageReporterOptions,
} from '../src/index.js';
import {checkRecord} from '../src/usage.js';
import {FakeApi, KEY, ROOT, type Reply, problem, success, unavailable} from './fake.js';

/** The timer of a reporter does nothing within this time. */
const NEVER_MS = 3_600_000;

const eventsOf = (text: string) => (JSON.parse(text) as {events: UsageEvent[]}).events;

/** Replies that all events were counted. */
const counted = (text: string) => {
  const data = eventsOf(text).map(({source, id}) => ({source, id, outcome: 'counted'}));
  return success({data, quarantined: [], quarantined_more: []});
};

const lost = () => new TypeError('fetch failed');

function report(usage: UsageReporter, customer = 'acme', members: Partial<UsageRecord> = {}): void {
  const call = {key_id: 'key_1', plan: 'pro', method: 'GET', endpoint: '/things/{id}', status: 200, latency_ms: 5};
  usage.report(customer, {...call, ...members});
}

function rejecting(...pointers: string[]): Response {
  return problem(422, 'unprocessable', {}, {defects: pointers.map(pointer => ({pointer, reason: `bad ${pointer}`}))});
}

function reporter(replies: Reply[], options: UsageReporterOptions = {}): [FakeApi, UsageReporter] {
  const api = new FakeApi(...replies);
  return [api, api.client().usageReporter('test', {flushIntervalMs: NEVER_MS, ...options})];
}

const requestIds = ({data}: UsageEvent) => data.records.map(record => record['request_id']);

/** Rejects with the usage that was not delivered. */
async function undelivered(promise: Promise<void>): Promise<readonly UndeliveredEvent[]> {
  try {
    await promise;
  } catch (error) {
    assert(error instanceof UndeliveredUsageError);
    return error.undelivered;
  }
  throw new Error('all was delivered');
}

test('an event is as documented', async () => {
  const [api, usage] = reporter([counted]);
  const costs = [{provider: 'anthropic', tokens: 9, micro_usd: 7}];
  report(usage, 'acme', {time: new Date('2026-11-22T10:00:00.123Z'), request_id: 'r-1', costs});
  await usage.flush();
  const {method, url, headers} = api.requests[0]!;
  assert.deepEqual([method, url], ['POST', 'https://api.example/v1/admin/usage/events']);
  assert.equal(headers.get('content-type'), 'application/json');
  const [event] = eventsOf(api.texts[0]!);
  const milliseconds = Number.parseInt(event!.id.replaceAll('-', '').slice(0, 12), 16);
  assert.equal(milliseconds, api.clock.now());
  assert.match(event!.id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.deepEqual(event, {
    specversion: '1.0',
    id: event!.id,
    source: 'test',
    type: 'tollgate.usage.v1',
    time: '2027-01-15T08:00:00.000Z',
    subject: 'acme',
    data: {
      records: [{
        time: '2026-11-22T10:00:00.123Z', request_id: 'r-1', key_id: 'key_1', plan: 'pro', method: 'GET',
        endpoint: '/things/{id}', status: 200, latency_ms: 5, costs,
      }],
    },
  });
  assert.equal(usage.bufferedRecords, 0);
});

test('a record does not change after it was reported', async () => {
  const [api, usage] = reporter([counted]);
  const costs = [{micro_usd: 7}];
  report(usage, 'acme', {costs});
  costs[0]!.micro_usd = 8;
  await usage.flush();
  assert.deepEqual(eventsOf(api.texts[0]!)[0]!.data.records[0]!['costs'], [{micro_usd: 7}]);
});

test('an event has 100 records of one customer', async () => {
  const [api, usage] = reporter([counted, counted]);
  for (let number = 0; number < 250; number += 1) report(usage, number % 2 ? 'odd' : 'even');
  await usage.flush();
  const events = api.texts.flatMap(eventsOf);
  assert.deepEqual(
    events.map(({subject, data}) => `${subject} ${data.records.length}`).sort(),
    ['even 100', 'even 25', 'odd 100', 'odd 25'],
  );
  assert.equal(new Set(events.map(({id}) => id)).size, 4);
});

test('requests are bounded', async () => {
  const [api, usage] = reporter([counted, counted]);
  for (let number = 0; number < 150; number += 1) report(usage, `c-${number}`);
  await usage.flush();
  assert.deepEqual(api.texts.map(text => eventsOf(text).length), [100, 50]);

  // The longest records that are valid: an event of 100 is a request of its own, of less than 1 MB.
  const cost = {
    provider: '"'.repeat(64), model: '"'.repeat(128), input_tokens: 1e8, output_tokens: 1e8, tokens: 1e8,
    micro_usd: 1e11, unpriced: false,
  };
  const longest: Partial<UsageRecord> = {
    request_id: '"'.repeat(128), key_id: 'k'.repeat(64), plan: 'p'.repeat(32), method: '"'.repeat(16),
    endpoint: '"'.repeat(256), status: 599, latency_ms: 1e8, request_bytes: 1e12, response_bytes: 1e12,
    truncated: 'interrupted', billable: false, costs: Array.from({length: 16}, () => cost),
  };
  const [long, usageOfLong] = reporter([counted, counted]);
  for (let number = 0; number < 200; number += 1) report(usageOfLong, 'acme', longest);
  await usageOfLong.flush();
  assert.deepEqual(long.texts.map(text => eventsOf(text).length), [1, 1]);
  assert(Math.max(...long.texts.map(text => Buffer.byteLength(text))) < 1 << 20);
});

test('size and time send', async () => {
  for (const [records, flushIntervalMs] of [[100, NEVER_MS], [1, 5]] as const) {
    await new Promise<void>((resolve, reject) => {
      const [, usage] = reporter([text => (resolve(), counted(text))], {flushIntervalMs});
      // The timer of the reporter does not keep the program from ending, which is why this one must.
      setTimeout(reject, 10_000, new Error(`${records} records are not sent`));
      for (let number = 0; number < records; number += 1) report(usage);
    });
  }
});

test('a lost response is sent again as the same event', async () => {
  const [api, usage] = reporter([lost(), unavailable(), problem(500, 'internal'), counted]);
  report(usage);
  await usage.flush();
  assert.equal(api.texts.length, 4);
  assert.equal(new Set(api.texts).size, 1);
  assert.deepEqual(api.clock.waits, [125, 250, 500]);
});

test('usage stays while it cannot be sent', async () => {
  const [api, usage] = reporter([unavailable('60'), counted]);
  report(usage);
  await assert.rejects(usage.flush({timeoutMs: 30_000}), UnavailableError);
  assert.deepEqual([usage.bufferedRecords, api.clock.waits], [1, []]);
  report(usage);
  await usage.flush();
  const [first, second] = api.texts.map(eventsOf);
  assert.deepEqual([second![0], second!.length], [first![0], 2]);
  assert.equal(usage.bufferedRecords, 0);
});

test('invalid records are separated', async () => {
  const first = rejecting('/events/0/data/records/1', '/events/0/data/records/3/time', '/events/2/data/records/0');
  const given: UndeliveredEvent[] = [];
  const [api, usage] = reporter([first, lost(), counted], {onUndelivered: all => given.push(...all)});
  for (let number = 0; number < 4; number += 1) report(usage, 'a', {request_id: `a${number}`});
  report(usage, 'b', {request_id: 'b0'});
  report(usage, 'c', {request_id: 'c0'});
  await usage.flush();
  assert.deepEqual(given.map(({kind, event, reasons}) => [kind, requestIds(event), reasons]), [
    ['rejected', ['a1', 'a3'], ['bad /events/0/data/records/1', 'bad /events/0/data/records/3/time']],
    ['rejected', ['c0'], ['bad /events/2/data/records/0']],
  ]);
  const [before, again] = [eventsOf(api.texts[0]!), eventsOf(api.texts[2]!)];
  assert.equal(api.texts[1], api.texts[2]);
  // The rest keeps its identity.
  assert.deepEqual(again.map(({id}) => id), before.slice(0, 2).map(({id}) => id));
  assert.deepEqual(again.map(requestIds), [['a0', 'a2'], ['b0']]);
  assert.equal(usage.bufferedRecords, 0);
});

test('invalid events are separated', async () => {
  const given: UndeliveredEvent[] = [];
  const [api, usage] = reporter([rejecting('/events/0'), counted], {onUndelivered: all => given.push(...all)});
  report(usage, 'a');
  report(usage, 'b');
  await usage.flush();
  assert.deepEqual(given.map(({event, reasons}) => [event.subject, reasons]), [['a', ['bad /events/0']]]);
  assert.deepEqual(eventsOf(api.texts[1]!).map(({subject}) => subject), ['b']);
});

test('rejections without pointers', async () => {
  for (const reply of [rejecting(), rejecting('/events/7'), rejecting('elsewhere')]) {
    const [, usage] = reporter([reply]);
    report(usage);
    assert.equal((await undelivered(usage.flush())).length, 1);
  }
});

test('a malformed request is divided', async () => {
  const reply = (text: string) => (text.includes('"subject":"c-2"') ? problem(400, 'bad-request') : counted(text));
  const given: UndeliveredEvent[] = [];
  const [, usage] = reporter([reply, reply, reply, reply, reply], {onUndelivered: all => given.push(...all)});
  for (let number = 0; number < 4; number += 1) report(usage, `c-${number}`);
  await usage.flush();
  assert.deepEqual(given.map(({event}) => event.subject), ['c-2']);
  assert.equal(usage.bufferedRecords, 0);
});

test('conflicts are handed over and the rest is counted', async () => {
  const given: UndeliveredEvent[] = [];
  const conflict = problem(409, 'conflict', {}, {conflicts: ['/events/1'], quarantined: []});
  const [api, usage] = reporter([conflict], {onUndelivered: all => given.push(...all)});
  for (const customer of ['a', 'b', 'c']) report(usage, customer);
  await usage.flush();
  assert.deepEqual(given.map(({kind, event}) => [kind, event.subject]), [['conflict', 'b']]);
  assert.deepEqual([api.texts.length, usage.bufferedRecords], [1, 0]);
});

test('a rejected key is raised with the events', async () => {
  const [, usage] = reporter([problem(401, 'unauthorized')]);
  report(usage);
  const [one] = await undelivered(usage.flush());
  assert.deepEqual([one!.kind, one!.event.subject], ['rejected', 'acme']);
  assert(one!.error instanceof UnauthorizedError);
  await usage.flush();
});

test('a full buffer throws and drops nothing', async () => {
  const [api, usage] = reporter([counted, counted], {maxBufferedRecords: 3});
  for (let number = 0; number < 3; number += 1) report(usage, 'acme', {request_id: `${number}`});
  for (let number = 0; number < 2; number += 1) assert.throws(() => report(usage), BufferFullError);
  await usage.flush();
  assert.deepEqual(eventsOf(api.texts[0]!).map(requestIds), [['0', '1', '2']]);
  report(usage);
  assert.equal(usage.bufferedRecords, 1);
  await usage.close();
});

test('usage that nobody took is kept', async t => {
  const printed = t.mock.method(console, 'error', () => undefined);
  const onUndelivered = () => Promise.reject(new Error('not now'));
  const [, usage] = reporter([rejecting('/events/0')], {onUndelivered});
  report(usage);
  assert.equal((await undelivered(usage.flush())).length, 1);
  assert.equal(printed.mock.callCount(), 1);
  assert.equal(usage.bufferedRecords, 0);
});

test('onUndelivered can report and not flush', async () => {
  let failed: unknown;
  const [api, usage] = reporter([rejecting('/events/0'), counted], {
    onUndelivered: async () => {
      report(usage, 'acme', {request_id: 'corrected'});
      failed = await usage.flush().catch((error: unknown) => error);
    },
  });
  report(usage);
  await usage.flush();
  await usage.flush();
  assert.match(String(failed), /cannot send usage/);
  assert.deepEqual([api.texts.length, usage.bufferedRecords], [2, 0]);
});

test('close hands over the rest which can be sent again', async () => {
  const [api, usage] = reporter(Array.from({length: 9}, lost), {closeTimeoutMs: 4_000});
  report(usage);
  const [one] = await undelivered(usage.close());
  assert(api.clock.waits.reduce((sum, wait) => sum + wait) <= 4_000);
  assert.equal(one!.kind, 'unsent');
  assert.throws(() => report(usage), /the reporter is closed/);

  const [again, later] = reporter([counted]);
  later.resend(JSON.parse(JSON.stringify(one!.event)) as UsageEvent);
  await later.flush();
  assert.equal(again.texts[0], api.texts[0]);
  await later[Symbol.asyncDispose]();
});

test('rounds at the same time send nothing twice', async () => {
  const [api, usage] = reporter([counted, counted, counted]);
  report(usage, 'a');
  const first = usage.flush();
  report(usage, 'b');
  await Promise.all([first, usage.flush(), usage.close()]);
  const subjects = api.texts.flatMap(eventsOf).map(({subject}) => subject);
  assert.deepEqual(subjects.sort(), ['a', 'b']);
});

test('invalid records throw at once', () => {
  const [, usage] = reporter([]);
  const check = (members: Record<string, unknown>) =>
    assert.throws(() => report(usage, 'acme', members), InvalidRecordError, JSON.stringify(members));
  assert.throws(() => report(usage, '..'), InvalidRecordError);
  check({time: new Date(NaN)});
  check({request_id: ''});
  check({request_id: 'é'.repeat(65)});
  check({request_id: '\ud800'});
  check({endpoint: '/a\n'});
  check({method: 'GET '});
  check({key_id: 'key 1'});
  check({plan: 'Pro'});
  check({plan: 'pro\n'});
  check({status: 200.5});
  check({status: 99});
  check({latency_ms: '5'});
  check({latency_ms: -1});
  check({request_bytes: 1e12 + 1});
  check({truncated: 'cut'});
  check({billable: 'yes'});
  check({misspelt: 1});
  check({costs: Array.from({length: 17}, () => ({micro_usd: 1}))});
  check({costs: [{tokens: 1}]});
  check({costs: [{micro_usd: 1.5}]});
  check({costs: [{micro_usd: 1, modell: 'x'}]});
  check({costs: [{micro_usd: 1, provider: ''}]});
  assert.equal(usage.bufferedRecords, 0);
});

test('records of the documentation are valid', () => {
  const text = readFileSync(join(ROOT, 'docs/usage-event.md'), 'utf8');
  const event = JSON.parse(/```json\n(.*?)```/s.exec(text)![1]!) as UsageEvent;
  event.data.records.forEach(checkRecord);
});

/** Runs a program that reports usage and does not close the reporter. Returns what it printed to standard error. */
async function runProgram(url: string, ending = ''): Promise<string> {
  const program = `
    import {Client} from ${JSON.stringify(new URL('../src/index.js', import.meta.url).href)};
    const usage = new Client().usageReporter('test', {closeTimeoutMs: 0});
    usage.report('acme', {key_id: 'k', plan: 'pro', method: 'GET', endpoint: '/', status: 200, latency_ms: 1});
    ${ending}`;
  const env = {...process.env, TOLLGATE_URL: url, TOLLGATE_KEY: KEY};
  const options = {env, timeout: 60_000};
  const {stderr} = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], options);
  return stderr;
}

test('the end of the program sends the rest', async () => {
  const bodies: string[] = [];
  const server = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', chunk => (body += chunk)).on('end', () => {
      bodies.push(body);
      response.end('{"data": [], "quarantined": [], "quarantined_more": []}');
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    const stderr = await runProgram(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    assert.equal(stderr, '');
    assert.deepEqual(bodies.flatMap(eventsOf).map(({subject}) => subject), ['acme']);
  } finally {
    server.close();
  }
});

test('the end of the program prints what it cannot send', async () => {
  // Nothing listens on port 1.
  for (const ending of ['', 'process.exit()']) {
    const stderr = await runProgram('http://127.0.0.1:1', ending);
    assert.match(stderr, /usage was not delivered/);
    assert.equal((JSON.parse(stderr.slice(stderr.indexOf('{"specversion'))) as UsageEvent).subject, 'acme');
    assert(!stderr.includes(KEY));
  }
});
