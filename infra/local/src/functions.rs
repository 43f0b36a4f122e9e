//! The functions behind the gateway, by the template's names for them.

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
use tollgate_metering::{Emitter, MeteredBody, Metering, Spill};
use tollgate_runtime::config::InvalidConfig;
use tollgate_runtime::{Clock, Entropy, Env, Metrics, config, env};
use tollgate_store::{ShardCounts, Store};
use tollgate_web::serve;
use tower::util::{BoxCloneSyncService, MapResponse};
use tower::{Layer, Service};

use crate::product::StartError;

/// An HTTP function.
#[derive(Clone)]
pub(crate) struct Function {
    pub(crate) service: BoxCloneSyncService<Request, Response, Infallible>,
    /// Metered functions only: flushed after each call.
    pub(crate) emitter: Option<Emitter>,
}

/// The authorizer, twice.
pub(crate) struct Authorizers {
    /// Decides calls.
    pub(crate) of_calls: authorizer::App,
    /// Says whose key it is, and counts no call.
    pub(crate) of_keys: authorizer::App,
}

/// What all functions are made of.
pub(crate) struct Parts {
    pub(crate) aws: LocalAws,
    pub(crate) stack: Stack,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    /// Of the functions made so far.
    pub(crate) roles: RefCell<Vec<Role>>,
}

/// What one function is given: the variables that the template sets for it, and AWS clients that
/// its role allows what it allows.
struct Given<'a> {
    parts: &'a Parts,
    env: Env,
    sdk: SdkConfig,
}

impl Parts {
    fn given(&self, function: &str) -> Result<Given<'_>, StartError> {
        let role = self.stack.role(function)?;
        let aws = self.aws.in_role(&role);
        self.roles.borrow_mut().push(role);
        // Lambda sets this one.
        let name = self.stack.function_name(function)?;
        let name = (env::FUNCTION_NAME.name.to_owned(), name);
        let variables = self.stack.variables(function)?;
        Ok(Given {
            parts: self,
            env: Env::of(variables.into_iter().chain([name])),
            sdk: aws.sdk_config(),
        })
    }

    /// The tables, for the product's own use: no role stands in its way.
    pub(crate) fn store(&self) -> Store {
        let (clock, entropy) = (self.clock.clone(), self.entropy.clone());
        Store::new(&self.aws.sdk_config(), self.stack.name(), clock, entropy)
    }

    /// What new keys look like.
    pub(crate) fn key_format(&self) -> Result<KeyFormat, StartError> {
        let variables = self.stack.variables("KeysCreateFunction")?;
        Ok(config::key_format(&Env::of(variables))?)
    }

    /// The plans on offer.
    pub(crate) fn plans(&self) -> Result<Catalog, StartError> {
        let variables = self.stack.variables("AuthorizerFunction")?;
        Ok(config::plans(&Env::of(variables))?)
    }

    pub(crate) fn authorizers(&self) -> Result<Authorizers, StartError> {
        let mut given = self.given("AuthorizerFunction")?;
        given.sdk = authorizer::single_requests(given.sdk);
        let of_calls = authorizer::Settings {
            plans: config::plans(&given.env)?,
            uncounted: config::uncounted_routes(&given.env)?,
            key_cache: config::key_cache(&given.env)?,
            stale_keys: config::stale_keys(&given.env)?,
            cors_origin: config::cors_origin(&given.env)?,
        };
        let of_keys = authorizer::Settings {
            // What all routes begin with.
            uncounted: vec![String::new()],
            ..of_calls.clone()
        };
        let app = |settings| {
            let clock = self.clock.clone();
            let store = given.store()?;
            Ok::<_, StartError>(authorizer::App::new(
                store,
                settings,
                clock,
                Metrics::none(),
            ))
        };
        Ok(Authorizers {
            of_calls: app(of_calls)?,
            of_keys: app(of_keys)?,
        })
    }

    pub(crate) fn usage_writer(&self) -> Result<usage_writer::App, StartError> {
        let given = self.given("UsageWriterFunction")?;
        Ok(usage_writer::App {
            store: given.store()?,
            spread: ShardCounts::default(),
            owners: usage_writer::Owners::default(),
            plans: config::plans(&given.env)?,
            clock: self.clock.clone(),
            metrics: Metrics::none(),
        })
    }

    pub(crate) fn billing(&self) -> Result<billing::App, StartError> {
        let given = self.given("BillingFunction")?;
        Ok(billing::App {
            store: given.store()?,
            plans: config::plans(&given.env)?,
            clock: self.clock.clone(),
            metrics: Metrics::none(),
        })
    }

    pub(crate) fn reconciliation(&self) -> Result<reconciliation::App, StartError> {
        let given = self.given("ReconciliationFunction")?;
        Ok(reconciliation::App {
            store: given.store()?,
            clock: self.clock.clone(),
            metrics: Metrics::none(),
        })
    }

    /// The HTTP function of that logical id.
    pub(crate) fn http_function(&self, logical_id: &str) -> Result<Function, StartError> {
        let given = self.given(logical_id)?;
        let function = match logical_id {
            "KeysCreateFunction" => plain(serve(keys::create::routes(given.issuer()?))),
            "KeysListFunction" => plain(serve(keys::list::routes(given.keys()?))),
            "KeysGetFunction" => plain(serve(keys::get::routes(given.keys()?))),
            "KeysUpdateFunction" => plain(serve(keys::update::routes(given.keys()?))),
            "KeysRotateFunction" => plain(serve(keys::rotate::routes(given.issuer()?))),
            "KeysRevokeFunction" => plain(serve(keys::revoke::routes(given.keys()?))),
            "KeysStatsFunction" => plain(serve(keys::stats::routes(given.keys()?))),
            "AdminApiFunction" => plain(serve(admin_api::routes(admin_api::App {
                store: given.store()?,
                plans: config::plans(&given.env)?,
                clock: self.clock.clone(),
                entropy: self.entropy.clone(),
                spread: ShardCounts::default(),
                owners: usage_writer::Owners::default(),
                metrics: Metrics::none(),
            }))),
            "UsageApiFunction" => plain(serve(usage_api::routes(usage_api::App {
                store: given.store()?,
                plans: config::plans(&given.env)?,
                clock: self.clock.clone(),
            }))),
            "PingFunction" => metered(&given.metering()?, serve(ping::routes())),
            "AnalyzeFunction" => metered(&given.metering()?, serve(analyze::routes())),
            other => {
                let known = format!("a known function in place of {other}");
                return Err(InvalidTemplate::Lacks(known).into());
            }
        };
        Ok(function)
    }
}

impl Given<'_> {
    fn store(&self) -> Result<Store, StartError> {
        let (clock, entropy) = (self.parts.clock.clone(), self.parts.entropy.clone());
        let store = Store::from_env(&self.env, &self.sdk, clock, entropy);
        Ok(store.map_err(InvalidConfig::from)?)
    }

    fn keys(&self) -> Result<keys::App, StartError> {
        Ok(keys::App {
            store: self.store()?,
            clock: self.parts.clock.clone(),
        })
    }

    fn issuer(&self) -> Result<keys::Issuer, StartError> {
        Ok(keys::Issuer {
            app: self.keys()?,
            entropy: self.parts.entropy.clone(),
            format: config::key_format(&self.env)?,
        })
    }

    fn metering(&self) -> Result<Metering, StartError> {
        let (clock, entropy) = (self.parts.clock.clone(), self.parts.entropy.clone());
        let var = |var| self.env.get(var).map_err(InvalidConfig::from);
        let (bus, name) = (var(env::EVENT_BUS)?, var(env::FUNCTION_NAME)?);
        let spill = Spill::to_stderr(Metrics::none());
        let emitter = Emitter::new(&self.sdk, bus, name, clock, entropy, spill);
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
    let boxed = |answer: Response<MeteredBody<Body>>| answer.map(Body::new);
    let mut function = plain(MapResponse::new(service, boxed));
    function.emitter = Some(metering.emitter().clone());
    function
}
