//! The Lambda functions, created in process by their logical ids in the template.

use std::cell::RefCell;
use std::convert::Infallible;

use aws_types::SdkConfig;
use axum::body::Body;
use axum::response::Response;
use lambda_http::Request;
use tollgate_domain::key::KeyFormat;
use tollgate_domain::llm::LlmPrices;
use tollgate_domain::plan::Catalog;
use tollgate_local_aws::template::{InvalidTemplate, Stack};
use tollgate_local_aws::{LocalAws, Role};
use tollgate_metering::{Emitter, MeteredBody, Metering, UnsentLog};
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Clock, Entropy, Env, Metrics, config, env};
use tollgate_store::{ShardCounts, Store};
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

/// Environment of one function: the variables that the template sets, and AWS clients that are limited
/// to the permissions of the function's role.
struct FunctionEnv<'a> {
    factory: &'a FunctionFactory,
    env: Env,
    sdk: SdkConfig,
}

impl FunctionFactory {
    fn function_env(&self, function: &str) -> Result<FunctionEnv<'_>, StartError> {
        let role = self.stack.role(function)?;
        let aws = self.aws.in_role(&role);
        self.roles.borrow_mut().push(role);
        // Set by Lambda itself.
        let name = self.stack.function_name(function)?;
        let name = (env::FUNCTION_NAME.name.to_owned(), name);
        let variables = self.stack.variables(function)?;
        Ok(FunctionEnv {
            factory: self,
            env: Env::from_vars(variables.into_iter().chain([name])),
            sdk: aws.sdk_config(),
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

    /// Returns the plan catalogue.
    pub(crate) fn plans(&self) -> Result<Catalog, StartError> {
        let variables = self.stack.variables("AuthorizerFunction")?;
        Ok(config::plans(&Env::from_vars(variables))?)
    }

    pub(crate) fn authorizers(&self) -> Result<Authorizers, StartError> {
        let mut function = self.function_env("AuthorizerFunction")?;
        function.sdk = authorizer::single_requests(function.sdk);
        let calls = authorizer::Settings {
            plans: config::plans(&function.env)?,
            uncounted: config::uncounted_routes(&function.env)?,
            key_cache: config::key_cache(&function.env)?,
            stale_keys: config::stale_keys(&function.env)?,
            cors_origin: config::cors_origin(&function.env)?,
        };
        let keys = authorizer::Settings {
            // The empty prefix matches all routes.
            uncounted: vec![String::new()],
            ..calls.clone()
        };
        let app = |settings| {
            let clock = self.clock.clone();
            let store = function.store()?;
            Ok::<_, StartError>(authorizer::App::new(
                store,
                settings,
                clock,
                Metrics::none(),
            ))
        };
        Ok(Authorizers {
            calls: app(calls)?,
            keys: app(keys)?,
        })
    }

    pub(crate) fn usage_writer(&self) -> Result<usage_writer::App, StartError> {
        let function = self.function_env("UsageWriterFunction")?;
        Ok(usage_writer::App {
            store: function.store()?,
            shard_counts: ShardCounts::default(),
            owners: usage_writer::Owners::default(),
            plans: config::plans(&function.env)?,
            clock: self.clock.clone(),
            metrics: Metrics::none(),
        })
    }

    pub(crate) fn billing(&self) -> Result<billing::App, StartError> {
        let function = self.function_env("BillingFunction")?;
        Ok(billing::App {
            store: function.store()?,
            plans: config::plans(&function.env)?,
            clock: self.clock.clone(),
            metrics: Metrics::none(),
        })
    }

    pub(crate) fn reconciliation(&self) -> Result<reconciliation::App, StartError> {
        let function = self.function_env("ReconciliationFunction")?;
        Ok(reconciliation::App {
            store: function.store()?,
            clock: self.clock.clone(),
            metrics: Metrics::none(),
        })
    }

    /// Creates the HTTP function with that logical id.
    pub(crate) fn http_function(&self, logical_id: &str) -> Result<Function, StartError> {
        let function = self.function_env(logical_id)?;
        let created = match logical_id {
            "KeysCreateFunction" => plain(serve(keys::create::routes(function.issuer()?))),
            "KeysListFunction" => plain(serve(keys::list::routes(function.keys()?))),
            "KeysGetFunction" => plain(serve(keys::get::routes(function.keys()?))),
            "KeysUpdateFunction" => plain(serve(keys::update::routes(function.keys()?))),
            "KeysRotateFunction" => plain(serve(keys::rotate::routes(function.issuer()?))),
            "KeysRevokeFunction" => plain(serve(keys::revoke::routes(function.keys()?))),
            "KeysStatsFunction" => plain(serve(keys::stats::routes(function.keys()?))),
            "AdminApiFunction" => plain(serve(admin_api::routes(admin_api::App {
                store: function.store()?,
                plans: config::plans(&function.env)?,
                clock: self.clock.clone(),
                entropy: self.entropy.clone(),
                shard_counts: ShardCounts::default(),
                owners: usage_writer::Owners::default(),
                metrics: Metrics::none(),
            }))),
            "UsageApiFunction" => plain(serve(usage_api::routes(usage_api::App {
                store: function.store()?,
                plans: config::plans(&function.env)?,
                clock: self.clock.clone(),
            }))),
            "PingFunction" => metered(&function.metering()?, serve(ping::routes())),
            "AnalyzeFunction" => metered(&function.metering()?, serve(analyze::routes())),
            other => {
                let missing = format!("a supported function in place of {other}");
                return Err(InvalidTemplate::Missing(missing).into());
            }
        };
        Ok(created)
    }
}

impl FunctionEnv<'_> {
    fn store(&self) -> Result<Store, StartError> {
        let (clock, entropy) = (self.factory.clock.clone(), self.factory.entropy.clone());
        let store = Store::from_env(&self.env, &self.sdk, clock, entropy);
        Ok(store.map_err(InvalidConfig::from)?)
    }

    fn keys(&self) -> Result<keys::App, StartError> {
        Ok(keys::App {
            store: self.store()?,
            clock: self.factory.clock.clone(),
        })
    }

    fn issuer(&self) -> Result<keys::Issuer, StartError> {
        Ok(keys::Issuer {
            app: self.keys()?,
            entropy: self.factory.entropy.clone(),
            format: config::key_format(&self.env)?,
        })
    }

    fn metering(&self) -> Result<Metering, StartError> {
        let (clock, entropy) = (self.factory.clock.clone(), self.factory.entropy.clone());
        let var = |var| self.env.get(var).map_err(InvalidConfig::from);
        let (bus, name) = (var(env::EVENT_BUS)?, var(env::FUNCTION_NAME)?);
        let unsent = UnsentLog::to_stderr(Metrics::none());
        let emitter = Emitter::new(&self.sdk, bus, name, clock, entropy, unsent);
        Ok(Metering::new(emitter, LlmPrices::shipped()?))
    }
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
