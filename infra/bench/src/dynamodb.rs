//! A DynamoDB endpoint on loopback that counts requests and consumed capacity.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::runtime::Builder;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{self, ServerConfig};
use tollgate_local_aws::LocalAws;

use crate::server::{HttpResponse, body, serve};

/// An error while starting the endpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("the DynamoDB endpoint cannot listen on a port")]
    Port(#[source] io::Error),
    #[error("the thread of the DynamoDB endpoint cannot be started")]
    Thread(#[source] io::Error),
    #[error("no certificate can be generated")]
    Certificate(#[from] rcgen::Error),
    #[error("the certificate cannot be used")]
    Tls(#[from] rustls::Error),
    #[error("{} cannot be written", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// Requests, the engine's time to process them, and their consumed capacity, if it was requested.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Counts {
    /// Requests by operation.
    pub(crate) requests: BTreeMap<String, u64>,
    pub(crate) engine_time: Duration,
    pub(crate) read_units: f64,
    pub(crate) write_units: f64,
    /// Items that reads returned.
    pub(crate) read_items: u64,
}

impl Counts {
    pub(crate) fn total(&self) -> u64 {
        self.requests.values().sum()
    }

    /// Returns the number of requests that read.
    pub(crate) fn reads(&self) -> u64 {
        let reads = self.requests.iter();
        let reads = reads.filter(|(operation, _)| is_read(operation));
        reads.map(|(_, count)| count).sum()
    }

    /// Returns the counts since `earlier`.
    pub(crate) fn since(&self, earlier: &Counts) -> Counts {
        let added = self.requests.iter().map(|(operation, count)| {
            let before = earlier.requests.get(operation).copied().unwrap_or(0);
            (operation.clone(), count - before)
        });
        Counts {
            requests: added.filter(|(_, count)| *count > 0).collect(),
            engine_time: self.engine_time.saturating_sub(earlier.engine_time),
            read_units: self.read_units - earlier.read_units,
            write_units: self.write_units - earlier.write_units,
            read_items: self.read_items - earlier.read_items,
        }
    }

    fn add(&mut self, operation: &str, engine_time: Duration, Consumed { units, items }: Consumed) {
        self.read_items += items;
        *self.requests.entry(operation.to_owned()).or_default() += 1;
        self.engine_time += engine_time;
        if is_read(operation) {
            self.read_units += units;
        } else {
            self.write_units += units;
        }
    }
}

fn is_read(operation: &str) -> bool {
    matches!(
        operation,
        "GetItem" | "BatchGetItem" | "Query" | "Scan" | "TransactGetItems"
    )
}

/// The DynamoDB endpoint. Runs on a thread of its own, so that it does not share a core with the function.
#[derive(Debug)]
pub(crate) struct DynamoDb {
    http: SocketAddr,
    https: SocketAddr,
    certificate: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    aws: LocalAws,
    counts: Mutex<Counts>,
    measures_capacity: AtomicBool,
}

impl DynamoDb {
    /// Serves the tables of `aws` over HTTP and HTTPS until the program exits. Generates a certificate for the
    /// endpoint's address and writes it to `dir`.
    pub(crate) fn start(aws: LocalAws, dir: &Path) -> Result<Self, EndpointError> {
        let made = rcgen::generate_simple_self_signed([Ipv4Addr::LOCALHOST.to_string()])?;
        let certificate = dir.join("certificate.pem");
        std::fs::write(&certificate, made.cert.pem())
            .map_err(|error| EndpointError::Write(certificate.clone(), error))?;
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())?;
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let shared = Arc::new(Shared {
            aws,
            counts: Mutex::default(),
            measures_capacity: AtomicBool::new(false),
        });
        let http = bind().map_err(EndpointError::Port)?;
        let https = bind().map_err(EndpointError::Port)?;
        let endpoint = Self {
            http: http.local_addr().map_err(EndpointError::Port)?,
            https: https.local_addr().map_err(EndpointError::Port)?,
            certificate,
            shared: Arc::clone(&shared),
        };
        let runtime = Builder::new_current_thread().enable_io().build();
        let runtime = runtime.map_err(EndpointError::Thread)?;
        let run = move || {
            let both = async {
                tokio::join!(
                    accept(http, None, Arc::clone(&shared)),
                    accept(https, Some(acceptor), Arc::clone(&shared))
                )
            };
            if let (Err(error), _) | (_, Err(error)) = runtime.block_on(both) {
                eprintln!("bench: the DynamoDB endpoint failed: {error}");
            }
        };
        let thread = thread::Builder::new().name("dynamodb".to_owned());
        thread.spawn(run).map_err(EndpointError::Thread)?;
        Ok(endpoint)
    }

    /// Returns the URL over HTTP.
    pub(crate) fn http(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Returns the URL over HTTPS.
    pub(crate) fn https(&self) -> String {
        format!("https://{}", self.https)
    }

    /// Returns the PEM file of the certificate that a client over HTTPS must trust.
    pub(crate) fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Returns the counts so far.
    pub(crate) fn counts(&self) -> Counts {
        self.shared.counts().clone()
    }

    /// Sets whether consumed capacity is requested and added up, which takes time.
    pub(crate) fn measure_capacity(&self, is_on: bool) {
        self.shared
            .measures_capacity
            .store(is_on, Ordering::Relaxed);
    }
}

fn bind() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let respond = |request| shared.respond(request);
            match tls {
                None => serve(stream, respond).await,
                Some(tls) => {
                    // A client that does not trust the certificate closes the connection.
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, respond).await;
                    }
                }
            }
        });
    }
}

impl Shared {
    async fn respond(&self, request: Request<Incoming>) -> HttpResponse {
        let target = target(request.headers()).to_owned();
        let body = body(request).await;
        let mut body = String::from_utf8_lossy(&body).into_owned();
        let measures_capacity = self.measures_capacity.load(Ordering::Relaxed);
        if measures_capacity {
            body = with_capacity_requested(&body);
        }
        let started = Instant::now();
        let (status, text) = self.aws.call(&target, &body);
        let engine_time = started.elapsed();
        let operation = target.rsplit('.').next().unwrap_or_default();
        let consumed = match measures_capacity {
            true => consumed(&text),
            false => Consumed::default(),
        };
        self.counts().add(operation, engine_time, consumed);
        let mut response = HttpResponse::new(Full::new(Bytes::from(text)));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
        let json = http::HeaderValue::from_static("application/x-amz-json-1.0");
        response.headers_mut().insert("content-type", json);
        response
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn target(headers: &HeaderMap) -> &str {
    let target = headers.get("x-amz-target");
    target
        .and_then(|target| target.to_str().ok())
        .unwrap_or_default()
}

fn with_capacity_requested(body: &str) -> String {
    let Ok(mut request) = serde_json::from_str::<Map<String, Value>>(body) else {
        return body.to_owned();
    };
    request.insert("ReturnConsumedCapacity".to_owned(), "TOTAL".into());
    Value::from(request).to_string()
}

/// Capacity that a request consumed, and items that it returned.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Consumed {
    units: f64,
    items: u64,
}

/// Returns the capacity units in a response: of one table, or of each table of a batch. An error response has
/// none. DynamoDB charges a write whose condition failed like a successful one; the items here take one unit.
fn consumed(response: &str) -> Consumed {
    let response: Value = serde_json::from_str(response).unwrap_or_default();
    let is_item = response["Item"].is_object();
    Consumed {
        units: units(&response),
        items: response["Count"].as_u64().unwrap_or(is_item.into()),
    }
}

fn units(response: &Value) -> f64 {
    let units = |table: &Value| table["CapacityUnits"].as_f64().unwrap_or(0.0);
    match &response["ConsumedCapacity"] {
        Value::Array(tables) => tables.iter().map(units).sum(),
        Value::Object(_) => units(&response["ConsumedCapacity"]),
        _ if is_failed_condition(response) => 1.0,
        _ => 0.0,
    }
}

fn is_failed_condition(response: &Value) -> bool {
    let kind = response["__type"].as_str().unwrap_or_default();
    kind.ends_with("ConditionalCheckFailedException")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tollgate_local_aws::fixture::Fixture;

    use super::*;

    #[test]
    fn capacity_is_read_from_responses() {
        let aws = Fixture::at("2026-11-22T10:00:00Z").aws;
        let mut counts = Counts::default();
        let mut call = |operation: &str, request: Value| {
            let body = with_capacity_requested(&request.to_string());
            let (_, response) = aws.call(&format!("DynamoDB_20120810.{operation}"), &body);
            counts.add(operation, Duration::ZERO, consumed(&response));
            (counts.read_units, counts.write_units)
        };
        let table = "test-counters";
        let key = json!({ "pk": { "S": "a" } });
        let large = "x".repeat(1_500);
        let item = json!({ "pk": { "S": "a" }, "text": { "S": large } });
        let put = json!({ "TableName": table, "Item": item });
        assert_eq!(call("PutItem", put.clone()), (0.0, 2.0));
        let get = json!({ "TableName": table, "Key": key });
        assert_eq!(call("GetItem", get.clone()), (0.5, 2.0));
        let mut consistent = get;
        consistent["ConsistentRead"] = true.into();
        assert_eq!(call("GetItem", consistent), (1.5, 2.0));
        let query = json!({
            "TableName": table, "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": { ":pk": { "S": "a" } },
        });
        assert_eq!(call("Query", query), (2.0, 2.0));
        let mut failing = put;
        failing["ConditionExpression"] = "attribute_not_exists(pk)".into();
        assert_eq!(call("PutItem", failing), (2.0, 3.0));
        let batch = json!({ "RequestItems": { table: { "Keys": [key] } } });
        assert_eq!(call("BatchGetItem", batch), (2.5, 3.0));
        assert_eq!(call("UpdateItem", json!({})), (2.5, 3.0));
        assert_eq!(
            (counts.total(), counts.reads(), counts.read_items),
            (7, 4, 3)
        );
    }

    #[test]
    fn an_invalid_request_body_is_not_changed() {
        assert_eq!(with_capacity_requested("?"), "?");
        assert_eq!(consumed("?"), Consumed::default());
    }

    #[test]
    fn since_returns_the_added_counts() {
        let mut counts = Counts::default();
        let engine_time = Duration::from_micros(7);
        let mut add = |operation: &str, units: f64| {
            let consumed = Consumed { units, items: 0 };
            counts.add(operation, engine_time, consumed);
            counts.clone()
        };
        add("GetItem", 1.0);
        let earlier = add("UpdateItem", 1.0);
        add("UpdateItem", 2.0);
        let added = counts.since(&earlier);
        assert_eq!(added.requests, BTreeMap::from([("UpdateItem".into(), 1)]));
        assert_eq!((added.read_units, added.write_units), (0.0, 2.0));
        assert_eq!(added.engine_time, engine_time);
        assert_eq!(added.total(), 1);
    }
}
