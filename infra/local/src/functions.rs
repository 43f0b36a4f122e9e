//! The functions behind the gateway, by the template's names for them.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use lambda_http::Request;
use tollgate_domain::key::KeyFormat;
use tollgate_domain::plan::Catalog;
use tollgate_local_aws::LocalAws;
use tollgate_metering::{Emitter, Metering};
use tollgate_runtime::{Clock, Entropy, Metrics};
use tollgate_store::Store;
use tollgate_web::serve;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service};

/// An HTTP function.
#[derive(Clone)]
pub(crate) struct Function {
    pub(crate) service: BoxCloneSyncService<Request, Response, Infallible>,
    /// Metered functions only: flushed after each answer.
    pub(crate) emitter: Option<Emitter>,
}

/// What all functions are made of.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) aws: LocalAws,
    pub(crate) store: Store,
    pub(crate) plans: Catalog,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) format: KeyFormat,
    pub(crate) uncounted: Vec<String>,
}

impl Parts {
    pub(crate) fn authorizer(&self) -> authorizer::App {
        authorizer::App {
            store: self.store.clone(),
            plans: self.plans.clone(),
            uncounted: self.uncounted.clone(),
            clock: self.clock.clone(),
            metrics: Metrics::none(),
        }
    }

    pub(crate) fn usage_writer(&self) -> usage_writer::App {
        usage_writer::App {
            store: self.store.clone(),
            plans: self.plans.clone(),
            clock: self.clock.clone(),
            metrics: Metrics::none(),
        }
    }

    pub(crate) fn billing(&self) -> billing::App {
        billing::App {
            store: self.store.clone(),
            plans: self.plans.clone(),
            clock: self.clock.clone(),
            metrics: Metrics::none(),
        }
    }

    fn keys(&self) -> keys::App {
        keys::App {
            store: self.store.clone(),
            clock: self.clock.clone(),
        }
    }

    fn issuer(&self) -> keys::Issuer {
        keys::Issuer {
            app: self.keys(),
            entropy: self.entropy.clone(),
            format: self.format.clone(),
        }
    }

    fn metering(&self, function: &str) -> Metering {
        let sdk = self.aws.sdk_config();
        let (clock, entropy) = (self.clock.clone(), self.entropy.clone());
        Metering::new(Emitter::new(&sdk, "usage", function, clock, entropy))
    }

    /// The HTTP function of that logical id.
    pub(crate) fn http_function(&self, logical_id: &str) -> Option<Function> {
        let function = match logical_id {
            "KeysCreateFunction" => plain(serve(keys::create::routes(self.issuer()))),
            "KeysListFunction" => plain(serve(keys::list::routes(self.keys()))),
            "KeysGetFunction" => plain(serve(keys::get::routes(self.keys()))),
            "KeysUpdateFunction" => plain(serve(keys::update::routes(self.keys()))),
            "KeysRotateFunction" => plain(serve(keys::rotate::routes(self.issuer()))),
            "KeysRevokeFunction" => plain(serve(keys::revoke::routes(self.keys()))),
            "KeysStatsFunction" => plain(serve(keys::stats::routes(self.keys()))),
            "AdminApiFunction" => plain(serve(admin_api::routes(admin_api::App {
                store: self.store.clone(),
                plans: self.plans.clone(),
                clock: self.clock.clone(),
                entropy: self.entropy.clone(),
                metrics: Metrics::none(),
            }))),
            "UsageApiFunction" => plain(serve(usage_api::routes(usage_api::App {
                store: self.store.clone(),
                plans: self.plans.clone(),
                clock: self.clock.clone(),
            }))),
            "PingFunction" => metered(&self.metering("ping"), serve(ping::routes())),
            "AnalyzeFunction" => metered(&self.metering("analyze"), serve(analyze::routes())),
            _ => return None,
        };
        Some(function)
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

fn metered(metering: &Metering, routes: tollgate_web::Service) -> Function {
    let mut function = plain(metering.layer().layer(routes));
    function.emitter = Some(metering.emitter().clone());
    function
}
