//! A stack with publisher and sender, and targets of webhooks.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use aws_lambda_events::sqs::SqsEvent;
use events::{Delivery, Lookup, Publisher, Sender, WebhookClient, deliver};
use serde_json::{Value, json};
use tollgate_domain::event::{Event, EventKind};
use tollgate_domain::webhook::{Reach, TargetUrl, Webhook, WebhookSecret};
use tollgate_local_aws::fixture::Fixture;
use tollgate_local_aws::{CloudWatch, Queue};
use tollgate_runtime::Init;
use tollgate_store::CreateWebhookOutcome;
use tollgate_stripe::Roots;
use tollgate_stripe::outbound::{SignedHeaders, SigningSecret};
use tollgate_testing::init::init;
pub(crate) use tollgate_testing::p;

/// Time at which all tests begin.
pub(crate) const NOW: &str = "2026-11-22T10:00:00Z";

pub(crate) struct Stack {
    pub(crate) at: Fixture,
    pub(crate) publisher: Publisher,
    pub(crate) sender: Sender,
    /// Reads the metrics that both write.
    pub(crate) cloudwatch: CloudWatch,
}

impl Stack {
    /// Creates a stack whose webhooks may lead to this machine.
    pub(crate) fn new() -> Self {
        let at = Fixture::at(NOW);
        let cloudwatch = CloudWatch::default();
        let init = |function: &str| Init {
            metrics: cloudwatch.metrics("test", at.clock()),
            ..init(&at, function)
        };
        let publisher = Publisher::build(&init("EventPublisherFunction")).unwrap();
        let mut sender = Sender::build(&init("WebhookSenderFunction")).unwrap();
        sender.client = WebhookClient::new(Reach::Loopback);
        Self {
            at,
            publisher,
            sender,
            cloudwatch,
        }
    }

    /// Replaces the sender's client by one that resolves all names to these addresses.
    pub(crate) fn resolving_to(mut self, reach: Reach, roots: Roots, addresses: &[&str]) -> Self {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| p(address)).collect();
        let lookup: Lookup = Arc::new(move |_| {
            let addresses = addresses.clone();
            Box::pin(async move { Ok(addresses) })
        });
        self.sender.client = WebhookClient::with(reach, roots, lookup);
        self
    }

    /// Stores an event of this kind, with a cause of its own.
    pub(crate) async fn record(&self, kind: EventKind, cause: &str) -> Event {
        let data = json!({ "cause": cause });
        let event = Event::new(kind, cause, Some(p("acme")), self.at.clock().now(), data);
        self.at.store.record_event(&event).await.unwrap();
        event
    }

    /// Creates a webhook. Without kinds, it is sent all events.
    pub(crate) async fn webhook(&self, id: &str, url: &str, kinds: &[EventKind]) -> SigningSecret {
        let secret = SigningSecret::from_bytes(&[7; 32]).unwrap();
        let webhook = Webhook {
            id: p(id),
            url: TargetUrl::stored(url),
            kinds: kinds.iter().copied().collect(),
            created_at: p(NOW),
            disabled_at: None,
            failure: None,
        };
        let stored = WebhookSecret::new(&secret.expose());
        let created = self.at.store.create_webhook(&webhook, &stored).await;
        assert_eq!(created.unwrap(), CreateWebhookOutcome::Created);
        secret
    }

    pub(crate) async fn stored_webhook(&self, id: &str) -> Webhook {
        self.at.store.webhook(&p(id)).await.unwrap().unwrap()
    }

    pub(crate) fn queue(&self) -> Arc<Queue> {
        self.at.aws.named_queue("WebhookQueue").unwrap()
    }

    /// Returns the number of deliveries in the queue, delayed ones included.
    pub(crate) fn queued(&self) -> u64 {
        self.queue().counts().unwrap().queued
    }

    /// Takes the deliveries that the queue would hand over now.
    pub(crate) fn take(&self) -> Vec<Delivery> {
        let queue = self.queue();
        let messages = queue.receive(100).unwrap();
        let ids: Vec<i64> = messages.iter().map(|message| message.id).collect();
        queue.delete(&ids).unwrap();
        let bodies = messages.iter();
        bodies
            .map(|message| serde_json::from_str(&message.body).unwrap())
            .collect()
    }

    /// Sends one batch, as the queue does. Returns the ids of the messages that failed.
    pub(crate) async fn deliver(&self, bodies: &[Value]) -> BTreeSet<String> {
        let records = bodies.iter().enumerate().map(|(id, body)| {
            let body = body
                .as_str()
                .map_or_else(|| body.to_string(), str::to_owned);
            json!({ "messageId": id.to_string(), "eventSource": "aws:sqs", "body": body })
        });
        let batch = json!({ "Records": records.collect::<Vec<_>>() });
        let batch: SqsEvent = serde_json::from_value(batch).unwrap();
        let response = deliver(&self.sender, batch).await;
        let failures = response.batch_item_failures.into_iter();
        failures.map(|failure| failure.item_identifier).collect()
    }

    /// Delivers what the queue hands over now. Returns the number of messages.
    pub(crate) async fn deliver_due(&self) -> usize {
        let due = self.take();
        let bodies: Vec<Value> = due
            .iter()
            .map(|it| serde_json::to_value(it).unwrap())
            .collect();
        assert_eq!(self.deliver(&bodies).await, BTreeSet::new());
        due.len()
    }
}

/// A request that a target has received.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> String {
        let prefix = format!("{name}: ");
        let lines = self.head.lines();
        let mut values = lines.filter_map(|line| line.strip_prefix(prefix.as_str()));
        let value = values.next().unwrap_or_default().to_owned();
        assert_eq!(values.next(), None, "{name} is sent twice");
        value
    }

    /// Returns the header fields of the signature.
    pub(crate) fn signed(&self) -> SignedHeaders {
        SignedHeaders {
            id: self.header("webhook-id"),
            timestamp: self.header("webhook-timestamp"),
            signature: self.header("webhook-signature"),
        }
    }
}

/// Reads a request with a body. An empty one is of a connection that was closed.
pub(crate) fn read_request(stream: &mut impl Read) -> Option<Received> {
    let mut read = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        let end = read.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8(read[..end].to_vec()).unwrap();
            let received = Received {
                head,
                body: read[end + 4..].to_vec(),
            };
            let length: usize = p(&received.header("content-length"));
            if received.body.len() == length {
                return Some(received);
            }
        }
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => read.extend_from_slice(&buffer[..count]),
            Ok(0) | Err(_) => return None,
        }
    }
}

/// A target on this machine, on a thread of its own.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Target {
    /// Starts a target that responds to each request with the next of these texts, and with the last one from then
    /// on.
    pub(crate) fn start(responses: &[&str]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&received);
        let responses: Vec<String> = responses.iter().map(|&it| it.to_owned()).collect();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read_request(&mut stream) else {
                    continue;
                };
                let mut requests = requests.lock().unwrap();
                let response = &responses[requests.len().min(responses.len() - 1)];
                requests.push(request);
                drop(requests);
                let _ = stream.write_all(response.as_bytes());
            }
        });
        Self { address, received }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hooks?a=b", self.address)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

/// Returns a response without a body.
pub(crate) fn status(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

pub(crate) fn ok() -> String {
    status("204 No Content")
}
