//! The metering layer: usage records, and response headers.

#![allow(clippy::unwrap_used, reason = "a test whose setup fails has failed")]

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::BodyExt;
use lambda_http::http::{Response, StatusCode};
use lambda_http::{Body, Request, Service, service_fn};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tollgate_domain::llm::{LlmPrices, Tokens};
use tollgate_domain::money::MicroUsd;
use tollgate_domain::usage::{Cost, UsageRecord};
use tollgate_local_aws::Fault;
use tollgate_local_aws::fixture::Fixture;
use tollgate_metering::{Metering, RequestCost};
use tollgate_runtime::metrics::UNATTRIBUTED_CALLS;
use tollgate_testing::event::Event;
use tollgate_testing::metered::{self, NOW, delivered, the_record, usage_events};
use tower::{Layer, ServiceExt};

fn event() -> Event {
    Event::load("ping/ping")
}

fn metering(at: &Fixture) -> Metering {
    metered::metering(at, "ping")
}

fn response(status: u16) -> Response<Body> {
    let response = Response::builder().status(status);
    response.body(Body::from("a response")).unwrap()
}

/// Returns a function that adds costs, and succeeds.
fn spending(
    spend: impl Fn(&RequestCost) + Clone + Send + 'static,
) -> impl Service<Request, Response = Response<Body>, Error = Infallible, Future: Send> {
    service_fn(move |request: Request| {
        let spend = spend.clone();
        async move {
            spend(request.extensions().get::<RequestCost>().unwrap());
            Ok(response(200))
        }
    })
}

/// Calls a metered function and returns the record.
async fn record_of<S, E>(service: S, event: &Event) -> UsageRecord
where
    S: Service<Request, Response = Response<Body>, Error = E, Future: Send + 'static>,
    E: Send,
{
    let at = Fixture::at(NOW);
    let metering = metering(&at);
    let function = metering.layer().layer(service);
    if let Ok(response) = function.oneshot(event.request()).await {
        response.into_body().collect().await.unwrap();
    }
    metering.emitter().flush().await;
    the_record(&at)
}

#[tokio::test(start_paused = true)]
async fn a_call_is_recorded_with_its_route_template_and_latency() {
    let slow = service_fn(async |_: Request| {
        sleep(Duration::from_micros(40_900)).await;
        Ok::<_, Infallible>(response(201))
    });
    let mut event = Event::load("keys/rotate").param("key", "key_secret");
    event = event
        .customer("acme", "enterprise")
        .query(&[("token", "secret")]);
    let record = record_of(slow, &event).await;
    let expected = UsageRecord {
        time: NOW.parse().unwrap(),
        request_id: event.request_id().to_owned(),
        key_id: "key_c".parse().unwrap(),
        plan: "enterprise".parse().unwrap(),
        method: "POST".into(),
        endpoint: "/admin/api-keys/{key}/rotate".into(),
        status: 201,
        latency_ms: record.latency_ms,
        request_bytes: Some(24),
        response_bytes: Some(10),
        truncated: None,
        billable: Some(true),
        costs: Vec::new(),
    };
    assert_eq!(record, expected);
    // Tokio's timers have a resolution of one millisecond.
    assert!(
        (40..=42).contains(&record.latency_ms),
        "{}",
        record.latency_ms
    );
}

#[tokio::test]
async fn a_call_is_billable_unless_the_function_failed() {
    let check = async |status: u16, billable: bool| {
        let service =
            service_fn(move |_: Request| async move { Ok::<_, Infallible>(response(status)) });
        let record = record_of(service, &event()).await;
        assert_eq!((record.status, record.billable), (status, Some(billable)));
    };
    check(200, true).await;
    check(302, true).await;
    check(422, true).await;
    check(499, true).await;
    check(500, false).await;
    check(503, false).await;
}

#[tokio::test]
async fn a_handlers_error_is_returned_and_not_billable() {
    let at = Fixture::at(NOW);
    let metering = metering(&at);
    let failing = service_fn(async |request: Request| {
        let cost = request.extensions().get::<RequestCost>().unwrap();
        cost.add_tokens("openai", 100).unwrap();
        Err::<Response<Body>, _>("out of ideas")
    });
    let function = metering.layer().layer(failing);
    let outcome = function.oneshot(event().request()).await;
    assert_eq!(outcome.unwrap_err(), "out of ideas");
    metering.emitter().flush().await;
    let record = the_record(&at);
    assert_eq!((record.status, record.billable), (502, Some(false)));
    assert_eq!(record.costs[0].micro_usd, MicroUsd(1_000));
}

#[tokio::test]
async fn a_call_whose_handler_panics_or_is_dropped_is_recorded_and_not_billable() {
    let at = Fixture::at(NOW);
    let metering = metering(&at);
    let spend = |cost: &RequestCost| {
        cost.add_tokens("openai", 100).unwrap();
        panic!("a bug in the handler");
    };
    let function = metering.layer().layer(spending(spend));
    let call = tokio::spawn(function.oneshot(event().request()));
    assert!(call.await.unwrap_err().is_panic());
    metering.emitter().flush().await;
    let record = the_record(&at);
    assert_eq!((record.status, record.billable), (502, Some(false)));
    assert_eq!(record.costs[0].micro_usd, MicroUsd(1_000));

    let endless = service_fn(async |_: Request| {
        std::future::pending::<()>().await;
        Ok::<_, Infallible>(response(200))
    });
    tokio::select! {
        biased;
        _ = metering.layer().layer(endless).oneshot(event().request()) => unreachable!(),
        () = std::future::ready(()) => {}
    }
    metering.emitter().flush().await;
    let record = the_record(&at);
    assert_eq!((record.status, record.billable), (502, Some(false)));
}

#[tokio::test]
async fn a_call_without_a_customer_gets_its_response_and_is_not_recorded() {
    let at = Fixture::at(NOW);
    let (metering, cloudwatch) = metered::metering_with_metrics(&at, "ping");
    let service = service_fn(async |request: Request| {
        let metered = request.extensions().get::<RequestCost>().is_some();
        Ok::<_, Infallible>(response(if metered { 500 } else { 200 }))
    });
    let mut without_key = event();
    without_key.0["requestContext"]["authorizer"]["keyId"] = Value::Null;
    let from_elsewhere = Request::new(Body::Empty);
    let requests = [
        event().admin("key_a").request(),
        event().authorizer(Value::Null).request(),
        event()
            .authorizer(json!({ "customerId": "acme" }))
            .request(),
        without_key.request(),
        from_elsewhere,
    ];
    for request in requests {
        let response = metering.layer().layer(service).oneshot(request);
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "a response");
    }
    metering.emitter().close().await;
    assert_eq!(delivered(&at), [0; 0]);
    // All except the admin's call.
    assert_eq!(cloudwatch.sum(UNATTRIBUTED_CALLS, &[]), 4);

    let customers = metering.layer().layer(service).oneshot(event().request());
    customers
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();
    metering.emitter().close().await;
    assert_eq!(the_record(&at).status, 500);
}

#[tokio::test]
async fn calls_of_several_customers_are_recorded_per_customer() {
    let at = Fixture::at(NOW);
    let metering = metering(&at);
    let service = service_fn(async |_: Request| Ok::<_, Infallible>(response(200)));
    let function = metering.layer().layer(service);
    for (customer, plan) in [("acme", "pro"), ("bolt", "free"), ("acme", "free")] {
        let event = event().customer(customer, plan);
        function.clone().oneshot(event.request()).await.unwrap();
    }
    metering.emitter().flush().await;
    let recorded = usage_events(&at).into_iter().map(|event| {
        let plans: Vec<String> = event
            .records
            .into_iter()
            .map(|one| one.plan.into())
            .collect();
        (event.envelope.subject.to_string(), plans)
    });
    let expected = [("acme", vec!["pro", "free"]), ("bolt", vec!["free"])];
    let expected = expected.map(|(customer, plans)| {
        let plans: Vec<String> = plans.into_iter().map(str::to_owned).collect();
        (customer.to_owned(), plans)
    });
    assert_eq!(recorded.collect::<Vec<_>>(), expected);
}

fn tokens(provider: &str, tokens: u64, micro_usd: u64) -> Cost {
    Cost {
        provider: Some(provider.to_owned()),
        tokens,
        micro_usd: MicroUsd(micro_usd),
        ..Cost::default()
    }
}

#[tokio::test]
async fn the_record_has_the_costs_that_the_handler_adds() {
    let check = async |spend: fn(&RequestCost), expected: &[Cost]| {
        let record = record_of(spending(spend), &event()).await;
        assert_eq!(record.costs, expected);
    };
    check(|_| {}, &[]).await;
    check(
        |cost| {
            assert_eq!(cost.add_tokens("deepseek", 1_000), Ok(MicroUsd(270)));
            assert_eq!(cost.add_tokens("Anthropic", 1_000), Ok(MicroUsd(3_000)));
            assert_eq!(cost.add_tokens("openai", 1_000), Ok(MicroUsd(10_000)));
        },
        &[
            tokens("deepseek", 1_000, 270),
            tokens("anthropic", 1_000, 3_000),
            tokens("openai", 1_000, 10_000),
        ],
    )
    .await;
    check(
        |cost| assert_eq!(cost.add_tokens("unknown", 1_000), Ok(MicroUsd(0))),
        &[Cost {
            unpriced: true,
            ..tokens("unknown", 1_000, 0)
        }],
    )
    .await;
    check(
        |cost| {
            cost.add_amount(MicroUsd(5)).unwrap();
            cost.add_amount(MicroUsd(7)).unwrap();
        },
        &[Cost {
            micro_usd: MicroUsd(12),
            ..Cost::default()
        }],
    )
    .await;
    // One token costs 0.27 micro-dollars.
    check(
        |cost| {
            for _ in 0..1_000 {
                assert_eq!(cost.add_tokens("deepseek", 1), Ok(MicroUsd(0)));
            }
        },
        &[tokens("deepseek", 1_000, 270)],
    )
    .await;
}

#[tokio::test]
async fn any_number_of_added_costs_makes_a_valid_record() {
    let spend = |cost: &RequestCost| {
        for _ in 0..20 {
            cost.add_tokens("anthropic", 10).unwrap();
            cost.add_tokens("unknown", 1).unwrap();
            cost.add_tokens("ANTHROPIC", 5).unwrap();
            cost.add_amount(MicroUsd(1)).unwrap();
        }
    };
    let record = record_of(spending(spend), &event()).await;
    let unknown = Cost {
        unpriced: true,
        ..tokens("unknown", 20, 0)
    };
    let amount = Cost {
        micro_usd: MicroUsd(20),
        ..Cost::default()
    };
    assert_eq!(
        record.costs,
        [tokens("anthropic", 300, 900), unknown, amount]
    );
}

#[tokio::test]
async fn any_provider_and_model_names_make_a_valid_record() {
    let spend = |cost: &RequestCost| {
        let long = "é".repeat(100);
        let add = |provider: &str, model: Option<&str>, n| {
            let tokens = Tokens::of(n);
            let added = match model {
                Some(model) => cost.add_model_tokens(provider, model, tokens),
                None => cost.add_tokens(provider, n),
            };
            added.unwrap();
        };
        add("", None, 1);
        add("open\nai", None, 1);
        add(&long, Some(&long), 1);
        for n in 0..20 {
            add(&format!("provider-{n}"), None, 1);
            add("openai", Some(&format!("model-{n}")), 100);
        }
    };
    let record = record_of(spending(spend), &event()).await;
    let unpriced = |provider: &str, n| Cost {
        unpriced: true,
        ..tokens(provider, n, 0)
    };
    let long = Cost {
        model: Some("é".repeat(64)),
        ..unpriced(&"é".repeat(32), 1)
    };
    assert_eq!(record.costs.len(), 16);
    assert_eq!(
        record.costs[..3],
        [unpriced("unnamed", 1), unpriced("open_ai", 1), long]
    );
    // Eleven more have a part of their own: six providers without a price, and five models.
    let others = [
        tokens("others", 15 * 100, 15 * 1_000),
        unpriced("others", 14),
    ];
    assert_eq!(record.costs[14..], others);
    let all: u64 = record.costs.iter().map(Cost::all_tokens).sum();
    assert_eq!(all, 3 + 20 + 2_000);
}

#[tokio::test]
async fn values_beyond_the_bounds_make_a_valid_record() {
    let spend = |cost: &RequestCost| {
        for _ in 0..3 {
            cost.add_tokens("anthropic", 60_000_000).unwrap();
            cost.add_amount(MicroUsd(60_000_000_000)).unwrap();
        }
    };
    let record = record_of(spending(spend), &event()).await;
    let most = Cost {
        micro_usd: MicroUsd(100_000_000_000),
        ..Cost::default()
    };
    assert_eq!(
        record.costs,
        [tokens("anthropic", 100_000_000, 540_000_000), most]
    );

    let mut long = event();
    long.0["requestContext"]["resourcePath"] = format!("/{}é", "x".repeat(254)).into();
    let odd = service_fn(async |_: Request| Ok::<_, Infallible>(response(799)));
    let record = record_of(odd, &long).await;
    assert_eq!((record.status, record.billable), (502, Some(false)));
    assert_eq!(record.endpoint, format!("/{}", "x".repeat(254)));
}

#[tokio::test]
async fn prices_can_be_configured() {
    let at = Fixture::at(NOW);
    let prices = LlmPrices::from_json(
        r#"[{ "provider": "mistral", "micro_usd_per_million_tokens": 2000000 },
            { "provider": "mistral", "model": "large", "from": "2026-11-22T00:00:00Z",
              "micro_usd_per_million_input_tokens": 3000000,
              "micro_usd_per_million_output_tokens": 9000000 }]"#,
    );
    let metering = metering(&at).with_prices(prices.unwrap());
    let spend = |cost: &RequestCost| {
        cost.add_tokens("mistral", 500).unwrap();
        cost.add_tokens("openai", 500).unwrap();
        let tokens = Tokens {
            input: 100,
            output: 10,
            other: 0,
        };
        for _ in 0..2 {
            let spent = cost.add_model_tokens("Mistral", "Large", tokens);
            assert_eq!(spent, Ok(MicroUsd(390)));
        }
    };
    let function = metering.layer().layer(spending(spend));
    function.oneshot(event().request()).await.unwrap();
    metering.emitter().flush().await;
    let costs = the_record(&at).costs;
    assert_eq!(costs[0], tokens("mistral", 500, 1_000));
    assert!(costs[1].unpriced);
    let of_model = Cost {
        model: Some("large".into()),
        input_tokens: 200,
        output_tokens: 20,
        ..tokens("mistral", 0, 780)
    };
    assert_eq!(costs[2..], [of_model]);
}

#[tokio::test(start_paused = true)]
async fn the_latency_excludes_the_flush() {
    let at = Fixture::at(NOW);
    let metering = metering(&at);
    let slow = service_fn(async |_: Request| {
        sleep(Duration::from_millis(40)).await;
        Ok::<_, Infallible>(response(200))
    });
    let function = metering.layer().layer(slow);
    function.clone().oneshot(event().request()).await.unwrap();

    at.aws.inject(|_| Fault::Throttled);
    let started = Instant::now();
    let second = async {
        function.clone().oneshot(event().request()).await.unwrap();
    };
    tokio::join!(metering.emitter().flush(), second);
    assert!(
        started.elapsed() > Duration::from_millis(40),
        "there was no backoff"
    );
    at.aws.heal();
    metering.emitter().flush().await;
    let records: Vec<UsageRecord> = usage_events(&at)
        .into_iter()
        .flat_map(|one| one.records)
        .collect();
    let latencies: Vec<u64> = records.iter().map(|record| record.latency_ms).collect();
    assert_eq!(latencies, [40, 40]);
}

#[tokio::test(start_paused = true)]
async fn responses_do_not_wait_for_an_unavailable_bus() {
    let at = Fixture::at(NOW);
    at.aws.inject(|_| Fault::RequestLost);
    let metering = metering(&at);
    let service = service_fn(async |_: Request| Ok::<_, Infallible>(response(201)));
    let function = metering.layer().layer(service);
    let started = Instant::now();
    for _ in 0..3 {
        let response = function.clone().oneshot(event().request()).await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "a response");
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
    at.aws.heal();
    metering.emitter().flush().await;
    assert_eq!(usage_events(&at)[0].records.len(), 3);
}

#[tokio::test]
async fn a_response_has_the_limit_headers_whatever_its_status() {
    let at = Fixture::at(NOW);
    let layer = metering(&at).layer();
    for status in [200, 404, 500] {
        let service = service_fn(move |_: Request| async move {
            let mut response = response(status);
            let headers = response.headers_mut();
            headers.insert("x-ratelimit-limit", "7".parse().unwrap());
            headers.insert("x-own", "own".parse().unwrap());
            Ok::<_, Infallible>(response)
        });
        let response = layer.layer(service).oneshot(event().request()).await;
        let response = response.unwrap();
        for (name, value) in [
            ("x-ratelimit-limit", "10000"),
            ("x-ratelimit-remaining", "9996"),
            ("x-ratelimit-reset", "1795345200"),
            ("ratelimit", r#""hour";r=9996;t=3600"#),
            ("ratelimit-policy", r#""hour";q=10000;w=3600"#),
            ("x-own", "own"),
        ] {
            let values: Vec<_> = response.headers().get_all(name).iter().collect();
            assert_eq!(values, [value], "{name}");
        }
    }
}

#[tokio::test]
async fn a_missing_or_invalid_context_value_has_no_header() {
    let at = Fixture::at(NOW);
    let service = service_fn(async |_: Request| Ok::<_, Infallible>(response(200)));
    let function = metering(&at).layer().layer(service);
    let mut event = event();
    let context = &mut event.0["requestContext"]["authorizer"];
    context["rateLimitLimit"] = Value::Null;
    context["rateLimitRemaining"] = json!(9_996);
    context["rateLimitReset"] = json!("a\nb");
    let response = function.oneshot(event.request()).await.unwrap();
    for absent in ["limit", "remaining", "reset"] {
        let name = format!("x-ratelimit-{absent}");
        assert!(response.headers().get(&name).is_none(), "{name}");
    }
    assert!(response.headers().get("ratelimit").is_some());
}

#[tokio::test]
async fn a_response_has_the_cors_headers_if_the_context_has_an_origin() {
    let at = Fixture::at(NOW);
    let layer = metering(&at).layer();
    for origin in [Value::Null, json!("https://app.example")] {
        let service = service_fn(async |_: Request| Ok::<_, Infallible>(response(200)));
        let mut event = event();
        event.0["requestContext"]["authorizer"]["corsOrigin"] = origin.clone();
        let response = layer.layer(service).oneshot(event.request()).await;
        let response = response.unwrap();
        let header = |name| response.headers().get(name).map(|it| it.to_str().unwrap());
        assert_eq!(header("access-control-allow-origin"), origin.as_str());
        let exposed = header("access-control-expose-headers");
        assert_eq!(exposed.is_some(), origin.is_string());
    }
}
