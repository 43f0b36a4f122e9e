//! Check of infra/attach/template.yaml, the example of an API of another stack: that it uses the authorizer
//! as template.yaml does, and has the same gateway responses.

use tollgate_local_aws::template::{Stack, TEMPLATE};

const ATTACH: &str = include_str!("../../../attach/template.yaml");

/// Gateway responses without which callers of another API would get another status or body than those of
/// Tollgate's own API, for what the authorizer decides.
const NEEDED: [&str; 5] = [
    "ACCESS_DENIED",
    "AUTHORIZER_CONFIGURATION_ERROR",
    "AUTHORIZER_FAILURE",
    "THROTTLED",
    "UNAUTHORIZED",
];

/// Returns the defects of the example, compared with Tollgate's template.
fn defects(example: &str) -> Vec<String> {
    let own = Stack::parse(TEMPLATE, "test").unwrap();
    let example = Stack::parse(example, "test").unwrap();
    let mut defects = Vec::new();
    let responses = |stack: &'_ Stack, name: &str| {
        let path = format!("Api.Properties.GatewayResponses.{name}");
        stack.resources().at(&path).0.clone()
    };
    let given = example.resources().at("Api.Properties.GatewayResponses");
    let given: Vec<&str> = given.members().map(|(name, _)| name).collect();
    for name in NEEDED.iter().filter(|name| !given.contains(name)) {
        defects.push(format!("{name} is missing"));
    }
    for name in given {
        if responses(&example, name) != responses(&own, name) {
            defects.push(format!("{name} is not that of template.yaml"));
        }
    }
    // The gateway responses depend on these.
    for part in [
        "Parameters.CorsOrigins.AllowedPattern",
        "Conditions.Cors",
        "Mappings.Cors",
    ] {
        if example.root().at(part).0 != own.root().at(part).0 {
            defects.push(format!("{part} is not that of template.yaml"));
        }
    }
    let auth = |stack: &'_ Stack, path: &str| {
        let path = format!("Api.Properties.Auth.{path}");
        stack.resources().at(&path).0.clone()
    };
    for member in ["FunctionPayloadType", "Identity"] {
        let used = auth(&example, &format!("Authorizers.Tollgate.{member}"));
        if used != auth(&own, &format!("Authorizers.KeyAuthorizer.{member}")) {
            defects.push(format!("the authorizer has another {member}"));
        }
    }
    if auth(&example, "DefaultAuthorizer").as_str() != Some("Tollgate") {
        defects.push("routes have no authorizer unless they name one".to_owned());
    }
    let preflight = "AddDefaultAuthorizerToCorsPreflight";
    if auth(&example, preflight) != auth(&own, preflight) {
        defects.push("a preflight needs a key".to_owned());
    }
    defects
}

#[test]
fn the_example_of_another_stack_responds_as_the_template_does() {
    assert_eq!(defects(ATTACH), [""; 0]);
}

#[test]
fn differences_of_the_example_are_found() {
    for (from, to, expected) in [
        (
            "        THROTTLED:",
            "        WAF_FILTERED:",
            [
                "THROTTLED is missing",
                "WAF_FILTERED is not that of template.yaml",
            ]
            .as_slice(),
        ),
        (
            "$context.authorizer.problem}",
            "}",
            &["ACCESS_DENIED is not that of template.yaml"],
        ),
        (
            "Send a valid API key",
            "Send an API key",
            &["UNAUTHORIZED is not that of template.yaml"],
        ),
        (
            "'Retry-After, RateLimit,",
            "'RateLimit,",
            &["Mappings.Cors is not that of template.yaml"],
        ),
        (
            "ReauthorizeEvery: 0",
            "ReauthorizeEvery: 300",
            &["the authorizer has another Identity"],
        ),
        (
            "        DefaultAuthorizer: Tollgate\n",
            "",
            &["routes have no authorizer unless they name one"],
        ),
        (
            "AddDefaultAuthorizerToCorsPreflight: false",
            "AddDefaultAuthorizerToCorsPreflight: true",
            &["a preflight needs a key"],
        ),
    ] {
        assert!(ATTACH.contains(from), "the example has no {from}");
        assert_eq!(
            defects(&ATTACH.replacen(from, to, 1)),
            expected,
            "{from} -> {to}"
        );
    }
}
