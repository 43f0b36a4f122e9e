// Recomputation of charges, compared with docs/proof.py.

import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {test} from 'node:test';

import {type Proof, type UsageRecords, verifyCharge} from '../src/index.js';
import {example} from './fake.js';

interface Case {
  proof: Proof;
  pages: UsageRecords[];
  due_micro_usd: number;
  wrong: number;
  changed: [day: string, plan: string][];
}

const read = (variable: string): unknown => JSON.parse(readFileSync(process.env[variable]!, 'utf8'));
/** Random charges and those of the local product, with the outcomes of docs/proof.py. */
const cases = [...(read('PROOF_CASES') as Case[]), ...(read('LIVE_CASES') as {proofs: Case[]}).proofs];

test('random charges and those of the local product', async () => {
  assert(cases.length > 200);
  for (const {proof, pages, due_micro_usd: due, wrong, changed} of cases) {
    const check = await verifyCharge(proof, pages);
    assert.equal(check.wrong.length, wrong);
    assert.equal(check.isRight, !wrong);
    assert.equal(check.dueMicroUsd, BigInt(due));
    assert.deepEqual(check.changed.map(({day, plan}) => [day, plan]), changed);
  }
});

test('the example of the document', async () => {
  const proof = example('getChargeProof') as unknown as Proof;
  assert.equal((await verifyCharge(proof, [])).dueMicroUsd, BigInt(proof.charge.amount.micro_usd));
});

test('numbers that are not read exactly are rejected', async () => {
  const {proof} = cases[0]!;
  const huge = {...proof, charged_before: {display: '', micro_usd: 2 ** 53}};
  await assert.rejects(verifyCharge(huge, []), RangeError);
});
