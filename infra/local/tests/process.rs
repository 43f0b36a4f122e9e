//! Tests of the program as a process: started, stopped, killed and restarted.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use http::StatusCode;
use serde_json::{Value, json};
use support::program::{Dir, Process, program, start_error};
use tollgate_domain::key::ApiKey;
use tollgate_local::client::Client;
use tollgate_local_aws::{LocalAws, Rule};
use tollgate_runtime::{Clock, Entropy};

impl Process {
    /// Waits for the admin key that this start created and shows once.
    fn admin_key(&mut self) -> String {
        loop {
            let printed = self.printed();
            let mut lines = printed.lines();
            let shown = lines.find_map(|line| line.strip_prefix("admin key, shown this once: "));
            if let Some(key) = shown.filter(|key| ApiKey::parse(key).is_ok()) {
                return key.to_owned();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the program ended: {printed}");
            std::thread::yield_now();
        }
    }

    /// Kills the process.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

async fn create(admin: &Client, path: &str, body: Value) -> Value {
    let response = admin.post(path, body).await.unwrap();
    assert_eq!(response.status, StatusCode::CREATED, "{}", response.text);
    response.json()
}

#[tokio::test]
async fn acknowledged_writes_survive_a_kill() {
    let dir = Dir::new("kill");
    let start = || {
        let mut command = program();
        command
            .arg("--data")
            .arg(&dir.0)
            .env("TOLLGATE_ADMIN_KEY", "an-admin-key-of-mine");
        Process::start(&mut command)
    };
    let first = start();
    let admin = first.client().with_key("an-admin-key-of-mine");
    create(
        &admin,
        "/admin/customers",
        json!({ "id": "acme", "plan": "pro" }),
    )
    .await;
    let key = create(&admin, "/admin/api-keys", json!({ "customer_id": "acme" })).await;
    let secret = key["key"].as_str().unwrap().to_owned();
    let client = first.client().with_key(&secret);
    for _ in 0..20 {
        let pong = client.get("/api/secure/ping").await.unwrap();
        assert_eq!(pong.status, StatusCode::OK);
    }
    let advanced = admin.post("/_local/clock", json!({ "advance_s": 60 }));
    let before: jiff::Timestamp = advanced.await.unwrap().json()["now"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    first.kill();

    let second = start();
    let now = second.client().get("/_local/clock").await.unwrap().json();
    let now: jiff::Timestamp = now["now"].as_str().unwrap().parse().unwrap();
    assert!(now >= before, "the clock fell back from {before} to {now}");
    let drained = second
        .client()
        .post("/_local/drain", json!({}))
        .await
        .unwrap()
        .json();
    assert_eq!(
        (&drained["failed"], &drained["dead_letters"]),
        (&json!(0), &json!(0))
    );
    let client = second.client().with_key(&secret);
    let usage = async |client: &Client| client.get("/api/usage/current").await.unwrap().json();
    let after_kill = usage(&client).await;
    assert_eq!(after_kill["metered"]["calls"], 20);
    // The killed instance did not report how many units of its quota lease it had spent.
    let number = |usage: &Value, name: &str| usage["admitted"][name].as_u64().unwrap();
    let [calls, reserved] = ["calls", "reserved"].map(|name| number(&after_kill, name));
    assert!((calls..=calls + reserved).contains(&20), "{after_kill}");

    for _ in 0..6 {
        let pong = client.get("/api/secure/ping").await.unwrap();
        assert_eq!(pong.status, StatusCode::OK);
    }
    let (code, printed) = second.terminate();
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.ends_with("stopping\n"), "{printed}");
    let third = start();
    let after_stop = usage(&third.client().with_key(&secret)).await;
    assert_eq!(number(&after_stop, "calls"), calls + 6);
    assert_eq!(number(&after_stop, "reserved"), reserved, "{after_stop}");
    third.terminate();
}

#[tokio::test]
async fn the_admin_key_is_created_once_and_shown_once() {
    let dir = Dir::new("admin-key");
    let start = || Process::start(program().arg("--data").arg(&dir.0));
    let first = start();
    let url = first.url.clone();
    let (_, printed) = first.terminate();
    let key = printed
        .lines()
        .find_map(|line| line.strip_prefix("admin key, shown this once: "))
        .unwrap()
        .to_owned();
    assert!(ApiKey::parse(&key).is_ok());
    let curls = printed.lines().filter(|line| line.starts_with("curl "));
    assert_eq!(curls.filter(|line| line.contains(&url)).count(), 3);

    let second = start();
    let admin = second.client().with_key(&key);
    assert_eq!(
        admin.get("/admin/customers").await.unwrap().status,
        StatusCode::OK
    );
    let (_, printed) = second.terminate();
    assert!(!printed.contains(&key[20..]), "the key is shown again");
    assert!(printed.contains(&key[..17]), "the prefix is shown");
}

/// Stores the admin key of a data directory as releases before 0.1.0 did: among customers' keys.
fn as_earlier_release(dir: &Path) {
    let rule = Rule::new(json!({})).unwrap();
    let aws = LocalAws::open(dir, rule, Clock::system(), Entropy::seeded(1)).unwrap();
    let call = |operation: &str, mut body: Value| -> Value {
        body["TableName"] = "local-registry".into();
        let target = format!("DynamoDB_20120810.{operation}");
        let (status, response) = aws.call(&target, &body.to_string());
        assert_eq!(status, 200, "{response}");
        serde_json::from_str(&response).unwrap()
    };
    let all = call("Scan", json!({}));
    let mut moved = 0;
    for item in all["Items"].as_array().unwrap() {
        let pk = item["pk"]["S"].as_str().unwrap();
        if let Some(earlier) = pk.strip_prefix("ADMIN#") {
            let mut item = item.clone();
            item["pk"]["S"] = earlier.into();
            call("PutItem", json!({ "Item": item }));
            call("DeleteItem", json!({ "Key": { "pk": { "S": pk } } }));
            moved += 1;
        }
    }
    assert_eq!(moved, 3);
}

#[tokio::test]
async fn an_admin_key_of_an_earlier_release_is_rejected_and_replaced() {
    let dir = Dir::new("admin-key-earlier");
    let start = || Process::start(program().arg("--data").arg(&dir.0));
    let mut first = start();
    let earlier = first.admin_key();
    first.terminate();
    as_earlier_release(&dir.0);

    let mut command = program();
    command.env("TOLLGATE_ADMIN_KEY", &earlier);
    let errors = start_error(command.arg("--data").arg(&dir.0));
    let prefix = &earlier[..17];
    let reason = format!("{prefix}… was created by an earlier release and is no longer valid");
    assert!(errors.contains(&reason), "{errors}");

    let mut second = start();
    let created = second.admin_key();
    let status = async |key: &str| {
        let admin = second.client().with_key(key);
        admin.get("/admin/customers").await.unwrap().status
    };
    assert_eq!(status(&created).await, StatusCode::OK);
    assert_eq!(status(&earlier).await, StatusCode::UNAUTHORIZED);
    second.terminate();
    let (_, printed) = start().terminate();
    assert!(printed.contains(&created[..17]), "{printed}");
}

#[tokio::test]
async fn a_start_with_other_plans_warns_that_they_change_nothing() {
    let dir = Dir::new("plans");
    let start = |plans: &Value| {
        let mut command = program();
        command.arg("--data").arg(&dir.0);
        command.env("TOLLGATE_ADMIN_KEY", "an-admin-key-of-mine");
        Process::start(command.env("TOLLGATE_PLANS", plans.to_string()))
    };
    let plan = |id: &str| {
        json!({
            "id": id, "name": id, "requests_per_hour": 10, "fail_mode": "open",
            "month": { "kind": "unlimited" },
        })
    };
    let (old, new) = (json!([plan("old")]), json!([plan("new")]));
    for same in [&old, &old] {
        let (_, printed) = start(same).terminate();
        assert!(!printed.contains("warning: "), "{printed}");
    }
    let process = start(&new);
    let admin = process.client().with_key("an-admin-key-of-mine");
    let plans = admin.get("/admin/plans").await.unwrap().json();
    let ids = plans["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plan| &plan["id"]);
    assert!(ids.eq(["old"]), "{plans}");
    let (_, printed) = process.terminate();
    let warnings = printed.lines().filter(|line| line.starts_with("warning: "));
    assert_eq!(warnings.count(), 1, "{printed}");
}

#[test]
fn a_failed_start_prints_the_reason() {
    let check = |command: &mut Command, reason: &str| {
        let Output { status, stderr, .. } = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(!status.success());
        assert!(stderr.contains(reason), "{stderr}");
    };
    let dir = Dir::new("start");
    let running = Process::start(program().arg("--data").arg(&dir.0));
    let port = running.url.rsplit(':').next().unwrap();
    check(
        program().args(["--in-memory", "--port", port]),
        "choose another port with --port",
    );
    check(
        program().arg("--data").arg(&dir.0),
        "in use by another process",
    );
    check(
        program().args(["--data", "/dev/null/x", "--port", "0"]),
        "choose another directory",
    );
    let spaced = program()
        .args(["--in-memory", "--port", "0", "--admin-key", "a b"])
        .output();
    assert!(String::from_utf8_lossy(&spaced.unwrap().stderr).contains("visible ASCII"));
    check(program().args(["--port", "ninety"]), "ninety");
    check(program().args(["play"]), "play");
    check(
        program()
            .args(["--in-memory", "--port", "0"])
            .env("TOLLGATE_PLANS", "[]"),
        "TOLLGATE_PLANS",
    );
}

#[tokio::test]
async fn an_unusable_admin_key_fails_the_start() {
    let (dir, elsewhere) = (Dir::new("admin-key-wrong"), Dir::new("admin-key-elsewhere"));
    let create_in = async |dir: &Dir| {
        let mut process = Process::start(program().arg("--data").arg(&dir.0));
        let client = process.client();
        let admin_key = process.admin_key();
        let admin = client.with_key(&admin_key);
        create(
            &admin,
            "/admin/customers",
            json!({ "id": "acme", "plan": "pro" }),
        )
        .await;
        let key = create(&admin, "/admin/api-keys", json!({ "customer_id": "acme" })).await;
        process.terminate();
        (admin_key, key["key"].as_str().unwrap().to_owned())
    };
    let (admin_key, customer_key) = create_in(&dir).await;
    let (admin_key_elsewhere, customer_key_elsewhere) = create_in(&elsewhere).await;

    let check = |key: &str, reason: &str| {
        let mut command = program();
        command.env("TOLLGATE_ADMIN_KEY", key);
        let errors = start_error(command.arg("--data").arg(&dir.0));
        assert!(errors.contains("TOLLGATE_ADMIN_KEY"), "{errors}");
        assert!(errors.contains(reason), "{errors}");
        if let Ok(key) = ApiKey::parse(key) {
            assert!(errors.contains(key.prefix().as_str()), "{errors}");
            assert!(!errors.contains(&key.expose()[17..]), "the key is printed");
        }
    };
    check(&customer_key, "is a customer's key");
    check(&customer_key_elsewhere, "is a customer's key");
    check(&admin_key_elsewhere, &admin_key[..17]);
    check(
        &admin_key[..17],
        "begins like an API key but is not a valid one",
    );
    check(
        &admin_key[..45],
        "begins like an API key but is not a valid one",
    );
    check("", "visible ASCII");

    // Any other text still becomes the admin key, and so does a key in an empty directory.
    let starts = async |dir: &Path, key: &str| {
        let mut command = program();
        command
            .arg("--data")
            .arg(dir)
            .env("TOLLGATE_ADMIN_KEY", key);
        let process = Process::start(&mut command);
        let admin = process.client().with_key(key);
        let customers = admin.get("/admin/customers").await.unwrap();
        assert_eq!(customers.status, StatusCode::OK);
        process
    };
    starts(&dir.0, &admin_key).await.terminate();
    let empty = Dir::new("admin-key-empty");
    starts(&empty.0, &admin_key).await.terminate();
    let of_mine = starts(&dir.0, "an-admin-key-of-mine").await;

    // A revoked key does not.
    let admin = of_mine.client().with_key("an-admin-key-of-mine");
    let keys = admin.get("/admin/api-keys").await.unwrap().json();
    let keys = keys["data"].as_array().unwrap();
    for key in keys.iter().filter(|key| key["role"] == "admin") {
        let path = format!("/admin/api-keys/{}", key["id"].as_str().unwrap());
        let delete = http::Method::DELETE;
        let revoked = admin.send(delete, &path, &[], axum::body::Body::empty());
        assert_eq!(revoked.await.unwrap().status, StatusCode::NO_CONTENT);
    }
    of_mine.terminate();
    check(&admin_key, "is revoked");
    check("an-admin-key-of-mine", "is revoked");
}

#[test]
fn an_unusable_file_is_named() {
    let dir = Dir::new("files");
    Process::start(program().arg("--data").arg(&dir.0)).terminate();
    let check = |file: &str, content: &[u8]| {
        let path = dir.0.join(file);
        let before = std::fs::read(&path).ok();
        std::fs::write(&path, content).unwrap();
        let errors = start_error(program().arg("--data").arg(&dir.0));
        assert!(errors.contains(path.to_str().unwrap()), "{errors}");
        assert!(!errors.contains("encrypt"), "{errors}");
        match before {
            Some(before) => std::fs::write(&path, before).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
    };
    check("clock", b"");
    check("clock", b"an hour");
    check("clock", b"\xff");
    check("clock", i64::MAX.to_string().as_bytes());
    check("dynamodb.sqlite", b"no database at all");
    check("queue.sqlite", b"no database at all");
    // With the original files, the program starts.
    Process::start(program().arg("--data").arg(&dir.0)).terminate();
}

/// Includes free pages of the database and the write-ahead log.
#[tokio::test]
async fn erased_data_is_in_no_file_after_the_program_has_stopped() {
    let dir = Dir::new("erased");
    let mut process = Process::start(program().arg("--data").arg(&dir.0));
    let admin_key = process.admin_key();
    let admin = process.client().with_key(&admin_key);
    let personal = ["Zora Quill", "zora.quill@example.com", "zora's laptop"];
    let [name, email, key_name] = personal;
    for id in ["zq-17", "stays"] {
        let customer = json!({ "id": id, "plan": "pro", "name": name, "email": email });
        create(&admin, "/admin/customers", customer).await;
        let key = json!({ "customer_id": id, "name": key_name });
        create(&admin, "/admin/api-keys", key).await;
    }
    let files_with = |text: &str| {
        let files = std::fs::read_dir(&dir.0).unwrap();
        let contents = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
        let has = |content: &Vec<u8>| {
            let mut windows = content.windows(text.len());
            windows.any(|window| window == text.as_bytes())
        };
        contents.filter(has).count()
    };
    let erase = async |id: &str| {
        let path = format!("/admin/customers/{id}?dry_run=false");
        let delete = http::Method::DELETE;
        let erased = admin.send(delete, &path, &[], axum::body::Body::empty());
        assert_eq!(erased.await.unwrap().status, StatusCode::OK);
    };
    erase("zq-17").await;
    erase("stays").await;
    process.terminate();
    for text in personal {
        assert_eq!(files_with(text), 0, "{text}");
    }
    assert_eq!(files_with("zq-17"), 1, "the id stays");
}

/// The printed commands then work in the user's shell.
#[test]
fn a_start_prints_the_source_of_its_admin_key() {
    let key = "an-admin-key-of-mine";
    let (of_shell, export) = (
        "the one in TOLLGATE_ADMIN_KEY",
        "export TOLLGATE_ADMIN_KEY=",
    );
    let mut by_variable = program();
    by_variable
        .env("TOLLGATE_ADMIN_KEY", key)
        .arg("--in-memory");
    let (_, printed) = Process::start(&mut by_variable).terminate();
    assert!(printed.contains(of_shell), "{printed}");
    assert!(!printed.contains(export), "{printed}");

    let by_option = |of_shell: Option<&str>| {
        let mut command = program();
        command.args(["--in-memory", "--admin-key", key]);
        command.envs(of_shell.map(|key| ("TOLLGATE_ADMIN_KEY", key)));
        Process::start(&mut command).terminate().1
    };
    // The variable of the shell may contain another key.
    for other in [None, Some("another-key-of-mine")] {
        let printed = by_option(other);
        assert!(!printed.contains(of_shell), "{printed}");
        assert!(printed.contains(export), "{printed}");
    }
}

#[test]
fn the_demo_prints_its_steps_and_succeeds() {
    let Output {
        status,
        stdout,
        stderr,
    } = program().arg("demo").output().unwrap();
    let stdout = String::from_utf8_lossy(&stdout);
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{stdout}\n{stderr}");
    for line in [
        "call 1,001: 429",
        "a revoked key: 401",
        "the first billing run: 23 cents",
        "the second billing run: 0 cents",
        "All steps succeeded.",
    ] {
        assert!(stdout.contains(line), "{stdout}");
    }
    assert!(!stdout.contains('\x1b'), "colour without a terminal");
}

#[test]
fn calls_with_a_response_are_metered_once_in_spite_of_kills() {
    let dir = Dir::new("crash");
    let json = dir.0.join("figures.json");
    let crash = program()
        .args(["crash", "--times", "3", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&crash.stdout);
    let stderr = String::from_utf8_lossy(&crash.stderr);
    assert!(crash.status.success(), "{stdout}\n{stderr}");
    let figures: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let number = |name: &str| figures[name].as_u64().unwrap();
    assert_eq!((number("kills"), number("not_metered")), (3, 0));
    assert_eq!(
        Some(number("metered_once")),
        figures["responses"]["200"].as_u64()
    );
    let metered = number("metered_once") + number("in_flight_metered");
    assert_eq!(number("aggregated"), metered, "{stdout}");
    assert!(number("metered_once") >= 3, "{stdout}");
}

/// Uses keys in all operations at the log level `trace`, and searches the output for them.
#[tokio::test]
async fn no_output_contains_a_key_or_a_digest() {
    let mut process = Process::start(program().arg("--in-memory").env("RUST_LOG", "trace"));
    let anyone = process.client();
    let admin_key = process.admin_key();
    let admin = anyone.with_key(&admin_key);
    create(
        &admin,
        "/admin/customers",
        json!({ "id": "acme", "plan": "pro" }),
    )
    .await;
    let key = create(&admin, "/admin/api-keys", json!({ "customer_id": "acme" })).await;
    let first = key["key"].as_str().unwrap().to_owned();
    let path = format!("/admin/api-keys/{}/rotate", key["prefix"].as_str().unwrap());
    let rotated = create(&admin, &path, json!({})).await;
    let second = rotated["key"].as_str().unwrap().to_owned();
    for secret in [&first, &second] {
        anyone
            .with_key(secret)
            .get("/api/secure/ping")
            .await
            .unwrap();
        let bearer = format!("Bearer {secret}");
        let headers = [("authorization", bearer.as_str())];
        let get = http::Method::GET;
        let response = anyone.send(
            get,
            "/api/usage/current",
            &headers,
            axum::body::Body::empty(),
        );
        assert_eq!(response.await.unwrap().status, StatusCode::OK);
    }
    let customer = anyone.with_key(&second);
    let analysis = customer.post("/api/analyze", json!({ "text": "hello" }));
    assert_eq!(analysis.await.unwrap().status, StatusCode::OK);
    let stranger = anyone.with_key(&format!("{second}x"));
    let wrong = stranger.get("/api/secure/ping").await.unwrap();
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    let path = format!("/admin/api-keys/{}", key["id"].as_str().unwrap());
    let delete = http::Method::DELETE;
    let deleted = admin.send(delete, &path, &[], axum::body::Body::empty());
    assert_eq!(deleted.await.unwrap().status, StatusCode::NO_CONTENT);
    anyone
        .with_key(&first)
        .get("/api/secure/ping")
        .await
        .unwrap();
    admin.get("/admin/api-keys").await.unwrap();
    anyone.post("/_local/drain", json!({})).await.unwrap();
    anyone.post("/_local/nightly", json!({})).await.unwrap();
    let (_, printed) = process.terminate();
    assert!(printed.contains("DEBUG"), "nothing was logged: {printed}");

    for secret in [&first, &second] {
        assert!(!printed.contains(&secret[16..]), "a key was printed");
    }
    // The admin key is shown in four lines: its own, and those of the commands to try.
    let shown = printed
        .lines()
        .filter(|line| line.contains(&admin_key[17..]));
    let logged = shown.filter(|line| !line.starts_with("curl ") && !line.starts_with("admin key"));
    assert_eq!(logged.count(), 0, "the admin key was logged");
    for secret in [&first, &second, &admin_key] {
        let digest = ApiKey::parse(secret).unwrap().digest().expose_hex();
        assert!(!printed.contains(&digest), "a digest was printed");
    }
}
