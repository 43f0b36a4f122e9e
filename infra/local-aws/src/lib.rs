//! The AWS services that Tollgate uses, on one machine and in one process.
//!
//! [`LocalAws`] answers the AWS SDK in the place of a network ([`wire`]): the real clients serialise
//! their requests, and it is an embedded DynamoDB engine, an event bus and a queue that answer.
//! So there is one implementation of everything above the wire. Faults are injected here too.
//! In tests, AWS's own DynamoDB Local can stand in for the embedded engine ([`fixture`]).

mod bus;
mod cloudwatch;
mod endpoint;
mod engine;
mod fault;
pub mod fixture;
mod lambda;
mod queue;
mod role;
pub mod template;
pub mod wire;

pub use bus::{InvalidPattern, Rule};
pub use cloudwatch::CloudWatch;
pub use fault::{Call, Fault, throttled};
pub use lambda::{FunctionProcess, LambdaHost, Outcome, Step, StreamedAnswer, answer_alone};
pub use queue::{Counts, DeadLetter, MAX_RECEIVES, Message, Queue};
pub use role::{Condition, Grant, Permission, Role};
pub use rusqlite::Error as QueueError;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_types::SdkConfig;
use aws_types::region::Region;
use tollgate_runtime::{Clock, Entropy};
use tollgate_store::schema;

/// What a request is answered with.
struct Answer {
    status: u16,
    body: String,
}

/// Why the services could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LocalAwsError {
    /// The embedded DynamoDB engine.
    #[error("the embedded DynamoDB engine")]
    Engine(#[from] dynoxide::DynoxideError),
    /// A file of theirs.
    #[error("{0} cannot be used as a database; choose another directory")]
    File(PathBuf, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file under the name of one of theirs.
    #[error(
        "{0} is not a database of this program, or was damaged: move it away to begin without what is in \
         it, or choose another directory with --data"
    )]
    NoDatabase(PathBuf),
    /// What is given as DynamoDB's endpoint is no address.
    #[error("{0} is no endpoint")]
    Url(String, #[source] http::uri::InvalidUri),
    /// The client of DynamoDB's endpoint.
    #[error("the client of DynamoDB's endpoint")]
    Client(#[source] std::io::Error),
    /// The queue's database.
    #[error("the queue's database")]
    Queue(#[from] rusqlite::Error),
    /// A table could not be created.
    #[error("creating table {0}: {1}")]
    Table(String, String),
}

/// The services. Cheap to clone; all clones are the same services.
#[derive(Clone)]
pub struct LocalAws {
    inner: Arc<Inner>,
    /// Who calls, where that matters.
    role: Option<Role>,
}

struct Inner {
    engine: engine::Engine,
    bus: bus::Bus,
    queue: Arc<Queue>,
    faults: Mutex<Option<fault::Injector>>,
}

impl LocalAws {
    /// Services that forget everything when they are dropped. `rule` routes events to the queue.
    ///
    /// # Errors
    /// When SQLite cannot be used.
    pub fn in_memory(rule: Rule, clock: Clock, entropy: Entropy) -> Result<Self, LocalAwsError> {
        let engine = engine::Engine::in_memory()?;
        Ok(Self::of(engine, Queue::in_memory()?, rule, clock, entropy))
    }

    /// Services that keep their state in files under `dir`. What they acknowledge survives the end
    /// of the process, however it ends.
    ///
    /// # Errors
    /// When the files cannot be opened or created.
    pub fn open(
        dir: &Path,
        rule: Rule,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Self, LocalAwsError> {
        let path = dir.join("dynamodb.sqlite");
        check_database(&path)?;
        let engine = engine::Engine::open(&path);
        let engine = engine.map_err(|error| LocalAwsError::File(path, error.into()))?;
        let path = dir.join("queue.sqlite");
        check_database(&path)?;
        let queue = Queue::open(&path);
        let queue = queue.map_err(|error| LocalAwsError::File(path, error.into()))?;
        Ok(Self::of(engine, queue, rule, clock, entropy))
    }

    /// Services of which DynamoDB is at `endpoint`, over plain HTTP, and the rest as
    /// [`in_memory`](Self::in_memory). DynamoDB Local has a database for each `access_key_id`,
    /// which consists of letters and digits.
    ///
    /// A call blocks its thread until the endpoint has answered, so the endpoint cannot be served
    /// by that thread.
    ///
    /// # Errors
    /// When SQLite cannot be used, or `endpoint` is no address.
    pub fn with_dynamodb_at(
        endpoint: &str,
        access_key_id: &str,
        rule: Rule,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Self, LocalAwsError> {
        let url = endpoint.parse();
        let url = url.map_err(|error| LocalAwsError::Url(endpoint.to_owned(), error))?;
        let endpoint =
            endpoint::Endpoint::new(url, access_key_id).map_err(LocalAwsError::Client)?;
        let engine = engine::Engine::Endpoint(endpoint);
        Ok(Self::of(engine, Queue::in_memory()?, rule, clock, entropy))
    }

    fn of(
        engine: engine::Engine,
        queue: Queue,
        rule: Rule,
        clock: Clock,
        entropy: Entropy,
    ) -> Self {
        let queue = Arc::new(queue);
        let inner = Arc::new(Inner {
            engine,
            bus: bus::Bus::new(rule, Arc::clone(&queue), clock, entropy),
            queue,
            faults: Mutex::new(None),
        });
        Self { inner, role: None }
    }

    /// Creates Tollgate's tables under `prefix`; those that exist stay.
    ///
    /// # Errors
    /// When the engine refuses one.
    pub fn create_tables(&self, prefix: &str) -> Result<(), LocalAwsError> {
        for table in schema::TABLES {
            self.inner.engine.create_table(prefix, table)?;
        }
        Ok(())
    }

    /// Erases from the tables' file what was deleted or replaced in them: SQLite leaves it there until
    /// it needs the place. The write-ahead log has it until the last clone is dropped.
    ///
    /// # Errors
    /// When the engine cannot: for want of space, for instance.
    pub fn erase_what_was_deleted(&self) -> Result<(), LocalAwsError> {
        Ok(self.inner.engine.vacuum()?)
    }

    /// The same services, which hold each call against this role.
    #[must_use]
    pub fn in_role(&self, role: &Role) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            role: Some(role.clone()),
        }
    }

    /// The queue that the rule delivers to.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.inner.queue
    }

    /// Lets `injector` decide the fate of every call from now on.
    pub fn inject(&self, injector: impl FnMut(&Call) -> Fault + Send + 'static) {
        *self.faults() = Some(Box::new(injector));
    }

    /// Ends the injection of faults.
    pub fn heal(&self) {
        *self.faults() = None;
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, Option<fault::Injector>> {
        self.inner
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one API call given as its `X-Amz-Target` and JSON body, as the wire would.
    #[must_use]
    pub fn answer(&self, target: &str, body: &str) -> (u16, String) {
        if let Some(role) = &self.role
            && let Some(refused) = role.refuse(&Call::new(target, body.to_owned()))
        {
            return refused;
        }
        let answer = match target.split_once('.') {
            Some(("DynamoDB_20120810", operation)) => self.inner.engine.answer(operation, body),
            Some(("AWSEvents", "PutEvents")) => self.inner.bus.put_events(body),
            _ => Answer {
                status: 400,
                body: r#"{"__type":"UnknownOperationException"}"#.to_owned(),
            },
        };
        (answer.status, answer.body)
    }

    /// What the wire brings back of a call, with what befalls it on the way.
    async fn carry(self, call: Call) -> Option<(u16, String)> {
        let fault = match self.faults().as_mut() {
            Some(injector) => injector(&call),
            None => Fault::None,
        };
        let take_effect = || self.answer(&call.target, &call.body);
        // A network would let other tasks run before and after the call took effect.
        tokio::task::yield_now().await;
        let answer = match fault {
            Fault::None => Some(take_effect()),
            Fault::RequestLost => None,
            Fault::AnswerLost => {
                let _ = take_effect();
                None
            }
            Fault::NoAnswer => {
                let _ = take_effect();
                std::future::pending().await
            }
            Fault::Throttled => Some(call.throttled()),
            Fault::Refused => Some(call.refused()),
            Fault::Conflict => Some(call.conflict()),
        };
        tokio::task::yield_now().await;
        answer
    }

    /// What the SDK's clients need to reach these services.
    #[must_use]
    pub fn sdk_config(&self) -> SdkConfig {
        let this = self.clone();
        let credentials = Credentials::new("local", "local", None, None, "local");
        SdkConfig::builder()
            .behavior_version(
                aws_smithy_runtime_api::client::behavior_version::BehaviorVersion::latest(),
            )
            .region(Region::from_static("us-east-1"))
            .endpoint_url("http://aws.local")
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(wire::http_client(move |call| this.clone().carry(call)))
            .build()
    }
}

/// Refuses a file that is no database: what the engine says of one speaks of encryption.
fn check_database(path: &Path) -> Result<(), LocalAwsError> {
    const BEGINS: &[u8] = b"SQLite format 3\0";
    // One that is empty, not there, or not to be read is the engine's to judge.
    let mut begins = Vec::new();
    let read = File::open(path).and_then(|file| file.take(16).read_to_end(&mut begins));
    match read {
        Ok(1..) if begins != BEGINS => Err(LocalAwsError::NoDatabase(path.to_owned())),
        _ => Ok(()),
    }
}

impl std::fmt::Debug for LocalAws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalAws")
    }
}
