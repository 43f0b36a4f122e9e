//! `POST /admin/api-keys`: creates a key, and returns it once.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use jiff::Timestamp;
use lambda_http::http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use tollgate_domain::id::{CustomerId, KeyId};
use tollgate_domain::key::{ApiKey, KeyRecord, Owner, Role};
use tollgate_domain::plan::Overrides;
use tollgate_domain::time::Rfc3339;
use tollgate_store::{CreateOutcome, NewKey};
use tollgate_web::{AdminCaller, IdempotencyKey, JsonBody, NoQuery, Object, Problem};

use crate::view::{IssuedKey, KeyView, admin_key_forbidden, check_expiry, check_limit, check_name};
use crate::{Issuer, MAX_ATTEMPTS};

/// Returns the route.
pub fn routes(issuer: Issuer) -> Router {
    Router::new()
        .route("/admin/api-keys", post(create))
        .with_state(issuer)
}

/// Request body.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct NewKeyBody {
    /// `customer`, which is the default. Admin keys cannot be created here.
    role: Option<Role>,
    /// Customer that the key belongs to.
    customer_id: Option<CustomerId>,
    #[serde(default)]
    name: String,
    expires_at: Option<Rfc3339>,
    #[serde(default)]
    overrides: Object<Overrides>,
}

async fn create(
    State(issuer): State<Issuer>,
    caller: AdminCaller,
    _: NoQuery,
    idempotency: IdempotencyKey,
    JsonBody(body): JsonBody<NewKeyBody>,
) -> Result<Response, Problem> {
    if body.role == Some(Role::Admin) {
        return Err(admin_key_forbidden());
    }
    let now = issuer.app.clock.now();
    let Object(overrides) = body.overrides;
    check_name(&body.name)?;
    check_limit("overrides.requests_per_hour", overrides.requests_per_hour)?;
    check_limit("overrides.monthly_quota", overrides.monthly_quota)?;
    // Equal requests serialise to the same text.
    let request = serde_json::to_string(&body).map_err(Problem::internal)?;
    let mark = idempotency.mark("create-key", &caller.key_id, &request);
    // A repeated request returns the key of the first before any check that depends on the current state: the
    // expiry may have passed.
    if let Some(mark) = &mark {
        match issuer.app.store.repeated_key(mark).await? {
            Some(CreateOutcome::Replayed(record)) => return Ok(issued(None, record, now)),
            Some(_) => return Err(IdempotencyKey::reused()),
            None => {}
        }
    }
    let expires_at = check_expiry(body.expires_at, now)?;
    let Some(customer) = body.customer_id else {
        let detail = "customer_id is required.";
        return Err(Problem::unprocessable(detail).with("field", "customer_id"));
    };
    let owner = Owner::Customer(customer);
    for _ in 0..MAX_ATTEMPTS {
        let secret = issuer.generate();
        let record = KeyRecord {
            id: issuer.entropy.with(KeyId::random),
            prefix: secret.prefix(),
            name: body.name.clone(),
            owner: owner.clone(),
            created_at: now,
            expires_at,
            revoked_at: None,
            suspended_at: None,
            overrides,
            rotated_to: None,
            hour_counter_id: None,
        };
        let key = NewKey {
            secret: &secret,
            record: &record,
        };
        match issuer.app.store.create_key(&key, mark.as_ref()).await? {
            CreateOutcome::New => return Ok(issued(Some(&secret), record, now)),
            CreateOutcome::Replayed(record) => return Ok(issued(None, record, now)),
            CreateOutcome::KeyReused => return Err(IdempotencyKey::reused()),
            CreateOutcome::NoCustomer => {
                let detail = "There is no customer with this id, or the customer was erased.";
                return Err(Problem::unprocessable(detail).with("field", "customer_id"));
            }
            CreateOutcome::Taken => {}
        }
    }
    Err(Problem::internal(TooManyCollisions))
}

impl Issuer {
    /// Generates the secret of a customer key.
    pub(crate) fn generate(&self) -> ApiKey {
        let format = &self.format;
        self.entropy
            .with(|rng| format.generate(Role::Customer, rng))
    }
}

/// Returns the response with a new key: 201 with the secret, or for a repeated request, 200 without it.
pub(crate) fn issued(secret: Option<&ApiKey>, record: KeyRecord, now: Timestamp) -> Response {
    let status = match secret {
        Some(_) => StatusCode::CREATED,
        None => StatusCode::OK,
    };
    let location = format!("/admin/api-keys/{}", record.id);
    let body = IssuedKey {
        key: secret.map(|secret| secret.expose().to_owned()),
        view: KeyView::new(record, now),
    };
    (status, [(header::LOCATION, location)], Json(body)).into_response()
}

/// Error of generating a key when every attempt collided with an existing one, which hints at broken
/// randomness.
#[derive(Debug)]
pub(crate) struct TooManyCollisions;

impl std::fmt::Display for TooManyCollisions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the prefix or id of every generated key was taken")
    }
}

impl std::error::Error for TooManyCollisions {}
