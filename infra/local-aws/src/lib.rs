//! The AWS services that Tollgate uses, in one process.
//!
//! [`LocalAws`] takes the place of the network below the AWS SDK ([`wire`]): the real clients serialise
//! their requests, and an embedded DynamoDB engine, an event bus and a queue respond to them. So there
//! is one implementation of everything above the HTTP client. Faults are injected here too.
//! In tests, AWS's own DynamoDB Local can replace the embedded engine ([`fixture`]).

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
pub use lambda::{FunctionProcess, LambdaHost, Outcome, Step, StreamedResponse, invoke_once};
pub use queue::{Counts, DeadLetter, MAX_RECEIVES, Message, Queue};
pub use role::{Condition, Grant, Permission, Role};
pub use rusqlite::Error as QueueError;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_types::SdkConfig;
use aws_types::region::Region;
use serde_json::{Value, json};
use tollgate_runtime::{Clock, Entropy};
use tollgate_store::schema;

/// Response of a service to one API call.
struct ApiResponse {
    status: u16,
    body: String,
}

/// Failure to start the services.
#[derive(Debug, thiserror::Error)]
pub enum LocalAwsError {
    /// The embedded DynamoDB engine.
    #[error("the embedded DynamoDB engine")]
    Engine(#[from] dynoxide::DynoxideError),
    /// A database file that cannot be opened.
    #[error("{0} cannot be used as a database; choose another directory")]
    File(PathBuf, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file with the name of a database file that is not an SQLite database.
    #[error(
        "{0} is not a database of this program, or is damaged: move it away to start with empty state, \
         or choose another directory with --data"
    )]
    NoDatabase(PathBuf),
    /// The given DynamoDB endpoint is not a URL.
    #[error("{0} is not a valid endpoint URL")]
    Url(String, #[source] http::uri::InvalidUri),
    /// The HTTP client for DynamoDB's endpoint.
    #[error("the HTTP client for DynamoDB's endpoint")]
    Client(#[source] std::io::Error),
    /// The queue's database.
    #[error("the queue's database")]
    Queue(#[from] rusqlite::Error),
    /// A table could not be created.
    #[error("creating table {0}: {1}")]
    Table(String, String),
}

/// The local AWS services. Cheap to clone; clones share all state.
#[derive(Clone)]
pub struct LocalAws {
    inner: Arc<Inner>,
    /// Role whose permissions calls are checked against; `None` allows everything.
    role: Option<Role>,
}

struct Inner {
    engine: engine::Engine,
    bus: bus::Bus,
    queue: Arc<Queue>,
    /// Queues that functions send to, by name; in files of this directory, if there is one.
    named_queues: Mutex<HashMap<String, Arc<Queue>>>,
    dir: Option<PathBuf>,
    clock: Clock,
    /// Secrets of Secrets Manager by name, and parameters of Parameter Store by `ssm:` and their name.
    secrets: Mutex<HashMap<String, String>>,
    faults: Mutex<Option<fault::Injector>>,
}

impl LocalAws {
    /// Creates services that keep their state in memory. `rule` routes events to the queue.
    ///
    /// # Errors
    /// When SQLite cannot be used.
    pub fn in_memory(rule: Rule, clock: Clock, entropy: Entropy) -> Result<Self, LocalAwsError> {
        let engine = engine::Engine::in_memory()?;
        let queue = Queue::in_memory(clock.clone())?;
        Ok(Self::new(engine, queue, None, rule, clock, entropy))
    }

    /// Creates services that keep their state in files under `dir`. Acknowledged writes survive the end
    /// of the process, a kill included.
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
        let queue = Queue::open(&path, clock.clone());
        let queue = queue.map_err(|error| LocalAwsError::File(path, error.into()))?;
        let dir = Some(dir.to_owned());
        Ok(Self::new(engine, queue, dir, rule, clock, entropy))
    }

    /// Creates services that send DynamoDB calls to `endpoint` over plain HTTP; the rest is as in
    /// [`in_memory`](Self::in_memory). DynamoDB Local has a database for each `access_key_id`,
    /// which consists of letters and digits.
    ///
    /// A call blocks its thread until the endpoint has responded, so the endpoint must not be served
    /// by the same thread.
    ///
    /// # Errors
    /// When SQLite cannot be used, or `endpoint` is not a URL.
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
        let queue = Queue::in_memory(clock.clone())?;
        Ok(Self::new(engine, queue, None, rule, clock, entropy))
    }

    fn new(
        engine: engine::Engine,
        queue: Queue,
        dir: Option<PathBuf>,
        rule: Rule,
        clock: Clock,
        entropy: Entropy,
    ) -> Self {
        let queue = Arc::new(queue);
        let inner = Arc::new(Inner {
            engine,
            bus: bus::Bus::new(rule, Arc::clone(&queue), clock.clone(), entropy),
            queue,
            named_queues: Mutex::default(),
            dir,
            clock,
            secrets: Mutex::default(),
            faults: Mutex::new(None),
        });
        Self { inner, role: None }
    }

    /// Creates Tollgate's tables with names that begin with `prefix`. Existing tables are kept.
    ///
    /// # Errors
    /// When the engine rejects a table.
    pub fn create_tables(&self, prefix: &str) -> Result<(), LocalAwsError> {
        for table in schema::TABLES {
            self.inner.engine.create_table(prefix, table)?;
        }
        Ok(())
    }

    /// Removes deleted and replaced data from the database file: SQLite keeps it in free pages until
    /// they are reused. The write-ahead log keeps it until the last clone is dropped.
    ///
    /// # Errors
    /// When the engine fails, for example for lack of disk space.
    pub fn vacuum(&self) -> Result<(), LocalAwsError> {
        Ok(self.inner.engine.vacuum()?)
    }

    /// Returns a handle to these services that checks each call against `role`.
    #[must_use]
    pub fn in_role(&self, role: &Role) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            role: Some(role.clone()),
        }
    }

    /// Returns the queue that the rule delivers to.
    #[must_use]
    pub fn queue(&self) -> &Arc<Queue> {
        &self.inner.queue
    }

    /// Returns the queue with this name, to which functions send messages. It exists as soon as it is named.
    ///
    /// # Errors
    /// When its database cannot be used.
    pub fn named_queue(&self, name: &str) -> Result<Arc<Queue>, LocalAwsError> {
        let queues = &self.inner.named_queues;
        let mut queues = queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(name) {
            return Ok(Arc::clone(queue));
        }
        let clock = self.inner.clock.clone();
        let queue = match &self.inner.dir {
            Some(dir) => Queue::open(&dir.join(format!("queue-{name}.sqlite")), clock)?,
            None => Queue::in_memory(clock)?,
        };
        let queue = Arc::new(queue);
        queues.insert(name.to_owned(), Arc::clone(&queue));
        Ok(queue)
    }

    /// Sends the messages of a request of SQS.
    fn send_messages(&self, body: &str) -> ApiResponse {
        let request: Value = serde_json::from_str(body).unwrap_or_default();
        let url = request["QueueUrl"].as_str().unwrap_or_default();
        let items = request["Entries"].as_array().map_or(&[][..], Vec::as_slice);
        let text = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let bodies: Vec<String> = items.iter().map(|item| text(item, "MessageBody")).collect();
        let delays = items
            .iter()
            .map(|item| item["DelaySeconds"].as_i64().unwrap_or(0));
        let messages: Vec<(&str, i64)> = bodies.iter().map(String::as_str).zip(delays).collect();
        let sent = self
            .named_queue(queue_name(url))
            .and_then(|queue| Ok(queue.send_after(&messages)?));
        match sent {
            Ok(()) => {
                let sent = items.iter().map(|item| {
                    let id = text(item, "Id");
                    json!({ "Id": id, "MessageId": id, "MD5OfMessageBody": "" })
                });
                let sent: Vec<Value> = sent.collect();
                ApiResponse {
                    status: 200,
                    body: json!({ "Successful": sent, "Failed": [] }).to_string(),
                }
            }
            Err(error) => ApiResponse {
                status: 500,
                body: json!({ "__type": "InternalError", "message": error.to_string() })
                    .to_string(),
            },
        }
    }

    /// Sets a secret of Secrets Manager, or if the name begins with `ssm:`, a parameter of Parameter Store.
    pub fn set_secret(&self, name: &str, text: &str) {
        self.secrets().insert(name.to_owned(), text.to_owned());
    }

    fn secrets(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        let secrets = self.inner.secrets.lock();
        secrets.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a secret as Secrets Manager does.
    fn get_secret_value(&self, body: &str) -> ApiResponse {
        let request: Value = serde_json::from_str(body).unwrap_or_default();
        let name = request["SecretId"].as_str().unwrap_or_default();
        match self.secrets().get(name) {
            Some(text) => ApiResponse {
                status: 200,
                body: json!({ "Name": name, "SecretString": text }).to_string(),
            },
            None => ApiResponse {
                status: 400,
                body: json!({ "__type": "ResourceNotFoundException" }).to_string(),
            },
        }
    }

    /// Returns a parameter as Parameter Store does.
    fn get_parameter(&self, body: &str) -> ApiResponse {
        let request: Value = serde_json::from_str(body).unwrap_or_default();
        let name = request["Name"].as_str().unwrap_or_default();
        match self.secrets().get(&format!("ssm:{name}")) {
            // Without the permission to decrypt it, the value would be ciphertext.
            Some(text) if request["WithDecryption"] == json!(true) => ApiResponse {
                status: 200,
                body: json!({ "Parameter": { "Name": name, "Value": text } }).to_string(),
            },
            _ => ApiResponse {
                status: 400,
                body: json!({ "__type": "ParameterNotFound" }).to_string(),
            },
        }
    }

    /// Injects into every further call the fault that `injector` returns for it.
    pub fn inject(&self, injector: impl FnMut(&Call) -> Fault + Send + 'static) {
        *self.faults() = Some(Box::new(injector));
    }

    /// Stops the injection of faults.
    pub fn heal(&self) {
        *self.faults() = None;
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, Option<fault::Injector>> {
        self.inner
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Performs one API call, given as its `X-Amz-Target` and JSON body. Returns the HTTP status and the
    /// JSON body of the response.
    #[must_use]
    pub fn call(&self, target: &str, body: &str) -> (u16, String) {
        if let Some(role) = &self.role
            && let Some(access_denied) = role.check(&Call::new(target, body.to_owned()))
        {
            return access_denied;
        }
        let response = match target.split_once('.') {
            Some(("DynamoDB_20120810", operation)) => self.inner.engine.call(operation, body),
            Some(("AWSEvents", "PutEvents")) => self.inner.bus.put_events(body),
            Some(("AmazonSQS", "SendMessageBatch")) => self.send_messages(body),
            Some(("secretsmanager", "GetSecretValue")) => self.get_secret_value(body),
            Some(("AmazonSSM", "GetParameter")) => self.get_parameter(body),
            _ => ApiResponse {
                status: 400,
                body: r#"{"__type":"UnknownOperationException"}"#.to_owned(),
            },
        };
        (response.status, response.body)
    }

    /// Performs a call with the injected fault, if any. `None` means that the connection was lost.
    async fn transmit(self, call: Call) -> Option<(u16, String)> {
        let fault = match self.faults().as_mut() {
            Some(injector) => injector(&call),
            None => Fault::None,
        };
        let take_effect = || self.call(&call.target, &call.body);
        // As a network would, lets other tasks run before and after the call takes effect.
        tokio::task::yield_now().await;
        let response = match fault {
            Fault::None => Some(take_effect()),
            Fault::RequestLost => None,
            Fault::ResponseLost => {
                let _ = take_effect();
                None
            }
            Fault::NoResponse => {
                let _ = take_effect();
                std::future::pending().await
            }
            Fault::Throttled => Some(call.throttled()),
            Fault::Invalid => Some(call.invalid()),
            Fault::Conflict => Some(call.conflict()),
        };
        tokio::task::yield_now().await;
        response
    }

    /// Returns the SDK configuration that connects AWS clients to these services.
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
            .http_client(wire::http_client(move |call| this.clone().transmit(call)))
            .build()
    }
}

/// Returns the name of the queue with this URL, which is the URL's last segment.
fn queue_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// Rejects a file that is not an SQLite database: the engine's own error for one mentions encryption.
fn check_database(path: &Path) -> Result<(), LocalAwsError> {
    const MAGIC: &[u8] = b"SQLite format 3\0";
    // A file that is empty, missing or unreadable is left for the engine to open or reject.
    let mut header = Vec::new();
    let read = File::open(path).and_then(|file| file.take(16).read_to_end(&mut header));
    match read {
        Ok(1..) if header != MAGIC => Err(LocalAwsError::NoDatabase(path.to_owned())),
        _ => Ok(()),
    }
}

impl std::fmt::Debug for LocalAws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalAws")
    }
}
