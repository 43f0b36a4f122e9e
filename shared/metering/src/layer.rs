//! The tower layer around a metered function.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use lambda_http::request::RequestContext;
use serde_json::Value;
use tollgate_api::context::{Caller, Identity, LIMIT_HEADERS, cors_headers, name};
use tollgate_domain::llm::LlmPrices;
use tollgate_domain::usage::{MAX_ENDPOINT, UsageRecord};
use tower::{Layer, Service};

use crate::body::MeteredBody;
use crate::call::{Call, CallGuard};
use crate::{Emitter, RequestCost};

/// Status of a call without a response from its function, as the gateway responds.
const NO_RESPONSE: u16 = 502;

/// Layer that meters a service.
#[derive(Debug, Clone)]
pub struct MeteringLayer {
    emitter: Emitter,
    prices: Arc<LlmPrices>,
}

impl MeteringLayer {
    /// Creates a layer that records through `emitter`, and prices tokens by `prices`.
    #[must_use]
    pub fn new(emitter: Emitter, prices: LlmPrices) -> Self {
        Self {
            emitter,
            prices: Arc::new(prices),
        }
    }
}

impl<S> Layer<S> for MeteringLayer {
    type Service = MeteringService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        MeteringService {
            inner,
            layer: self.clone(),
        }
    }
}

/// A metered service.
#[derive(Debug, Clone)]
pub struct MeteringService<S> {
    inner: S,
    layer: MeteringLayer,
}

impl<S, B, R> Service<Request<B>> for MeteringService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send,
    B: Body,
    R: Body,
{
    type Response = Response<MeteredBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let headers = headers_for_caller(&request);
        let mut call = self.layer.start_call(&mut request);
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            if let Some(call) = &mut call {
                // A status of 600 or above is invalid: the gateway responds as it does to no response.
                let status = response.status().as_u16();
                call.set_status(if status < 600 { status } else { NO_RESPONSE });
            }
            for (name, value) in headers {
                response.headers_mut().insert(name, value);
            }
            Ok(response.map(|body| MeteredBody::new(body, call)))
        })
    }
}

impl MeteringLayer {
    /// Starts a call and inserts its [`RequestCost`]. Returns `None` for a call without a customer.
    fn start_call<B: Body>(&self, request: &mut Request<B>) -> Option<CallGuard> {
        let Some(context) = gateway_context(request) else {
            let reason = "the request has no context of a REST API";
            self.emitter.count_unattributed(reason);
            return None;
        };
        let fields = &context.authorizer.fields;
        let caller = Caller::from_context(|name| fields.get(name).and_then(Value::as_str));
        let caller = match caller {
            Ok(caller) => caller,
            Err(error) => {
                self.emitter.count_unattributed(error);
                return None;
            }
        };
        let Identity::Customer { id, plan, .. } = caller.identity else {
            return None;
        };
        let now = self.emitter.now();
        let record = UsageRecord {
            time: now,
            request_id: context.request_id.clone().unwrap_or_default(),
            key_id: caller.key_id,
            plan,
            method: request.method().to_string(),
            endpoint: context
                .resource_path
                .as_deref()
                .map_or_else(String::new, truncated),
            status: NO_RESPONSE,
            latency_ms: 0,
            request_bytes: size(request.body()),
            response_bytes: None,
            truncated: None,
            billable: None,
            costs: Vec::new(),
        };
        let guard = Call::start(self.emitter.clone(), id, record);
        let call = Arc::clone(guard.call());
        let cost = RequestCost::new(Arc::clone(&self.prices), now, call);
        request.extensions_mut().insert(cost);
        Some(guard)
    }
}

/// Returns the route template, truncated to the length that a record may have.
fn truncated(route: &str) -> String {
    route[..route.floor_char_boundary(MAX_ENDPOINT)].to_owned()
}

/// Returns the bytes of a body; `None` if it is streamed.
fn size(body: &impl Body) -> Option<u64> {
    if body.is_end_stream() {
        return Some(0);
    }
    body.size_hint().exact()
}

fn gateway_context<B>(
    request: &Request<B>,
) -> Option<&lambda_http::aws_lambda_events::apigw::ApiGatewayProxyRequestContext> {
    match request.extensions().get::<RequestContext>()? {
        RequestContext::ApiGatewayV1(context) => Some(context),
        #[allow(
            unreachable_patterns,
            reason = "the variants depend on lambda_http's features"
        )]
        _ => None,
    }
}

/// Returns the header fields for limits and CORS from the authorizer's context. The gateway cannot add
/// them to the response of a function.
fn headers_for_caller<B>(request: &Request<B>) -> Vec<(HeaderName, HeaderValue)> {
    let Some(context) = gateway_context(request) else {
        return Vec::new();
    };
    let field = |name: &str| context.authorizer.fields.get(name)?.as_str();
    let limits = LIMIT_HEADERS
        .iter()
        .filter_map(|(header, name)| Some((*header, field(name)?)));
    let cors = field(name::CORS_ORIGIN).map(cors_headers);
    limits
        .chain(cors.into_iter().flatten())
        .filter_map(|(header, value)| {
            Some((
                HeaderName::from_static(header),
                HeaderValue::from_str(value).ok()?,
            ))
        })
        .collect()
}
