//! `POST /admin/api-keys`: makes a key, and shows it this once.

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
use tollgate_store::{Created, NewKey};
use tollgate_web::{AdminCaller, IdempotencyKey, JsonBody, NoQuery, Object, Problem};

use crate::view::{IssuedKey, KeyView, admins_key, check_expiry, check_limit, check_name};
use crate::{Issuer, MAX_DRAWS};

/// The route.
pub fn routes(issuer: Issuer) -> Router {
    Router::new()
        .route("/admin/api-keys", post(create))
        .with_state(issuer)
}

/// The body.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct NewKeyBody {
    /// `customer`, which may be left out.
    role: Option<Role>,
    /// Whose key it is.
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
        return Err(admins_key());
    }
    let now = issuer.app.clock.now();
    let Object(overrides) = body.overrides;
    check_name(&body.name)?;
    check_limit("overrides.requests_per_hour", overrides.requests_per_hour)?;
    check_limit("overrides.monthly_quota", overrides.monthly_quota)?;
    // The same request says the same, and so serialises to the same text.
    let request = serde_json::to_string(&body).map_err(Problem::internal)?;
    let mark = idempotency.mark("create-key", &caller.key_id, &request);
    // A repeat is answered as such, whatever has come about since: the expiry may be past.
    if let Some(mark) = &mark {
        match issuer.app.store.repeated_key(mark).await? {
            Some(Created::Replayed(record)) => return Ok(issued(None, record, now)),
            Some(_) => return Err(IdempotencyKey::reused()),
            None => {}
        }
    }
    let expires_at = check_expiry(body.expires_at, now)?;
    let Some(customer) = body.customer_id else {
        let detail = "A key needs the customer_id.";
        return Err(Problem::unprocessable(detail).with("field", "customer_id"));
    };
    let owner = Owner::Customer(customer);
    for _ in 0..MAX_DRAWS {
        let secret = issuer.draw();
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
            hour_of: None,
        };
        let key = NewKey {
            secret: &secret,
            record: &record,
        };
        match issuer.app.store.create_key(&key, mark.as_ref()).await? {
            Created::New => return Ok(issued(Some(&secret), record, now)),
            Created::Replayed(record) => return Ok(issued(None, record, now)),
            Created::KeyReused => return Err(IdempotencyKey::reused()),
            Created::NoCustomer => {
                let detail = "There is no customer of that id, or the customer has left.";
                return Err(Problem::unprocessable(detail).with("field", "customer_id"));
            }
            Created::Taken => {}
        }
    }
    Err(Problem::internal(NamesTaken))
}

impl Issuer {
    pub(crate) fn draw(&self) -> ApiKey {
        let format = &self.format;
        self.entropy
            .with(|rng| format.generate(Role::Customer, rng))
    }
}

/// 201 with the key, or, for a repeated request, 200 without it: it was shown once.
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

/// Every name drawn was taken: the randomness is not random.
#[derive(Debug)]
pub(crate) struct NamesTaken;

impl std::fmt::Display for NamesTaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("all names drawn for a new key were taken")
    }
}

impl std::error::Error for NamesTaken {}
