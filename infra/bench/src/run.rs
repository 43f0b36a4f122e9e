//! A benchmark run of the authorizer, the floor and the peers.

use std::path::Path;

use hyper::body::Bytes;
use tollgate_local_aws::template::{InvalidTemplate, Stack};
use tollgate_runtime::Chain;

use crate::affinity;
use crate::contender::{Contender, ContenderError};
use crate::dynamodb::{DynamoDb, EndpointError};
use crate::effort::Effort;
use crate::handler::{self, HandlerError};
use crate::latency::{Case, starts, tls_starts, warm};
use crate::peers::{self, Peer};
use crate::report::{Measured, NotMeasured, PeerResults, Results};
use crate::routing::{self, Rate};
use crate::rush;
use crate::shapes;
use crate::tables::{self, STACK, SeedError};
use crate::tools::{ToolError, build, build_bare, target_dir, zipped};

/// Starts that are not measured, because they fill the page cache.
const DISCARDED_STARTS: usize = 3;
/// TTL of the key cache while latency is measured, so that few calls read a key.
const KEY_CACHE_S: &str = "60";
/// Index of the floor among the cases.
const FLOOR: usize = 0;
/// Index of Tollgate among the cases.
const OURS: usize = 1;

/// An error that ends a run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Seed(#[from] SeedError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Contender(#[from] ContenderError),
    #[error(transparent)]
    Handler(#[from] HandlerError),
    #[error("the function's environment variables cannot be read from the template")]
    Template(#[from] InvalidTemplate),
}

/// Builds, installs and measures all contenders.
pub(crate) async fn authorizer(
    effort: &Effort,
    rates: &[Rate],
    profile: &str,
) -> Result<Results, RunError> {
    let dir = target_dir().await?.join("bench");
    std::fs::create_dir_all(&dir).map_err(|error| ToolError::File(dir.clone(), error))?;
    progress(&format!("logs go to {}", dir.display()));
    progress("building the authorizer and the floor");
    let binary = build("authorizer", "authorizer", profile).await?;
    let floor_binary = build_bare("bench", "floor", profile).await?;
    let aws = tables::services()?;
    let events = tables::seed(&aws).await?;
    let endpoint = DynamoDb::start(aws.clone(), &dir)?;

    let as_deployed = Stack::built_in(STACK)?;
    let deployed = binary_in(&dir, "tollgate", &binary, variables(&as_deployed)?);
    let caching = as_deployed.with_parameter("KeyCacheSeconds", KEY_CACHE_S);
    let ours = binary_in(&dir, "tollgate", &binary, variables(&caching)?);
    let floor = binary_in(&dir, "floor", &floor_binary, Vec::new());
    progress("installing the peers");
    let node = usable(peers::node(&dir).await, &events.node, &endpoint).await;
    let python = usable(peers::python(&dir).await, &events.python, &endpoint).await;

    let case = |contender, event| Case { contender, event };
    let mut cases = vec![
        case(&floor, &events.leased),
        case(&deployed, &events.leased),
    ];
    let peers = [(&node, &events.node), (&python, &events.python)];
    for (peer, event) in peers {
        cases.extend(peer.as_ref().ok().map(|peer| case(&peer.contender, event)));
    }
    progress("measuring process starts");
    let starts = starts(&cases, &endpoint, DISCARDED_STARTS, effort.starts).await?;
    progress("measuring process starts with TLS");
    let mut tls = Vec::with_capacity(cases.len());
    for case in &cases {
        let starts = tls_starts(*case, &endpoint, effort.tls_starts).await;
        tls.push(starts.map_err(|error| not_measured(&error)));
    }
    progress("measuring warm decisions");
    cases[OURS].contender = &ours;
    let one_write = cases.len();
    cases.push(case(&ours, &events.strict));
    let on_one_core = affinity::pin().await;
    let warm = warm(&cases, &endpoint, effort.warm).await;
    affinity::unpin().await;
    let warm = warm?;
    progress("measuring the handler alone");
    let (batches, calls) = (effort.handler_batches, effort.handler_calls);
    let handler = handler::measure(&aws, &events.leased, batches, calls).await?;
    progress("measuring the traffic shape hot");
    let hot = shapes::hot(&deployed, &endpoint, &events.hot, effort.hot_s).await?;
    progress("measuring the traffic shape zipf");
    let zipf = shapes::zipf(&deployed, &endpoint, &events.zipf, effort.zipf_s).await?;
    progress("measuring the rush");
    let rush = rush::measure(&dir, profile).await?;
    progress("measuring routed traffic");
    let routing = routing::measure(&dir, profile, rates).await?;

    let measured = |at: usize| Measured {
        start: starts[at].clone(),
        warm: warm[at].clone(),
        tls: tls[at].clone(),
    };
    let mut at = OURS;
    let mut results = |peer: Result<Usable, NotMeasured>| {
        let peer = peer?;
        at += 1;
        Ok(PeerResults {
            versions: peer.versions,
            client: peer.client,
            measured: measured(at),
        })
    };
    Ok(Results {
        node: results(node),
        python: results(python),
        floor: measured(FLOOR),
        ours: measured(OURS),
        one_write: warm[one_write].clone(),
        handler,
        on_one_core,
        zip_bytes: zipped(&binary)?,
        hot,
        zipf,
        routing,
        rush,
    })
}

pub(crate) fn progress(message: &str) {
    eprintln!("bench: {message}");
}

fn not_measured(error: &dyn std::error::Error) -> NotMeasured {
    let why = Chain(error).to_string();
    progress(&format!("not measured: {why}"));
    NotMeasured(why)
}

/// Returns the environment variables that the template sets for the authorizer.
fn variables(stack: &Stack) -> Result<Vec<(String, String)>, InvalidTemplate> {
    Ok(stack.variables("AuthorizerFunction")?.into_iter().collect())
}

pub(crate) fn binary_in(
    dir: &Path,
    name: &str,
    binary: &Path,
    variables: Vec<(String, String)>,
) -> Contender {
    Contender {
        name: name.to_owned(),
        program: binary.to_owned(),
        arguments: Vec::new(),
        dir: dir.to_owned(),
        variables,
        log: dir.join(format!("{name}.log")),
    }
}

/// A peer with a runner that works on this machine.
struct Usable {
    versions: String,
    client: String,
    contender: Contender,
}

/// Returns the first runner of a peer that works. A machine on which none does can measure the rest.
async fn usable(
    peer: Result<Peer, ToolError>,
    event: &Bytes,
    endpoint: &DynamoDb,
) -> Result<Usable, NotMeasured> {
    let peer = peer.map_err(|error| not_measured(&error))?;
    let mut why = NotMeasured("there is no client of the Runtime API".to_owned());
    for runner in peer.runners {
        let case = Case {
            contender: &runner.contender,
            event,
        };
        match case.check(endpoint).await {
            Ok(()) => {
                return Ok(Usable {
                    versions: peer.versions,
                    client: runner.client,
                    contender: runner.contender,
                });
            }
            Err(error) => {
                why = NotMeasured(Chain(&error).to_string());
                progress(&format!("{} does not work here: {}", runner.client, why.0));
            }
        }
    }
    Err(why)
}
