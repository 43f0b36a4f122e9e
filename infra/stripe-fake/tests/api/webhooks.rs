//! Events, signatures and deliveries.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use stripe_fake::{DeliveryMode, NewEndpoint, Webhook, sign};
use tokio::net::TcpListener;

use crate::client::{Api, id, ids};

fn endpoint() -> NewEndpoint {
    NewEndpoint {
        url: "http://127.0.0.1:9/hook".to_owned(),
        ..NewEndpoint::default()
    }
}

#[tokio::test]
async fn events_have_the_object_the_change_and_the_request() {
    let api = Api::new();
    let reply = api
        .post_with_key("/v1/customers", "name=a", "key-1")
        .await
        .unwrap();
    let path = format!("/v1/customers/{}", id(&reply.json));
    api.post(&path, "name=b").await;
    api.post(&path, "name=b").await;
    let events = api.get("/v1/events", "").await["data"].clone();
    assert_eq!(
        events.as_array().unwrap().len(),
        2,
        "no event without a change"
    );
    let (updated, created) = (&events[0], &events[1]);
    assert_eq!(created["type"], "customer.created");
    assert_eq!(created["api_version"], "2026-10-28.endive");
    assert_eq!(created["data"]["object"], reply.json);
    assert_eq!(created["request"]["idempotency_key"], "key-1");
    assert_eq!(
        created["request"]["id"],
        reply.headers["request-id"].to_str().unwrap()
    );
    assert_eq!(
        updated["data"]["previous_attributes"],
        json!({ "name": "a" })
    );
    assert_eq!(updated["data"]["object"]["name"], "b");
    assert_eq!(
        api.get(&format!("/v1/events/{}", id(created)), "").await,
        *created
    );

    let customer = api.customer().await;
    api.subscribe(&customer, &api.price(100).await, "").await;
    api.set("2026-12-17T12:00:00Z");
    let renewal = api.get("/v1/events", "type=invoice.created&limit=1").await["data"][0].clone();
    assert_eq!(
        renewal["request"],
        json!({ "id": null, "idempotency_key": null })
    );
    assert_eq!(renewal["created"], api.now());
    let check = async |query: &str, expected: &[&str]| {
        let events = api.get("/v1/events", query).await;
        let types: BTreeSet<&str> = events["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["type"].as_str().unwrap())
            .collect();
        assert_eq!(types, expected.iter().copied().collect(), "{query}");
    };
    check(
        "type=customer.*&limit=100",
        &[
            "customer.created",
            "customer.subscription.created",
            "customer.subscription.updated",
            "customer.updated",
        ],
    )
    .await;
    check(
        "types[]=invoice.paid&types[]=product.created",
        &["invoice.paid", "product.created"],
    )
    .await;
    check(
        &format!("created[gte]={}&type=invoice.*", api.now()),
        &["invoice.created"],
    )
    .await;
}

#[tokio::test]
async fn deliveries_are_signed_by_every_secret() {
    let api = Api::new();
    let (endpoint_id, secrets) = api.fake.register_endpoint(endpoint());
    assert!(secrets[0].starts_with("whsec_"));
    api.post("/v1/customers", "").await;
    let taken = api.fake.take_events();
    let [webhook] = &taken[..] else {
        panic!("{taken:?}")
    };
    assert_eq!(webhook.event_type, "customer.created");
    assert_eq!(webhook.signature, sign(&webhook.body, api.now(), &secrets));
    let body: Value = serde_json::from_str(&webhook.body).unwrap();
    assert_eq!(
        (&body["id"], &body["pending_webhooks"]),
        (&json!(webhook.event_id), &json!(1))
    );
    assert_eq!(api.fake.take_events(), []);

    let rolled = ["whsec_old".to_owned(), "whsec_new".to_owned()];
    assert!(api.fake.set_endpoint_secrets(&endpoint_id, rolled.to_vec()));
    api.post("/v1/customers", "").await;
    let webhook = &api.fake.take_events()[0];
    let parts: Vec<&str> = webhook.signature.split(',').collect();
    assert_eq!(parts.len(), 3);
    for (part, secret) in parts[1..].iter().zip(rolled) {
        let alone = sign(&webhook.body, api.now(), &[secret]);
        assert_eq!(alone.split(',').nth(1), Some(*part));
    }
}

#[tokio::test]
async fn the_signature_is_that_of_the_documentation() {
    // HMAC-SHA256 of `1700000000.{"id":"evt_1"}` by OpenSSL.
    let header = sign(
        "{\"id\":\"evt_1\"}",
        1_700_000_000,
        &["whsec_test".to_owned()],
    );
    let expected =
        "t=1700000000,v1=c89214b5b5da833daed6f0b8c5bb6bd58cea9022bd80ccc78230f3942d632925";
    assert_eq!(header, expected);
}

#[tokio::test]
async fn deliveries_are_duplicated_and_reordered() {
    let api = Api::with(|options| options.seed = 5);
    let endpoint = NewEndpoint {
        enabled_events: vec!["customer.created".to_owned()],
        ..endpoint()
    };
    api.fake.register_endpoint(endpoint);
    let mode = DeliveryMode {
        copies: 3,
        is_shuffled: true,
    };
    api.fake.set_delivery(mode);
    api.price(100).await;
    for n in 0..20 {
        api.post("/v1/customers", &format!("name={n}")).await;
    }
    let taken: Vec<String> = api
        .fake
        .take_events()
        .into_iter()
        .map(|event| event.event_id)
        .collect();
    let distinct: BTreeSet<&String> = taken.iter().collect();
    assert_eq!((taken.len(), distinct.len()), (60, 20));
    let mut created = ids(&api
        .get("/v1/events", "type=customer.created&limit=20")
        .await);
    created.reverse();
    let mut first = taken.clone();
    first.dedup();
    assert_ne!(first, created, "they are in another order");
    api.fake.set_delivery(DeliveryMode::default());
    assert!(api.fake.redeliver(&created[7]));
    assert!(!api.fake.redeliver("evt_none"));
    let again: Vec<String> = api
        .fake
        .take_events()
        .into_iter()
        .map(|event| event.event_id)
        .collect();
    assert_eq!(again, created[7..8]);
}

#[tokio::test]
async fn endpoints_are_registered_over_the_api() {
    let api = Api::new();
    let form =
        "url=https://shop.example/hook&enabled_events[]=invoice.paid&api_version=2025-09-30.clover";
    let created = api.post("/v1/webhook_endpoints", form).await;
    assert!(created["secret"].as_str().unwrap().starts_with("whsec_"));
    let path = format!("/v1/webhook_endpoints/{}", id(&created));
    assert_eq!(
        api.get(&path, "").await.get("secret"),
        None,
        "it is shown once"
    );
    api.subscribe(&api.customer().await, &api.price(100).await, "")
        .await;
    let taken = api.fake.take_events();
    assert_eq!(
        taken
            .iter()
            .map(|event| event.event_type.as_str())
            .collect::<Vec<_>>(),
        ["invoice.paid"]
    );
    assert!(
        taken[0]
            .body
            .contains("\"api_version\": \"2025-09-30.clover\"")
    );
    assert_eq!(
        ids(&api.get("/v1/webhook_endpoints", "").await),
        [id(&created)]
    );
    assert_eq!(api.delete(&path).await["deleted"], true);
    api.post("/v1/customers", "").await;
    assert_eq!(api.fake.take_events(), []);
}

type Received = Arc<Mutex<Vec<(HeaderMap, String)>>>;

async fn receive(State(received): State<Received>, headers: HeaderMap, body: String) -> StatusCode {
    let mut received = received.lock().unwrap();
    received.push((headers, body));
    // The first delivery fails.
    if received.len() == 1 {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::OK
    }
}

#[tokio::test]
async fn events_are_sent_over_http_until_they_are_accepted() {
    let api = Api::new();
    let received = Received::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let shop = Router::new()
        .fallback(receive)
        .with_state(Arc::clone(&received));
    tokio::spawn(async move {
        let never: Result<Infallible, _> = serve_router(listener, shop).await;
        never
    });
    let (_, secrets) = api
        .fake
        .register_endpoint(NewEndpoint { url, ..endpoint() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    tokio::spawn(stripe_fake::serve(listener, api.fake.clone()));
    api.post("/v1/customers", "").await;
    let wait_for = async |count: usize| {
        for _ in 0..200 {
            if received.lock().unwrap().len() >= count {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{count} deliveries");
    };
    wait_for(1).await;
    let first_at = api.now();
    api.pass(60);
    wait_for(2).await;
    let received = received.lock().unwrap();
    let [(first, body), (second, again)] = &received[..] else {
        panic!()
    };
    assert_eq!(body, again);
    assert_eq!(
        first["stripe-signature"],
        sign(body, first_at, &secrets).as_str()
    );
    assert_eq!(
        second["stripe-signature"],
        sign(body, first_at + 60, &secrets).as_str()
    );
}

async fn serve_router(listener: TcpListener, router: Router) -> std::io::Result<Infallible> {
    loop {
        let (stream, _) = listener.accept().await?;
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
        tokio::spawn(async move { drop(connection.await) });
    }
}

#[test]
fn a_webhook_is_serialized_for_the_control() {
    let webhook = Webhook {
        endpoint: "we_1".to_owned(),
        url: "http://a".to_owned(),
        event_id: "evt_1".to_owned(),
        event_type: "x".to_owned(),
        body: "{}".to_owned(),
        signature: "t=1".to_owned(),
    };
    assert_eq!(serde_json::to_value(webhook).unwrap()["event_id"], "evt_1");
}
