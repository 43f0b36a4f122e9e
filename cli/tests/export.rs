//! `tollgate export`: complete, killed and continued, and rejected arguments.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use support::Deployment;
use tokio::process::Command;

const NOW: &str = "2026-11-22T10:00:00Z";
/// Events of a customer, of several pages.
const EVENTS: usize = 130;

/// Counts usage events of one record each, for three customers.
async fn with_usage(name: &str) -> Deployment {
    let deployment = Deployment::start(name, NOW).await;
    let admin = deployment.admin();
    for customer in ["acme", "globex", "initech"] {
        let body = json!({ "id": customer, "plan": "pro" });
        let created = admin.post("/admin/customers", body).await.unwrap();
        assert!(created.status.is_success(), "{}", created.text);
        let event = |n: usize| {
            let day = 20 + n % 3;
            let time = format!("2026-11-{day}T09:00:00Z");
            json!({
                "specversion": "1.0", "id": format!("{customer}-{n}"), "source": "=shop", "type": "tollgate.usage.v1",
                "time": time, "subject": customer,
                "data": { "records": [{
                    "time": time, "request_id": format!("r,{n}"), "key_id": "shop", "plan": "pro", "method": "GET",
                    "endpoint": "/things/{id}", "status": 200, "latency_ms": 5,
                    "costs": [{ "provider": "openai", "model": "m", "tokens": 3, "micro_usd": 7 }],
                }] },
            })
        };
        let events: Vec<Value> = (0..EVENTS).map(event).collect();
        for events in events.chunks(100) {
            let counted = admin
                .post("/admin/usage/events", json!({ "events": events }))
                .await
                .unwrap();
            assert!(counted.status.is_success(), "{}", counted.text);
        }
    }
    deployment
}

fn command(deployment: &Deployment, output: &str, arguments: &[&str]) -> Command {
    let output = deployment.dir.join(output);
    let mut command = deployment.tollgate(&["export", output.to_str().unwrap()]);
    command.args(arguments);
    command
}

fn check(output: &Output, code: i32, error: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.contains(error), "{errors}");
}

/// Returns the ids of the usage events in a file of CSV. Each must be there once.
fn events(csv: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(csv).unwrap();
    let mut lines = text.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("customer_id,time,source,event_id,record,")
    );
    let mut events = BTreeSet::new();
    for line in lines {
        let id = line.split(',').nth(3).unwrap();
        assert!(events.insert(id.to_owned()), "{id} is there twice");
    }
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_period_is_exported_as_csv() {
    let deployment = with_usage("export-csv").await;
    let month = &["--month", "2026-11"];
    let output = command(&deployment, "all.csv", month)
        .output()
        .await
        .unwrap();
    check(&output, 0, &format!("exported {} records", 3 * EVENTS));
    let all = deployment.dir.join("all.csv");
    assert_eq!(events(&all).len(), 3 * EVENTS);
    let text = std::fs::read_to_string(&all).unwrap();
    let line = text.lines().nth(1).unwrap();
    assert_eq!(
        line,
        "acme,2026-11-20T09:00:00Z,'=shop,acme-0,0,\"r,0\",shop,pro,GET,/things/{id},200,5,,,,true,7,\
         \"[{\"\"provider\"\":\"\"openai\"\",\"\"model\"\":\"\"m\"\",\"\"tokens\"\":3,\"\"micro_usd\"\":7}]\""
    );
    let left = std::fs::read_dir(&deployment.dir)
        .unwrap()
        .map(|file| file.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["all.csv"]);

    let day = &[
        "--customer",
        "acme",
        "--from",
        "2026-11-21",
        "--to",
        "2026-11-21",
    ];
    let output = command(&deployment, "day.csv", day).output().await.unwrap();
    check(&output, 0, "");
    let expected = (0..EVENTS)
        .filter(|n| n % 3 == 1)
        .map(|n| format!("acme-{n}"));
    assert_eq!(events(&deployment.dir.join("day.csv")), expected.collect());

    let again = command(&deployment, "day.csv", day).output().await.unwrap();
    check(&again, 2, "exists already");
    let period = &["--from", "2026-11-22", "--to", "2026-11-21"];
    check(
        &command(&deployment, "x.csv", period)
            .output()
            .await
            .unwrap(),
        2,
        "--from must not be after --to",
    );
    check(
        &command(&deployment, "x.csv", &[]).output().await.unwrap(),
        2,
        "--month",
    );
    check(
        &command(&deployment, "x.csv", &["--month", "2026-13"])
            .output()
            .await
            .unwrap(),
        2,
        "2026-13",
    );
    check(
        &command(&deployment, "no/x.csv", month)
            .output()
            .await
            .unwrap(),
        1,
        "cannot be written",
    );
}

/// Continues from each state that a kill can leave: what is beyond the state is removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_export_continues_without_duplicates_and_gaps() {
    let deployment = with_usage("export-continued").await;
    let month = &["--month", "2026-11"];
    let whole = command(&deployment, "whole.csv", month)
        .output()
        .await
        .unwrap();
    check(&whole, 0, "");
    let whole = std::fs::read_to_string(deployment.dir.join("whole.csv")).unwrap();

    let admin = deployment.admin();
    let events = |customer: &str| {
        format!("/admin/usage/events?customer_id={customer}&from=2026-11-01&to=2026-11-30")
    };
    let page = admin.get(&events("globex")).await.unwrap().json();
    let cursor = page["next_cursor"].as_str().unwrap();
    let records = EVENTS + page["data"].as_array().unwrap().len();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let position = |customer: &str, events: Option<&str>| json!({ "customers": null, "customer": customer, "events": events });
    for (position, records) in [
        (position("acme", None), EVENTS),
        (position("globex", Some(cursor)), records),
        (position("globex", None), 2 * EVENTS),
        (position("initech", None), 3 * EVENTS),
    ] {
        let complete = lines[..=records].concat();
        let state = json!({
            "request": {
                "url": deployment.url(), "format": "csv", "customer": null, "from": "2026-11-01", "to": "2026-11-30",
            },
            "position": position, "written": complete.len(), "records": records, "left_out": 0, "is_complete": false,
        });
        let path = |suffix: &str| deployment.dir.join(format!("continued.csv{suffix}"));
        std::fs::write(path(".state"), state.to_string()).unwrap();
        std::fs::write(path(".part"), complete + "beyond,the,sta").unwrap();
        let other = command(&deployment, "continued.csv", &["--month", "2026-10"])
            .output()
            .await
            .unwrap();
        check(&other, 2, "of another export");
        let output = command(&deployment, "continued.csv", month)
            .output()
            .await
            .unwrap();
        check(&output, 0, &format!("continuing after {records} records"));
        assert!(
            std::fs::read_to_string(path("")).unwrap() == whole,
            "{state}"
        );
        assert!(!path(".state").exists() && !path(".part").exists());
        std::fs::remove_file(path("")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_export_continues() {
    let deployment = with_usage("export-killed").await;
    let month = &["--month", "2026-11"];
    let killed = deployment.dir.join("killed.csv");
    let mut kills = 0;
    let delay = |kills: u64| std::time::Duration::from_millis(5 * kills);
    while !killed.exists() {
        let mut child = command(&deployment, "killed.csv", month)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        if tokio::time::timeout(delay(kills), child.wait())
            .await
            .is_err()
        {
            child.kill().await.unwrap();
        }
        kills += 1;
    }
    // A kill after the rename leaves only the state to be deleted.
    if deployment.dir.join("killed.csv.state").exists() {
        check(
            &command(&deployment, "killed.csv", month)
                .output()
                .await
                .unwrap(),
            0,
            "exported",
        );
    }
    assert!(kills > 1);
    assert_eq!(events(&killed).len(), 3 * EVENTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_period_is_exported_as_parquet() {
    let deployment = with_usage("export-parquet").await;
    let month = &["--month", "2026-11", "--format", "parquet"];
    check(
        &command(&deployment, "all", month).output().await.unwrap(),
        0,
        "exported 390 records",
    );
    let files = std::fs::read_dir(deployment.dir.join("all")).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    let bytes = std::fs::read(&files[0]).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    let again = command(&deployment, "all", month).output().await.unwrap();
    check(&again, 2, "exists already");
}
