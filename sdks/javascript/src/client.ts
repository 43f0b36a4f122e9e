// The client.

import {Operations} from './generated/operations.js';
import {type Clock, type Retries, defaultRetries, systemClock} from './retry.js';
import {UsageReporter, type UsageReporterOptions} from './usage.js';

/** Options of a client. */
export interface ClientOptions {
  /** URL of the API; by default the variable `TOLLGATE_URL`. */
  baseUrl?: string;
  /**
   * API key; by default the variable `TOLLGATE_KEY`. It is never printed. `null`, which a repeated creation returns in
   * place of the key, is an error, so that no other key takes its place.
   */
  key?: string | null;
  /** Longest wait for a response; 30,000 by default. */
  timeoutMs?: number;
  /** Limits of the attempts to send a request. */
  retries?: Partial<Retries>;
  /** Function that sends requests, for proxies or certificates of your own. */
  fetch?: typeof globalThis.fetch;
}

/**
 * Client of a Tollgate API.
 *
 * Requests that have the same effect however often they are sent are retried as `retries` says, after a 429 with
 * `Retry-After`, a 502, 503 or 504, and if there is no response.
 */
export class Client extends Operations {
  /** URL of the API. */
  readonly baseUrl: string;
  readonly #retries: Retries;
  readonly #clock: Clock;

  /** Throws a `TypeError` if there is no key, or no URL with `https` or `http`. */
  constructor(options?: ClientOptions);
  /** @internal */
  constructor(options: ClientOptions, clock: Clock);
  constructor(options: ClientOptions = {}, clock: Clock = systemClock) {
    const baseUrl = options.baseUrl ?? process.env['TOLLGATE_URL'] ?? '';
    const key = options.key === undefined ? process.env['TOLLGATE_KEY'] : options.key;
    if (!URL.canParse(baseUrl) || !/^https?:$/.test(new URL(baseUrl).protocol)) {
      throw new TypeError('baseUrl, or the variable TOLLGATE_URL, must be the URL of a Tollgate API');
    }
    if (!key) throw new TypeError('key, or the variable TOLLGATE_KEY, must be an API key');
    // fetch reports an invalid field with its value.
    if (!/^[!-~]+$/.test(key)) throw new TypeError('the API key has characters that no key has');
    const retries = {...defaultRetries, ...options.retries};
    const {timeoutMs = 30_000, fetch = globalThis.fetch} = options;
    super({baseUrl, key, timeoutMs, retries, clock, fetch});
    this.baseUrl = baseUrl;
    this.#retries = retries;
    this.#clock = clock;
  }

  /**
   * Creates a reporter of usage that was metered elsewhere. It needs an admin key.
   *
   * `source` is the name of the producer. With an id, it is the identity of a usage event.
   */
  usageReporter(source: string, options: UsageReporterOptions = {}): UsageReporter {
    const post = async (body: string, signal?: AbortSignal) => {
      await this.attempt({'content-type': 'application/json'}, signal, init =>
        this.http.POST('/admin/usage/events', {
          ...init,
          // The text of an event never changes, and serialising it again might change it.
          body: {events: []},
          bodySerializer: () => body,
        }));
    };
    return new UsageReporter(post, source, options, this.#retries, this.#clock);
  }

  /** Returns what is safe to print. */
  toJSON(): {baseUrl: string} {
    return {baseUrl: this.baseUrl};
  }

  override toString(): string {
    return `Client(${this.baseUrl})`;
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return this.toString();
  }
}
