//! The Lambda functions, created in process by their logical ids in the template.

use std::cell::RefCell;
use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use lambda_http::Request;
use tollgate_domain::key::KeyFormat;
use tollgate_domain::llm::LlmPrices;
use tollgate_domain::plan::Catalog;
use tollgate_local_aws::template::{InvalidTemplate, Stack};
use tollgate_local_aws::{LocalAws, Role};
use tollgate_metering::{Emitter, MeteredBody, Metering, UnsentLog};
use tollgate_payments::{Follower, Webhooks};
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Clock, Entropy, Env, Init, Metrics, config, env};
use tollgate_store::Store;
use tollgate_web::serve;
use tower::util::{BoxCloneSyncService, MapResponse};
use tower::{Layer, Service};

use crate::start_error::StartError;

/// An HTTP function.
#[derive(Clone)]
pub(crate) struct Function {
    pub(crate) service: BoxCloneSyncService<Request, Response, Infallible>,
    /// Emitter of a metered function, flushed after each call.
    pub(crate) emitter: Option<Emitter>,
}

/// Two instances of the authorizer.
pub(crate) struct Authorizers {
    /// Decides whether calls are allowed.
    pub(crate) calls: authorizer::App,
    /// Only authenticates keys: counts no call.
    pub(crate) keys: authorizer::App,
}

/// Creates the functions of the stack.
pub(crate) struct FunctionFactory {
    pub(crate) aws: LocalAws,
    pub(crate) stack: Stack,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    /// Roles of the functions created so far.
    pub(crate) roles: RefCell<Vec<Role>>,
}

impl FunctionFactory {
    /// Returns the inputs of one function: the variables that the template sets, and AWS clients that are
    /// limited to the permissions of the function's role.
    fn init(&self, function: &str) -> Result<Init, StartError> {
        let role = self.stack.role(function)?;
        let aws = self.aws.in_role(&role);
        self.roles.borrow_mut().push(role);
        // Set by Lambda itself.
        let name = self.stack.function_name(function)?;
        let name = (env::FUNCTION_NAME.name.to_owned(), name);
        let variables = self.stack.variables(function)?;
        // Whoever tries webhooks on this machine has no public address here.
        let loopback = (env::WEBHOOK_LOOPBACK.name.to_owned(), "true".to_owned());
        Ok(Init {
            env: Env::from_vars(variables.into_iter().chain([name, loopback])),
            sdk: aws.sdk_config(),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            metrics: Metrics::none(),
        })
    }

    /// Returns the store without a role, for the local stack's own use.
    pub(crate) fn store(&self) -> Store {
        let (clock, entropy) = (self.clock.clone(), self.entropy.clone());
        Store::new(&self.aws.sdk_config(), self.stack.name(), clock, entropy)
    }

    /// Returns the format of new keys.
    pub(crate) fn key_format(&self) -> Result<KeyFormat, StartError> {
        let variables = self.stack.variables("KeysCreateFunction")?;
        Ok(config::key_format(&Env::from_vars(variables))?)
    }

    /// Returns the plans with which an empty store is seeded.
    pub(crate) fn plans(&self) -> Result<Catalog, StartError> {
        let plans = self.stack.resources().at("PlanSeed.Properties.Plans");
        let plans = self.stack.value(plans, "the plans of the seed")?;
        Ok(config::parse_plans(&plans)?)
    }

    pub(crate) fn authorizers(&self) -> Result<Authorizers, StartError> {
        let init = self.init("AuthorizerFunction")?;
        let settings = authorizer::Settings {
            // The empty prefix matches all routes.
            uncounted: vec![String::new()],
            ..authorizer::Settings::from_env(&init.env)?
        };
        Ok(Authorizers {
            calls: authorizer::App::build(&init)?,
            keys: authorizer::App::with_settings(&init, settings)?,
        })
    }

    pub(crate) fn usage_writer(&self) -> Result<usage_writer::App, StartError> {
        let mut app = usage_writer::App::build(&self.init("UsageWriterFunction")?)?;
        // The data are locked: a process that counted usage before has ended.
        app.ingest.store = app.ingest.store.alone();
        Ok(app)
    }

    pub(crate) fn billing(&self) -> Result<billing::App, StartError> {
        Ok(billing::App::build(&self.init("BillingFunction")?)?)
    }

    pub(crate) fn charge_worker(&self) -> Result<billing::Worker, StartError> {
        Ok(billing::Worker::build(&self.init("ChargeWorkerFunction")?)?)
    }

    pub(crate) fn stripe_events(&self) -> Result<Follower, StartError> {
        Ok(Follower::build(&self.init("StripeEventsFunction")?)?)
    }

    pub(crate) fn event_publisher(&self) -> Result<events::Publisher, StartError> {
        Ok(events::Publisher::build(
            &self.init("EventPublisherFunction")?,
        )?)
    }

    pub(crate) fn webhook_sender(&self) -> Result<events::Sender, StartError> {
        Ok(events::Sender::build(&self.init("WebhookSenderFunction")?)?)
    }

    pub(crate) fn reconciliation(&self) -> Result<reconciliation::App, StartError> {
        Ok(reconciliation::App::build(
            &self.init("ReconciliationFunction")?,
        )?)
    }

    /// Creates the HTTP function with that logical id.
    pub(crate) fn http_function(&self, logical_id: &str) -> Result<Function, StartError> {
        let init = self.init(logical_id)?;
        let keys = || keys::App::build(&init);
        let issuer = || keys::Issuer::build(&init);
        let created = match logical_id {
            "KeysCreateFunction" => plain(serve(keys::create::routes(issuer()?))),
            "KeysListFunction" => plain(serve(keys::list::routes(keys()?))),
            "KeysGetFunction" => plain(serve(keys::get::routes(keys()?))),
            "KeysUpdateFunction" => plain(serve(keys::update::routes(keys()?))),
            "KeysRotateFunction" => plain(serve(keys::rotate::routes(issuer()?))),
            "KeysRevokeFunction" => plain(serve(keys::revoke::routes(keys()?))),
            "KeysStatsFunction" => plain(serve(keys::stats::routes(keys()?))),
            "AdminApiFunction" => plain(serve(admin_api::routes(admin_api::App::build(&init)?))),
            "UsageApiFunction" => plain(serve(usage_api::routes(usage_api::App::build(&init)?))),
            "BillingApiFunction" => {
                plain(serve(billing_api::routes(billing_api::App::build(&init)?)))
            }
            "StripeWebhookFunction" => plain(serve(stripe_events::routes(Webhooks::build(&init)?))),
            "ApiDocsFunction" => plain(serve(api_docs::routes())),
            "PingFunction" => metered(&metering(&init)?, serve(ping::routes())),
            "AnalyzeFunction" => metered(&metering(&init)?, serve(analyze::routes())),
            other => {
                let missing = format!("a supported function in place of {other}");
                return Err(InvalidTemplate::Missing(missing).into());
            }
        };
        Ok(created)
    }
}

fn metering(init: &Init) -> Result<Metering, StartError> {
    let var = |var| init.env.get(var).map_err(InvalidConfig::from);
    let (bus, name) = (var(env::EVENT_BUS)?, var(env::FUNCTION_NAME)?);
    let unsent = UnsentLog::to_stderr(init.metrics.clone());
    let (clock, entropy) = (init.clock.clone(), init.entropy.clone());
    let emitter = Emitter::new(&init.sdk, bus, name, clock, entropy, unsent);
    Ok(Metering::new(emitter, LlmPrices::shipped()?))
}

pub(crate) fn plain<S>(service: S) -> Function
where
    S: Service<Request, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    Function {
        service: BoxCloneSyncService::new(service),
        emitter: None,
    }
}

pub(crate) fn metered(metering: &Metering, routes: tollgate_web::Service) -> Function {
    let service = metering.layer().layer(routes);
    let boxed = |response: Response<MeteredBody<Body>>| response.map(Body::new);
    let mut function = plain(MapResponse::new(service, boxed));
    function.emitter = Some(metering.emitter().clone());
    function
}
