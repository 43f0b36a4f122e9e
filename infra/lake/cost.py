"""What the lake costs by list price, computed from the sizes of generated events."""

import json
import random
import uuid

# List prices of us-east-1 in US dollars, for 2**30 bytes where they are for a GB:
# https://aws.amazon.com/firehose/pricing/, https://aws.amazon.com/eventbridge/pricing/,
# https://aws.amazon.com/s3/pricing/, https://aws.amazon.com/athena/pricing/.
INGESTION_GB = 0.029
CONVERSION_GB = 0.018
ARCHIVE_GB = 0.10
ARCHIVE_GB_MONTH = 0.023
S3_GB_MONTH = 0.023
ATHENA_TB = 5.00
GB = 2**30
# Firehose rounds each event up to a multiple of this.
ROUNDING = 5 * 1024
RETENTION_MONTHS = 400 / 30.4
# Records for which the size of the Parquet file is measured.
SAMPLE = 100_000


def identifier(rng):
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def record(rng, millisecond):
    return {
        "time": f"2026-11-22T10:{millisecond // 60_000 % 60:02}:{millisecond // 1000 % 60:02}.{millisecond % 1000:03}Z",
        "request_id": identifier(rng),
        "key_id": f"key_{rng.randrange(1000):020}",
        "plan": rng.choice(["free", "pro", "enterprise"]),
        "method": "POST",
        "endpoint": rng.choice(["/api/analyze", "/api/summarise", "/api/translate/{language}"]),
        "status": rng.choices([200, 422, 502], [97, 2, 1])[0],
        "latency_ms": int(rng.lognormvariate(6, 0.7)),
        "request_bytes": rng.randrange(100, 5_000),
        "response_bytes": rng.randrange(100, 20_000),
        "billable": True,
        "costs": [
            {
                "provider": "anthropic",
                "model": "claude",
                "input_tokens": rng.randrange(50, 5_000),
                "output_tokens": rng.randrange(10, 1_000),
                "micro_usd": rng.randrange(100, 50_000),
            }
        ],
    }


def events(records_each):
    """Yields events of the bus with together SAMPLE records, of which each has one cost."""
    rng = random.Random(1)
    for number in range(SAMPLE // records_each):
        customer = f"customer-{rng.randrange(200)}"
        millisecond = number * records_each
        records = [record(rng, millisecond + place) for place in range(records_each)]
        yield {
            "version": "0",
            "id": identifier(rng),
            "detail-type": "tollgate.usage.v1",
            "source": "tollgate:tollgate-analyze",
            "account": "111122223333",
            "time": records[-1]["time"][:19] + "Z",
            "region": "us-east-1",
            "resources": [],
            "detail": {
                "specversion": "1.0",
                "id": identifier(rng),
                "source": "tollgate:tollgate-analyze",
                "type": "tollgate.usage.v1",
                "time": records[-1]["time"],
                "subject": customer,
                "datacontenttype": "application/json",
                "data": {"records": records},
            },
        }


def dollars(lake, day, records_each):
    """Returns the costs of a million records, and the MB of their Parquet files, which arrive on a day."""
    sent = [len(json.dumps(event, separators=(",", ":"))) for event in events(records_each)]
    scale = 1_000_000 / SAMPLE / GB
    rounded = sum(-(-size // ROUNDING) * ROUNDING for size in sent) * scale
    raw = sum(sent) * scale
    parquet = lake.deliver(day, events(records_each)) * scale
    costs = {
        "Firehose, ingestion": rounded * INGESTION_GB,
        "Firehose, conversion to Parquet": rounded * CONVERSION_GB,
        "archive, processing": raw * ARCHIVE_GB,
        "archive, storage for 400 days": raw * ARCHIVE_GB_MONTH * RETENTION_MONTHS,
        "S3, storage for 400 days": parquet * S3_GB_MONTH * RETENTION_MONTHS,
    }
    costs["**together**"] = sum(costs.values())
    costs["a thousand queries that read every column"] = parquet / 1024 * ATHENA_TB * 1_000
    return costs, parquet * 1024


def table(lake):
    """Returns the table of docs/lake.md."""
    single, mb = dollars(lake, "2026-11-22", 1)
    full, mb_full = dollars(lake, "2026-11-23", 100)
    lines = ["| $ per million records | one in an event | 100 in an event |", "|---|---|---|"]
    lines += [f"| {name} | {single[name]:.3f} | {full[name]:.3f} |" for name in single]
    lines += [f"| MB of Parquet | {mb:.0f} | {mb_full:.0f} |"]
    return "\n".join(lines) + "\n"
