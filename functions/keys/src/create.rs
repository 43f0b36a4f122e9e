//! `POST /admin/api-keys`: creates a key, and returns it once.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use lambda_http::http::{StatusCode, header};
use tollgate_api::keys::{CreateKey, IssuedKey, Key};
use tollgate_api::problem::{Member, Unprocessable};
use tollgate_domain::id::KeyId;
use tollgate_domain::key::{ApiKey, KeyKind, KeyRecord, Owner};
use tollgate_domain::plan::Overrides;
use tollgate_domain::role::Role;
use tollgate_store::{CreateOutcome, NewKey};
use tollgate_web::{AdminCaller, IdempotencyKey, JsonBody, NoQuery, Problem, check_name};

use crate::checks::{admin_key_forbidden, check_expiry, check_limit};
use crate::{Issuer, MAX_ATTEMPTS};

tollgate_web::operations!(pub (issuer: Issuer) create);

/// Creates a key.
///
/// The whole key is in this response only. It is a secret: only its digest is stored.
#[utoipa::path(
    post,
    path = "/admin/api-keys",
    operation_id = "createKey",
    tag = "keys",
    params(("Idempotency-Key" = Option<String>, Header, description = "Key of the request: a repetition within 24 hours creates nothing.", pattern = "^[!-~]{1,255}$")),
    request_body = CreateKey,
    responses(
        (status = 201, description = "The key was created.", body = IssuedKey, headers(("Location" = String, description = "Path of the resource."))),
        (status = 200, description = "A repetition of a request with the same `Idempotency-Key`: the key that it created, without the secret.", body = IssuedKey, headers(("Location" = String, description = "Path of the resource."))),
        (status = 422, response = Unprocessable),
    ),
)]
async fn create(
    State(issuer): State<Issuer>,
    caller: AdminCaller,
    _: NoQuery,
    idempotency: IdempotencyKey,
    JsonBody(body): JsonBody<CreateKey>,
) -> Result<Response, Problem> {
    let role = body.role.unwrap_or(Role::Call);
    let customer_role = role.of_customer().ok_or_else(admin_key_forbidden)?;
    let now = issuer.app.clock.now();
    let overrides = Overrides::from(body.overrides.0);
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
        return Err(Problem::unprocessable(detail).with(Member::Field, "customer_id"));
    };
    let owner = Owner::Customer(customer);
    for _ in 0..MAX_ATTEMPTS {
        let secret = issuer.generate();
        let record = KeyRecord {
            name: body.name.clone(),
            expires_at,
            overrides,
            customer_role,
            ..KeyRecord::new(
                issuer.entropy.with(KeyId::random),
                secret.prefix(),
                owner.clone(),
                now,
            )
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
                return Err(Problem::unprocessable(detail).with(Member::Field, "customer_id"));
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
            .with(|rng| format.generate(KeyKind::Customer, rng))
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
        details: Key::new(record, now),
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
