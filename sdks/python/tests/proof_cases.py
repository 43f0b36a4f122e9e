"""Random proofs of charges with their records, and the outcomes of docs/proof.py, which shares no code with the SDKs.

    proof_cases.py FILE
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections import Counter
from decimal import ROUND_HALF_UP, Decimal
from hashlib import sha256
from typing import Any

from fake import ROOT, example

CASES = 200


def load_reference() -> Any:
    """Returns docs/proof.py as a module."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/proof.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = load_reference()


def sums(pages: list[Any]) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """Adds up pages as the reference does, without requests."""
    calls: Counter[tuple[str, str]] = Counter()
    adjusted: Counter[tuple[str, str]] = Counter()
    for page in pages:
        calls.update((record["time"][:10], record["plan"]) for record in page["data"] if record["billable"])
        for adjustment in page["adjustments"]:
            adjusted[adjustment["time"][:10], adjustment["plan"]] += adjustment["billable_calls"]
    return calls, adjusted


def outcome(proof: Any, pages: list[Any]) -> dict[str, Any]:
    """Returns what the reference finds."""
    wrong, changed = reference.check(proof, *sums(pages))
    return {"wrong": len(wrong), "changed": [list(use) for use in changed]}


def due(proof: Any) -> int:
    """Returns the amount that is due by the reference, in millionths of a dollar."""
    by_plan: dict[str, list[tuple[str, int]]] = {}
    for row in proof["usage"]:
        by_plan.setdefault(row["plan"], []).append((row["day"], row["calls"] + row["adjusted_calls"]))
    cost = Decimal(0)
    for plan in proof["plans"]:
        if plan["month"]["kind"] == "overage":
            cost += reference.overage(plan, by_plan.get(plan["plan"], []))
    rounded = cost.quantize(Decimal("0.01"), ROUND_HALF_UP)
    return int(rounded * 1_000_000) - proof["charged_before"]["micro_usd"]


def amount(micro_usd: int) -> dict[str, Any]:
    return {"micro_usd": micro_usd, "display": f"${micro_usd / 1e6}"}


def draw_case(draw: random.Random) -> dict[str, Any]:
    """Returns a random proof with its records. Half of them have a fault."""
    proof: Any = json.loads(json.dumps(example("getChargeProof")))
    page: Any = json.loads(json.dumps(example("listRecords")))
    record, adjustment = page["data"][0], page["adjustments"][0]
    plans = json.loads((ROOT / "infra/proof/plans.json").read_text())
    days = sorted(draw.sample(range(1, 31), draw.randrange(8)))
    uses = [(f"2026-11-{day:02}", plan["id"]) for day in days for plan in plans if draw.random() < 0.6]
    proof["usage"] = []
    records: list[Any] = []
    adjustments: list[Any] = []
    for day, plan in uses:
        calls, adjusted = draw.randrange(60), draw.choice([0, 0, 0, 5, -9, -40, 200_000])
        if calls or adjusted:
            proof["usage"].append({"day": day, "plan": plan, "calls": calls, "adjusted_calls": adjusted})
        records += [record | {"time": f"{day}T23:59:59.999999999Z", "plan": plan, "billable": True}] * calls
        records += [record | {"time": f"{day}T00:00:00Z", "plan": plan, "billable": False}] * draw.randrange(3)
        if adjusted:
            adjustments.append(adjustment | {"time": f"{day}T12:00:00Z", "plan": plan, "billable_calls": adjusted})
    used = {row["plan"] for row in proof["usage"]}
    proof["plans"] = [
        {"plan": plan["id"], "version": 1, "month": plan["month"]} for plan in plans if plan["id"] in used
    ]
    lines = "".join(
        f"{row['day']} {row['plan']} {row['calls']}"
        + (f" {row['adjusted_calls']:+d}" if row["adjusted_calls"] else "")
        + "\n"
        for row in proof["usage"]
    )
    proof["usage_digest"] = sha256(lines.encode()).hexdigest()
    proof["charged_before"] = amount(draw.choice([0, 10_000, 430_000]))
    proof["charge"]["amount"] = amount(due(proof))
    fault = draw.choice(["", "", "", "amount", "digest", "usage", "later record"])
    if fault == "amount":
        proof["charge"]["amount"]["micro_usd"] += draw.choice([1, -10_000])
    elif fault == "digest":
        proof["usage_digest"] = "0" * 64
    elif fault == "usage" and proof["usage"]:
        draw.choice(proof["usage"])["calls"] += 1
    elif fault == "later record":
        records.append(record | {"time": "2026-11-30T10:00:00Z", "plan": "pro", "billable": True})
    middle = len(records) // 2
    pages = [
        page | {"data": records[:middle], "adjustments": adjustments, "next_cursor": "c"},
        page | {"data": [], "adjustments": [], "next_cursor": "d"},
        page | {"data": records[middle:], "adjustments": []},
    ]
    return {"proof": proof, "pages": pages, "due_micro_usd": due(proof), **outcome(proof, pages)}


def draw_cases() -> list[dict[str, Any]]:
    draw = random.Random(1)
    return [draw_case(draw) for _ in range(CASES)]


if __name__ == "__main__":
    with open(sys.argv[1], "w") as file:
        json.dump(draw_cases(), file)
