//! `POST /api/analyze`, called as API Gateway calls it, with metering.

use serde_json::{Value, json};
use tollgate_local_aws::fixture::Fixture;
use tollgate_testing::event::Event;
use tollgate_testing::metered::{NOW, delivered, metering, the_record};
use tollgate_testing::response::{
    ApiResponse, call, call_service, checks_bodies, has_no_other_routes, ignores_the_stage,
    names_fields, needs_a_customer,
};
use tower::Layer;

fn event() -> Event {
    Event::load("analyze/analyze")
}

fn with_text(text: &str) -> Event {
    event().body(&json!({ "text": text }))
}

/// Calls the function, assembled as in its `main`, and sends its usage.
async fn metered_call(at: &Fixture, event: &Event) -> ApiResponse {
    let metering = metering(at, "analyze");
    let routes = tollgate_web::serve(analyze::routes());
    let response = call_service(metering.layer().layer(routes), event).await;
    metering.emitter().flush().await;
    response
}

#[tokio::test]
async fn an_analysis_costs_as_much_as_its_tokens_and_is_metered_with_that_cost() {
    // Tokens and micro-dollars of DeepSeek at $0.27 a million tokens, then of Anthropic at $3.
    let check = async |text: &str, deepseek: [u64; 2], anthropic: [u64; 2], total: &str| {
        let at = Fixture::at(NOW);
        let response = metered_call(&at, &with_text(text)).await.json(200);
        assert!(response["analysis"].is_string());
        let sum = deepseek[1] + anthropic[1];
        let shown = json!({ "micro_usd": sum, "display": total });
        assert_eq!(response["cost"], shown);
        let parts = [("deepseek", deepseek), ("anthropic", anthropic)];
        let record = the_record(&at);
        assert_eq!(record.costs.len(), 2);
        for (n, (provider, [tokens, micro_usd])) in parts.into_iter().enumerate() {
            let usage = &response["usage"][n];
            assert_eq!(usage["provider"], provider);
            assert_eq!(usage["tokens"], tokens);
            assert_eq!(usage["cost"]["micro_usd"], micro_usd);
            let cost = &record.costs[n];
            assert_eq!(cost.provider.as_deref(), Some(provider));
            assert_eq!((cost.tokens, cost.micro_usd.0), (tokens, micro_usd));
            assert!(!cost.unpriced);
        }
    };
    check("x", [501, 135], [751, 2_253], "$0.002388").await;
    check(&"x".repeat(400), [600, 162], [850, 2_550], "$0.002712").await;
    check(&"é".repeat(201), [601, 162], [851, 2_553], "$0.002715").await;
    let longest = "x".repeat(100_000);
    check(&longest, [25_500, 6_885], [25_750, 77_250], "$0.084135").await;
}

#[tokio::test]
async fn a_call_is_metered_with_its_route() {
    let (at, event) = (Fixture::at(NOW), event());
    let response = metered_call(&at, &event).await;
    assert_eq!(response.header("x-ratelimit-remaining"), Some("9996"));
    let record = the_record(&at);
    assert_eq!(record.request_id, event.request_id());
    assert_eq!(record.method, "POST");
    assert_eq!(record.endpoint, "/api/analyze");
    assert_eq!(record.plan.as_str(), "pro");
    assert_eq!(record.status, 200);
    assert_eq!(record.billable, Some(true));
}

#[tokio::test]
async fn an_invalid_request_is_billable_and_has_no_costs() {
    let check = async |event: Event, status: u16| {
        let at = Fixture::at(NOW);
        let response = metered_call(&at, &event).await;
        assert_eq!(response.status, status, "{}", response.text);
        assert_eq!(response.header("x-ratelimit-remaining"), Some("9996"));
        let record = the_record(&at);
        assert_eq!((record.status, record.billable), (status, Some(true)));
        assert_eq!(record.costs, []);
        response
    };
    let empty = check(with_text(""), 422).await;
    empty.unprocessable(Some("text"));
    let long = check(with_text(&"x".repeat(100_001)), 422).await;
    long.unprocessable(Some("text"));
    check(event().text("{"), 400).await;
}

#[tokio::test]
async fn an_invalid_body_is_rejected() {
    let routes = analyze::routes();
    checks_bodies(&routes, &event()).await;
    let wrong = [
        ("text", json!(1)),
        ("text", Value::Null),
        ("text", json!(["a"])),
    ];
    names_fields(&routes, &event(), &wrong).await;
    let missing = call(&routes, &event().text("{}")).await;
    let detail = missing.bad_request(Some("text"));
    assert!(detail.contains("missing field `text`"), "{detail}");
}

#[tokio::test]
async fn the_function_has_one_route_for_customers_only() {
    let routes = analyze::routes();
    needs_a_customer(&routes, &event()).await;
    has_no_other_routes(&routes, &event()).await;
    ignores_the_stage(&routes, &event()).await;
}

#[tokio::test]
async fn a_call_without_a_customer_is_forbidden_and_not_metered() {
    let at = Fixture::at(NOW);
    for event in [event().admin("key_a"), event().authorizer(Value::Null)] {
        metered_call(&at, &event).await.forbidden();
    }
    assert_eq!(delivered(&at), [0; 0]);
}

#[tokio::test]
async fn without_metering_an_analysis_costs_nothing() {
    let response = call(&analyze::routes(), &event()).await.json(200);
    assert_eq!(response["cost"]["micro_usd"], 0);
}
