//! Targets: the stacks that cases run against.

use std::time::Duration;

use axum::body::Body;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::sleep;
use tollgate_local::client::{Client, Response};
use tollgate_local::local_stack::{self, Options, Running};
use tollgate_runtime::Entropy;

use crate::calls;
pub(crate) use crate::calls::send;

/// The shipped plans, and one with few included calls.
const PLANS: &str = include_str!("../../../emulated/plans.json");
/// That plan: it includes three calls, and charges one cent for each further call.
pub(crate) const SMALL_PLAN: &str = "starter";

/// Attempts until a condition holds. With [`PAUSE`], three minutes in total: the time that a deployed stack
/// may take to count, or to bill if its schedule runs every minute.
const TRIES: usize = 360;
const PAUSE: Duration = Duration::from_millis(500);

/// Time of a local stack's clock: far from the end of an hour, a day and a month.
const NOW: &str = "2026-11-22T10:00:00Z";

/// Stack or stacks that the cases run against.
pub(crate) enum Target {
    /// A local stack for each case.
    Local,
    /// One deployed stack for all cases.
    Deployed {
        url: String,
        admin_key: String,
        /// Name of the stack, for the AWS CLI.
        stack: Option<String>,
        /// Whether the stack runs on the emulated AWS.
        emulated: bool,
        /// URL of the stand-in for Stripe that the stack uses.
        stripe: Option<String>,
    },
}

/// Requirement of a case besides a URL and an admin key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Access to the event bus or to the nightly functions.
    Aws,
    /// The plan with few included calls.
    SmallPlan,
    /// The stand-in for Stripe, in place of Stripe.
    StripeFake,
}

impl Need {
    pub(crate) fn explain(self) -> &'static str {
        match self {
            Need::Aws => "needs STACK_NAME and the AWS CLI",
            Need::SmallPlan => "needs the plans of infra/emulated/plans.json",
            Need::StripeFake => {
                "needs a stack that uses the stand-in for Stripe at STRIPE_FAKE_URL"
            }
        }
    }
}

impl Target {
    /// Returns the target that the environment variables specify.
    pub(crate) fn from_env() -> Result<Self, String> {
        let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (var("BASE_URL"), var("ADMIN_KEY")) {
            (None, None) => Ok(Self::Local),
            (Some(url), Some(admin_key)) => Ok(Self::Deployed {
                url: url.trim_end_matches('/').to_owned(),
                admin_key,
                stack: var("STACK_NAME"),
                emulated: var("EMULATED").is_some(),
                stripe: var("STRIPE_FAKE_URL"),
            }),
            (Some(_), None) => Err("BASE_URL is set, and ADMIN_KEY is not".to_owned()),
            (None, Some(_)) => Err("ADMIN_KEY is set, and BASE_URL is not".to_owned()),
        }
    }

    /// Returns the needs that this target does not meet.
    pub(crate) async fn missing_needs(&self) -> Vec<Need> {
        let mut missing = Vec::new();
        let Target::Deployed { stack, stripe, .. } = self else {
            return missing;
        };
        if stripe.is_none() {
            missing.push(Need::StripeFake);
        }
        if stack.is_none() {
            missing.push(Need::Aws);
        }
        let site = self.site().await;
        let body = json!({ "id": site.name("probe"), "plan": SMALL_PLAN });
        let response = site.admin.post("/admin/customers", body).await.unwrap();
        match response.status {
            StatusCode::CREATED => {}
            StatusCode::UNPROCESSABLE_ENTITY => missing.push(Need::SmallPlan),
            _ => panic!(
                "the admin key is not accepted by {}: {}",
                site.url, response.text
            ),
        }
        missing
    }

    /// Returns a site for one case, and starts its stack if the target is local.
    pub(crate) async fn site(&self) -> Site {
        let entropy = Entropy::system().unwrap();
        let run = format!("{:x}", entropy.below(u64::MAX));
        match self {
            Target::Local => {
                let options = Options {
                    parameters: vec![("Plans", PLANS.to_owned())],
                    ..Options::default()
                };
                let running = local_stack::start(options).await.unwrap();
                let anyone = Client::new(&running.url).unwrap();
                let site = Site {
                    admin: anyone.with_key(running.admin.expose().unwrap()),
                    anyone,
                    url: running.url.clone(),
                    stripe: Some(Client::new(&running.stripe_url).unwrap()),
                    run,
                    kind: Kind::Local {
                        _running: Box::new(running),
                    },
                };
                site.local("clock", json!({ "now": NOW })).await;
                site
            }
            Target::Deployed {
                url,
                admin_key,
                stack,
                emulated,
                stripe,
            } => {
                let anyone = Client::new(url).unwrap();
                Site {
                    admin: anyone.with_key(admin_key),
                    anyone,
                    url: url.clone(),
                    stripe: stripe.as_deref().map(|url| Client::new(url).unwrap()),
                    run,
                    kind: Kind::Deployed {
                        stack: stack.clone(),
                        emulated: *emulated,
                    },
                }
            }
        }
    }
}

enum Kind {
    Local {
        /// Kept, because the stack stops when it is dropped.
        _running: Box<Running>,
    },
    Deployed {
        stack: Option<String>,
        emulated: bool,
    },
}

/// Access to a stack for one case.
pub(crate) struct Site {
    /// Client without a key.
    pub(crate) anyone: Client,
    /// Client with the admin key.
    pub(crate) admin: Client,
    /// Base URL of the API.
    pub(crate) url: String,
    /// Client of the stand-in for Stripe.
    stripe: Option<Client>,
    run: String,
    kind: Kind,
}

impl Site {
    /// Makes a name unique among cases and runs.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{name}-{}", self.run)
    }

    /// Creates a customer; returns its id.
    pub(crate) async fn customer(&self, plan: &str) -> String {
        let id = self.name("acme");
        calls::customer(&self.admin, &id, plan).await;
        id
    }

    /// Calls the stand-in for Stripe; returns its response.
    pub(crate) async fn stripe(&self, method: Method, path: &str, form: &str) -> Value {
        let headers = [
            ("authorization", "Bearer sk_test_stripe_fake"),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let client = self.stripe.as_ref().unwrap();
        let body = Body::from(form.to_owned());
        let response = client.send(method, path, &headers, body).await.unwrap();
        assert_eq!(response.status, StatusCode::OK, "{}", response.text);
        response.json()
    }

    /// Creates a key; returns a client with it and the response.
    pub(crate) async fn key(&self, body: Value) -> (Client, Value) {
        calls::key(&self.admin, body).await
    }

    /// Returns the time of the stack's clock.
    pub(crate) async fn now(&self) -> Timestamp {
        match self.kind {
            Kind::Local { .. } => {
                let response = self.anyone.get("/_local/clock").await.unwrap().json();
                response["now"].as_str().unwrap().parse().unwrap()
            }
            Kind::Deployed { .. } => Timestamp::now(),
        }
    }

    /// Waits until the hour has at least two minutes left, so that the hourly window does not end during
    /// the case. The clock of a local stack is never near the end of an hour.
    pub(crate) async fn well_within_an_hour(&self) {
        let left = 3_600 - self.now().await.as_second().rem_euclid(3_600);
        if left < 120 {
            sleep(Duration::from_secs(u64::try_from(left).unwrap())).await;
        }
    }

    /// Waits until `calls` calls of `client` are counted; returns its usage of this month.
    pub(crate) async fn metered(&self, client: &Client, calls: u64) -> Value {
        self.wait_for(&format!("{calls} calls are counted"), async || {
            if matches!(self.kind, Kind::Local { .. }) {
                let drained = self.local("drain", json!({})).await;
                assert_eq!(drained["dead_letters"], 0);
            }
            let usage = client.get("/api/usage/current").await.unwrap();
            assert_eq!(usage.status, StatusCode::OK, "{}", usage.text);
            let usage = usage.json();
            let counted = usage["metered"]["calls"].as_u64().unwrap();
            assert!(counted <= calls, "{usage}");
            (counted == calls).then_some(usage)
        })
        .await
    }

    /// Polls until `poll` returns a value. A local stack's clock is advanced by a second after each attempt.
    pub(crate) async fn wait_for<T>(&self, what: &str, poll: impl AsyncFn() -> Option<T>) -> T {
        for _ in 0..TRIES {
            if let Some(value) = poll().await {
                return value;
            }
            match self.kind {
                Kind::Local { .. } => {
                    self.local("clock", json!({ "advance_s": 1 })).await;
                }
                Kind::Deployed { .. } => sleep(PAUSE).await,
            }
        }
        panic!("timed out waiting until {what}");
    }

    /// Sends an event with this detail to the bus.
    pub(crate) async fn put_event(&self, detail: &Value) {
        let response = match &self.kind {
            Kind::Local { .. } => {
                calls::put_event(&self.anyone, &calls::put_events_entry("usage", detail)).await
            }
            Kind::Deployed { .. } => {
                let entry = calls::put_events_entry(&self.output("UsageBusName").await, detail);
                let entries = json!([entry]).to_string();
                let arguments = ["events", "put-events", "--entries", &entries];
                serde_json::from_str(&self.aws(&arguments).await).unwrap()
            }
        };
        assert_eq!(response["FailedEntryCount"], 0, "{response}");
    }

    /// Runs billing as the nightly schedule does. Does nothing on the emulated AWS, where the schedule runs
    /// every minute.
    pub(crate) async fn nightly(&self) {
        match &self.kind {
            Kind::Local { .. } => {
                self.local("nightly", json!({})).await;
            }
            Kind::Deployed { emulated: true, .. } => {}
            Kind::Deployed { .. } => {
                let function = self.output("BillingFunctionName").await;
                let arguments = [
                    "lambda",
                    "invoke",
                    "--function-name",
                    &function,
                    "/dev/null",
                ];
                let response: Value = serde_json::from_str(&self.aws(&arguments).await).unwrap();
                assert!(response.get("FunctionError").is_none(), "{response}");
            }
        }
    }

    async fn local(&self, route: &str, body: Value) -> Value {
        calls::local(&self.anyone, route, body).await
    }

    /// Returns an output of the CloudFormation stack.
    async fn output(&self, key: &str) -> String {
        let Kind::Deployed {
            stack: Some(stack), ..
        } = &self.kind
        else {
            panic!("the case must declare Need::Aws");
        };
        let query = format!("Stacks[0].Outputs[?OutputKey=='{key}'].OutputValue");
        let arguments = ["cloudformation", "describe-stacks", "--stack-name", stack];
        let text = self
            .aws(&[&arguments[..], &["--query", &query]].concat())
            .await;
        let found: Vec<String> = serde_json::from_str(&text).unwrap();
        let [value] = &found[..] else {
            panic!("stack {stack} has no output {key}");
        };
        value.clone()
    }

    /// Runs the AWS CLI; returns its standard output.
    async fn aws(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("aws");
        // Some versions of the CLI do not read the variable for every service.
        if let Ok(endpoint) = std::env::var("AWS_ENDPOINT_URL") {
            command.args(["--endpoint-url", &endpoint]);
        }
        let output = command.args(arguments).args(["--output", "json"]).output();
        let output = output.await.expect("the AWS CLI is installed as `aws`");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "aws {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Checks that a response is a problem with this status and type, with the request's id.
    pub(crate) fn assert_problem(&self, response: &Response, status: StatusCode, slug: &str) {
        calls::assert_problem(response, status, slug);
        let problem = response.json();
        let request_id = problem["request_id"].as_str().unwrap();
        assert!(!request_id.is_empty());
        if !self.is_emulated() {
            assert_eq!(response.header("x-amzn-requestid"), request_id);
        }
    }

    /// Checks that a response is the denial of a call over a limit. Its body comes from the authorizer's
    /// context.
    pub(crate) fn assert_limited(&self, response: &Response, slug: &str) {
        let status = StatusCode::TOO_MANY_REQUESTS;
        if self.is_emulated() {
            assert_eq!(response.status, status, "{}", response.text);
        } else {
            self.assert_problem(response, status, slug);
        }
    }

    /// Returns whether the stack runs on the emulated AWS, whose gateway leaves the authorizer's context out
    /// of gateway responses and assigns two ids to a request.
    pub(crate) fn is_emulated(&self) -> bool {
        matches!(self.kind, Kind::Deployed { emulated: true, .. })
    }
}

/// Calls the sample endpoint; returns the status.
pub(crate) async fn ping(client: &Client) -> StatusCode {
    client.get("/api/secure/ping").await.unwrap().status
}
