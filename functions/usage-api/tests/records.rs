//! `GET /api/usage/records`, of usage that was counted as the usage-writer does.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use axum::Router;
use serde_json::{Value, json};
use tollgate_domain::key::Owner;
use tollgate_domain::plan_book::PlanVersions;
use tollgate_ingest::{IncomingEvent, Ingest, IngestOutcome};
use tollgate_local_aws::fixture::Fixture;
use tollgate_runtime::Metrics;
use tollgate_store::PlanOutcome;
use tollgate_testing::customers::{add_customer, add_key};
use tollgate_testing::event::Event;
use tollgate_testing::init::init;
use tollgate_testing::response::{call, data};
use tollgate_testing::{p, plans};
use usage_api::App;

const NOW: &str = "2026-11-22T10:00:00Z";

struct Stack {
    at: Fixture,
    ingest: Ingest,
    function: Router,
}

impl Stack {
    fn new() -> Self {
        let at = Fixture::at(NOW);
        let init = init(&at, "UsageApiFunction");
        let function = usage_api::routes(App::build(&init).unwrap());
        let ingest = Ingest::new(at.store.clone(), at.clock(), Metrics::none());
        Self {
            at,
            ingest,
            function,
        }
    }

    async fn count(&self, event: &Value) {
        let event = IncomingEvent::parse(&event.to_string()).unwrap();
        let outcomes = self.ingest.ingest(&[event], self.ingest.clock.now()).await;
        assert_eq!(*outcomes[0].as_ref().unwrap(), IngestOutcome::Counted);
    }

    /// Returns a page of a customer's records.
    async fn page(&self, customer: &str, query: &[(&str, &str)]) -> Value {
        let event = Event::load("usage-api/records");
        let event = event.customer(customer, "pro").query(query);
        call(&self.function, &event).await.json(200)
    }

    async fn november(&self, customer: &str) -> Value {
        self.page(customer, &[("month", "2026-11")]).await
    }
}

fn record(time: &str, changes: Value) -> Value {
    let mut record = json!({
        "time": time, "request_id": "r-1", "key_id": "key_acme", "plan": "pro", "method": "GET",
        "endpoint": "/things/{id}", "status": 200, "latency_ms": 1,
    });
    let changes = changes.as_object().unwrap().clone();
    record.as_object_mut().unwrap().extend(changes);
    record
}

fn usage(id: &str, records: &[Value]) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "test", "type": "tollgate.usage.v1",
        "time": NOW, "subject": "acme", "data": { "records": records },
    })
}

fn times(page: &Value) -> Vec<&str> {
    let times = data(page).iter();
    times
        .map(|record| record["time"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn records_are_listed_with_what_decides_the_bill() {
    let stack = Stack::new();
    let failed = json!({ "status": 503 });
    let records = [
        record("2026-11-21T23:59:59.999Z", json!({})),
        record("2026-11-20T12:00:00Z", failed),
    ];
    stack.count(&usage("e-1", &records)).await;
    let page = stack.november("acme").await;
    let expected = json!({
        "time": "2026-11-21T23:59:59.999Z", "plan": "pro", "billable": true, "method": "GET",
        "endpoint": "/things/{id}", "status": 200, "key_id": "key_acme", "request_id": "r-1",
        "source": "test", "id": "e-1", "received_at": NOW,
    });
    // By day.
    assert_eq!(
        times(&page),
        ["2026-11-20T12:00:00Z", "2026-11-21T23:59:59.999Z"]
    );
    assert_eq!(page["data"][1], expected);
    assert_eq!(page["data"][0]["billable"], false);
    assert_eq!(page["adjustments"], json!([]));
    assert_eq!(page["next_cursor"], Value::Null);
    let prices = json!([{ "from": "2026-01-01", "micro_usd_per_call": 1_000 }]);
    let pro = json!({
        "plan": "pro", "version": 1,
        "month": { "kind": "overage", "included": 100_000, "prices": prices },
    });
    assert_eq!(page["plans"], json!([pro]));
    // 400 days before now, and what a fast clock may have dated into the next day.
    assert_eq!(page["kept_from"], "2025-10-19");
}

#[tokio::test]
async fn what_was_not_counted_is_not_listed() {
    let stack = Stack::new();
    add_customer(&stack.at, "bolt", "pro").await;
    add_key(&stack.at, Owner::Customer(p("bolt")), "key_bolt").await;
    let new = json!({ "plan": "new" });
    let records = [
        record("2026-11-22T09:00:00Z", json!({ "key_id": "key_bolt" })),
        record("2026-11-22T09:00:01Z", json!({ "status": 1 })),
        record("2026-11-22T09:00:02Z", new),
        record("2026-11-22T09:00:03Z", json!({})),
        record("2026-11-22T10:06:00Z", json!({})),
        json!("no record"),
    ];
    stack.count(&usage("e-1", &records)).await;
    assert_eq!(
        times(&stack.november("acme").await),
        ["2026-11-22T09:00:03Z"]
    );

    // A plan that is created afterwards does not make a rejected record a counted one.
    stack.at.time.set(p("2026-11-22T12:00:00Z"));
    let mut plan = plans().get(&p("pro")).unwrap().latest().plan.clone();
    plan.id = p("new");
    let plan = PlanVersions::new(plan, stack.at.clock().now());
    let created = stack.at.store.create_plan(&plan).await.unwrap();
    assert_eq!(created, PlanOutcome::Written);
    let page = Stack {
        function: usage_api::routes(App::build(&init(&stack.at, "UsageApiFunction")).unwrap()),
        ..stack
    };
    assert_eq!(
        times(&page.november("acme").await),
        ["2026-11-22T09:00:03Z"]
    );
}

#[tokio::test]
async fn adjustments_are_listed_with_the_records() {
    let stack = Stack::new();
    stack
        .count(&usage("e-1", &[record("2026-11-22T09:00:00Z", json!({}))]))
        .await;
    let adjustment = |time: &str, calls: i64| {
        json!({
            "time": time, "plan": "pro", "billable_calls": calls, "reason": "our outage",
        })
    };
    let event = json!({
        "specversion": "1.0", "id": "a-1", "source": "support", "type": "tollgate.adjustment.v1",
        "time": NOW, "subject": "acme", "data": { "adjustments": [
            adjustment("2026-11-20T12:00:00Z", -3),
            adjustment("2026-11-20T12:00:00Z", 0),
        ] },
    });
    stack.count(&event).await;
    let page = stack.november("acme").await;
    assert_eq!(times(&page), ["2026-11-22T09:00:00Z"]);
    let zero = json!({ "micro_usd": 0, "display": "$0.00" });
    let expected = json!([{
        "time": "2026-11-20T12:00:00Z", "plan": "pro", "billable_calls": -3, "cost": zero,
        "reason": "our outage", "source": "support", "id": "a-1", "received_at": NOW,
    }]);
    assert_eq!(page["adjustments"], expected);
}

#[tokio::test]
async fn a_month_is_listed_in_pages_each_record_once() {
    let stack = Stack::new();
    // Of more endpoints than one transaction has, so that the event is counted in parts, and of two days.
    let records: Vec<Value> = (0..100)
        .map(|n| {
            let time = format!("2026-11-2{}T09:00:00.{n:03}Z", n % 2);
            record(&time, json!({ "endpoint": format!("/{n}") }))
        })
        .collect();
    stack.count(&usage("parts", &records)).await;
    for n in 0..120 {
        let time = format!("2026-11-19T{:02}:00:00Z", n % 24);
        stack
            .count(&usage(&format!("e-{n}"), &[record(&time, json!({}))]))
            .await;
    }
    let mut found = Vec::new();
    let mut cursor = None::<String>;
    let mut pages = 0;
    loop {
        let mut query = vec![("month", "2026-11")];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page = stack.page("acme", &query).await;
        pages += 1;
        found.extend(data(&page).iter().map(|record| {
            (
                record["id"].to_string(),
                record["time"].to_string(),
                record["endpoint"].to_string(),
            )
        }));
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    assert!(pages > 1, "{pages}");
    assert_eq!(found.len(), 220);
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 220);
    assert_eq!(data(&stack.november("bolt").await).len(), 0);
    let october = stack.page("acme", &[("month", "2026-10")]).await;
    assert_eq!(data(&october).len(), 0);
}

#[tokio::test]
async fn the_cursor_of_another_list_is_rejected() {
    let stack = Stack::new();
    for n in 0..101 {
        let event = usage(
            &format!("e-{n}"),
            &[record("2026-11-19T10:00:00Z", json!({}))],
        );
        stack.count(&event).await;
    }
    let page = stack.november("acme").await;
    let cursor = page["next_cursor"].as_str().unwrap();
    let check = async |customer: &str, month: &str| {
        let query = [("month", month), ("cursor", cursor)];
        let event = Event::load("usage-api/records").customer(customer, "pro");
        let response = call(&stack.function, &event.query(&query)).await;
        response.bad_request(Some("cursor"));
    };
    check("bolt", "2026-11").await;
    check("acme", "2026-10").await;
}
