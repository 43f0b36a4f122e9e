// When to send a request again.

import {setTimeout} from 'node:timers/promises';

/**
 * Time and chance. Tests have another one.
 * @internal
 */
export interface Clock {
  /** Returns the milliseconds since 1970. */
  now(): number;
  /** Waits. Rejects when the signal is aborted. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** Returns a number from 0 to 1, 1 excluded. */
  random(): number;
}

/** @internal */
export const systemClock: Clock = {
  now: () => Date.now(),
  sleep: (ms, signal) => setTimeout(ms, undefined, signal ? {signal} : {}),
  random: () => Math.random(),
};

/**
 * Limits of the attempts to send one request.
 *
 * A wait is random between 0 and a bound that doubles with each attempt, from `firstDelayMs` to `maxDelayMs`. If the
 * response has `Retry-After`, the wait is that time and a random part of `firstDelayMs`, so that clients that were
 * rejected together do not come back together.
 */
export interface Retries {
  /** Number of attempts, the first one included; 4 by default. With 1 there are no retries. */
  attempts: number;
  /** 250 by default. */
  firstDelayMs: number;
  /** 8,000 by default. */
  maxDelayMs: number;
  /** Time from the first attempt after which no other one begins; 30,000 by default. */
  totalMs: number;
}

/** @internal */
export const defaultRetries: Retries = {attempts: 4, firstDelayMs: 250, maxDelayMs: 8_000, totalMs: 30_000};

/**
 * Returns the wait in milliseconds after a failed attempt, the first of which is 1; `undefined` if it was the last.
 * @internal
 */
export function delayMs(
  retries: Retries,
  attempt: number,
  elapsedMs: number,
  retryAfterS: number | undefined,
  clock: Clock,
): number | undefined {
  if (attempt >= retries.attempts) return undefined;
  const delay = retryAfterS === undefined
    ? clock.random() * Math.min(retries.maxDelayMs, retries.firstDelayMs * 2 ** (attempt - 1))
    : retryAfterS * 1_000 + clock.random() * retries.firstDelayMs;
  return elapsedMs + delay <= retries.totalMs ? delay : undefined;
}

/**
 * Returns the seconds of the field `Retry-After`, which has seconds or a date (RFC 9110, 10.2.3).
 * @internal
 */
export function retryAfterS(headers: Headers, clock: Clock): number | undefined {
  const value = headers.get('retry-after')?.trim() ?? '';
  if (/^[0-9]+$/.test(value)) return Number(value);
  // The oldest form of a date names no time zone.
  const at = /^[A-Z][a-z]+,? /.test(value) ? Date.parse(value.endsWith('GMT') ? value : `${value} GMT`) : NaN;
  return Number.isNaN(at) ? undefined : Math.max(0, (at - clock.now()) / 1_000);
}
