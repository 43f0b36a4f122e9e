"""Tests of the lake; see infra/lake/test."""

import datetime
import json
import os
import re
import sys
import tempfile
import unittest

import duckdb
import sqlglot

import cost
from lake import ROOT, Lake, columns, properties, queries

DOCUMENT = ROOT / "docs/lake.md"
DAY = "2026-11-22"


def record(request_id, **members):
    return {
        "time": "2026-11-22T10:00:00.5Z",
        "request_id": request_id,
        "key_id": "key_1",
        "plan": "pro",
        "method": "POST",
        "endpoint": "/api/analyze",
        "status": 200,
        "latency_ms": 10,
    } | members


def event(identity, records, subject="acme", time="2026-11-22T10:00:01Z", **members):
    detail = {
        "specversion": "1.0",
        "id": identity,
        "source": "tollgate:analyze",
        "type": "tollgate.usage.v1",
        "time": time,
        "subject": subject,
        "data": {"records": records},
    } | members
    return {
        "version": "0",
        "id": f"of-{identity}",
        "detail-type": detail["type"],
        "source": detail["source"],
        "account": "111122223333",
        "time": time,
        "region": "us-east-1",
        "resources": [],
        "detail": detail,
    }


def priced(micro_usd, model="claude", **members):
    return {"provider": "anthropic", "model": model, "micro_usd": micro_usd} | members


class LakeTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.lake = Lake(directory.name)

    def latency(self, customer="acme", first=DAY, last=DAY):
        return self.lake.query("latency", [first, last, customer])

    def cost(self):
        return self.lake.query("cost", [DAY, DAY])

    def status(self, start, end):
        return self.lake.query("status", [DAY, DAY, start, end])

    def test_latency_is_by_endpoint_and_model(self):
        records = [record(str(ms), latency_ms=ms, costs=[priced(1)]) for ms in range(1, 101)]
        # One call of two models, one of them twice; one whose cost has no model; one without costs.
        records += [
            record("two", endpoint="/two", latency_ms=7, costs=[priced(1), priced(2), priced(3, "gpt")]),
            record("none", endpoint="/none", latency_ms=5, costs=[{"micro_usd": 1000}]),
            record("free", endpoint="/free", latency_ms=3),
        ]
        # Another customer's, and of another day.
        self.lake.deliver(DAY, [event("a", records), event("b", records, subject="globex")])
        self.lake.deliver("2026-11-23", [event("c", records)])
        slowest, *others = self.latency()
        self.assertEqual(slowest[:3], ("/api/analyze", "claude", 100))
        # Both engines approximate percentiles.
        self.assertAlmostEqual(slowest[3], 50, delta=1)
        self.assertAlmostEqual(slowest[4], 95, delta=1)
        self.assertCountEqual(
            others,
            [
                ("/two", "claude", 1, 7, 7),
                ("/two", "gpt", 1, 7, 7),
                ("/none", None, 1, 5, 5),
                ("/free", None, 1, 3, 3),
            ],
        )

    def test_costs_are_by_hour_provider_and_model(self):
        def at(time, *costs):
            return record(time, time=time, costs=list(costs))

        records = [
            # The same hour of UTC, by other offsets and letters, and with nine digits.
            at("2026-11-22T10:59:59.999999999Z", priced(100, tokens=7), priced(20, "gpt", input_tokens=3)),
            at("2026-11-22T12:00:00+01:30", priced(3, input_tokens=5, output_tokens=2)),
            at("2026-11-22t10:00:00z", priced(0, tokens=9, unpriced=True), {"micro_usd": 1000}),
            at("2026-11-22T11:00:00Z", priced(5)),
            record("without-costs"),
        ]
        self.lake.deliver(DAY, [event("a", records)])
        ten, eleven = datetime.datetime(2026, 11, 22, 10), datetime.datetime(2026, 11, 22, 11)
        self.assertEqual(
            self.cost(),
            [
                (ten, None, None, 1000, 0, 0),
                (ten, "anthropic", "claude", 103, 23, 1),
                (ten, "anthropic", "gpt", 20, 3, 0),
                (eleven, "anthropic", "claude", 5, 0, 0),
            ],
        )

    def test_statuses_are_by_key_between_two_moments(self):
        def at(time, request_id, key, status):
            return record(request_id, time=time, key_id=key, status=status)

        records = [
            at("2026-11-22T09:59:59.999Z", "before", "key_1", 502),
            at("2026-11-22T10:00:00Z", "r1", "key_1", 502),
            at("2026-11-22T11:02:00+01:00", "r3", "key_1", 502),
            at("2026-11-22T10:01:00Z", "r2", "key_1", 502),
            at("2026-11-22T10:01:00Z", "r4", "key_1", 200),
            at("2026-11-22T10:05:00.001Z", "after", "key_1", 502),
        ]
        other = [at("2026-11-22T10:03:00Z", "r5", "key_2", 429)]
        self.lake.deliver(DAY, [event("a", records), event("b", other, subject="globex")])
        self.assertEqual(
            self.status("2026-11-22T10:00:00Z", "2026-11-22T10:05:00Z"),
            [
                ("acme", "key_1", 200, 1, "r4", "r4"),
                ("acme", "key_1", 502, 3, "r1", "r3"),
                ("globex", "key_2", 429, 1, "r5", "r5"),
            ],
        )

    def test_the_first_delivery_of_an_event_decides(self):
        first = event("a", [record("1", costs=[priced(10)])])
        # Again with another extension attribute, and its identity with other content, in another file.
        again = event("a", [record("1", costs=[priced(10)])], time="2026-11-22T10:00:05Z", traceparent="00-1-2-01")
        conflicting = event("a", [record("1", costs=[priced(9999)])], time="2026-11-22T10:00:09Z")
        of_another_source = event("a", [record("2", costs=[priced(1)])], source="batch")
        self.lake.deliver(DAY, [conflicting, again])
        self.lake.deliver(DAY, [first, first, of_another_source])
        [row] = self.cost()
        self.assertEqual(row[3], 11)
        self.assertEqual(self.latency()[0][2], 2)
        self.assertEqual([row[3] for row in self.status("2026-11-22T10:00:00Z", "2026-11-22T10:01:00Z")], [2])

    def test_what_is_no_usage_does_not_disturb(self):
        adjustment = {"time": "2026-11-20T12:00:00Z", "plan": "pro", "billable_calls": -1, "reason": "test"}
        self.lake.deliver(
            DAY,
            [
                event("a", [record("1", costs=[priced(10)])]),
                event("b", [], type="tollgate.adjustment.v1", data={"adjustments": [adjustment]}),
                event("c", [record("2")], type="tollgate.usage.v2"),
                # Quarantined: no records at all, and one whose time is none.
                event("d", [], data={}),
                event("e", [record("3", time="yesterday", unknown={"a": 1}, costs=[priced(5)])]),
                event("f", []) | {"detail": {"customer": "acme", "calls": 3}},
            ],
        )
        self.assertEqual([row[0] and row[3] for row in self.cost()].count(10), 1)
        self.assertEqual(self.latency()[0][2], 2)
        self.assertEqual(len(self.status("2026-11-22T10:00:00Z", "2026-11-22T10:01:00Z")), 1)
        stored = "SELECT detail.data.adjustments[1] FROM usage_events WHERE detail_type = 'tollgate.adjustment.v1'"
        [(kept,)] = self.lake.database.execute(stored).fetchall()
        self.assertEqual(kept, adjustment | {"micro_usd": None})

    def test_the_events_of_the_usage_writers_examples_can_be_read(self):
        misfits = []
        for path in sorted((ROOT / "events/usage-writer").glob("*.json")):
            for message in json.loads(path.read_text())["Records"]:
                try:
                    self.lake.deliver(DAY, [json.loads(message["body"])])
                except duckdb.Error:
                    misfits.append(path.name)
        # One with the latency "3 ms".
        self.assertEqual(misfits, ["bad-and-good.json"])
        # In two examples, the same event, and in one, an event with another record of acme's.
        self.assertEqual(sum(row[2] for row in self.latency()), 2)
        self.assertEqual(sum(row[2] for row in self.latency("globex")), 1)
        self.assertEqual([row[3] for row in self.cost()], [3600])

    def test_the_columns_have_every_member_of_records_and_adjustments(self):
        page = (ROOT / "docs/usage-event.md").read_text()
        [schema] = re.findall(r'```json\n(\{\n  "\$schema".*?\n)```', page, re.DOTALL)
        schema = json.loads(schema)
        definitions = schema["$defs"]
        detail = sqlglot.parse_one(columns()["detail"], into=sqlglot.exp.DataType, dialect="duckdb")

        def members(struct):
            return {member.name: member.args["kind"] for member in struct.expressions}

        def elements(array):
            return members(array.expressions[0])

        def check(definition, struct):
            self.assertEqual(list(definitions[definition]["properties"]), list(struct))
            for name, property in definitions[definition]["properties"].items():
                property = definitions[property["$ref"].rsplit("/", 1)[1]] if "$ref" in property else property
                kinds = property.get("type", "string")
                kind = kinds if isinstance(kinds, str) else kinds[0]
                # A 32-bit integer holds a status, and nothing else.
                integer = "INT" if name == "status" else "BIGINT"
                expected = {"string": "TEXT", "boolean": "BOOLEAN", "integer": integer}.get(kind)
                if kind != "array":
                    self.assertEqual(struct[name].sql("duckdb"), expected, name)

        usage = members(detail)
        # Left out: what is the same in each event that is counted.
        constant = {"specversion", "datacontenttype"}
        self.assertEqual(set(usage) - {"traceparent"}, set(schema["properties"]) - constant)
        data = members(usage["data"])
        records = elements(data["records"])
        check("record", records)
        check("cost", elements(records["costs"]))
        check("adjustment", elements(data["adjustments"]))

    def test_the_lake_has_what_the_usage_writer_gets(self):
        pattern = properties("UsageRule")["EventPattern"]
        self.assertEqual(properties("LakeRule")["EventPattern"], pattern)
        self.assertEqual(properties("LakeArchive")["EventPattern"], pattern)

    def test_the_page_is_up_to_date(self):
        page = DOCUMENT.read_text()
        written = page
        for name, text in queries().items():
            place = re.compile(rf"(<!-- {name} -->\n\n```sql\n).*?(```\n)", re.DOTALL)
            self.assertRegex(page, place)
            written = place.sub(lambda match: match[1] + text + match[2], written)
        place = re.compile(r"\| \$ per million records \|.*?\n(?=\n)", re.DOTALL)
        self.assertRegex(page, place)
        written = place.sub(lambda _: cost.table(self.lake), written)
        if os.environ.get("UPDATE_DOCS"):
            DOCUMENT.write_text(written)
            return
        self.assertEqual(page, written, "docs/lake.md is stale; to update it: UPDATE_DOCS=1 infra/lake/test")


if __name__ == "__main__":
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(LakeTest)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed} passed, {failed} failed")
    sys.exit(bool(failed))
