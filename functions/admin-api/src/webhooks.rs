//! `/admin/webhooks`: addresses to which events are sent.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use lambda_http::http::StatusCode;
use tollgate_api::problem::{Conflict, Member, NotFound, Unprocessable};
use tollgate_api::schema;
use tollgate_api::webhooks::{CreatedWebhook, NewWebhook, Webhook, Webhooks};
use tollgate_domain::event::EventKind;
use tollgate_domain::id::WebhookId;
use tollgate_domain::webhook::{MAX_WEBHOOKS, TargetUrl, WebhookSecret};
use tollgate_store::CreateWebhookOutcome;
use tollgate_stripe::outbound::SigningSecret;
use tollgate_web::{AdminCaller, JsonBody, NoQuery, PathParam, Problem};

use crate::App;

/// Random bytes of a secret: as many as the digest of a signature has.
const SECRET_BYTES: usize = 32;

tollgate_web::operations!(pub(crate) (app: App) create, list, delete);

/// Creates a webhook, to which events are sent from now on.
///
/// The secret, with which messages are signed, is in this response only.
#[utoipa::path(
    post,
    path = "/admin/webhooks",
    operation_id = "createWebhook",
    tag = "events",
    request_body = NewWebhook,
    responses(
        (status = 201, description = "The webhook, with its secret.", body = CreatedWebhook),
        (status = 409, response = Conflict),
        (status = 422, response = Unprocessable),
    ),
)]
async fn create(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    JsonBody(body): JsonBody<NewWebhook>,
) -> Result<(StatusCode, Json<CreatedWebhook>), Problem> {
    let url = TargetUrl::parse(&body.url, app.webhook_reach)
        .map_err(|error| Problem::unprocessable(error.to_string()).with(Member::Field, "url"))?;
    let webhook = tollgate_domain::webhook::Webhook {
        id: app.entropy.with(WebhookId::random),
        url,
        kinds: kinds(body.types)?,
        created_at: app.clock.now(),
        disabled_at: None,
        failure: None,
    };
    let bytes: [u8; SECRET_BYTES] = app.entropy.bytes();
    let secret = SigningSecret::from_bytes(&bytes).map_err(Problem::internal)?;
    let secret = secret.expose();
    let stored = WebhookSecret::new(&secret);
    match app.store.create_webhook(&webhook, &stored).await? {
        CreateWebhookOutcome::Created => {
            let created = CreatedWebhook {
                secret: secret.as_str().to_owned(),
                webhook: Webhook::new(webhook),
            };
            Ok((StatusCode::CREATED, Json(created)))
        }
        CreateWebhookOutcome::TooMany => Err(Problem::conflict(format!(
            "There are {MAX_WEBHOOKS} webhooks, which is the maximum. Delete one of them first."
        ))),
    }
}

/// Returns the kinds in a request; none for all.
fn kinds(types: Option<Vec<String>>) -> Result<BTreeSet<EventKind>, Problem> {
    let Some(types) = types else {
        return Ok(BTreeSet::new());
    };
    let kinds: Result<BTreeSet<EventKind>, _> = types.iter().map(|kind| kind.parse()).collect();
    let kinds = kinds.ok().filter(|kinds| !kinds.is_empty());
    kinds.ok_or_else(|| {
        let names = EventKind::ALL.map(EventKind::as_str).join(", ");
        let detail = format!("types must have at least one of {names}, and no others.");
        Problem::unprocessable(detail).with(Member::Field, "types")
    })
}

/// Lists the webhooks, without their secrets.
#[utoipa::path(
    get,
    path = "/admin/webhooks",
    operation_id = "listWebhooks",
    tag = "events",
    responses(
        (status = 200, description = "All webhooks.", body = Webhooks),
    ),
)]
async fn list(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
) -> Result<Json<Webhooks>, Problem> {
    let webhooks = app.store.webhooks().await?;
    Ok(Json(Webhooks {
        data: webhooks.into_iter().map(Webhook::new).collect(),
    }))
}

/// Deletes a webhook. Nothing is sent to it any more, retries included.
#[utoipa::path(
    delete,
    path = "/admin/webhooks/{webhook}",
    operation_id = "deleteWebhook",
    tag = "events",
    params(("webhook" = schema::WebhookId, Path, description = "Id of the webhook.")),
    responses(
        (status = 204, description = "The webhook is deleted."),
        (status = 404, response = NotFound),
    ),
)]
async fn delete(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(webhook): PathParam<WebhookId>,
) -> Result<StatusCode, Problem> {
    match app.store.delete_webhook(&webhook).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("There is no webhook with this id.")),
    }
}
