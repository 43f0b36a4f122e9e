//! `/admin/customers`: customers and their plans.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lambda_http::http::{StatusCode, header};
use tollgate_api::customers::{
    self, CreateCustomer, EraseQuery, Erasure, StripeLink, UpdateCustomer,
};
use tollgate_api::json::{Object, Whole};
use tollgate_api::problem::{Conflict, Member, NotFound, Unprocessable};
use tollgate_api::schema;
use tollgate_api::{List, PageQuery};
use tollgate_domain::customer::Customer;
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::plan_book::{InvalidPin, Pin, Pins, PlanBook};
use tollgate_domain::submission::Recipient;
use tollgate_store::schema::{TABLES, Table};
use tollgate_store::{
    CONTENTS, CreateOutcome, CustomerChange, PinChange, RecipientChange, UpdateCustomerOutcome,
};
use tollgate_web::{
    AdminCaller, IdempotencyKey, JsonBody, ListRequest, NoQuery, PathParam, Problem, QueryParams,
    check_enabled, check_name, page_size,
};

use crate::App;
use crate::stripe_id::is_stripe_id;

/// Maximum length of an e-mail address (RFC 5321, section 4.5.3.1.3), in characters.
const MAX_EMAIL: usize = 254;

tollgate_web::operations!(pub(crate) (app: App) create, list, show, update, erase);

fn no_such_customer() -> Problem {
    Problem::not_found("There is no customer with this id.")
}

fn check_id(id: Option<&CustomerId>) -> Result<(), Problem> {
    if id.is_none_or(CustomerId::is_path_segment) {
        return Ok(());
    }
    let detail = "id must not be \".\" or \"..\", which have a special meaning in URLs.";
    Err(Problem::unprocessable(detail).with(Member::Field, "id"))
}

/// Checks the form of an e-mail address, to catch typing errors. Only sending a message to an address shows
/// that it exists.
fn check_email(email: Option<&str>) -> Result<(), Problem> {
    let plausible = |email: &str| {
        email.chars().count() <= MAX_EMAIL
            && !email.chars().any(|c| c.is_whitespace() || c.is_control())
            && email
                .rsplit_once('@')
                .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty())
    };
    if email.is_none_or(plausible) {
        return Ok(());
    }
    let detail = "email is not an e-mail address.";
    Err(Problem::unprocessable(detail).with(Member::Field, "email"))
}

/// Checks that the plan takes new customers.
fn check_plan(plans: &PlanBook, plan: &PlanId) -> Result<(), Problem> {
    let detail = match plans.get(plan) {
        Some(found) if found.retired_at.is_none() => return Ok(()),
        Some(_) => format!("The plan {plan} is retired, and takes no new customers."),
        None => format!("There is no plan {plan}."),
    };
    let offered = plans.iter().filter(|plan| plan.retired_at.is_none());
    let offered: Vec<&str> = offered.map(|plan| plan.id().as_str()).collect();
    Err(Problem::unprocessable(detail)
        .with(Member::Field, "plan")
        .with(Member::Plans, offered))
}

/// Checks the `pin` field of a merge patch, which cannot be removed with `null`.
fn check_pin(pin: Option<Object<customers::Pin>>) -> Result<Pin, Problem> {
    let Some(Object(customers::Pin {
        plan,
        version,
        from,
    })) = pin
    else {
        let detail = "pin cannot be removed: a pin to the version null ends it.";
        return Err(Problem::unprocessable(detail).with(Member::Field, "pin"));
    };
    let version = version.map(|Whole(version)| version);
    Ok(Pin {
        plan,
        version,
        from,
    })
}

/// Checks the form of the ids in the `stripe` field of a merge patch.
fn check_stripe(link: Option<Object<StripeLink>>) -> Result<Option<Recipient>, Problem> {
    let Some(Object(link)) = link else {
        return Ok(None);
    };
    let ids = [
        ("stripe.customer", "cus_", Some(&link.customer)),
        ("stripe.subscription", "sub_", link.subscription.as_ref()),
    ];
    for (field, prefix, id) in ids {
        if !id.is_none_or(|id| is_stripe_id(id, prefix)) {
            let detail = format!("{field} must be an id of Stripe's, which begins with {prefix}.");
            return Err(Problem::unprocessable(detail).with(Member::Field, field));
        }
    }
    Ok(Some(link.into()))
}

impl App {
    /// Returns the pins with another one added.
    fn pinned(&self, plans: &PlanBook, mut pins: Pins, pin: Pin) -> Result<Pins, Problem> {
        let Some(plan) = plans.get(&pin.plan) else {
            let detail = format!("There is no plan {}.", pin.plan);
            return Err(Problem::unprocessable(detail).with(Member::Field, "pin.plan"));
        };
        let exists = |number: u64| plan.iter().any(|version| version.number == number);
        if let Some(version) = pin.version.filter(|version| !exists(*version)) {
            let detail = format!("The plan {} has no version {version}.", pin.plan);
            return Err(Problem::unprocessable(detail).with(Member::Field, "pin.version"));
        }
        let invalid = |error: InvalidPin| {
            let (bound, month) = match error {
                InvalidPin::TooEarly(month) => (Member::Earliest, month),
                InvalidPin::TooLate(month) => (Member::Latest, month),
            };
            Problem::unprocessable(format!("{error}."))
                .with(Member::Field, "pin.from")
                .with(bound, month.to_string())
        };
        pins.set(pin, self.clock.now()).map_err(invalid)?;
        Ok(pins)
    }
}

/// Creates a customer.
#[utoipa::path(
    post,
    path = "/admin/customers",
    operation_id = "createCustomer",
    tag = "customers",
    params(("Idempotency-Key" = Option<String>, Header, description = "Key of the request: a repetition within 24 hours creates nothing.", pattern = "^[!-~]{1,255}$")),
    request_body = CreateCustomer,
    responses(
        (status = 201, description = "The customer was created.", body = customers::Customer, headers(("Location" = String, description = "Path of the resource."))),
        (status = 200, description = "A repetition of a request with the same `Idempotency-Key`: the customer that it created.", body = customers::Customer, headers(("Location" = String, description = "Path of the resource."))),
        (status = 409, response = Conflict),
        (status = 422, response = Unprocessable),
    ),
)]
async fn create(
    State(app): State<App>,
    caller: AdminCaller,
    _: NoQuery,
    idempotency: IdempotencyKey,
    JsonBody(body): JsonBody<CreateCustomer>,
) -> Result<Response, Problem> {
    check_name(&body.name)?;
    check_email(body.email.as_deref())?;
    let request = serde_json::to_string(&body).map_err(Problem::internal)?;
    let mark = idempotency.mark("create-customer", &caller.key_id, &request);
    // A repeated request returns the customer of the first before any check that depends on the current
    // state: the plan may no longer exist.
    if let Some(mark) = &mark {
        match app.store.repeated_customer(mark).await? {
            Some(CreateOutcome::Replayed(stored)) => return Ok(created(StatusCode::OK, stored)),
            Some(_) => return Err(IdempotencyKey::reused()),
            None => {}
        }
    }
    check_id(body.id.as_ref())?;
    check_plan(&app.store.plans().await?, &body.plan)?;
    let customer = Customer {
        name: body.name,
        email: body.email,
        ..Customer::new(
            body.id
                .unwrap_or_else(|| app.entropy.with(CustomerId::random)),
            body.plan,
            app.clock.now(),
        )
    };
    match app.store.create_customer(&customer, mark.as_ref()).await? {
        CreateOutcome::New => Ok(created(StatusCode::CREATED, customer)),
        CreateOutcome::Replayed(stored) => Ok(created(StatusCode::OK, stored)),
        CreateOutcome::KeyReused => Err(IdempotencyKey::reused()),
        CreateOutcome::Taken | CreateOutcome::NoCustomer => {
            let detail = "A customer with this id exists already.";
            Err(Problem::conflict(detail).with(Member::Field, "id"))
        }
    }
}

/// Returns the response to a creating request: 201, or 200 if an earlier request created the customer.
fn created(status: StatusCode, customer: Customer) -> Response {
    let location = format!("/admin/customers/{}", customer.id);
    let view = customers::Customer::from(customer);
    (status, [(header::LOCATION, location)], Json(view)).into_response()
}

/// Lists customers by id.
#[utoipa::path(
    get,
    path = "/admin/customers",
    operation_id = "listCustomers",
    tag = "customers",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of customers.", body = List<customers::Customer>),
    ),
)]
async fn list(
    State(app): State<App>,
    _: AdminCaller,
    QueryParams(page): QueryParams<PageQuery>,
) -> Result<Json<List<customers::Customer>>, Problem> {
    let limit = page_size(page.limit)?;
    let list_request = ListRequest::new("customers", page.cursor.as_ref())?;
    let found = app
        .store
        .list_customers(list_request.after(), limit)
        .await?;
    let customers = found.items.into_iter().map(|(_, customer)| customer.into());
    Ok(Json(List {
        data: customers.collect(),
        next_cursor: found.next.map(|position| list_request.cursor(&position)),
    }))
}

/// Returns a customer.
#[utoipa::path(
    get,
    path = "/admin/customers/{customer}",
    operation_id = "getCustomer",
    tag = "customers",
    params(("customer" = schema::CustomerId, Path, description = "Id of the customer.")),
    responses(
        (status = 200, description = "The customer.", body = customers::Customer),
        (status = 404, response = NotFound),
    ),
)]
async fn show(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(id): PathParam<CustomerId>,
) -> Result<Json<customers::Customer>, Problem> {
    let customer = app.store.customer(&id).await?;
    Ok(Json(customer.ok_or_else(no_such_customer)?.into()))
}

/// Changes the name, e-mail address or plan of a customer, pins it to a version of a plan, links it to a Stripe
/// customer, suspends it, or enables it again.
#[utoipa::path(
    patch,
    path = "/admin/customers/{customer}",
    operation_id = "updateCustomer",
    tag = "customers",
    params(("customer" = schema::CustomerId, Path, description = "Id of the customer.")),
    request_body = UpdateCustomer,
    responses(
        (status = 200, description = "The changed customer.", body = customers::Customer),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 422, response = Unprocessable),
    ),
)]
async fn update(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(id): PathParam<CustomerId>,
    JsonBody(patch): JsonBody<UpdateCustomer>,
) -> Result<Json<customers::Customer>, Problem> {
    if patch.plan == Some(None) {
        let detail = "plan cannot be removed: a customer always has a plan.";
        return Err(Problem::unprocessable(detail).with(Member::Field, "plan"));
    }
    let enabled = patch.enabled.map(check_enabled).transpose()?;
    let mut change = CustomerChange {
        name: patch.name.map(Option::unwrap_or_default),
        email: patch.email,
        plan: patch.plan.flatten(),
        pins: None,
        recipient: None,
        suspended_at: enabled.map(|enabled| (!enabled).then(|| app.clock.now())),
    };
    let pin = patch.pin.map(check_pin).transpose()?;
    let stripe = patch.stripe.map(check_stripe).transpose()?;
    if pin.is_none() && stripe.is_none() && change == CustomerChange::default() {
        return Err(Problem::unprocessable("The patch changes nothing."));
    }
    if let Some(name) = &change.name {
        check_name(name)?;
    }
    check_email(change.email.as_ref().and_then(Option::as_deref))?;
    if pin.is_some() || stripe.is_some() || change.plan.is_some() {
        let before = app.store.customer(&id).await?;
        let before = before.ok_or_else(no_such_customer)?;
        change.recipient = stripe.map(|after| RecipientChange {
            before: before.recipient.clone(),
            after,
        });
        let plans = app.store.plans().await?;
        // A customer on a retired plan stays on it.
        if let Some(plan) = change.plan.as_ref().filter(|plan| **plan != before.plan) {
            check_plan(&plans, plan)?;
        }
        if let Some(pin) = pin {
            let after = app.pinned(&plans, before.pins.clone(), pin)?;
            let before = before.pins;
            change.pins = Some(PinChange { before, after });
        }
    }
    match app.store.update_customer(&id, &change).await? {
        UpdateCustomerOutcome::Done(customer) => Ok(Json(customer.into())),
        UpdateCustomerOutcome::Unknown => Err(no_such_customer()),
        UpdateCustomerOutcome::Erased => Err(Problem::conflict("The customer was erased.")),
        UpdateCustomerOutcome::Changed => {
            let detail = "Another request changed the customer's pins or its Stripe customer at the same time. \
                          Try again.";
            Err(Problem::conflict(detail))
        }
        UpdateCustomerOutcome::RecipientTaken => {
            let detail = "The Stripe customer is linked to another customer.";
            Err(Problem::conflict(detail).with(Member::Field, "stripe.customer"))
        }
    }
}

/// Erases the personal data of a customer, and revokes its keys.
///
/// Usage, ledger and log stay, under the customer's id. Repeat it for keys that were created just before.
#[utoipa::path(
    delete,
    path = "/admin/customers/{customer}",
    operation_id = "eraseCustomer",
    tag = "customers",
    params(("customer" = schema::CustomerId, Path, description = "Id of the customer."), EraseQuery),
    responses(
        (status = 200, description = "The effects of the erasure.", body = Erasure),
        (status = 404, response = NotFound),
        (status = 422, response = Unprocessable),
    ),
)]
async fn erase(
    State(app): State<App>,
    _: AdminCaller,
    PathParam(id): PathParam<CustomerId>,
    QueryParams(query): QueryParams<EraseQuery>,
) -> Result<Json<Erasure>, Problem> {
    let Some(dry_run) = query.dry_run else {
        let detail = "dry_run is required: true reports what would be erased, false erases it.";
        return Err(Problem::unprocessable(detail).with(Member::Field, "dry_run"));
    };
    let erasure = if dry_run {
        app.store.erasure(&id).await?
    } else {
        app.store.erase_customer(&id, app.clock.now()).await?
    };
    let erasure = erasure.ok_or_else(no_such_customer)?;
    Ok(Json(Erasure {
        customer: erasure.customer.into(),
        dry_run,
        keys_revoked: erasure.revoked,
        keys: erasure.keys,
        erases: personal_data(true).collect(),
        expires: personal_data(false).collect(),
        keeps: kept_data().collect(),
    }))
}

/// Returns the names of the attributes with personal data, such as `customer.email`: either those that an
/// erasure erases, or those that it does not.
fn personal_data(is_erased: bool) -> impl Iterator<Item = String> {
    CONTENTS.iter().flat_map(move |contents| {
        let attributes = contents.personal.iter();
        let attributes = attributes.filter(move |personal| personal.is_erased() == is_erased);
        attributes.map(|personal| format!("{}.{}", contents.name, personal.attribute()))
    })
}

/// Returns the names of the tables without personal data.
fn kept_data() -> impl Iterator<Item = &'static str> {
    let kept = |table: &&Table| {
        let mut of_table = CONTENTS.iter().filter(|it| it.table.name == table.name);
        of_table.all(|contents| contents.personal.is_empty())
    };
    TABLES.iter().filter(kept).map(|table| table.name)
}
