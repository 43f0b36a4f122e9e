//! A minimal Lambda authorizer in Rust: `lambda_runtime`, and a constant policy.
//!
//! It links no AWS SDK, does not parse the event, and logs nothing. `bench` measures the authorizer relative
//! to it.

use std::collections::BTreeMap;

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde::Serialize;
use serde_json::value::RawValue;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    principal_id: &'static str,
    policy_document: Document,
    context: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    version: &'static str,
    statement: [Statement; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    action: &'static str,
    effect: &'static str,
    resource: &'static str,
}

/// Returns a policy whose context has the authorizer's members and size.
fn policy() -> Policy {
    Policy {
        principal_id: "key_4fJ9xQ2mL0aZ3Qp7Wb1e",
        policy_document: Document {
            version: "2012-10-17",
            statement: [Statement {
                action: "execute-api:Invoke",
                effect: "Allow",
                resource: "arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/v1/GET/api/secure/ping",
            }],
        },
        context: BTreeMap::from([
            ("role", "call"),
            ("customerId", "leased"),
            ("plan", "enterprise"),
            ("keyId", "key_4fJ9xQ2mL0aZ3Qp7Wb1e"),
            ("keyPrefix", "tg_live_ZOmPcQgC"),
            ("rateLimitLimit", "100000"),
            ("rateLimitRemaining", "99999"),
            ("rateLimitReset", "1795345200"),
            ("rateLimit", "\"hour\";r=99999;t=1200"),
            ("rateLimitPolicy", "\"hour\";q=100000;w=3600"),
        ]),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let handler = async |_: LambdaEvent<Box<RawValue>>| Ok::<_, Error>(policy());
    lambda_runtime::run(service_fn(handler)).await
}
