// Sending of requests: attempts, retries and errors.

import {randomUUID} from 'node:crypto';

import createClient, {type Client as Http} from 'openapi-fetch';

import {InvalidResponseError, NoResponseError, ProblemError, mayPass, problemOf} from './errors.js';
import type {paths} from './generated/schema.js';
import {type Clock, type Retries, delayMs, retryAfterS} from './retry.js';
import {VERSION} from './version.js';

/** Options of one call. */
export interface RequestOptions {
  /** Aborts the call, its retries included. It then rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** Options of a call that creates something. */
export interface CreateOptions extends RequestOptions {
  /** Idempotency key; by default a new one for this call and its retries. */
  idempotencyKey?: string;
}

/** Properties of an operation. */
interface Facts {
  /** Whether it has the same effect however often it is sent. */
  repeatable: boolean;
  /** Whether it has an `Idempotency-Key`. */
  idempotencyKey?: boolean;
}

/** What one attempt adds to a request. */
interface Init {
  headers: Record<string, string>;
  signal: AbortSignal;
  fetch: (request: Request) => Promise<Response>;
}

interface Received<Result> {
  data?: Result;
  error?: unknown;
  response: Response;
}

/** @internal */
export interface Connection {
  baseUrl: string;
  key: string;
  timeoutMs: number;
  retries: Retries;
  clock: Clock;
  fetch: typeof globalThis.fetch;
}

/**
 * Returns a path parameter. These values would lead to another resource, since URLs are normalised.
 * @internal
 */
export function segment(value: string): string {
  if (['', '.', '..'].includes(value)) throw new TypeError(`${JSON.stringify(value)} cannot be part of a path`);
  return value;
}

/** Sends the requests of the operations. */
export abstract class Caller {
  /** @internal */
  protected readonly http: Http<paths>;
  readonly #connection: Omit<Connection, 'key'>;

  /** @internal */
  protected constructor({key, ...connection}: Connection) {
    this.#connection = connection;
    this.http = createClient<paths>({
      baseUrl: connection.baseUrl,
      // A redirect could lead the key elsewhere.
      redirect: 'manual',
      headers: {'authorization': `Bearer ${key}`, 'user-agent': `tollgate-javascript/${VERSION}`},
    });
  }

  /**
   * Sends a request and returns the content of its response.
   * @internal
   */
  protected async call<Result>(
    facts: Facts,
    options: CreateOptions | undefined,
    send: (init: Init) => Promise<Received<Result>>,
  ): Promise<Result> {
    const {data, response} = await this.send(facts, options, send);
    if (data === undefined) throw new InvalidResponseError(`The response with status ${response.status} is empty.`);
    return data;
  }

  /**
   * Sends a request, and again if that is allowed and can help.
   * @internal
   */
  protected async send<Result>(
    facts: Facts,
    options: CreateOptions | undefined,
    send: (init: Init) => Promise<Received<Result>>,
  ): Promise<Received<Result>> {
    const {clock, retries} = this.#connection;
    const headers: Record<string, string> = {};
    if (facts.idempotencyKey) headers['idempotency-key'] = options?.idempotencyKey ?? randomUUID();
    const started = clock.now();
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.attempt(headers, options?.signal, send);
      } catch (error) {
        if (!facts.repeatable || !mayPass(error)) throw error;
        const after = error instanceof ProblemError ? error.retryAfterS : undefined;
        const delay = delayMs(retries, attempt, clock.now() - started, after, clock);
        if (delay === undefined) throw error;
        try {
          await clock.sleep(delay, options?.signal);
        } catch (thrown) {
          options?.signal?.throwIfAborted();
          throw thrown;
        }
      }
    }
  }

  /**
   * Sends a request once. Returns only successes.
   * @internal
   */
  protected async attempt<Result>(
    headers: Record<string, string>,
    signal: AbortSignal | undefined,
    send: (init: Init) => Promise<Received<Result>>,
  ): Promise<Received<Result>> {
    signal?.throwIfAborted();
    const {clock, timeoutMs} = this.#connection;
    const timeout = AbortSignal.timeout(timeoutMs);
    let isSent = false;
    const fetch = (request: Request) => {
      isSent = true;
      return this.#connection.fetch(request);
    };
    let received: Received<Result>;
    try {
      received = await send({headers, signal: signal ? AbortSignal.any([signal, timeout]) : timeout, fetch});
    } catch (cause) {
      // Before that, the arguments of the call are at fault.
      if (!isSent) throw cause;
      signal?.throwIfAborted();
      if (cause instanceof SyntaxError) throw new InvalidResponseError('The response is not JSON.', {cause});
      const reason = cause instanceof Error && cause.cause instanceof Error ? cause.cause : cause;
      throw new NoResponseError(`No response was received: ${reason}`, {cause});
    }
    const {error, response} = received;
    if (!response.ok) {
      const {headers, status} = response;
      if (status < 400) throw new InvalidResponseError(`The status ${status} is not one of the API's.`);
      throw problemOf(status, error, retryAfterS(headers, clock));
    }
    return received;
  }
}
