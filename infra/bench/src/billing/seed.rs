//! Customers with usage, any number of them: clones of the items that the code of Tollgate has written for a few.

use std::collections::BTreeMap;

use aws_lambda_events::sqs::SqsEvent;
use jiff::Timestamp;
use serde_json::{Value, json};
use tollgate_domain::plan::Catalog;
use tollgate_domain::submission::Recipient;
use tollgate_domain::usage::EVENT_TYPE;
use tollgate_ingest::Ingest;
use tollgate_local_aws::LocalAws;
use tollgate_runtime::{Clock, Entropy, Metrics};
use tollgate_store::{CustomerChange, RecipientChange, Store};
use usage_writer::App;

use super::BillingError;
use crate::tables::{STACK, create_customer, services, store};

/// Plan of all customers, which charges for calls from the eleventh on.
const PLAN: &str = "metered";
const INCLUDED: usize = 10;
/// Calls of a customer who owes: two cents.
const CALLS_OF_OWING: usize = INCLUDED + 20;
const CALLS_OF_OTHERS: usize = INCLUDED / 2;
/// Stripe customer in the items of a customer from whom others are cloned.
const STRIPE_CUSTOMER: &str = "cus_template";
/// Partitions of marks, and of the index of customers with usage. Clones are in the one of their template.
const SHARDS: usize = 8;
/// Customers among whom there is one of each partition.
const CANDIDATES: usize = 200;
/// Items of a request.
const BATCH: usize = 25;
const SEED: u64 = 3;

/// Customer from whom others are cloned.
struct Template {
    id: String,
    /// Tables, and items as JSON.
    items: Vec<(String, String)>,
}

/// Starts the embedded services with the plan, and nothing else.
pub(super) async fn services_with_plan() -> Result<LocalAws, BillingError> {
    let plans = json!([{
        "id": PLAN, "name": "Metered", "requests_per_hour": 1_000, "fail_mode": "open",
        "month": {
            "kind": "overage", "included": INCLUDED,
            "prices": [{ "from": "2026-01-01", "micro_usd_per_call": 1_000 }],
        },
    }]);
    let aws = services()?;
    let plans = Catalog::from_json(&plans.to_string());
    let plans = plans.map_err(|error| BillingError::Wrong(error.to_string()))?;
    store(&aws).seed_plans(&plans).await?;
    Ok(aws)
}

/// Creates customers, of whom `owing` have calls beyond the included ones in this month, and `others` have not.
/// The who owe are linked to these Stripe customers, if there are any. Returns the number of written items.
pub(super) async fn customers(
    aws: &LocalAws,
    owing: usize,
    others: usize,
    stripe_customers: &[String],
) -> Result<usize, BillingError> {
    let is_linked = !stripe_customers.is_empty();
    // Not the entropy of the store that wrote the plans: tokens of transactions must differ.
    let (clock, entropy) = (Clock::system(), Entropy::seeded(SEED));
    let store = Store::new(&aws.sdk_config(), STACK, clock, entropy);
    let of_owing = templates(aws, &store, "owing", CALLS_OF_OWING, is_linked).await?;
    let of_others = templates(aws, &store, "other", CALLS_OF_OTHERS, false).await?;
    let mut clones = Clones {
        aws,
        batch: BTreeMap::new(),
        unsent: 0,
        written: 0,
    };
    for number in 0..owing {
        let template = &of_owing[number % of_owing.len()];
        let stripe_customer = stripe_customers.get(number).map(String::as_str);
        clones.add(template, &format!("o-{number:07}"), stripe_customer)?;
    }
    for number in 0..others {
        let template = &of_others[number % of_others.len()];
        clones.add(template, &format!("n-{number:07}"), None)?;
    }
    clones.flush()?;
    Ok(clones.written)
}

/// Creates a customer for each partition, counts usage of each as the usage-writer does, and takes their items out
/// of the tables.
async fn templates(
    aws: &LocalAws,
    store: &Store,
    name: &str,
    calls: usize,
    is_linked: bool,
) -> Result<Vec<Template>, BillingError> {
    let ingest = Ingest::new(store.clone(), Clock::system(), Metrics::none());
    let app = App { ingest };
    let ids = (0..CANDIDATES).map(|number| format!("template-{name}-{number:03}"));
    let ids: Vec<String> = ids.collect();
    for id in &ids {
        create_customer(store, id, PLAN).await?;
        if is_linked {
            link(store, id).await?;
        }
    }
    for ids in ids.chunks(10) {
        let messages: Vec<Value> = ids.iter().map(|id| message(id, calls)).collect();
        let batch: SqsEvent = serde_json::from_value(json!({ "Records": messages }))?;
        let response = usage_writer::handle(&app, batch).await;
        if !response.batch_item_failures.is_empty() {
            return Err(BillingError::Wrong("usage was not counted".to_owned()));
        }
    }
    let mut found: BTreeMap<String, Template> = BTreeMap::new();
    let all = items(aws)?;
    for id in &ids {
        let of_customer: Vec<(String, Value)> = all
            .iter()
            .filter(|(_, item)| item.to_string().contains(id.as_str()))
            .cloned()
            .collect();
        let partition = of_customer
            .iter()
            .find_map(|(_, item)| item["billable_month"]["S"].as_str());
        let Some(partition) = partition.map(str::to_owned) else {
            return Err(BillingError::Wrong(format!("{id} has no usage")));
        };
        let is_marked = of_customer.iter().any(|(_, item)| is_mark(item));
        if is_marked != (calls > INCLUDED) {
            return Err(BillingError::Wrong(format!("{id} is marked: {is_marked}")));
        }
        found.entry(partition).or_insert_with(|| Template {
            id: id.clone(),
            items: of_customer
                .iter()
                .map(|(table, item)| (table.clone(), item.to_string()))
                .collect(),
        });
    }
    for (table, item) in &all {
        if item.to_string().contains(&format!("template-{name}-")) {
            delete(aws, table, item)?;
        }
    }
    match found.len() {
        SHARDS => Ok(found.into_values().collect()),
        other => Err(BillingError::Wrong(format!("{other} partitions"))),
    }
}

fn is_mark(item: &Value) -> bool {
    let pk = item["pk"]["S"].as_str();
    pk.is_some_and(|pk| pk.starts_with("OVERAGE#"))
}

/// Links a customer to a Stripe customer of its own, which a clone replaces.
async fn link(store: &Store, id: &str) -> Result<(), BillingError> {
    let parsed = id.parse();
    let parsed = parsed.map_err(|_| BillingError::Wrong(format!("{id} is no id")))?;
    let change = CustomerChange {
        recipient: Some(RecipientChange {
            before: None,
            after: Some(Recipient {
                customer: stripe_customer_of(id),
                subscription: None,
            }),
        }),
        ..CustomerChange::default()
    };
    store.update_customer(&parsed, &change).await?;
    Ok(())
}

fn stripe_customer_of(template: &str) -> String {
    format!("{STRIPE_CUSTOMER}{}", template.replace('-', ""))
}

/// Returns a message of the usage queue, with a usage event of these calls.
fn message(customer: &str, calls: usize) -> Value {
    let now = Timestamp::now();
    let record = |number: usize| {
        json!({
            "time": now, "request_id": format!("{customer}-{number}"), "key_id": "key_7pQ2vX9bTzR4cYdLw5Ha",
            "plan": PLAN, "method": "GET", "endpoint": "/api/things/{id}", "status": 200, "latency_ms": 12,
            "request_bytes": 0, "response_bytes": 512, "billable": true,
        })
    };
    let detail = json!({
        "specversion": "1.0", "id": customer, "source": "tollgate:bench", "type": EVENT_TYPE, "time": now,
        "subject": customer, "data": { "records": (0..calls).map(record).collect::<Vec<_>>() },
    });
    let body = json!({ "detail-type": EVENT_TYPE, "source": detail["source"], "detail": detail });
    json!({ "messageId": customer, "body": body.to_string() })
}

/// Returns all items of customers, of their usage and its marks, with their tables.
fn items(aws: &LocalAws) -> Result<Vec<(String, Value)>, BillingError> {
    let mut all = Vec::new();
    for table in ["registry", "usage"] {
        let table = format!("{STACK}-{table}");
        let mut start = Value::Null;
        loop {
            let mut request = json!({ "TableName": table });
            if !start.is_null() {
                request["ExclusiveStartKey"] = start;
            }
            let mut page = call(aws, "Scan", &request.to_string())?;
            let items = page["Items"].as_array_mut().map(std::mem::take);
            let items = items.unwrap_or_default().into_iter();
            all.extend(items.map(|item| (table.clone(), item)));
            start = page["LastEvaluatedKey"].take();
            if start.is_null() {
                break;
            }
        }
    }
    Ok(all)
}

fn delete(aws: &LocalAws, table: &str, item: &Value) -> Result<(), BillingError> {
    let mut key = json!({ "pk": item["pk"] });
    if !item["sk"].is_null() {
        key["sk"] = item["sk"].clone();
    }
    let request = json!({ "TableName": table, "Key": key });
    call(aws, "DeleteItem", &request.to_string()).map(drop)
}

fn call(aws: &LocalAws, operation: &str, body: &str) -> Result<Value, BillingError> {
    let (status, response) = aws.call(&format!("DynamoDB_20120810.{operation}"), body);
    match status {
        200 => Ok(serde_json::from_str(&response)?),
        _ => Err(BillingError::DynamoDb(response)),
    }
}

/// Writes clones, in requests of as many items as DynamoDB takes.
struct Clones<'a> {
    aws: &'a LocalAws,
    batch: BTreeMap<String, Vec<String>>,
    unsent: usize,
    written: usize,
}

impl Clones<'_> {
    fn add(
        &mut self,
        template: &Template,
        id: &str,
        stripe_customer: Option<&str>,
    ) -> Result<(), BillingError> {
        for (table, item) in &template.items {
            let mut item = item.replace(&template.id, id);
            if let Some(stripe_customer) = stripe_customer {
                item = item.replace(&stripe_customer_of(&template.id), stripe_customer);
            }
            let put = format!(r#"{{"PutRequest":{{"Item":{item}}}}}"#);
            self.batch.entry(table.clone()).or_default().push(put);
            self.unsent += 1;
            if self.unsent == BATCH {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BillingError> {
        if self.unsent == 0 {
            return Ok(());
        }
        let tables = std::mem::take(&mut self.batch);
        let tables = tables
            .iter()
            .map(|(table, puts)| format!(r#""{table}":[{}]"#, puts.join(",")));
        let tables: Vec<String> = tables.collect();
        let request = format!(r#"{{"RequestItems":{{{}}}}}"#, tables.join(","));
        let response = call(self.aws, "BatchWriteItem", &request)?;
        let unprocessed = response["UnprocessedItems"].as_object();
        if unprocessed.is_some_and(|unprocessed| !unprocessed.is_empty()) {
            return Err(BillingError::Wrong("items were not written".to_owned()));
        }
        self.written += self.unsent;
        self.unsent = 0;
        Ok(())
    }
}
