// Recomputation of charges.

import {createHash} from 'node:crypto';

import type {Proof, RatedPlan, UsageRecords} from './generated/schema.js';

const MICRO_USD_PER_CENT = 10_000n;

/** Outcome of recomputing a charge. */
export interface ChargeCheck {
  /** Whether the charge is what the calls cost. */
  isRight: boolean;
  /** Amount that the calls of the proof cost, less what was charged before; negative for a credit. */
  dueMicroUsd: bigint;
  /** Ways in which the charge is not what the calls cost; empty if it is right. */
  wrong: string[];
  /**
   * Days and plans whose records have other calls now than the charge was computed from: what was counted later is in
   * a later charge or, once the month is closed, in none. Days before `proof.kept_from` always differ.
   */
  changed: {day: string; plan: string}[];
}

type Overage = Extract<RatedPlan['month'], {kind: 'overage'}>;

/** Sums by day and plan. */
class Sums {
  readonly #sums = new Map<string, bigint>();

  static key(day: string, plan: string): string {
    return `${day} ${plan}`;
  }

  add(key: string, calls: bigint): void {
    this.#sums.set(key, this.get(key) + calls);
  }

  get(key: string): bigint {
    return this.#sums.get(key) ?? 0n;
  }

  keys(): Iterable<string> {
    return this.#sums.keys();
  }
}

/**
 * Recomputes a charge from its proof, and compares the proof with the customer's records.
 *
 * ```ts
 * const proof = await client.getChargeProof('ci_acme_2026-11_0004');
 * const check = await verifyCharge(proof, client.listRecords({month: proof.charge.month}).byPage());
 * ```
 *
 * `pages` are the pages of all records of the month of the charge. Rejects with a `RangeError` if a number is beyond
 * those that JavaScript reads exactly from JSON.
 */
export async function verifyCharge(
  proof: Proof,
  pages: Iterable<UsageRecords> | AsyncIterable<UsageRecords>,
): Promise<ChargeCheck> {
  const [calls, adjusted] = [new Sums(), new Sums()];
  for await (const page of pages) {
    for (const record of page.data) {
      if (record.billable) calls.add(Sums.key(record.time.slice(0, 10), record.plan), 1n);
    }
    for (const {time, plan, billable_calls} of page.adjustments) {
      adjusted.add(Sums.key(time.slice(0, 10), plan), exact(billable_calls));
    }
  }

  const wrong: string[] = [];
  const digest = createHash('sha256');
  const byPlan = new Map<string, [string, bigint][]>();
  const [billedCalls, billedAdjusted] = [new Sums(), new Sums()];
  for (const row of proof.usage) {
    const adjustedCalls = exact(row.adjusted_calls);
    const sign = adjustedCalls > 0n ? ` +${adjustedCalls}` : adjustedCalls < 0n ? ` ${adjustedCalls}` : '';
    digest.update(`${row.day} ${row.plan} ${exact(row.calls)}${sign}\n`);
    byPlan.set(row.plan, [...(byPlan.get(row.plan) ?? []), [row.day, exact(row.calls) + adjustedCalls]]);
    billedCalls.add(Sums.key(row.day, row.plan), exact(row.calls));
    billedAdjusted.add(Sums.key(row.day, row.plan), adjustedCalls);
  }
  if (digest.digest('hex') !== proof.usage_digest) wrong.push('the calls do not have the digest of the ledger');

  let cost = 0n;
  for (const {month, plan} of proof.plans) {
    if (month.kind === 'overage') cost += overageMicroUsd(month, byPlan.get(plan) ?? []);
  }
  // Rounded once, half up to a cent; the cost is never negative.
  const rounded = (cost + MICRO_USD_PER_CENT / 2n) / MICRO_USD_PER_CENT * MICRO_USD_PER_CENT;
  const dueMicroUsd = rounded - exact(proof.charged_before.micro_usd);
  const charged = exact(proof.charge.amount.micro_usd);
  if (dueMicroUsd !== charged) wrong.push(`${dueMicroUsd} micro-dollars are due, and ${charged} are charged`);

  const uses = new Set([calls, adjusted, billedCalls, billedAdjusted].flatMap(sums => [...sums.keys()]));
  const changed = [...uses]
    .filter(use => calls.get(use) !== billedCalls.get(use) || adjusted.get(use) !== billedAdjusted.get(use))
    .sort()
    .map(use => ({day: use.slice(0, 10), plan: use.slice(11)}));
  return {isRight: !wrong.length, dueMicroUsd, wrong, changed};
}

/**
 * Returns the cost of a plan's calls beyond the included ones, from the calls of each day.
 * @internal
 */
export function overageMicroUsd(month: Overage, usage: Iterable<readonly [day: string, calls: bigint]>): bigint {
  const included = exact(month.included);
  let [total, beyond] = [0n, 0n];
  // Overage calls in the order in which they were made: numbers of them, each with its price.
  const priced: {number: bigint; price: bigint}[] = [];
  for (const [day, calls] of [...usage].sort(([a], [b]) => (a < b ? -1 : 1))) {
    total += calls;
    let more = (total > included ? total - included : 0n) - beyond;
    beyond += more;
    const price = month.prices.findLast(one => one.from <= day) ?? month.prices[0]!;
    if (more > 0n) priced.push({number: more, price: exact(price.micro_usd_per_call)});
    // Calls that are taken back are the latest ones, at their own prices.
    while (more < 0n) {
      const last = priced.at(-1)!;
      const removed = last.number < -more ? last.number : -more;
      last.number -= removed;
      more += removed;
      if (last.number === 0n) priced.pop();
    }
  }
  return priced.reduce((sum, {number, price}) => sum + number * price, 0n);
}

function exact(value: number): bigint {
  if (!Number.isSafeInteger(value)) throw new RangeError(`${value} is not an integer that is read exactly`);
  return BigInt(value);
}
