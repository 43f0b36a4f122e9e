//! Consistency of the event files, which contain some values twice, as the gateway's events do.

use serde_json::Value;
use tollgate_api::context::{Caller, Identity};
use tollgate_domain::key::ApiKey;
use tollgate_testing::event::{Event, declared_routes, text};

fn all() -> Vec<(String, Event)> {
    let functions = ["keys", "admin-api", "usage-api", "ping", "analyze"];
    let all = functions.into_iter().flat_map(|function| {
        let named = Event::all(function).into_iter();
        named.map(move |(name, event)| (format!("{function}/{name}"), event))
    });
    all.collect()
}

#[test]
fn every_event_has_a_declared_route() {
    let declared = declared_routes();
    for (name, event) in all() {
        assert!(declared.contains(&event.route()), "{name}");
    }
}

#[test]
fn every_event_is_consistent() {
    for (name, event) in all() {
        let event = &event.0;
        let context = &event["requestContext"];
        assert_eq!(context["resourcePath"], event["resource"], "{name}");
        assert_eq!(context["httpMethod"], event["httpMethod"], "{name}");
        let mut path = text(event, "resource").to_owned();
        for (parameter, value) in event["pathParameters"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap();
            path = path.replace(&format!("{{{parameter}}}"), value);
        }
        assert_eq!(text(event, "path"), path, "{name}");
        assert_eq!(text(context, "path"), format!("/v1{path}"), "{name}");
        assert_eq!(context["stage"], "v1", "{name}");
        for (single, multi) in [
            ("headers", "multiValueHeaders"),
            ("queryStringParameters", "multiValueQueryStringParameters"),
        ] {
            let mut listed = event[single].clone();
            for (_, value) in listed.as_object_mut().into_iter().flatten() {
                *value = Value::from(vec![value.take()]);
            }
            assert_eq!(event[multi], listed, "{name}");
        }
    }
}

#[test]
fn the_authorizer_context_of_every_event_matches_its_key() {
    for (name, event) in all() {
        let context = &event.0["requestContext"]["authorizer"];
        let caller = Caller::from_context(|name| context[name].as_str()).unwrap();
        assert_eq!(context["principalId"], caller.key_id.as_str(), "{name}");
        let key = ApiKey::parse(text(&event.0["headers"], "x-api-key")).unwrap();
        assert_eq!(key.prefix(), caller.key_prefix, "{name}");
        let is_admin_route = text(&event.0, "path").starts_with("/admin/");
        assert_eq!(caller.identity == Identity::Admin, is_admin_route, "{name}");
    }
}
