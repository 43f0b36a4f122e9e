"""Recomputation of charges, compared with docs/proof.py."""

from __future__ import annotations

import unittest
from typing import Any

from tollgate import ChargeCheck, verify_charge
from tollgate.models import Proof, UsageRecords

from fake import example
from proof_cases import draw_cases


def verify(proof: Any, pages: list[Any]) -> ChargeCheck:
    return verify_charge(Proof.from_dict(proof), (UsageRecords.from_dict(page) for page in pages))


class ProofTest(unittest.TestCase):
    def test_random_charges(self) -> None:
        cases = draw_cases()
        for number, case in enumerate(cases):
            with self.subTest(number=number):
                check = verify(case["proof"], case["pages"])
                self.assertEqual(len(check.wrong), case["wrong"])
                self.assertEqual(check.due_micro_usd, case["due_micro_usd"])
                self.assertEqual([[str(day), plan] for day, plan in check.changed], case["changed"])
        # The cases have all outcomes.
        self.assertEqual({case["wrong"] for case in cases}, {0, 1, 2})
        self.assertTrue(any(case["changed"] for case in cases))
        self.assertTrue(any(case["due_micro_usd"] < 0 for case in cases))

    def test_example_of_the_document(self) -> None:
        proof = example("getChargeProof")
        check = verify(proof, [])
        self.assertEqual(check.due_micro_usd, proof["charge"]["amount"]["micro_usd"])


if __name__ == "__main__":
    unittest.main()
