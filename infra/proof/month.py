"""A month of random traffic with plan changes, corrections and late usage, billed nightly, and then the proof of each
charge. The arguments are those of infra/proof/test, after the URL of the local product."""

import importlib.util
import json
import os
import random
import sys
import urllib.error
import urllib.request
from collections import Counter
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

PLANS = ["free", "starter", "pro", "enterprise"]
FIRST = date(2026, 11, 1)
# The run that closes the month is on the fourth.
LAST_RUN = date(2026, 12, 4)

path = Path(__file__).parent / "../../docs/proof.py"
spec = importlib.util.spec_from_file_location("proof", path)
proof = importlib.util.module_from_spec(spec)
spec.loader.exec_module(proof)

base, seed, customer_count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
draw = random.Random(seed)
events = 0


def send(path, body, method="POST"):
    headers = {"x-api-key": os.environ["TOLLGATE_ADMIN_KEY"], "content-type": "application/json"}
    request = urllib.request.Request(base + path, json.dumps(body).encode(), headers, method=method)
    try:
        return json.load(urllib.request.urlopen(request))
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {path}: {error.status} {error.read().decode()}")


def event(customer, kind, data, now):
    global events
    events += 1
    return {
        "specversion": "1.0", "id": f"e-{events}", "source": "infra/proof", "type": kind, "time": now,
        "subject": customer, "data": data,
    }


def record(plan, day):
    status = draw.choices([200, 404, 500], [90, 6, 4])[0]
    time = f"{day}T{draw.randrange(24):02}:{draw.randrange(60):02}:{draw.randrange(60):02}Z"
    return {
        "time": time, "request_id": f"r-{draw.randrange(10**9)}", "key_id": "key_elsewhere", "plan": plan,
        "method": "GET", "endpoint": f"/things/{draw.randrange(3)}", "status": status, "latency_ms": 1,
    }


def usage(customer, plan, day, now):
    records = [record(plan, day) for _ in range(draw.randrange(1, 12))]
    return event(customer, "tollgate.usage.v1", {"records": records}, now)


def adjustment(customer, day, now):
    data = {
        "time": f"{day}T12:00:00Z", "plan": draw.choice(PLANS[1:3]), "reason": "a correction",
        "billable_calls": draw.choice([-25, -9, -4, 3]),
    }
    return event(customer, "tollgate.adjustment.v1", {"adjustments": [data]}, now)


def month(customers):
    """Lets a month and its late usage pass. Returns how often what happened."""
    counts = Counter()
    day = FIRST
    while day < LAST_RUN:
        send("/_local/clock", {"now": f"{day}T23:59:00Z"})
        now = f"{day}T23:59:00Z"
        batch = []
        for customer in customers:
            if day.month == FIRST.month:
                if draw.random() < 0.7:
                    batch.append(usage(customer, customers[customer], day, now))
                if draw.random() < 0.03:
                    customers[customer] = draw.choice(PLANS)
                    send(f"/admin/customers/{customer}", {"plan": customers[customer]}, "PATCH")
                    counts["plan changes"] += 1
            if draw.random() < 0.05:
                late = min(day, FIRST + timedelta(29)) - timedelta(draw.randrange(3))
                if late >= FIRST:
                    batch.append(usage(customer, draw.choice(PLANS[1:3]), late, now))
                    counts["late events"] += 1
            if draw.random() < 0.03:
                corrected = FIRST + timedelta(draw.randrange(min((day - FIRST).days, 29) + 1))
                batch.append(adjustment(customer, corrected, now))
                counts["corrections"] += 1
        # Some arrive again.
        batch += [one for one in batch if draw.random() < 0.02]
        for start in range(0, len(batch), 100):
            send("/admin/usage/events", {"events": batch[start : start + 100]})
        day += timedelta(1)
        send("/_local/clock", {"now": f"{day}T02:00:00Z"})
        report = send("/_local/nightly", {})
        counts["runs"] += 1
        counts["charges"] += report["charge_count"]
        if report["failed"]:
            sys.exit(f"{day}: {report['failures']}")
    counts["events"] = events
    return counts


def check(customer):
    """Checks all charges of a customer. Returns the number of charges and what is wrong."""
    body = {"customer_id": customer, "role": "manage"}
    os.environ["TOLLGATE_KEY"] = send("/admin/api-keys", body)["key"]
    charges = proof.get(base, "/api/billing/charges?month=2026-11")["data"]
    calls, adjusted = proof.records(base, "2026-11")
    wrong, charged, plans = [], Decimal(0), {}
    for charge in charges:
        shown = proof.get(base, f"/api/billing/charges/{charge['id']}/proof")
        found, _ = proof.check(shown, calls, adjusted)
        wrong += [f"{charge['id']}: {one}" for one in found]
        charged += Decimal(charge["amount"]["micro_usd"]) / 1_000_000
        plans.update((plan["plan"], plan) for plan in shown["plans"])
    # The month as a whole, from its records alone.
    for page_plan in proof.get(base, "/api/usage/records?month=2026-11")["plans"]:
        plans[page_plan["plan"]] = page_plan
    due = Decimal(0)
    used = set(calls) | set(adjusted)
    for name in {plan for _, plan in used}:
        days = {day for day, plan in used if plan == name}
        if plans.get(name, {"month": {}})["month"].get("kind") == "overage":
            due += proof.overage(plans[name], [(day, calls[day, name] + adjusted[day, name]) for day in days])
    due = due.quantize(Decimal("0.01"), ROUND_HALF_UP)
    if due != charged:
        wrong.append(f"{customer}: {charged} dollars are charged, and {due} are due")
    return len(charges), charged, wrong


customers = {f"c-{number:03}": draw.choice(PLANS) for number in range(customer_count)}
send("/_local/clock", {"now": f"{FIRST}T00:00:30Z"})
for customer, plan in customers.items():
    send("/admin/customers", {"id": customer, "plan": plan})
counts = month(customers)
checked, total, wrong = 0, Decimal(0), []
for customer in customers:
    charges, charged, found = check(customer)
    checked, total, wrong = checked + charges, total + charged, wrong + found
print(f"{customer_count} customers: " + ", ".join(f"{number} {what}" for what, number in counts.items()))
for one in wrong:
    print(one)
print(f"{checked} charges of {total} dollars recomputed, {len(wrong)} wrong")
if wrong or checked != counts["charges"] or not checked:
    sys.exit(1)
