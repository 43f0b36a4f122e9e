#!/usr/bin/env python3
"""Recomputes a charge from the customer's own usage records, with nothing but Python's standard library.

    TOLLGATE_KEY=<a key with the role manage> python3 proof.py https://api.example.com ci_acme_2026-11_0004
"""
import json, os, sys, urllib.request
from collections import Counter
from decimal import ROUND_HALF_UP, Decimal
from hashlib import sha256

def get(base, path):
    request = urllib.request.Request(base + path, headers={"x-api-key": os.environ["TOLLGATE_KEY"]})
    return json.load(urllib.request.urlopen(request))

def records(base, month):
    """Adds up a month's billable calls, and the calls of adjustments, by day and plan."""
    calls, adjusted, cursor = Counter(), Counter(), ""
    while cursor is not None:
        page = get(base, f"/api/usage/records?month={month}" + (cursor and f"&cursor={cursor}"))
        calls.update((record["time"][:10], record["plan"]) for record in page["data"] if record["billable"])
        for adjustment in page["adjustments"]:
            adjusted[adjustment["time"][:10], adjustment["plan"]] += adjustment["billable_calls"]
        cursor = page["next_cursor"]
    return calls, adjusted

def overage(plan, usage):
    """Returns the cost in dollars of a plan's calls beyond the included ones. `usage` has pairs of day and calls."""
    included, total, beyond = plan["month"]["included"], 0, []
    for day, calls in sorted(usage):
        before, total = max(total - included, 0), total + calls
        more = max(total - included, 0) - before
        prices = [price["micro_usd_per_call"] for price in plan["month"]["prices"] if price["from"] <= day]
        price = Decimal((prices or [plan["month"]["prices"][0]["micro_usd_per_call"]])[-1]) / 1_000_000
        # Calls that are taken back are the latest ones, at their own prices.
        beyond = beyond + [price] * more if more >= 0 else beyond[:more]
    return sum(beyond, Decimal(0))

def check(proof, calls, adjusted):
    """Returns what is wrong with a charge, and the days whose usage has changed since it was made."""
    wrong, lines, by_plan = [], "", {}
    for row in proof["usage"]:
        sign = f" {row['adjusted_calls']:+d}" if row["adjusted_calls"] else ""
        lines += f"{row['day']} {row['plan']} {row['calls']}{sign}\n"
        by_plan.setdefault(row["plan"], []).append((row["day"], row["calls"] + row["adjusted_calls"]))
    if sha256(lines.encode()).hexdigest() != proof["usage_digest"]:
        wrong.append("the calls do not have the digest that the ledger has")
    plans = [plan for plan in proof["plans"] if plan["month"]["kind"] == "overage"]
    due = sum((overage(plan, by_plan[plan["plan"]]) for plan in plans), Decimal(0))
    due = due.quantize(Decimal("0.01"), ROUND_HALF_UP) - Decimal(proof["charged_before"]["micro_usd"]) / 1_000_000
    if due != Decimal(proof["charge"]["amount"]["micro_usd"]) / 1_000_000:
        wrong.append(f"{due} dollars are due")
    billed = {(row["day"], row["plan"]): (row["calls"], row["adjusted_calls"]) for row in proof["usage"]}
    days = set(billed) | set(calls) | set(adjusted)
    return wrong, sorted(key for key in days if billed.get(key, (0, 0)) != (calls[key], adjusted[key]))

if __name__ == "__main__":
    base, charge = sys.argv[1:]
    proof = get(base, f"/api/billing/charges/{charge}/proof")
    wrong, changed = check(proof, *records(base, proof["charge"]["month"]))
    print(f"{charge}: {proof['charge']['amount']['display']}, {proof['charge']['description']}")
    for day, plan in changed:
        print(f"{day}, {plan}: the records have other calls now than the charge was computed from")
    print("wrong: " + ", ".join(wrong) if wrong else "as computed")
    sys.exit(bool(wrong))
