//! `tollgate bootstrap` and `tollgate admin-key`: create admin keys, with AWS credentials. There is no other way to
//! create one. Keys of customers are created through the API, with an admin key.

use aws_config::BehaviorVersion;
use aws_smithy_http_client::HttpClientError;
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use rand::rngs::SysError;
use tollgate_domain::id::KeyId;
use tollgate_domain::key::{ApiKey, InvalidKeyFormat, KeyFormat, KeyKind, KeyRecord, Owner};
use tollgate_domain::name::is_name;
use tollgate_runtime::{Chain, Clock, Entropy, aws, env};
use tollgate_store::{CreateOutcome, NewKey, Store, StoreError};

use crate::command::login;
use crate::failure::Failure;
use crate::output::Output;
use crate::profile::{self, Profile, URL_VARIABLE};

#[derive(Args)]
pub(crate) struct Bootstrap {
    /// URL of the API: the output `ApiUrl` of the stack.
    #[arg(value_name = "URL", env = URL_VARIABLE, hide_env_values = true)]
    url: String,
    #[command(flatten)]
    create: Create,
}

#[derive(Subcommand)]
pub(crate) enum AdminKey {
    /// Creates an admin key, and prints it on standard output, once.
    Create(Create),
}

#[derive(Args)]
pub(crate) struct Create {
    /// Name of the CloudFormation stack.
    #[arg(long, value_name = "STACK")]
    stack_name: String,
    /// Name of the key: what it is for.
    #[arg(long, default_value = "created by tollgate", value_parser = name)]
    name: String,
    /// Days until the key expires. By default, it works until it is revoked.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    expires_in_days: Option<u16>,
    /// First segment of the key: the value of the stack's parameter KeyBrand.
    #[arg(long, env = env::KEY_BRAND.name, hide_env_values = true, default_value = "tg")]
    brand: String,
}

#[derive(Debug, thiserror::Error)]
enum CreateError {
    #[error("the brand is not a valid first segment of a key")]
    Brand(#[from] InvalidKeyFormat),
    #[error("the operating system provides no randomness")]
    Entropy(#[from] SysError),
    #[error("the HTTP client cannot be set up")]
    Client(#[from] HttpClientError),
    #[error("the expiry is out of range")]
    Expiry(#[from] jiff::Error),
    #[error(
        "no key was created in stack {stack}; check its name, the AWS region and the credentials"
    )]
    Store {
        stack: String,
        #[source]
        source: StoreError,
    },
    #[error("no key was created: the random key exists already; try again")]
    Taken,
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        Failure::of(Chain(&error).to_string())
    }
}

impl Bootstrap {
    pub(crate) async fn run(self, name: Option<&str>) -> Result<(), Failure> {
        let url = profile::check_url(&self.url)?;
        let key = create(self.create).await?.into();
        let profile = Profile { url, key };
        // Stored first: nothing else has the key.
        login::store(name, &profile)?;
        login::verify(&profile).await
    }
}

impl AdminKey {
    pub(crate) async fn run(self, output: &mut Output) -> Result<(), Failure> {
        let AdminKey::Create(args) = self;
        let key = create(args).await?;
        crate::note(format!("admin key {}, shown only once:", key.prefix()));
        output.line(key.expose())
    }
}

async fn create(args: Create) -> Result<ApiKey, CreateError> {
    // The second segment of an admin key is its role, so the stack's environment name is not needed.
    let format = KeyFormat::new(&args.brand, "live")?;
    let (clock, entropy) = (Clock::system(), Entropy::system()?);
    let now = clock.now();
    // Reads the AWS configuration from all usual places, profile files included.
    let sdk = aws_config::defaults(BehaviorVersion::latest())
        .http_client(aws::https_by_system_roots()?)
        .timeout_config(aws::timeouts(aws::BACKGROUND_TIMEOUT))
        .load()
        .await;
    let store = Store::new(&sdk, &args.stack_name, clock, entropy.clone());
    let secret = entropy.with(|rng| format.generate(KeyKind::Admin, rng));
    let record = KeyRecord {
        name: args.name,
        expires_at: args
            .expires_in_days
            .map(|days| expiry(now, days))
            .transpose()?,
        ..KeyRecord::new(
            entropy.with(KeyId::random),
            secret.prefix(),
            Owner::Admin,
            now,
        )
    };
    let key = NewKey {
        secret: &secret,
        record: &record,
    };
    match store.create_key(&key, None).await {
        Ok(CreateOutcome::New) => Ok(secret),
        // The last three cannot occur: an admin key has no customer, and there is no idempotency key.
        Ok(
            CreateOutcome::Taken
            | CreateOutcome::NoCustomer
            | CreateOutcome::Replayed(_)
            | CreateOutcome::KeyReused,
        ) => Err(CreateError::Taken),
        Err(source) => Err(CreateError::Store {
            stack: args.stack_name,
            source,
        }),
    }
}

/// Parses the name of a key. The rule is that of the admin API.
fn name(text: &str) -> Result<String, &'static str> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("must have at most 100 characters, and no control characters")
    }
}

fn expiry(now: Timestamp, days: u16) -> Result<Timestamp, jiff::Error> {
    now.checked_add(SignedDuration::from_hours(24 * i64::from(days)))
}
