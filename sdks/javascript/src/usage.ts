// Reporting of usage that was metered elsewhere than in Tollgate's layer.

import {AsyncLocalStorage} from 'node:async_hooks';
import {randomBytes, randomUUID} from 'node:crypto';

import {
  BadRequestError,
  BodyTooLargeError,
  ConflictError,
  ProblemError,
  TollgateError,
  UnprocessableError,
  mayPass,
} from './errors.js';
import {type Clock, type Retries, delayMs} from './retry.js';

// Bounds of docs/usage-event.md. A request has at most 1 MB, and a full usage event of the longest records fits.
const MAX_RECORDS = 100;
const MAX_EVENTS = 100;
const MAX_REQUEST_BYTES = 900_000;
const MAX_COSTS = 16;
const MAX_COUNT = 100_000_000;
const MAX_BYTES = 1_000_000_000_000;
const MAX_MICRO_USD = 100_000_000_000;
// Longest wait of the timer between attempts, unless `Retry-After` is longer.
const MAX_WAIT_MS = 60_000;
const MAX_TIMER_MS = 2 ** 31 - 1;

/** A provider cost of a call. Tokens are `input_tokens` and `output_tokens`, or `tokens` if not distinguished. */
export interface Cost {
  /** Millionths of a US dollar. */
  micro_usd: number;
  provider?: string;
  model?: string;
  input_tokens?: number;
  output_tokens?: number;
  tokens?: number;
  /** Whether the tokens have no known price. */
  unpriced?: boolean;
}

/** The usage record of a call. docs/usage-event.md describes its members. */
export interface UsageRecord {
  key_id: string;
  plan: string;
  method: string;
  /** Route template. */
  endpoint: string;
  status: number;
  latency_ms: number;
  /** Time at which the call arrived; by default now. */
  time?: Date;
  /** Text that identifies the request; by default a random one. */
  request_id?: string;
  request_bytes?: number;
  response_bytes?: number;
  truncated?: 'failed' | 'dropped' | 'interrupted';
  billable?: boolean;
  costs?: readonly Cost[];
}

/** A usage event, as it is sent. */
export interface UsageEvent {
  specversion: '1.0';
  id: string;
  source: string;
  type: 'tollgate.usage.v1';
  time: string;
  /** Customer. */
  subject: string;
  data: {records: readonly Readonly<Record<string, unknown>>[]};
}

/** A usage event, or the rejected records of one, that the API does not count. */
export interface UndeliveredEvent {
  /** The usage event; if only some of its records were rejected, it has only those. */
  event: UsageEvent;
  /**
   * `rejected`: it is invalid, or the key may not report it; report its records again once they are corrected.
   * `conflict`: another event has its identity. `unsent`: the API could not be reached; `resend` sends it unchanged, so
   * that it is counted once even if it arrived.
   */
  kind: 'rejected' | 'conflict' | 'unsent';
  /** A reason for the event, or one for each of its rejected records. */
  reasons: string[];
  error: unknown;
}

/** Options of a reporter of usage. */
export interface UsageReporterOptions {
  /** Longest time that a record is buffered before it is sent; 5,000 by default. */
  flushIntervalMs?: number;
  /** Bound beyond which `report` throws a `BufferFullError`; 10,000 by default. */
  maxBufferedRecords?: number;
  /** Time that `close` tries to send what is left; 10,000 by default. */
  closeTimeoutMs?: number;
  /**
   * Function that takes usage that cannot be delivered; what it returns is awaited. It may report and resend usage, and
   * not flush or close. Without it, `flush` and `close` reject with an `UndeliveredUsageError`.
   */
  onUndelivered?: (undelivered: UndeliveredEvent[]) => unknown;
}

/** A usage record that the API would reject. It was not buffered. */
export class InvalidRecordError extends TollgateError {}

/**
 * The buffer is full, because usage comes faster than it is delivered or nothing can be delivered. The record was not
 * buffered: report it again later, or keep it elsewhere.
 */
export class BufferFullError extends TollgateError {}

/** Usage that cannot be delivered. The reporter no longer has it. */
export class UndeliveredUsageError extends TollgateError {
  readonly undelivered: readonly UndeliveredEvent[];

  constructor(undelivered: readonly UndeliveredEvent[]) {
    const reasons = new Set(undelivered.flatMap(one => one.reasons));
    super(`${countRecords(undelivered)} usage records were not delivered: ${[...reasons].join('; ')}`);
    this.undelivered = undelivered;
  }
}

/** A usage event as it is sent each time: its text never changes, since another one would be another event. */
class Sealed {
  readonly event: UsageEvent;
  readonly number: number;
  readonly text: string;
  readonly bytes: number;

  constructor(event: UsageEvent, number: number) {
    this.event = event;
    this.number = number;
    this.text = JSON.stringify(event);
    this.bytes = Buffer.byteLength(this.text);
  }

  get records(): UsageEvent['data']['records'] {
    return this.event.data.records;
  }

  withRecords(records: UsageEvent['data']['records']): UsageEvent {
    return {...this.event, data: {records}};
  }
}

/**
 * Returns a UUID of version 7 (RFC 9562), which makes counting cheaper than other ids.
 * @internal
 */
export function uuid7(clock: Clock): string {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(clock.now(), 0, 6);
  bytes[6] = (bytes[6]! & 0x0f) | 0x70;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/** Reporters with a timer or a buffer, for the exit of the program. */
const open = new Set<UsageReporter>();
let watchesExit = false;

/** Sends what is left when the program has nothing else to do, and prints what `process.exit` left no time to send. */
function watchExit(): void {
  if (watchesExit) return;
  watchesExit = true;
  process.on('beforeExit', () => {
    for (const reporter of open) {
      reporter.close().catch((error: unknown) => {
        // Nobody can handle the error any more. As text the events can still be sent.
        if (error instanceof UndeliveredUsageError) print(error.undelivered);
        else console.error(error);
      });
    }
  });
  process.on('exit', () => {
    for (const reporter of open) print(reporter.abandon());
  });
}

function print(undelivered: Iterable<UndeliveredEvent>): void {
  for (const {event, reasons} of undelivered) {
    console.error(`tollgate: usage was not delivered (${reasons.join('; ')}): ${JSON.stringify(event)}`);
  }
}

/**
 * Buffers usage records, and sends them in usage events of up to 100 records of one customer.
 *
 * It sends when a customer has 100 records, and after `flushIntervalMs`. `flush` sends at once; `close`, `await using`
 * and the end of the program send the rest; what `process.exit` leaves no time for is printed to standard error. Usage
 * that cannot be sent for the moment stays in the buffer, and is sent again under the same identity, so that it is
 * counted once. What the API rejects is handed over, and the rest of its event is sent without it, under the same
 * identity.
 *
 * Create it by `Client.usageReporter`.
 */
export class UsageReporter implements AsyncDisposable {
  readonly #post: (body: string, signal?: AbortSignal) => Promise<void>;
  readonly #source: string;
  readonly #options: Required<Omit<UsageReporterOptions, 'onUndelivered'>>;
  readonly #onUndelivered: UsageReporterOptions['onUndelivered'];
  readonly #retries: Retries;
  readonly #clock: Clock;
  /** Records of events to come, by customer. */
  #open = new Map<string, Record<string, unknown>[]>();
  /** Events to be sent, by number. */
  readonly #sealed = new Map<number, Sealed>();
  #nextNumber = 0;
  #undelivered: UndeliveredEvent[] = [];
  /** Records that are open, sealed, or undelivered and not yet handed over. */
  #buffered = 0;
  /** Rounds that failed since the last success, and the time before which the timer begins none. */
  #failures = 0;
  #notBefore = 0;
  #timer: NodeJS.Timeout | undefined;
  #isUrgent = false;
  /** Settles when the last round that was begun has ended: two never send the same event at once. */
  #round: Promise<unknown> = Promise.resolve();
  readonly #handingOver = new AsyncLocalStorage<true>();
  #closing: Promise<void> | undefined;

  /** @internal */
  constructor(
    post: (body: string, signal?: AbortSignal) => Promise<void>,
    source: string,
    {onUndelivered, ...options}: UsageReporterOptions,
    retries: Retries,
    clock: Clock,
  ) {
    checkText('source', source, 128);
    this.#post = post;
    this.#source = source;
    this.#options = {flushIntervalMs: 5_000, maxBufferedRecords: 10_000, closeTimeoutMs: 10_000, ...options};
    this.#onUndelivered = onUndelivered;
    this.#retries = retries;
    this.#clock = clock;
  }

  /** Number of records that are neither counted nor handed over. */
  get bufferedRecords(): number {
    return this.#buffered;
  }

  /**
   * Buffers the usage record of a call. Throws an `InvalidRecordError` if the API would reject it, and a
   * `BufferFullError` if the buffer is full.
   */
  report(customerId: string, record: UsageRecord): void {
    check('customer_id', /^[A-Za-z0-9_.-]{1,64}$/.test(customerId) && !['.', '..'].includes(customerId));
    const {time = new Date(this.#clock.now()), request_id: requestId = randomUUID(), ...rest} = record;
    check('time', time instanceof Date && !Number.isNaN(time.getTime()));
    const checked = {time: time.toISOString(), request_id: requestId, ...structuredClone(rest)};
    checkRecord(checked);
    this.#makeRoom(1);
    const records = this.#open.get(customerId) ?? [];
    this.#open.set(customerId, records);
    records.push(checked);
    if (records.length === MAX_RECORDS) {
      this.#open.delete(customerId);
      this.#seal(customerId, records);
      this.#schedule(0);
    } else {
      this.#schedule(this.#options.flushIntervalMs);
    }
  }

  /**
   * Buffers a usage event that could not be delivered, such as that of an `UndeliveredEvent` of the kind `unsent`. It
   * is sent unchanged, so that it is counted once even if an earlier attempt was counted. Throws a `BufferFullError`
   * if the buffer is full.
   */
  resend(event: UsageEvent): void {
    this.#makeRoom(event.data.records.length);
    this.#enqueue(structuredClone(event));
    this.#schedule(0);
  }

  /**
   * Sends everything that has been reported so far. Rejects with a `NoResponseError` or a `ProblemError` if the API
   * could not be reached in this time; what was not sent then stays in the buffer, and the timer goes on sending it.
   * Rejects with an `UndeliveredUsageError` if some usage cannot be delivered, now or since the last call, and there
   * is no `onUndelivered`.
   */
  async flush({timeoutMs = 30_000}: {timeoutMs?: number} = {}): Promise<void> {
    await this.#sendAll(timeoutMs);
    this.#throwUndelivered();
  }

  /**
   * Sends the rest, for at most `closeTimeoutMs` and the attempt that is under way. Rejects with an
   * `UndeliveredUsageError` if some usage was not delivered and there is no `onUndelivered`; the events have the kind
   * `unsent` if the API could not be reached.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    clearTimeout(this.#timer);
    try {
      await this.#sendAll(this.#options.closeTimeoutMs);
    } catch (error) {
      if (!(error instanceof TollgateError)) throw error;
      await this.#giveUp([...this.#sealed.values()], 'unsent', error);
    }
    open.delete(this);
    this.#throwUndelivered();
  }

  /**
   * Returns all usage that was not delivered, when the program ends.
   * @internal
   */
  abandon(): UndeliveredEvent[] {
    this.#sealAll();
    const error = new TollgateError('the program ended');
    const reasons = [error.message];
    const unsent = [...this.#sealed.values()].map(({event}) => ({event, kind: 'unsent' as const, reasons, error}));
    return [...this.#undelivered, ...unsent];
  }

  /** Takes up room in the buffer for records. */
  #makeRoom(records: number): void {
    if (this.#closing) throw new Error('the reporter is closed');
    if (this.#buffered + records > this.#options.maxBufferedRecords) {
      throw new BufferFullError(`${this.#buffered} usage records are buffered`);
    }
    this.#buffered += records;
    open.add(this);
    watchExit();
  }

  /** Makes an event of records, which decides its identity. */
  #seal(customerId: string, records: Record<string, unknown>[]): void {
    this.#enqueue({
      specversion: '1.0',
      id: uuid7(this.#clock),
      source: this.#source,
      type: 'tollgate.usage.v1',
      time: new Date(this.#clock.now()).toISOString(),
      subject: customerId,
      data: {records},
    });
  }

  #sealAll(): void {
    for (const [customerId, records] of this.#open) this.#seal(customerId, records);
    this.#open.clear();
  }

  #enqueue(event: UsageEvent): void {
    this.#sealed.set(this.#nextNumber, new Sealed(event, this.#nextNumber));
    this.#nextNumber += 1;
  }

  /** Sends after a wait, and not before the time that a failure has set. */
  #schedule(waitMs: number): void {
    if (this.#closing) return;
    // A timer for what is due at once replaces one for what is due later.
    const isUrgent = waitMs === 0;
    if (this.#timer && (this.#isUrgent || !isUrgent)) return;
    clearTimeout(this.#timer);
    this.#isUrgent = isUrgent;
    const wait = Math.min(Math.max(waitMs, this.#notBefore - this.#clock.now()), MAX_TIMER_MS);
    this.#timer = setTimeout(() => void this.#sendDue(), wait);
    // A buffer must not keep the program from ending: what is left is sent then.
    this.#timer.unref();
  }

  async #sendDue(): Promise<void> {
    // What failed stays in the buffer, and is due again below.
    await this.#sendRound().catch(() => undefined);
    this.#timer = undefined;
    if (this.#sealed.size) this.#schedule(0);
    else if (this.#open.size) this.#schedule(this.#options.flushIntervalMs);
  }

  /** Sends what is buffered, with retries. Rejects with the error of the last attempt. */
  async #sendAll(timeoutMs: number): Promise<void> {
    const started = this.#clock.now();
    const retries = {...this.#retries, attempts: Infinity, totalMs: timeoutMs};
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.#sendRound();
      } catch (error) {
        if (!(error instanceof TollgateError)) throw error;
        const after = error instanceof ProblemError ? error.retryAfterS : undefined;
        const elapsed = this.#clock.now() - started;
        const delay = delayMs(retries, Math.min(attempt, 32), elapsed, after, this.#clock);
        if (delay === undefined) throw error;
        await this.#clock.sleep(delay);
      }
    }
  }

  /**
   * Sends each event of the buffer until it is counted or given up. Rejects if the API cannot be reached; what was not
   * sent then stays in the buffer.
   */
  #sendRound(): Promise<void> {
    if (this.#handingOver.getStore()) {
      return Promise.reject(new Error('onUndelivered cannot send usage, it can only report it'));
    }
    const round = this.#round.then(async () => {
      this.#sealAll();
      try {
        for (const batch of batches([...this.#sealed.values()])) await this.#deliver(batch);
        this.#failures = 0;
      } catch (error) {
        this.#failures += 1;
        const after = error instanceof ProblemError ? (error.retryAfterS ?? 0) * 1_000 : 0;
        const wait = Math.min(MAX_WAIT_MS, this.#options.flushIntervalMs * 2 ** Math.min(this.#failures - 1, 10));
        this.#notBefore = this.#clock.now() + Math.max(after, wait);
        throw error;
      }
    });
    this.#round = round.catch(() => undefined);
    return round;
  }

  /** Sends the events of one request. */
  async #deliver(batch: Sealed[]): Promise<void> {
    const todo = [batch];
    for (let events = todo.pop(); events; events = todo.pop()) {
      try {
        await this.#post(`{"events":[${events.map(event => event.text).join()}]}`);
      } catch (error) {
        if (error instanceof ConflictError) {
          const conflicts = new Set(error.conflicts.map(pointer => pointed(pointer)?.event));
          const named = events.filter((_, index) => conflicts.has(index));
          // A conflict that names none cannot be one of usage events.
          const given = named.length ? named : events;
          this.#settle(events.filter(event => !given.includes(event)));
          await this.#giveUp(given, 'conflict', error);
        } else if (error instanceof UnprocessableError) {
          const rest = await this.#separate(events, error);
          if (rest.length) todo.push(rest);
        } else if ((error instanceof BadRequestError || error instanceof BodyTooLargeError) && events.length > 1) {
          const middle = Math.floor(events.length / 2);
          todo.push(events.slice(middle), events.slice(0, middle));
        } else if (error instanceof ProblemError && error.status < 500 && !mayPass(error)) {
          await this.#giveUp(events, 'rejected', error);
        } else {
          throw error;
        }
        continue;
      }
      this.#settle(events);
    }
  }

  /** Gives up the invalid events and records of a request of which nothing was counted. Returns the rest. */
  async #separate(events: Sealed[], error: UnprocessableError): Promise<Sealed[]> {
    const reasons = new Map<number, Map<number | undefined, string>>();
    for (const {pointer, reason} of error.defects) {
      const found = pointed(pointer);
      if (!found || found.event >= events.length) continue;
      const ofEvent = reasons.get(found.event) ?? new Map<number | undefined, string>();
      reasons.set(found.event, ofEvent.set(found.record, reason));
    }
    if (!reasons.size) {
      await this.#giveUp(events, 'rejected', error);
      return [];
    }
    const rest: Sealed[] = [];
    for (let index = 0; index < events.length; index += 1) {
      const [event, found] = [events[index]!, reasons.get(index)];
      if (!found) {
        rest.push(event);
        continue;
      }
      const isRejected = (at: number) => found.has(at);
      const valid = event.records.filter((_, at) => !isRejected(at));
      const invalid = event.records.filter((_, at) => isRejected(at));
      if (invalid.length < found.size || !valid.length) {
        await this.#giveUp([event], 'rejected', error, [...found.values()]);
        continue;
      }
      // The identity stays: should an attempt without a response have been counted after all, this one is a conflict,
      // while another identity would count the valid records twice.
      const trimmed = new Sealed(event.withRecords(valid), event.number);
      this.#sealed.set(event.number, trimmed);
      const ofInvalid = event.records.flatMap((_, at) => found.get(at) ?? []);
      await this.#handOver([{event: event.withRecords(invalid), kind: 'rejected', reasons: ofInvalid, error}]);
      rest.push(trimmed);
    }
    return rest;
  }

  /** Forgets events that are counted. */
  #settle(events: Iterable<Sealed>): void {
    for (const event of events) {
      this.#sealed.delete(event.number);
      this.#buffered -= event.records.length;
    }
  }

  async #giveUp(
    events: Sealed[],
    kind: UndeliveredEvent['kind'],
    error: Error,
    reasons: string[] = [error.message],
  ): Promise<void> {
    for (const event of events) this.#sealed.delete(event.number);
    await this.#handOver(events.map(({event}) => ({event, kind, reasons, error})));
  }

  /** Passes usage to `onUndelivered`, or keeps it for the next `flush` or `close`. */
  async #handOver(undelivered: UndeliveredEvent[]): Promise<void> {
    if (!undelivered.length) return;
    if (this.#onUndelivered) {
      try {
        await this.#handingOver.run(true, async () => await this.#onUndelivered!(undelivered));
        this.#buffered -= countRecords(undelivered);
        return;
      } catch (error) {
        console.error('tollgate: onUndelivered failed; flush or close will reject with what it did not take', error);
      }
    }
    this.#undelivered.push(...undelivered);
  }

  #throwUndelivered(): void {
    const undelivered = this.#undelivered;
    this.#undelivered = [];
    this.#buffered -= countRecords(undelivered);
    if (undelivered.length) throw new UndeliveredUsageError(undelivered);
  }
}

function countRecords(undelivered: readonly UndeliveredEvent[]): number {
  return undelivered.reduce((sum, {event}) => sum + event.data.records.length, 0);
}

/** Divides events into requests of at most 100 events and 900 kB. */
function* batches(events: Iterable<Sealed>): Generator<Sealed[]> {
  let batch: Sealed[] = [];
  let bytes = 0;
  for (const event of events) {
    if (batch.length && (batch.length === MAX_EVENTS || bytes + event.bytes > MAX_REQUEST_BYTES)) {
      yield batch;
      [batch, bytes] = [[], 0];
    }
    batch.push(event);
    bytes += event.bytes + 1;
  }
  if (batch.length) yield batch;
}

/** Returns the indexes of event and record of a JSON pointer into a request. */
function pointed(pointer: string): {event: number; record: number | undefined} | undefined {
  const found = /^\/events\/([0-9]+)(?:\/data\/records\/([0-9]+))?(?:\/.*)?$/.exec(pointer);
  return found ? {event: Number(found[1]), record: found[2] === undefined ? undefined : Number(found[2])} : undefined;
}

/**
 * Checks a usage record as the API does, except what depends on the current time and on stored keys: one invalid record
 * delays all others of its request. Throws an `InvalidRecordError`.
 * @internal
 */
export function checkRecord(record: Readonly<Record<string, unknown>>): void {
  const {method, truncated, billable, costs = []} = record;
  checkMembers(record, [
    'time', 'request_id', 'key_id', 'plan', 'method', 'endpoint', 'status', 'latency_ms', 'request_bytes',
    'response_bytes', 'truncated', 'billable', 'costs',
  ]);
  checkText('request_id', record['request_id'], 128);
  checkText('method', method, 16);
  check('method', !method.includes(' '));
  checkText('endpoint', record['endpoint'], 256);
  checkPattern('key_id', record['key_id'], /^[A-Za-z0-9_-]{1,64}$/);
  checkPattern('plan', record['plan'], /^[a-z0-9-]{1,32}$/);
  checkInteger('status', record['status'], 100, 599);
  checkInteger('latency_ms', record['latency_ms'], 0, MAX_COUNT);
  for (const name of ['request_bytes', 'response_bytes']) checkInteger(name, record[name] ?? 0, 0, MAX_BYTES);
  check('truncated', [undefined, 'failed', 'dropped', 'interrupted'].includes(truncated as string | undefined));
  check('billable', ['boolean', 'undefined'].includes(typeof billable));
  check('costs', Array.isArray(costs) && costs.length <= MAX_COSTS);
  for (const cost of costs as Readonly<Record<string, unknown>>[]) {
    checkMembers(cost, ['micro_usd', 'provider', 'model', 'input_tokens', 'output_tokens', 'tokens', 'unpriced']);
    checkInteger('micro_usd', cost['micro_usd'], 0, MAX_MICRO_USD);
    for (const name of ['input_tokens', 'output_tokens', 'tokens']) checkInteger(name, cost[name] ?? 0, 0, MAX_COUNT);
    if (cost['provider'] !== undefined) checkText('provider', cost['provider'], 64);
    if (cost['model'] !== undefined) checkText('model', cost['model'], 128);
    check('unpriced', ['boolean', 'undefined'].includes(typeof cost['unpriced']));
  }
}

function check(name: string, isValid: boolean): asserts isValid {
  if (!isValid) throw new InvalidRecordError(`${name} is not valid in a usage record`);
}

function checkMembers(object: object, names: string[]): void {
  for (const name of Object.keys(object)) check(name, names.includes(name));
}

function checkPattern(name: string, value: unknown, pattern: RegExp): void {
  check(name, typeof value === 'string' && pattern.test(value));
}

function checkText(name: string, value: unknown, maxBytes: number): asserts value is string {
  const isText = typeof value === 'string' && value !== '' && !/[\x00-\x1f\x7f-\x9f]|\p{Surrogate}/u.test(value);
  check(name, isText && Buffer.byteLength(value) <= maxBytes);
}

function checkInteger(name: string, value: unknown, least: number, most: number): void {
  check(name, Number.isInteger(value) && (value as number) >= least && (value as number) <= most);
}
