//! Where a case runs.

use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::sleep;
use tollgate_local::client::{Answer, Client};
use tollgate_local::product::{self, Options, Running};
use tollgate_runtime::Entropy;

use crate::calls;
pub(crate) use crate::calls::send;

/// The shipped plans, and one whose overage is soon reached.
const PLANS: &str = include_str!("../../../emulated/plans.json");
/// That plan: it includes three calls, and charges a cent for each after them.
pub(crate) const SMALL_PLAN: &str = "starter";

/// Three minutes, in all, is how long a deployed stack may take to count, or, where its schedule runs
/// each minute, to bill.
const TRIES: usize = 360;
const PAUSE: Duration = Duration::from_millis(500);

/// The clock of a local product: far from the end of an hour, a day and a month.
const NOW: &str = "2026-11-22T10:00:00Z";

/// What the cases run against.
pub(crate) enum Target {
    /// A product of each case's own.
    Local,
    /// One stack for all of them.
    Deployed {
        url: String,
        admin_key: String,
        /// For the AWS CLI.
        stack: Option<String>,
        /// Whether it is the emulated AWS.
        emulated: bool,
    },
}

/// What a case may need besides a URL and an admin key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// To put events on the bus, or to run a night.
    Aws,
    /// A plan whose overage is soon reached.
    SmallPlan,
}

impl Need {
    pub(crate) fn explain(self) -> &'static str {
        match self {
            Need::Aws => "needs STACK_NAME and the AWS CLI",
            Need::SmallPlan => "needs the plans of infra/emulated/plans.json",
        }
    }
}

impl Target {
    /// The target that the environment names.
    pub(crate) fn of_environment() -> Result<Self, String> {
        let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (var("BASE_URL"), var("ADMIN_KEY")) {
            (None, None) => Ok(Self::Local),
            (Some(url), Some(admin_key)) => Ok(Self::Deployed {
                url: url.trim_end_matches('/').to_owned(),
                admin_key,
                stack: var("STACK_NAME"),
                emulated: var("EMULATED").is_some(),
            }),
            (Some(_), None) => Err("BASE_URL is set, and ADMIN_KEY is not".to_owned()),
            (None, Some(_)) => Err("ADMIN_KEY is set, and BASE_URL is not".to_owned()),
        }
    }

    /// What cases may need and this target has not.
    pub(crate) async fn lacks(&self) -> Vec<Need> {
        let mut lacks = Vec::new();
        let Target::Deployed { stack, .. } = self else {
            return lacks;
        };
        if stack.is_none() {
            lacks.push(Need::Aws);
        }
        let site = self.begin().await;
        let body = json!({ "id": site.name("probe"), "plan": SMALL_PLAN });
        let answer = site.admin.post("/admin/customers", body).await.unwrap();
        match answer.status {
            StatusCode::CREATED => {}
            StatusCode::UNPROCESSABLE_ENTITY => lacks.push(Need::SmallPlan),
            _ => panic!("the admin key does not open {}: {}", site.url, answer.text),
        }
        lacks
    }

    /// A place for one case.
    pub(crate) async fn begin(&self) -> Site {
        let entropy = Entropy::system().unwrap();
        let run = format!("{:x}", entropy.below(u64::MAX));
        match self {
            Target::Local => {
                let options = Options {
                    parameters: vec![("Plans", PLANS.to_owned())],
                    ..Options::default()
                };
                let running = product::start(options).await.unwrap();
                let anyone = Client::new(&running.url).unwrap();
                let site = Site {
                    admin: anyone.with_key(running.admin.expose().unwrap()),
                    anyone,
                    url: running.url.clone(),
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
            } => {
                let anyone = Client::new(url).unwrap();
                Site {
                    admin: anyone.with_key(admin_key),
                    anyone,
                    url: url.clone(),
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
        /// Held, because it stops when it is dropped.
        _running: Box<Running>,
    },
    Deployed {
        stack: Option<String>,
        emulated: bool,
    },
}

/// A place for one case.
pub(crate) struct Site {
    /// Without a key.
    pub(crate) anyone: Client,
    /// With the admin key.
    pub(crate) admin: Client,
    /// Where the API begins.
    pub(crate) url: String,
    run: String,
    kind: Kind,
}

impl Site {
    /// A name that no other case and no other run has.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{name}-{}", self.run)
    }

    /// Makes a customer, and returns its id.
    pub(crate) async fn customer(&self, plan: &str) -> String {
        let id = self.name("acme");
        calls::customer(&self.admin, &id, plan).await;
        id
    }

    /// Makes a key, and a client with it.
    pub(crate) async fn key(&self, body: Value) -> (Client, Value) {
        calls::key(&self.admin, body).await
    }

    /// The present, by the clock of the target.
    pub(crate) async fn now(&self) -> Timestamp {
        match self.kind {
            Kind::Local { .. } => {
                let answer = self.anyone.get("/_local/clock").await.unwrap().json();
                answer["now"].as_str().unwrap().parse().unwrap()
            }
            Kind::Deployed { .. } => Timestamp::now(),
        }
    }

    /// Waits until the hour has at least two minutes left, so that a window of limits stays open
    /// for the case. A local product's clock stands where there is time enough.
    pub(crate) async fn well_within_an_hour(&self) {
        let left = 3_600 - self.now().await.as_second().rem_euclid(3_600);
        if left < 120 {
            sleep(Duration::from_secs(u64::try_from(left).unwrap())).await;
        }
    }

    /// What `client` has used this month, once `calls` of it have been counted.
    pub(crate) async fn metered(&self, client: &Client, calls: u64) -> Value {
        self.until(&format!("{calls} calls are counted"), async || {
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

    /// Asks until there is an answer. For a local product time passes as fast as it is asked.
    pub(crate) async fn until<T>(&self, what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
        for _ in 0..TRIES {
            if let Some(answer) = ask().await {
                return answer;
            }
            match self.kind {
                Kind::Local { .. } => {
                    self.local("clock", json!({ "advance_s": 1 })).await;
                }
                Kind::Deployed { .. } => sleep(PAUSE).await,
            }
        }
        panic!("in vain: {what}");
    }

    /// Puts an event of this detail on the bus.
    pub(crate) async fn put_event(&self, detail: &Value) {
        let answer = match &self.kind {
            Kind::Local { .. } => {
                calls::put_event(&self.anyone, &calls::event("usage", detail)).await
            }
            Kind::Deployed { .. } => {
                let event = calls::event(&self.output("UsageBusName").await, detail);
                let entries = json!([event]).to_string();
                let arguments = ["events", "put-events", "--entries", &entries];
                serde_json::from_str(&self.aws(&arguments).await).unwrap()
            }
        };
        assert_eq!(answer["FailedEntryCount"], 0, "{answer}");
    }

    /// Has the night's run made as the schedule makes it. The emulated stack's own schedule runs
    /// each minute, and is waited for instead.
    pub(crate) async fn night(&self) {
        match &self.kind {
            Kind::Local { .. } => {
                self.local("night", json!({})).await;
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
                let said: Value = serde_json::from_str(&self.aws(&arguments).await).unwrap();
                assert!(said.get("FunctionError").is_none(), "{said}");
            }
        }
    }

    async fn local(&self, what: &str, body: Value) -> Value {
        calls::local(&self.anyone, what, body).await
    }

    /// An output of the stack.
    async fn output(&self, key: &str) -> String {
        let Kind::Deployed {
            stack: Some(stack), ..
        } = &self.kind
        else {
            panic!("the case does not say that it needs the stack's name");
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

    /// Runs the AWS CLI and returns what it printed.
    async fn aws(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("aws");
        // Not every version of the CLI reads the variable for every service.
        if let Ok(endpoint) = std::env::var("AWS_ENDPOINT_URL") {
            command.args(["--endpoint-url", &endpoint]);
        }
        let output = command.args(arguments).args(["--output", "json"]).output();
        let output = output.await.expect("the AWS CLI is to be had as `aws`");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "aws {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Checks a refusal: a problem with these members, that names its request.
    pub(crate) fn assert_problem(&self, answer: &Answer, status: StatusCode, slug: &str) {
        calls::assert_problem(answer, status, slug);
        let problem = answer.json();
        let request_id = problem["request_id"].as_str().unwrap();
        assert!(!request_id.is_empty());
        if !self.is_emulated() {
            assert_eq!(answer.header("x-amzn-requestid"), request_id);
        }
    }

    /// Checks the refusal of a call over a limit, which the authorizer's context words.
    pub(crate) fn assert_limited(&self, answer: &Answer, slug: &str) {
        let status = StatusCode::TOO_MANY_REQUESTS;
        if self.is_emulated() {
            assert_eq!(answer.status, status, "{}", answer.text);
        } else {
            self.assert_problem(answer, status, slug);
        }
    }

    /// Whether this is the emulated AWS, whose gateway leaves the authorizer's context out of its
    /// own answers and gives a request two ids.
    pub(crate) fn is_emulated(&self) -> bool {
        matches!(self.kind, Kind::Deployed { emulated: true, .. })
    }
}

/// The status of a call of the sample endpoint.
pub(crate) async fn ping(client: &Client) -> StatusCode {
    client.get("/api/secure/ping").await.unwrap().status
}
