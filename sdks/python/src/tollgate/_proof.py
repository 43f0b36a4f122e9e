"""Recomputation of charges."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from ._generated.models import MonthPolicyOverage, Proof, UsageRecords

MICRO_USD_PER_CENT = 10_000

Use = tuple[datetime.date, str]


@dataclass(frozen=True)
class ChargeCheck:
    """Outcome of recomputing a charge."""

    due_micro_usd: int
    """Amount that the calls of the proof cost, less what was charged before; negative for a credit."""
    wrong: tuple[str, ...]
    """Ways in which the charge is not what the calls cost; empty if it is right."""
    changed: tuple[Use, ...]
    """Days and plans whose records have other calls now than the charge was computed from: what was counted later is
    in a later charge or, once the month is closed, in none. Days before `proof.kept_from` always differ."""

    @property
    def is_right(self) -> bool:
        return not self.wrong


def verify_charge(proof: Proof, pages: Iterable[UsageRecords]) -> ChargeCheck:
    """Recomputes a charge from its proof, and compares the proof with the customer's records.

        proof = client.get_charge_proof("ci_acme_2026-11_0004")
        check = verify_charge(proof, client.list_records(month=proof.charge.month).by_page())

    Args:
        proof: Proof of the charge.
        pages: Pages of all records of the month of the charge.
    """
    calls: Counter[Use] = Counter()
    adjusted: Counter[Use] = Counter()
    for page in pages:
        calls.update((_day(record.time), record.plan) for record in page.data if record.billable)
        for adjustment in page.adjustments:
            adjusted[_day(adjustment.time), adjustment.plan] += adjustment.billable_calls

    wrong: list[str] = []
    lines = ""
    by_plan: dict[str, list[tuple[datetime.date, int]]] = {}
    billed: dict[Use, tuple[int, int]] = {}
    for row in proof.usage:
        sign = f" {row.adjusted_calls:+d}" if row.adjusted_calls else ""
        lines += f"{row.day} {row.plan} {row.calls}{sign}\n"
        by_plan.setdefault(row.plan, []).append((row.day, row.calls + row.adjusted_calls))
        billed[row.day, row.plan] = (row.calls, row.adjusted_calls)
    if sha256(lines.encode()).hexdigest() != proof.usage_digest:
        wrong.append("the calls do not have the digest of the ledger")

    cost = sum(
        overage_micro_usd(plan.month, by_plan.get(plan.plan, []))
        for plan in proof.plans
        if isinstance(plan.month, MonthPolicyOverage)
    )
    # Rounded once, half up to a cent; the cost is never negative.
    rounded = (cost + MICRO_USD_PER_CENT // 2) // MICRO_USD_PER_CENT * MICRO_USD_PER_CENT
    due = rounded - proof.charged_before.micro_usd
    if due != proof.charge.amount.micro_usd:
        wrong.append(f"{due} micro-dollars are due, and {proof.charge.amount.micro_usd} are charged")

    uses = billed.keys() | calls.keys() | adjusted.keys()
    changed = sorted(use for use in uses if billed.get(use, (0, 0)) != (calls[use], adjusted[use]))
    return ChargeCheck(due, tuple(wrong), tuple(changed))


def overage_micro_usd(month: MonthPolicyOverage, usage: Iterable[tuple[datetime.date, int]]) -> int:
    """Returns the cost of a plan's calls beyond the included ones, from the calls of each day."""
    total = beyond = 0
    # Overage calls in the order in which they were made: numbers of them, each with its price.
    priced: list[tuple[int, int]] = []
    for day, calls in sorted(usage):
        total += calls
        more = max(total - month.included, 0) - beyond
        beyond += more
        price = month.prices[0].micro_usd_per_call
        for one in month.prices:
            if one.from_ <= day:
                price = one.micro_usd_per_call
        if more > 0:
            priced.append((more, price))
        # Calls that are taken back are the latest ones, at their own prices.
        while more < 0:
            number, price = priced.pop()
            if number + more > 0:
                priced.append((number + more, price))
            more = min(number + more, 0)
    return sum(number * price for number, price in priced)


def _day(at: datetime.datetime) -> datetime.date:
    return at.astimezone(datetime.timezone.utc).date()
