//! Seed of the plans: stores the plans of the template parameter `Plans`, if the store has none yet. The
//! provider of a CloudFormation custom resource, which a deployment waits for before it changes the functions
//! that need plans.
//!
//! <https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/crpg-ref.html>

mod event;
mod response;

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tollgate_domain::plan::InvalidCatalog;
use tollgate_runtime::config::{self, InvalidConfig};
use tollgate_runtime::{Chain, Init};
use tollgate_store::{SeedOutcome, Store, StoreError};

pub use event::Event;
use event::RequestType;
pub use response::{RESPONSE_TIME, Responder, ResponseError};
use response::{Response, SeedData};

/// State of an instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// The tables.
    pub store: Store,
    /// Sends responses to CloudFormation.
    pub responder: Responder,
}

impl App {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks the tables.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        Ok(Self {
            store: Store::build(init)?,
            responder: Responder::new(&init.sdk),
        })
    }
}

/// Longest time that an invocation tries to store the plans. Together with [`RESPONSE_TIME`] it is less than the
/// function's timeout, so that CloudFormation gets a response from every invocation.
pub const SEED_TIME: Duration = Duration::from_secs(20);
/// Pause before another try.
const PAUSE: Duration = Duration::from_secs(2);

/// Error: the plans are not seeded. Displayed to the operator by CloudFormation.
#[derive(Debug, thiserror::Error)]
enum SeedError {
    #[error(
        "The custom resource needs the property Plans, as text; correct the template, and deploy again"
    )]
    NotText,
    #[error("The parameter Plans is invalid; correct it, and deploy again")]
    Invalid(#[from] InvalidCatalog),
    #[error("The plans could not be stored; find the cause, and deploy again")]
    Store(#[from] StoreError),
}

/// Handles a request of CloudFormation: seeds the plans when the resource is created or updated, and does nothing
/// when it is deleted. CloudFormation gets a response in every case. A repetition of the request has no further
/// effect.
///
/// # Errors
/// When the response could not be sent. Lambda then repeats the request.
pub async fn handle(app: &App, event: &Event) -> Result<(), ResponseError> {
    let response = match event.request_type {
        RequestType::Delete => Response::deleted(event),
        RequestType::Create | RequestType::Update => match seed(app, event).await {
            Ok(outcome) => {
                let data = data(outcome);
                let message = &data.message;
                match outcome {
                    SeedOutcome::Differs => tracing::warn!("{message}"),
                    SeedOutcome::Seeded | SeedOutcome::Unchanged => tracing::info!("{message}"),
                }
                Response::seeded(event, data)
            }
            Err(error) => {
                let reason = Chain(&error).to_string();
                tracing::error!(error = %reason, "the plans are not seeded");
                Response::failed(event, &reason)
            }
        },
    };
    app.responder.send(&event.response_url, &response).await
}

async fn seed(app: &App, event: &Event) -> Result<SeedOutcome, SeedError> {
    let plans = event.plans().ok_or(SeedError::NotText)?;
    let plans = config::parse_plans(plans)?;
    let deadline = Instant::now() + SEED_TIME;
    loop {
        let seeding = async {
            if event.begins_claims() {
                app.store.begin_claims_again().await?;
            }
            app.store.seed_plans(&plans).await
        };
        let seeding = timeout_at(deadline, seeding).await;
        let error = match seeding {
            Ok(Ok(outcome)) => return Ok(outcome),
            Ok(Err(error)) => error,
            Err(_) => StoreError::timed_out("seeding the plans"),
        };
        // Any error is worth another try, also a denial: what a new policy allows takes effect after some
        // seconds (https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html).
        if Instant::now() + PAUSE >= deadline {
            return Err(error.into());
        }
        sleep(PAUSE).await;
    }
}

/// Returns the attributes of the resource. The stack has the message as an output.
fn data(outcome: SeedOutcome) -> SeedData {
    let (outcome, message) = match outcome {
        SeedOutcome::Seeded => ("seeded", "The plans of the parameter Plans are stored"),
        SeedOutcome::Unchanged => (
            "unchanged",
            "The plans of the parameter Plans were stored before, and nothing was changed",
        ),
        SeedOutcome::Differs => (
            "differs",
            "The parameter Plans was changed after its plans had been stored, and has no effect",
        ),
    };
    let message = format!(
        "{message}; plans are changed by POST /admin/plans and POST /admin/plans/{{id}}/versions."
    );
    SeedData { outcome, message }
}
