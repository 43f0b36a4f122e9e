//! The configuration of the local stack, read from the template that is deployed to AWS so that the two
//! cannot diverge.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate_local_aws::Rule;
use tollgate_local_aws::template::{InvalidTemplate, Node, Stack};

/// The parts of the template that the local stack implements.
#[derive(Debug)]
pub struct Template {
    /// Name of the API's stage.
    pub stage: String,
    /// The API's routes.
    pub routes: Vec<Route>,
    /// Gateway responses, by API Gateway's names for them.
    pub responses: BTreeMap<String, GatewayResponse>,
    /// Header fields of the response to a preflight request, each a literal in single quotes. The allowed
    /// methods are not among them: they depend on the path. `None` if the API has no CORS configuration.
    pub preflight: Option<BTreeMap<&'static str, String>>,
    /// Rule that selects the events for the queue.
    pub rule: Rule,
    /// Delivery of usage events to the usage-writer.
    pub usage: EventSource,
    /// Delivery of charges to the charge worker.
    pub charges: EventSource,
    /// Delivery of events of Stripe to their worker.
    pub stripe_events: EventSource,
    /// Delivery of events to the webhook sender.
    pub webhooks: EventSource,
}

/// Mapping of a queue to a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSource {
    /// Logical id of the queue.
    pub queue: String,
    /// Maximum number of messages in a batch.
    pub batch_size: usize,
    /// Batching window.
    pub window: Duration,
    /// Visibility timeout of the queue.
    pub visibility_timeout: Duration,
}

impl EventSource {
    /// Reads the mapping with that logical id.
    fn from_stack(stack: &Stack, id: &str, queue: &str) -> Result<Self, InvalidTemplate> {
        let what = |part: &str| format!("the {part} of {queue}");
        let source = stack.resources().get(id).get("Properties");
        let size = source.get("BatchSize").number(&what("batch size"))?;
        // SQS delivers at once unless the mapping has a window.
        let window = match source.get("MaximumBatchingWindowInSeconds") {
            window if window.0.is_null() => 0,
            window => stack.number(window, &what("batching window"))?,
        };
        let of_queue = stack.resources().get(queue).get("Properties");
        let timeout = of_queue
            .get("VisibilityTimeout")
            .number(&what("visibility timeout"))?;
        Ok(Self {
            queue: queue.to_owned(),
            batch_size: usize::try_from(size).unwrap_or(usize::MAX),
            window: Duration::from_secs(window),
            visibility_timeout: Duration::from_secs(timeout),
        })
    }
}

/// A route of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// HTTP method in upper case.
    pub method: String,
    /// Path with parameters in braces.
    pub path: String,
    /// Logical id of the function behind it.
    pub function: String,
    /// Whether it can be called without a key.
    pub is_open: bool,
}

/// A gateway response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayResponse {
    /// Replaces the response's own status.
    pub status: Option<u16>,
    /// Header fields: a literal in single quotes, or the name of a context variable.
    pub headers: BTreeMap<String, String>,
    /// The body, with `$context.…` to fill in.
    pub body: String,
}

impl Template {
    /// Reads the configuration from a stack's template.
    ///
    /// # Errors
    /// When a part is missing.
    pub fn from_stack(stack: &Stack) -> Result<Self, InvalidTemplate> {
        let resources = stack.resources();
        let mut routes = Vec::new();
        for (function, resource) in stack.of_type("AWS::Serverless::Function") {
            for (event, node) in resource.at("Properties.Events").members() {
                if node.get("Type").0.as_str() == Some("Api") {
                    let what = |part: &str| format!("{part} of {function}'s event {event}");
                    let method = node.at("Properties.Method").text(&what("the method"))?;
                    let authorizer = node.at("Properties.Auth.Authorizer");
                    routes.push(Route {
                        method: method.to_ascii_uppercase(),
                        path: node.at("Properties.Path").text(&what("the path"))?,
                        function: function.to_owned(),
                        is_open: authorizer.0.as_str() == Some("NONE"),
                    });
                }
            }
        }
        if routes.is_empty() {
            return Err(InvalidTemplate::Missing("routes".to_owned()));
        }
        let api = resources.at("Api.Properties");
        let responses = api.get("GatewayResponses").members().map(|(name, node)| {
            let headers = node.at("ResponseParameters.Headers").members();
            let headers = headers
                .map(|(header, value)| {
                    let value = stack.optional(value, header)?;
                    Ok(value.map(|value| (header.to_owned(), value)))
                })
                .filter_map(Result::transpose)
                .collect::<Result<_, InvalidTemplate>>()?;
            let status = node.get("StatusCode").0.as_u64();
            let response = GatewayResponse {
                status: status.and_then(|status| u16::try_from(status).ok()),
                headers,
                body: node.at("ResponseTemplates.application/json").text(name)?,
            };
            Ok((name.to_owned(), response))
        });
        let responses = responses.collect::<Result<_, InvalidTemplate>>()?;
        let pattern = resources.at("UsageRule.Properties.EventPattern").0;
        let pattern = serde_json::to_value(pattern)
            .map_err(|_| InvalidTemplate::Missing("the rule's event pattern".to_owned()))?;
        Ok(Self {
            stage: api.get("StageName").text("the stage's name")?,
            routes,
            responses,
            preflight: preflight(stack, api.get("Cors"))?,
            rule: Rule::new(pattern)?,
            usage: EventSource::from_stack(stack, "UsageWriterEventSource", "UsageQueue")?,
            charges: EventSource::from_stack(stack, "ChargeWorkerEventSource", "ChargeQueue")?,
            stripe_events: EventSource::from_stack(
                stack,
                "StripeEventsEventSource",
                "StripeEventQueue",
            )?,
            webhooks: EventSource::from_stack(stack, "WebhookSenderEventSource", "WebhookQueue")?,
        })
    }
}

/// Reads the header fields of the preflight response. SAM gives each path of an API with `Cors` an OPTIONS
/// method, to which API Gateway responds itself
/// (<https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-property-api-corsconfiguration.html>).
fn preflight(
    stack: &Stack,
    cors: Node<'_>,
) -> Result<Option<BTreeMap<&'static str, String>>, InvalidTemplate> {
    const FIELDS: [(&str, &str); 3] = [
        ("AllowOrigin", "access-control-allow-origin"),
        ("AllowHeaders", "access-control-allow-headers"),
        ("MaxAge", "access-control-max-age"),
    ];
    if cors.0.is_null() {
        return Ok(None);
    }
    let fields = FIELDS.into_iter().map(|(property, header)| {
        let value = stack.optional(cors.get(property), property)?;
        Ok(value.map(|value| (header, value)))
    });
    let fields = fields.filter_map(Result::transpose);
    fields.collect::<Result<_, _>>().map(Some)
}
