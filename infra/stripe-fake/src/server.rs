//! The stand-in as an axum router, and over HTTP with delivery of webhooks.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Full, Limited};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tower::ServiceExt;

use crate::fake::{ConnectionLost, StripeFake};
use crate::webhook::Webhook;
use crate::{control, journal, page};

/// Largest body of a request, in bytes.
pub(crate) const MAX_BODY: usize = 1024 * 1024;
/// Time between looks for events to deliver.
const DELIVERY_INTERVAL: Duration = Duration::from_millis(100);
/// Time that an endpoint has to respond to an event.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

impl StripeFake {
    /// Returns a router for the API, the pages of checkout, portal and invoices, and the control of the
    /// stand-in under `/_fake`.
    ///
    /// If a fault loses the connection, the response has the extension [`ConnectionLost`] and a body that
    /// fails; [`serve`](crate::serve) then closes the connection without a response.
    pub fn router(&self) -> Router {
        let record = axum::middleware::from_fn_with_state(self.clone(), journal::record);
        self.plain_router().layer(record)
    }

    /// Returns the router without the journal.
    pub(crate) fn plain_router(&self) -> Router {
        Router::new()
            .merge(page::routes())
            .merge(control::routes())
            .fallback(api)
            .with_state(self.clone())
    }
}

async fn api(State(fake): State<StripeFake>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return lost(),
    };
    match fake.send(Request::from_parts(parts, body)).await {
        Ok(response) => response.map(Body::from),
        Err(ConnectionLost) => lost(),
    }
}

/// Returns the response in place of which a connection is lost.
fn lost() -> Response {
    let failing = futures_util::stream::iter([Err::<Bytes, _>(ConnectionLost)]);
    let mut response = Response::new(Body::from_stream(failing));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response.extensions_mut().insert(ConnectionLost);
    response
}

/// Serves the stand-in, and delivers events to the registered endpoints, whose URLs are `http`. Does not
/// return; both end when the future is dropped.
pub async fn serve(listener: TcpListener, fake: StripeFake) -> Infallible {
    tokio::select! {
        never = serve_api(listener, fake.clone()) => never,
        never = deliver(fake) => never,
    }
}

/// Serves the stand-in, without delivery of events, for which there is [`StripeFake::deliver`]. Does not return.
pub async fn serve_api(listener: TcpListener, fake: StripeFake) -> Infallible {
    accept(listener, fake.router()).await
}

async fn accept(listener: TcpListener, router: Router) -> Infallible {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No file descriptors, for example.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let router = router.clone();
        let service = service_fn(move |request| {
            let router = router.clone();
            async move {
                let response = match router.oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                match response.extensions().get::<ConnectionLost>() {
                    // An error closes the connection without a response.
                    Some(lost) => Err(*lost),
                    None => Ok(response),
                }
            }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // It ends with an error whenever a client leaves.
        tokio::spawn(async { drop(connection.await) });
    }
}

async fn deliver(fake: StripeFake) -> Infallible {
    let client = Client::builder(TokioExecutor::new()).build_http();
    loop {
        fake.deliver(|webhook| post(&client, webhook)).await;
        tokio::time::sleep(DELIVERY_INTERVAL).await;
    }
}

/// Sends an event to its endpoint. Returns whether that responded with success.
async fn post(client: &Client<HttpConnector, Full<Bytes>>, webhook: Webhook) -> bool {
    let request = Request::post(&webhook.url)
        .header(CONTENT_TYPE, "application/json; charset=utf-8")
        .header("stripe-signature", webhook.signature)
        .body(Full::new(Bytes::from(webhook.body)));
    let Ok(request) = request else { return false };
    let response = tokio::time::timeout(DELIVERY_TIMEOUT, client.request(request)).await;
    matches!(response, Ok(Ok(response)) if response.status().is_success())
}
