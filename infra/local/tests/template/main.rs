//! Checks that template.yaml matches the code that it deploys.
//!
//! Each check returns the defects as sentences, so that it can be run on mutated templates too: this shows
//! that the check can fail.

#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

mod api;
mod attach;
mod deployment;
mod metrics;
mod payments;
mod permissions;
mod privileges;
mod routes;
mod tables;
mod usage;
mod variables;

use tollgate_local::template::Template;
use tollgate_local_aws::template::{Stack, TEMPLATE};

/// Returns the defects of a template that reading it shows.
fn defects(template: &str) -> Vec<String> {
    let stack = Stack::parse(template, "test").unwrap();
    let mut defects = Vec::new();
    defects.extend(api::defects(&stack));
    defects.extend(routes::defects(&stack));
    defects.extend(payments::defects(&stack));
    defects.extend(usage::defects(&stack));
    defects.extend(tables::defects(&stack));
    defects.extend(variables::defects(&stack));
    defects.extend(metrics::defects(&stack));
    defects.extend(deployment::defects(&stack));
    defects.extend(privileges::defects(template));
    defects
}

#[test]
fn the_template_matches_the_code() {
    assert_eq!(defects(TEMPLATE), [""; 0]);
}

/// A missing permission would make a function fail; an unused one violates least privilege.
#[tokio::test]
async fn each_role_has_exactly_the_permissions_that_its_function_uses() {
    assert_eq!(permissions::defects(TEMPLATE).await, [""; 0]);
}

/// Returns the template with a mutation.
fn mutated(from: &str, to: &str) -> String {
    assert!(TEMPLATE.contains(from), "the template has no {from}");
    TEMPLATE.replacen(from, to, 1)
}

/// Checks that a mutation leads to a defect with this text.
fn check(from: &str, to: &str, expected: &str) {
    let found = defects(&mutated(from, to));
    let named = found.iter().any(|defect| defect.contains(expected));
    assert!(named, "{from} -> {to}: {found:?}");
}

#[test]
fn mistakes_in_the_template_are_found() {
    // With cached decisions, calls are allowed without being counted.
    check(
        "ReauthorizeEvery: 0",
        "ReauthorizeEvery: 300",
        "decisions are cached for 300 s",
    );
    check(
        "FunctionPayloadType: REQUEST",
        "FunctionPayloadType: TOKEN",
        "REQUEST",
    );
    check(
        "MinimumCompressionSize: 10485760",
        "MinimumCompressionSize: 1024",
        "responses of 1024 bytes and more are compressed",
    );
    check(
        "MinimumCompressionSize: 10485760",
        "Description: none",
        "may not be inflated",
    );
    check(
        "StatusCode: 429",
        "StatusCode: 403",
        "ACCESS_DENIED has status 403",
    );
    check(
        "Retry-After: context.authorizer.retryAfter",
        "Retry-After: \"'60'\"",
        "ACCESS_DENIED lacks the header field Retry-After",
    );
    check(
        "$context.authorizer.problem}",
        "}",
        "ACCESS_DENIED has another body",
    );
    check(
        "$context.authorizer.problem}",
        ",\"limit\":$context.authorizer.rateLimitLimit}",
        "a denial that is not the authorizer's has a body that is not JSON",
    );
    check(
        "        DefaultAuthorizer: KeyAuthorizer\n",
        "        DefaultAuthorizer: KeyAuthorizer\n        \
         ResourcePolicy: { IpRangeWhitelist: [192.0.2.0/24] }\n",
        "a resource policy denies with the status of a limit",
    );
    check(
        "Cache-Control: \"'no-store'\"",
        "Cache-Control: \"'max-age=60'\"",
        "UNAUTHORIZED may be cached",
    );
    check(
        "ResourcePath: /~1api~1usage~1current",
        "ResourcePath: /api/usage/current",
        "GET /api/usage/current has no throttle",
    );
    check(
        "ResourcePath: /~1docs, ThrottlingRateLimit: 2",
        "ResourcePath: /~1docs, DataTraceEnabled: false",
        "GET /docs has no throttle",
    );
    check(
        "Path: /docs, Method: get, Auth: { Authorizer: NONE }",
        "Path: /docs, Method: get",
        "GET /docs needs a key",
    );
    check(
        "Path: /api/usage/current, Method: get",
        "Path: /api/usage/current, Method: get, Auth: { Authorizer: NONE }",
        "GET /api/usage/current needs no key",
    );
    check(
        "Path: /api/usage/current, Method: get",
        "Path: /api/usage/current, Method: get, Auth: { Authorizer: AWS_IAM }",
        "Current of UsageApiFunction is authorized in another way",
    );
    check(
        "HttpMethod: POST, ResourcePath: /~1admin~1customers,",
        "HttpMethod: PUT, ResourcePath: /~1admin~1customers,",
        "POST /admin/customers has no throttle",
    );
    check(
        "\"/~1admin~1customers~1{customer}\", ThrottlingRateLimit: !Ref AdminRateLimit,",
        "\"/~1admin~1customers~1{customer}\",",
        "GET /admin/customers/{customer} has no throttle",
    );
    check(
        "Access-Control-Allow-Origin: !If [Cors, !Sub \"'${CorsOrigins}'\", !Ref AWS::NoValue]",
        "Access-Control-Allow-Origin: \"'*'\"",
        "UNAUTHORIZED has other CORS fields for \"\"",
    );
    check(
        "X-RateLimit-Remaining,\n        X-RateLimit-Reset'",
        "X-RateLimit-Remaining'",
        "THROTTLED has other CORS fields for \"*\"",
    );
    check(
        "AllowOrigin: !If [Cors, !Sub \"'${CorsOrigins}'\", !Ref AWS::NoValue]",
        "AllowOrigin: \"'*'\"",
        "a preflight response has another origin for \"\"",
    );
    check(
        "AddDefaultAuthorizerToCorsPreflight: false",
        "AddDefaultAuthorizerToCorsPreflight: true",
        "a preflight needs a key",
    );
    check("BatchSize: 1000", "BatchSize: 10", "batches of 10");
    check(
        "Role: !GetAtt UsageWriterFunctionRole.Arn\n      Timeout: 30",
        "Role: !GetAtt UsageWriterFunctionRole.Arn\n      Timeout: 20",
        "a batch may take 23 s, and the usage-writer has 20",
    );
    check(
        "MaximumBatchingWindowInSeconds: !Ref UsageWindowSeconds",
        "MaximumBatchingWindowInSeconds: 60",
        "wait for 60 s",
    );
    check(
        "VisibilityTimeout: 240",
        "VisibilityTimeout: 180",
        "messages become visible too early",
    );
    check("[ReportBatchItemFailures]", "[]", "ReportBatchItemFailures");
    check(
        "MaximumConcurrency: 2\n",
        "MaximumConcurrency: 3\n",
        "has 3 workers",
    );
    check(
        "          - invoice.voided\n",
        "",
        "StripeEventRule does not select",
    );
    check(
        "maxReceiveCount: 5",
        "maxReceiveCount: 1",
        "a dead letter after 1 deliveries",
    );
    check(
        "detail-type: [{ prefix: tollgate. }]",
        "detail-type: [tollgate.usage.v1]",
        "the rule",
    );
    check(
        "{ AttributeName: pk, KeyType: HASH }",
        "{ AttributeName: id, KeyType: HASH }",
        "table registry has another key",
    );
    check(
        "AttributeName: expires\n",
        "AttributeName: expiry\n",
        "another TTL attribute",
    );
    check(
        "IndexName: billable",
        "IndexName: billing",
        "table usage has other indexes",
    );
    check(
        "Path: /api/analyze",
        "Path: /api/analyse",
        "AnalyzeFunction does not declare POST /api/analyse",
    );
    check(
        "Path: /api/analyze",
        "Path: /api/analyse",
        "AnalyzeFunction has no event for its operation POST /api/analyze",
    );
    check(
        "Method: delete",
        "Method: put",
        "DELETE /admin/api-keys/{key}",
    );
    check(
        "TOLLGATE_KEY_BRAND: ",
        "TOLLGATE_BRAND: ",
        "TOLLGATE_BRAND, which nothing reads",
    );
    check(
        "TOLLGATE_UNCOUNTED_ROUTES: ",
        "UNCOUNTED_ROUTES: ",
        "TOLLGATE_UNCOUNTED_ROUTES is set",
    );
    check(
        "Metric: BillingRuns",
        "Metric: RunsOfBilling",
        "RunsOfBilling",
    );
    check("\"ChargedCents\"", "\"Cents\"", "no function writes Cents");
    check(
        "Name: Reason, Value: no_plan",
        "Name: Reason, Value: no_such_plan",
        "no Decisions has the value no_such_plan",
    );
}

#[test]
fn an_access_log_that_may_contain_keys_is_found() {
    for variable in [
        "identity.apiKey",
        "path",
        "error.message",
        "authorizer.principalId",
    ] {
        check(
            "$context.resourcePath",
            &format!("$context.{variable}"),
            &format!("the access log may contain a key: {variable}"),
        );
    }
    check(
        "$context.authorizer.keyId",
        "-",
        "the access log lacks keyId",
    );
    check(
        "$context.authorizer.customerId",
        "-",
        "the access log lacks customerId",
    );
    check(
        "\"key_id\":",
        "\"key_id\"",
        "a line of the access log is not JSON",
    );
    check(
        "Equals [!Ref AccessLog, \"true\"]",
        "Equals [!Ref AccessLog, \"false\"]",
        "calls are logged by default",
    );
}

#[test]
fn deployments_that_do_not_protect_callers_are_found() {
    check(
        "      AutoPublishAlias: live\n",
        "",
        "the authorizer has no versions",
    );
    check(
        "      AutoPublishAliasAllProperties: true\n",
        "",
        "a changed configuration of the authorizer publishes no version",
    );
    check(
        "[AWS::LanguageExtensions, AWS::Serverless-2016-10-31]",
        "[AWS::Serverless-2016-10-31, AWS::LanguageExtensions]",
        "a changed parameter publishes no version",
    );
    check(
        "FunctionArn: !Ref AuthorizerFunction.Alias",
        "FunctionArn: !GetAtt AuthorizerFunction.Arn",
        "the gateway does not call the authorizer through its alias",
    );
    check(
        "Type: !If [Canary, Canary10Percent10Minutes, AllAtOnce]",
        "Type: AllAtOnce",
        "a new authorizer is deployed by \"AllAtOnce\", and not as a canary",
    );
    check(
        "Canary10Percent10Minutes",
        "Canary10Percent5Minutes",
        "the canary may end before Api5xxAlarm rings",
    );
    check(
        "[!Ref Api5xxAlarm, !Ref StoreDownAlarm], []",
        "[], [!Ref StoreDownAlarm]",
        "no alarm rolls a new authorizer back",
    );
    // A new function whose permissions may come later than its first call.
    check(
        "    DependsOn: KeysListPolicy\n",
        "",
        "KeysListFunction may precede KeysListPolicy",
    );
    // A new authorizer that finds no plans denies every call.
    check(
        "DependsOn: [AuthorizerPolicy, PlanSeed]",
        "DependsOn: [AuthorizerPolicy]",
        "AuthorizerFunction may precede the plans",
    );
    check(
        "  PingFunction:\n    Type: AWS::Serverless::Function\n    Condition: WithExamples\n",
        "  PingFunction:\n    Type: AWS::Serverless::Function\n",
        "the parameter Examples has the wrong effect on PingFunction",
    );
    check(
        "  UsageApiFunction:\n    Type: AWS::Serverless::Function\n",
        "  UsageApiFunction:\n    Type: AWS::Serverless::Function\n    Condition: WithExamples\n",
        "the parameter Examples has the wrong effect on UsageApiFunction",
    );
    check(
        "  LakeBucket:\n    Type: AWS::S3::Bucket\n    Condition: WithLake\n",
        "  LakeBucket:\n    Type: AWS::S3::Bucket\n",
        "the parameter Lake has the wrong effect on LakeBucket",
    );
    check(
        "  LakeArchive:\n    Type: AWS::Events::Archive\n    Condition: WithLake\n",
        "  LakeArchive:\n    Type: AWS::Events::Archive\n",
        "the parameter Lake has the wrong effect on LakeArchive",
    );
    check(
        "  ApiDocsLogGroup:\n    Type: AWS::Logs::LogGroup\n    Condition: WithApiDocs\n",
        "  ApiDocsLogGroup:\n    Type: AWS::Logs::LogGroup\n",
        "the parameter ApiDocs has the wrong effect on ApiDocsLogGroup",
    );
}

#[test]
fn mistakes_in_loops_are_found() {
    check(
        "[QuarantineAlarm, LateUsageAlarm, ReconciliationAlarm,",
        "[QuarantineAlarm, LateUsageAlarm, ReconciledAlarm,",
        "the alarm ReconciledAlarm",
    );
    let found = Stack::parse(&mutated("- ${Alarm}:", "- Alarm:"), "test").unwrap_err();
    assert!(
        found.to_string().contains("Fn::ForEach::CountAlarm"),
        "{found}"
    );
}

#[test]
fn roles_that_allow_too_much_are_found() {
    // The admin API could create admin keys, which no function may.
    check(
        "[CUSTOMER#*, FOLLOWUP#*, IDEMPOTENCY#create-customer#*, STRIPE#CUSTOMER#*]",
        "[ADMIN#*, CUSTOMER#*, IDEMPOTENCY#create-customer#*, STRIPE#CUSTOMER#*]",
        "admin-api may write admin keys",
    );
    check(
        "[IDEMPOTENCY#create-key#*, KEY#*, KEYID#*, PREFIX#*]",
        "\"*KEY*\"",
        "keys-create may write admin keys",
    );
    // keys-update could change a customer's plan.
    check(
        "dynamodb:LeadingKeys: KEY#*\n              ForAllValues:StringEquals:",
        "dynamodb:LeadingKeys: \"*\"\n              ForAllValues:StringEquals:",
        "keys-update may write customers",
    );
    check(
        "[LATE#*, OVERAGE#*, RECONCILIATION#*]",
        "[LATE#*, OVERAGE#*]",
        "admin-api may write reconciliations",
    );
    check(
        "dynamodb:LeadingKeys: \"*#*\"",
        "dynamodb:LeadingKeys: RECONCILIATION#*",
        "usage-api may read aggregates of all customers",
    );
    check(
        "dynamodb:LeadingKeys: RECONCILIATION#*",
        "dynamodb:LeadingKeys: \"*\"",
        "reconciliation may write aggregates and adjustments",
    );
    // The authorizer could read charges, billing change a price, and the seed charge a customer.
    let of_plans = "ForAllValues:StringLike: { dynamodb:LeadingKeys: PLANS }";
    check(
        of_plans,
        "ForAllValues:StringLike: { dynamodb:LeadingKeys: \"*\" }",
        "authorizer may read period ledgers and charges",
    );
    check(
        "ForAllValues:StringNotLike: { dynamodb:LeadingKeys: PLANS }",
        "ForAllValues:StringNotLike: { dynamodb:LeadingKeys: NONE }",
        "billing may write plans",
    );
    let seed = "Action: dynamodb:PutItem\n            Resource: !GetAtt BillingTable.Arn\n            Condition: { ";
    check(
        &format!("{seed}{of_plans}"),
        &format!("{seed}ForAllValues:StringLike: {{ dynamodb:LeadingKeys: \"*\" }}"),
        "plan-seed may write period ledgers and charges",
    );
}

#[test]
fn roles_that_allow_other_events_than_their_own_usage_are_found() {
    let detail_type = "                events:detail-type: tollgate.usage.v1\n";
    let source = "                events:source: !Sub \"tollgate:${AWS::StackName}-ping\"\n";
    let may_adjust = "ping may put tollgate.adjustment.v1 of tollgate:test-ping";
    check(detail_type, "", may_adjust);
    check(
        detail_type,
        "                events:detail-type: [tollgate.usage.v1, tollgate.adjustment.v1]\n",
        may_adjust,
    );
    check(source, "", "ping may put tollgate.usage.v1 of support");
    check(
        source,
        "                events:source: !Sub \"tollgate:${AWS::StackName}-analyze\"\n",
        "ping may not send its own events",
    );
    check(
        "FunctionName: !Sub \"${AWS::StackName}-ping\"",
        "MemorySize: 128",
        "ping may not send its own events",
    );
    check(
        "events:source: !Sub \"tollgate:${AWS::StackName}-analyze\"",
        "events:source: !Sub \"tollgate:${AWS::StackName}-ping\"",
        "analyze may put tollgate.usage.v1 of tollgate:test-ping",
    );
}

#[tokio::test]
async fn a_missing_action_is_found() {
    let template = mutated(
        "[dynamodb:BatchGetItem, dynamodb:UpdateItem]",
        "dynamodb:UpdateItem",
    );
    let expected = "AuthorizerFunction may not dynamodb:BatchGetItem on table/local-counters";
    assert_eq!(permissions::defects(&template).await, [expected]);
}

#[tokio::test]
async fn an_unused_action_is_found() {
    let template = mutated(
        "[dynamodb:BatchGetItem, dynamodb:UpdateItem]",
        "[dynamodb:BatchGetItem, dynamodb:DeleteItem, dynamodb:UpdateItem]",
    );
    let expected = "AuthorizerFunction never uses dynamodb:DeleteItem on table/local-counters";
    assert_eq!(permissions::defects(&template).await, [expected]);
}

#[tokio::test]
async fn a_missing_kind_of_item_is_found() {
    let (all, fewer) = (
        "[IDEMPOTENCY#create-key#*, KEY#*, KEYID#*]",
        "[IDEMPOTENCY#create-key#*, KEY#*]",
    );
    let template = mutated(all, fewer);
    let expected = "KeysCreateFunction may not dynamodb:GetItem on table/local-registry with \
                    dynamodb:LeadingKeys KEYID#*";
    assert_eq!(permissions::defects(&template).await, [expected]);
    let template = mutated("                  - requests_per_hour\n", "");
    let expected = "KeysUpdateFunction may not dynamodb:UpdateItem on table/local-registry with \
                    dynamodb:Attributes requests_per_hour";
    assert_eq!(permissions::defects(&template).await, [expected]);
    let template = mutated(
        "dynamodb:LeadingKeys: [customers, keys]",
        "dynamodb:LeadingKeys: keys",
    );
    let expected = "AdminApiFunction may not dynamodb:Query on table/local-registry/index/listing \
                    with dynamodb:LeadingKeys customers";
    assert_eq!(permissions::defects(&template).await, [expected]);
}

#[tokio::test]
async fn an_unused_kind_of_item_is_found() {
    let template = mutated(
        "[CUSTOMER#*, KEY#*, KEYID#*]",
        "[CUSTOMER#*, IDEMPOTENCY#*, KEY#*, KEYID#*]",
    );
    let expected = "UsageApiFunction never uses dynamodb:GetItem on table/local-registry with \
                    dynamodb:LeadingKeys IDEMPOTENCY#*";
    assert_eq!(permissions::defects(&template).await, [expected]);
    let template = mutated("[pk, revoked_at]", "[pk, expires_at, revoked_at]");
    let expected = "KeysRevokeFunction never uses dynamodb:UpdateItem on table/local-registry with \
                    dynamodb:Attributes expires_at";
    assert_eq!(permissions::defects(&template).await, [expected]);
    let template = mutated(
        "dynamodb:LeadingKeys: [customers, keys]",
        "dynamodb:LeadingKeys: [admins, customers, keys]",
    );
    let expected = "AdminApiFunction never uses dynamodb:Query on table/local-registry/index/listing \
                    with dynamodb:LeadingKeys admins";
    assert_eq!(permissions::defects(&template).await, [expected]);
}

#[tokio::test]
async fn a_permission_for_the_wrong_resource_is_found() {
    let template = mutated(
        "Resource: !Sub \"${RegistryTable.Arn}/index/listing\"",
        "Resource: !GetAtt RegistryTable.Arn",
    );
    let expected = "KeysListFunction may not dynamodb:Query on table/local-registry/index/listing";
    assert_eq!(permissions::defects(&template).await, [expected]);
}
