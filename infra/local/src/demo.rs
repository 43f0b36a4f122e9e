//! Demo: runs the main use cases over HTTP, from keys to the charge at Stripe. Each step is printed and checked.

#![allow(
    clippy::print_stdout,
    reason = "the demo prints its steps on standard output"
)]

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Method, StatusCode};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tollgate_domain::billing::grouped;
use tollgate_domain::key::{KeyFormat, KeyKind};
use tollgate_domain::llm::{LlmPrices, Tokens};
use tollgate_domain::usage::EVENT_TYPE;
use tollgate_runtime::Entropy;

use crate::client::{Client, RequestError, Response};
use crate::local_stack::{self, Options};

/// Concurrent calls.
const CONCURRENCY: usize = 16;
/// Calls reported in bulk: the plan's included calls, so that the month has an overage of 234.
const IN_BULK: u64 = 100_000;
/// Calls made one by one.
const ONE_BY_ONE: u64 = 234;
/// Start time of the demo's clock.
const START: &str = "2026-11-10T09:00:00Z";

/// Failure of a step.
#[derive(Debug, thiserror::Error)]
#[error("step {number}, \"{step}\": {reason}")]
pub struct DemoError {
    number: usize,
    step: &'static str,
    reason: String,
}

/// Reason why a step failed.
struct StepError(String);

impl From<RequestError> for StepError {
    fn from(error: RequestError) -> Self {
        Self(tollgate_runtime::Chain(&error).to_string())
    }
}

/// State of the demo.
struct Demo {
    anyone: Client,
    admin: Client,
    colour: bool,
    /// URL of the gateway.
    url: String,
    /// Client with a key of frida, who is on the free plan.
    free: Client,
    /// Client with a key of petra, who subscribes to a plan.
    subscriber: Client,
    /// Client with a key of petra that may manage.
    manager: Client,
    /// Client of the stand-in for Stripe.
    stripe: Client,
    /// Id of petra's Stripe customer.
    stripe_customer: String,
}

/// Runs the demo.
///
/// # Errors
/// When a step fails; the error names it.
pub async fn run() -> Result<(), DemoError> {
    let failed = |reason: String| DemoError {
        number: 0,
        step: "start the local stack",
        reason,
    };
    let running = local_stack::start(Options::default())
        .await
        .map_err(|error| failed(tollgate_runtime::Chain(&error).to_string()))?;
    let anyone = Client::new(&running.url).map_err(|error| failed(error.to_string()))?;
    let admin_key = running.admin.expose().unwrap_or_default();
    let mut demo = Demo {
        admin: anyone.with_key(admin_key),
        url: running.url.clone(),
        free: anyone.clone(),
        subscriber: anyone.clone(),
        manager: anyone.clone(),
        stripe: Client::new(&running.stripe_url).map_err(|error| failed(error.to_string()))?,
        stripe_customer: String::new(),
        anyone,
        colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    println!(
        "The local stack listens on {}; its store is empty.",
        running.url
    );
    let outcome = demo.run_steps().await;
    let stopped = running.stop().await;
    outcome?;
    stopped.map_err(|error| failed(error.to_string()))?;
    println!("\n{}", demo.bold("All steps succeeded."));
    Ok(())
}

impl Demo {
    async fn run_steps(&mut self) -> Result<(), DemoError> {
        let mut number = 0;
        macro_rules! step {
            ($title:literal, $step:ident) => {
                number += 1;
                println!(
                    "\n{} {}",
                    self.bold(&format!("{number}.")),
                    self.bold($title)
                );
                self.$step().await.map_err(|StepError(reason)| DemoError {
                    number,
                    step: $title,
                    reason,
                })?;
            };
        }
        step!("Two customers get a key each", keys);
        step!(
            "A customer subscribes to a plan at Stripe's checkout",
            checkout
        );
        step!("A free customer's monthly quota is 1,000 calls", quota);
        step!("Invalid keys are rejected", invalid_keys);
        step!("Metered calls equal served calls", usage);
        step!("The cost of an analysis is that of its tokens", analysis);
        step!("The subscriber makes 100,234 calls", overage);
        step!(
            "A billing run charges the overage, a second run nothing",
            billing_runs
        );
        step!(
            "The charge is at Stripe, once, and its proof adds up",
            proof
        );
        step!(
            "A month later, Stripe's invoice has the fee and the overage, and is paid",
            invoice
        );
        Ok(())
    }

    async fn keys(&mut self) -> Result<(), StepError> {
        let clock = self.anyone.post("/_local/clock", json!({ "now": START }));
        expect(&clock.await?, StatusCode::OK)?;
        for id in ["frida", "petra"] {
            let customer = json!({ "id": id, "name": id, "plan": "free" });
            let created = self.admin.post("/admin/customers", customer).await?;
            expect(&created, StatusCode::CREATED)?;
        }
        let limit = json!({ "requests_per_hour": 5_000 });
        self.free = self.key_for("frida", "call", limit).await?;
        self.subscriber = self.key_for("petra", "call", json!({})).await?;
        self.manager = self.key_for("petra", "manage", json!({})).await?;
        self.print("frida and petra are on the free plan; their keys are shown once");
        self.print(
            "frida's key has an hourly limit of 5,000, so that the monthly quota is reached first",
        );
        Ok(())
    }

    async fn key_for(
        &self,
        customer: &str,
        role: &str,
        overrides: Value,
    ) -> Result<Client, StepError> {
        let body = json!({ "customer_id": customer, "role": role, "overrides": overrides });
        let created = self.admin.post("/admin/api-keys", body).await?;
        expect(&created, StatusCode::CREATED)?;
        let created = created.json();
        Ok(self.anyone.with_key(text(&created, "key")?))
    }

    async fn checkout(&mut self) -> Result<(), StepError> {
        let price =
            "currency=usd&unit_amount=4900&recurring[interval]=month&product_data[name]=Team";
        let price = self.stripe(Method::POST, "/v1/prices", price).await?;
        let plan = json!({ "id": "team", "definition": {
            "name": "Team", "requests_per_hour": 10_000, "fail_mode": "open",
            "month": {
                "kind": "overage", "included": IN_BULK,
                "prices": [{ "from": "2026-01-01", "micro_usd_per_call": 1_000 }],
            },
            "monthly_fee_cents": 4_900, "stripe_price": price["id"],
        } });
        let created = self.admin.post("/admin/plans", plan).await?;
        expect(&created, StatusCode::CREATED)?;
        let page = format!("{}/docs", self.url);
        let body = json!({ "plan": "team", "success_url": page, "cancel_url": page });
        let started = self.manager.post("/api/billing/checkout", body).await?;
        expect(&started, StatusCode::CREATED)?;
        let session = started.json();
        // What a click on "Pay" does on the page.
        let path = format!("/_fake/checkout/{}/complete", text(&session, "id")?);
        let paid = json!({ "payment": "paid", "email": "petra@example.com" });
        let paid = self.stripe.post(&path, paid).await?;
        expect(&paid, StatusCode::NO_CONTENT)?;
        let drained = self.anyone.post("/_local/drain", json!({})).await?;
        expect(&drained, StatusCode::OK)?;
        let found = self.manager.get("/api/billing/subscription").await?.json();
        check(found["plan"]["id"] == "team", || {
            format!("petra's plan is {}, not team", found["plan"]["id"])
        })?;
        let customer = self.admin.get("/admin/customers/petra").await?.json();
        text(&customer["stripe"], "customer")?.clone_into(&mut self.stripe_customer);
        self.print(&format!(
            "petra pays {} on Stripe's page; its webhook makes the plan {}, with {} calls included",
            text(&found["plan"]["monthly_fee"], "display")?,
            text(&found["plan"], "name")?,
            grouped(IN_BULK)
        ));
        Ok(())
    }

    async fn quota(&mut self) -> Result<(), StepError> {
        let served = self.ping(self.free.clone(), 1_000).await?;
        check(served == 1_000, || {
            format!("{served} of 1,000 calls were served")
        })?;
        self.print("1,000 calls: 200");
        let denied = self.free.get("/api/secure/ping").await?;
        expect(&denied, StatusCode::TOO_MANY_REQUESTS)?;
        let headers = [
            ("x-ratelimit-limit", "1000"),
            ("x-ratelimit-remaining", "0"),
            // 1 December 2026, 00:00 UTC.
            ("x-ratelimit-reset", "1796083200"),
            ("content-type", "application/problem+json"),
        ];
        for (name, value) in headers {
            let found = denied.header(name);
            check(found == value, || {
                format!("{name} is {found:?}, not {value:?}")
            })?;
        }
        let retry: u64 = denied.header("retry-after").parse().unwrap_or(0);
        let days = retry / 86_400;
        check(days == 20, || {
            format!("Retry-After is {retry} s, not 20 days and some hours")
        })?;
        self.print(&format!(
            "call 1,001: 429, Retry-After {retry} s, until 1 December"
        ));
        self.print(text(&denied.json(), "detail")?);
        Ok(())
    }

    async fn invalid_keys(&mut self) -> Result<(), StepError> {
        let format = KeyFormat::new("tg", "live").map_err(|error| StepError(error.to_string()))?;
        let entropy = Entropy::system().map_err(|error| StepError(error.to_string()))?;
        let unknown = entropy.with(|rng| format.generate(KeyKind::Customer, rng));
        let unknown = self.anyone.with_key(unknown.expose());

        let revoked = self
            .admin
            .post("/admin/api-keys", json!({ "customer_id": "petra" }));
        let created = revoked.await?.json();
        let revoked = self.anyone.with_key(text(&created, "key")?);
        let path = format!("/admin/api-keys/{}", text(&created, "prefix")?);
        let deleted = self
            .admin
            .send(Method::DELETE, &path, &[], Body::empty())
            .await?;
        expect(&deleted, StatusCode::NO_CONTENT)?;

        let body = json!({ "customer_id": "petra", "expires_at": "2026-11-10T10:00:00Z" });
        let created = self.admin.post("/admin/api-keys", body).await?.json();
        let expired = self.anyone.with_key(text(&created, "key")?);
        expect(&expired.get("/api/secure/ping").await?, StatusCode::OK)?;
        let later = self
            .anyone
            .post("/_local/clock", json!({ "advance_s": 3_600 }));
        expect(&later.await?, StatusCode::OK)?;

        let cases = [
            ("no key", self.anyone.clone()),
            ("an unknown key", unknown),
            ("an expired key", expired),
            ("a revoked key", revoked),
        ];
        for (what, client) in cases {
            expect(
                &client.get("/api/secure/ping").await?,
                StatusCode::UNAUTHORIZED,
            )?;
            self.print(&format!("{what}: 401"));
        }
        Ok(())
    }

    async fn usage(&mut self) -> Result<(), StepError> {
        let drained = self.anyone.post("/_local/drain", json!({})).await?;
        expect(&drained, StatusCode::OK)?;
        let usage = self.free.get("/api/usage/current").await?;
        expect(&usage, StatusCode::OK)?;
        let usage = usage.json();
        for (which, calls) in [
            ("admitted", &usage["admitted"]["calls"]),
            ("metered", &usage["metered"]["calls"]),
        ] {
            check(*calls == 1_000, || {
                format!("{calls} calls {which}, not 1,000")
            })?;
        }
        self.print("frida: 1,000 calls admitted, 1,000 metered; the denied call is in neither");
        Ok(())
    }

    async fn analysis(&mut self) -> Result<(), StepError> {
        let question =
            json!({ "text": "Is a hard quota kinder than a surprising bill? ".repeat(20) });
        let analysis = self.subscriber.post("/api/analyze", question).await?;
        expect(&analysis, StatusCode::OK)?;
        let analysis = analysis.json();
        let prices = LlmPrices::shipped().map_err(|error| StepError(error.to_string()))?;
        let at = START.parse().unwrap_or_default();
        let mut expected = 0;
        for usage in analysis["usage"].as_array().into_iter().flatten() {
            let provider = text(usage, "provider")?;
            let tokens = usage["tokens"].as_u64().unwrap_or(0);
            let cost = prices.cost(provider, None, Tokens::of(tokens), at);
            let cost = cost.unwrap_or_default().to_micros();
            self.print(&format!("{provider}: {tokens} tokens, {cost}"));
            expected += cost.0;
        }
        let stated = &analysis["cost"]["micro_usd"];
        check(expected > 0 && *stated == expected, || {
            format!("the response states {stated} micro-dollars, not {expected}")
        })?;
        expect(
            &self.anyone.post("/_local/drain", json!({})).await?,
            StatusCode::OK,
        )?;
        let usage = self.subscriber.get("/api/usage/current").await?.json();
        let metered = &usage["metered"]["cost"]["micro_usd"];
        check(*metered == expected, || {
            format!("{metered} micro-dollars were metered, not {expected}")
        })?;
        self.print(&format!(
            "{} were metered",
            text(&analysis["cost"], "display")?
        ));
        Ok(())
    }

    async fn overage(&mut self) -> Result<(), StepError> {
        // petra has made two calls already: the analysis, and the one before her key expired.
        let served = self.ping(self.subscriber.clone(), ONE_BY_ONE - 2).await?;
        check(served == ONE_BY_ONE - 2, || {
            format!("{served} calls were served")
        })?;
        self.report_usage(IN_BULK).await?;
        let progress = spinner("counting");
        let drained = self.anyone.post("/_local/drain", json!({})).await?;
        progress.finish_and_clear();
        expect(&drained, StatusCode::OK)?;
        let dead = &drained.json()["dead_letters"];
        check(*dead == 0, || {
            format!("{dead} messages became dead letters")
        })?;
        let usage = self.subscriber.get("/api/usage/current").await?.json();
        let calls = &usage["metered"]["billable_calls"];
        check(*calls == IN_BULK + ONE_BY_ONE, || {
            format!("{calls} calls were metered")
        })?;
        self.print("234 calls made one by one, 100,000 reported in bulk by another producer on the event bus");
        self.print(&format!(
            "overage so far: {}",
            text(&usage["overage"]["cost"], "display")?
        ));
        Ok(())
    }

    /// Calls the stand-in for Stripe.
    async fn stripe(&self, method: Method, path: &str, form: &str) -> Result<Value, StepError> {
        let headers = [
            ("authorization", "Bearer sk_test_stripe_fake"),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let body = Body::from(form.to_owned());
        let response = self.stripe.send(method, path, &headers, body).await?;
        expect(&response, StatusCode::OK)?;
        Ok(response.json())
    }

    async fn billing_runs(&mut self) -> Result<(), StepError> {
        let preview = self
            .admin
            .post("/admin/billing/run", json!({ "dry_run": true }))
            .await?;
        expect(&preview, StatusCode::OK)?;
        let cents = &preview.json()["cents"];
        check(*cents == 23, || {
            format!("a dry run would charge {cents} cents, not 23")
        })?;
        for (run, expected) in [("the first", 23), ("the second", 0)] {
            let report = self.anyone.post("/_local/nightly", json!({})).await?;
            expect(&report, StatusCode::OK)?;
            let report = report.json();
            let cents = &report["cents"];
            check(*cents == expected, || {
                format!("{run} billing run charged {cents} cents, not {expected}")
            })?;
            check(report["failed"] == 0, || {
                format!("{run} billing run failed for a billing period")
            })?;
            self.print(&format!("{run} billing run: {expected} cents"));
        }
        let ledger = self
            .admin
            .get("/admin/customers/petra/charges")
            .await?
            .json();
        let charges = ledger["data"].as_array().map_or(0, Vec::len);
        check(charges == 1, || {
            format!("the ledger has {charges} charges, not 1")
        })?;
        let charge = &ledger["data"][0];
        self.print(&format!(
            "the ledger: {} for calls {} to {} beyond the included ones, {}",
            text(&charge["amount"], "display")?,
            charge["from_call"],
            charge["to_call"],
            text(charge, "status")?,
        ));
        Ok(())
    }

    async fn proof(&mut self) -> Result<(), StepError> {
        let path = format!("/v1/invoiceitems?customer={}", self.stripe_customer);
        let items = self.stripe(Method::GET, &path, "").await?;
        let count = items["data"].as_array().map_or(0, Vec::len);
        check(count == 1, || {
            format!("Stripe has {count} invoice items, not 1")
        })?;
        let item = &items["data"][0];
        check(item["amount"] == 23, || {
            format!("the invoice item is of {} cents, not 23", item["amount"])
        })?;
        self.print(&format!(
            "the next invoice has 23 cents for \"{}\"",
            text(item, "description")?
        ));
        let charge = text(&item["metadata"], "tollgate_charge")?;
        let charge = charge.rsplit('/').next().unwrap_or(charge);
        let path = format!("/admin/customers/petra/charges/{charge}/proof");
        let proof = self.admin.get(&path).await?;
        expect(&proof, StatusCode::OK)?;
        let proof = proof.json();
        let days = proof["usage"].as_array().map_or(&[][..], Vec::as_slice);
        let calls: u64 = days.iter().filter_map(|day| day["calls"].as_u64()).sum();
        let month = &proof["plans"][0]["month"];
        let included = month["included"].as_u64().unwrap_or_default();
        let price = &month["prices"][0]["micro_usd_per_call"];
        let cost = calls.saturating_sub(included) * price.as_u64().unwrap_or_default();
        check(proof["cumulative_overage"]["micro_usd"] == cost, || {
            format!("the calls of the proof cost {cost} micro-dollars: {proof}")
        })?;
        check((cost + 5_000) / 10_000 == 23, || {
            format!("{cost} micro-dollars are not 23 cents")
        })?;
        self.print(&format!(
            "its proof: {} calls, {} of them included, the rest at $0.001 each, are {} or 23 cents",
            grouped(calls),
            grouped(included),
            text(&proof["cumulative_overage"], "display")?
        ));
        Ok(())
    }

    async fn invoice(&mut self) -> Result<(), StepError> {
        // The subscription renews on the tenth, and its invoice is a draft for an hour.
        let renewed = json!({ "now": "2026-12-10T12:00:00Z" });
        let clock = self.anyone.post("/_local/clock", renewed).await?;
        expect(&clock, StatusCode::OK)?;
        let drained = self.anyone.post("/_local/drain", json!({})).await?;
        expect(&drained, StatusCode::OK)?;
        let invoices = self.manager.get("/api/billing/invoices").await?;
        expect(&invoices, StatusCode::OK)?;
        let invoices = invoices.json();
        let latest = &invoices["data"][0];
        check(latest["total"]["display"] == "$49.23", || {
            format!("the invoice is of {}", latest["total"])
        })?;
        check(latest["status"] == "paid", || {
            format!("the invoice is {}", latest["status"])
        })?;
        self.print(&format!(
            "invoice {}: $49.00 for December and $0.23 for November's overage, {}",
            text(latest, "number")?,
            text(latest, "status")?
        ));
        Ok(())
    }

    /// Calls ping `times` times. Returns the number of calls that were served.
    async fn ping(&self, client: Client, times: u64) -> Result<u64, StepError> {
        let progress = bar(times, "calls");
        let permits = Arc::new(Semaphore::new(CONCURRENCY));
        let mut calls = JoinSet::new();
        for _ in 0..times {
            let permit = Arc::clone(&permits).acquire_owned().await;
            let client = client.clone();
            calls.spawn(async move {
                let _permit = permit;
                client.get("/api/secure/ping").await
            });
            progress.inc(1);
        }
        let mut served = 0;
        while let Some(response) = calls.join_next().await {
            let response = response.map_err(|error| StepError(error.to_string()))??;
            served += u64::from(response.status == StatusCode::OK);
        }
        progress.finish_and_clear();
        Ok(served)
    }

    /// Sends usage events of petra to the event bus, as any producer may.
    async fn report_usage(&self, calls: u64) -> Result<(), StepError> {
        let progress = bar(calls, "records");
        let record = json!({
            "time": "2026-11-10T09:30:00Z",
            "request_id": "batch",
            "key_id": "key_bulk",
            "plan": "team",
            "method": "GET",
            "endpoint": "/api/bulk",
            "status": 200,
            "latency_ms": 5,
        });
        for batch in 0..calls / 1_000 {
            let entries: Vec<Value> = (0..10)
                .map(|event| {
                    let detail = json!({
                        "specversion": "1.0",
                        "id": format!("{batch}-{event}"),
                        "source": "demo",
                        "type": EVENT_TYPE,
                        "time": "2026-11-10T09:30:00Z",
                        "subject": "petra",
                        "data": { "records": vec![record.clone(); 100] },
                    });
                    json!({
                        "EventBusName": "usage",
                        "Source": "demo",
                        "DetailType": EVENT_TYPE,
                        "Detail": detail.to_string(),
                    })
                })
                .collect();
            let headers = [
                ("x-amz-target", "AWSEvents.PutEvents"),
                ("content-type", "application/x-amz-json-1.1"),
            ];
            let body = json!({ "Entries": entries }).to_string();
            let response = self
                .anyone
                .send(Method::POST, "/", &headers, body.into())
                .await?;
            expect(&response, StatusCode::OK)?;
            let failed = &response.json()["FailedEntryCount"];
            check(*failed == 0, || {
                format!("the event bus rejected {failed} usage events")
            })?;
            progress.inc(1_000);
        }
        progress.finish_and_clear();
        Ok(())
    }

    fn print(&self, line: &str) {
        match self.colour {
            true => println!("   \x1b[32m✓\x1b[0m {line}"),
            false => println!("   - {line}"),
        }
    }

    fn bold(&self, text: &str) -> String {
        match self.colour {
            true => format!("\x1b[1m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

fn check(holds: bool, reason: impl FnOnce() -> String) -> Result<(), StepError> {
    if holds {
        Ok(())
    } else {
        Err(StepError(reason()))
    }
}

fn expect(response: &Response, status: StatusCode) -> Result<(), StepError> {
    check(response.status == status, || {
        format!(
            "the status is {}, not {status}: {}",
            response.status, response.text
        )
    })
}

fn text<'a>(value: &'a Value, member: &str) -> Result<&'a str, StepError> {
    let text = value[member].as_str();
    text.ok_or_else(|| StepError(format!("a response has no {member}")))
}

/// Returns a progress bar on standard error, hidden if that is not a terminal.
fn bar(length: u64, unit: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    let style = ProgressStyle::with_template("   {bar:30} {pos}/{len} {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(unit.to_owned())
}

fn spinner(what: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(what);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
