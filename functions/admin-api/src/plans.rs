//! `/admin/plans`: plans and their versions.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lambda_http::http::{StatusCode, header};
use tollgate_api::json::Object;
use tollgate_api::plans::{
    AffectedCustomer, AffectedCustomers, AffectedQuery, CreatePlan, CreatePlanVersion,
    NewPlanVersion, Plan, PlanDefinition, PlanVersion, UpdatePlan,
};
use tollgate_api::problem::{Conflict, Member, NotFound, Unprocessable};
use tollgate_api::{List, schema};
use tollgate_domain::id::PlanId;
use tollgate_domain::lease::MAX_LEASE;
use tollgate_domain::plan::{self, MonthPolicy};
use tollgate_domain::plan_book::{InvalidVersion, PlanVersion as StoredVersion, PlanVersions};
use tollgate_domain::window::Month;
use tollgate_store::PlanOutcome;
use tollgate_web::{
    AdminCaller, JsonBody, ListRequest, NoQuery, PathParam, Problem, QueryParams, check_name,
};

use crate::App;
use crate::stripe_id::is_stripe_id;

/// Most plans, and most versions of one. Every instance of the authorizer reads them all.
const MAX_PLANS: usize = 50;
const MAX_VERSIONS: u64 = 60;
/// Customers that are read for a page of affected ones.
const AFFECTED_PAGE: usize = 200;
/// Largest number of calls in a limit.
const MAX_CALLS: u64 = 1_000_000_000_000;
/// Highest price of a call: a million dollars.
const MAX_PRICE: u64 = 1_000_000_000_000;
/// Most prices of a version.
const MAX_PRICES: usize = 100;
/// Stripe's largest amount.
const MAX_FEE: u64 = 99_999_999;

tollgate_web::operations!(pub(crate) (app: App) list, create, show, update, create_version);

fn no_such_plan() -> Problem {
    Problem::not_found("There is no plan with this id.")
}

fn check_definition(definition: PlanDefinition, id: PlanId) -> Result<plan::Plan, Problem> {
    let invalid = |field: &str, detail: String| {
        Err(Problem::unprocessable(detail).with(Member::Field, format!("definition.{field}")))
    };
    if check_name(&definition.name).is_err() {
        let detail = "name must have at most 100 characters, and no control characters.";
        return invalid("name", detail.to_owned());
    }
    let max_lease = definition.max_lease.0;
    let plan = definition.into_plan(id);
    let bounds = [
        ("requests_per_hour", plan.requests_per_hour, 0..=MAX_CALLS),
        ("max_lease", max_lease, 1..=MAX_LEASE),
        ("monthly_fee_cents", plan.monthly_fee_cents.0, 0..=MAX_FEE),
        (
            "month.included",
            plan.included().unwrap_or(0),
            0..=MAX_CALLS,
        ),
    ];
    for (field, number, bounds) in bounds {
        if !bounds.contains(&number) {
            let (least, most) = (bounds.start(), bounds.end());
            return invalid(field, format!("{field} must be from {least} to {most}."));
        }
    }
    if let MonthPolicy::Overage { prices, .. } = &plan.month {
        let ascending = prices.windows(2).all(|pair| pair[0].from < pair[1].from);
        if !(1..=MAX_PRICES).contains(&prices.len()) || !ascending {
            let detail = "month.prices must be 1 to 100 prices with ascending first days.";
            return invalid("month.prices", detail.to_owned());
        }
        if prices
            .iter()
            .any(|price| price.micro_usd_per_call.0 > MAX_PRICE)
        {
            let detail = format!("micro_usd_per_call must be from 0 to {MAX_PRICE}.");
            return invalid("month.prices", detail);
        }
    }
    let is_price_id = |id: &str| is_stripe_id(id, "price_");
    if !plan.stripe_price.as_deref().is_none_or(is_price_id) {
        let detail = "stripe_price must be the id of a Stripe price, which begins with price_.";
        return invalid("stripe_price", detail.to_owned());
    }
    Ok(plan)
}

impl App {
    fn represent(&self, plan: &PlanVersions) -> Plan {
        Plan::new(plan, Month::containing(self.clock.now()))
    }

    async fn plan(&self, id: &PlanId) -> Result<PlanVersions, Problem> {
        let plans = self.store.plans().await?;
        plans.get(id).cloned().ok_or_else(no_such_plan)
    }

    /// Returns a page of the customers on the plan who are not pinned to another version in the month in
    /// which `version` takes effect.
    async fn affected(
        &self,
        plan: &PlanVersions,
        version: &StoredVersion,
        query: &AffectedQuery,
    ) -> Result<AffectedCustomers, Problem> {
        let list_request = ListRequest::new(
            format!("affected {} {}", plan.id(), version.takes_effect),
            query.cursor.as_ref(),
        )?;
        let page = self
            .store
            .list_customers(list_request.after(), AFFECTED_PAGE)
            .await?;
        let now = Month::containing(self.clock.now());
        let customers = page.items.into_iter().map(|(_, customer)| customer);
        let affected = customers.filter(|customer| {
            customer.plan == *plan.id()
                && customer.erased_at.is_none()
                && customer
                    .pins
                    .version(plan.id(), version.takes_effect)
                    .is_none()
        });
        let affected = affected.map(|customer| AffectedCustomer {
            version: plan
                .in_effect(now, customer.pins.version(plan.id(), now))
                .number,
            customer_id: customer.id,
        });
        Ok(AffectedCustomers {
            data: affected.collect(),
            next_cursor: page.next.map(|position| list_request.cursor(&position)),
        })
    }
}

/// Lists all plans with their versions.
#[utoipa::path(
    get,
    path = "/admin/plans",
    operation_id = "listPlans",
    tag = "plans",
    responses(
        (status = 200, description = "All plans, at most 50 and in one page.", body = List<Plan>),
    ),
)]
async fn list(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
) -> Result<Json<List<Plan>>, Problem> {
    let plans = app.store.plans().await?;
    Ok(Json(List {
        data: plans.iter().map(|plan| app.represent(plan)).collect(),
        next_cursor: None,
    }))
}

/// Creates a plan with its first version, which applies at once.
#[utoipa::path(
    post,
    path = "/admin/plans",
    operation_id = "createPlan",
    tag = "plans",
    request_body = CreatePlan,
    responses(
        (status = 201, description = "The plan was created.", body = Plan, headers(("Location" = String, description = "Path of the resource."))),
        (status = 200, description = "A repetition: the plan exists with this definition, and nothing was changed.", body = Plan, headers(("Location" = String, description = "Path of the resource."))),
        (status = 409, response = Conflict),
        (status = 422, response = Unprocessable),
    ),
)]
async fn create(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    JsonBody(body): JsonBody<CreatePlan>,
) -> Result<Response, Problem> {
    let Object(definition) = body.definition;
    let plan = PlanVersions::new(check_definition(definition, body.id)?, app.clock.now());
    let stored = app.store.plans().await?;
    if stored.get(plan.id()).is_none() {
        if stored.iter().len() >= MAX_PLANS {
            let detail = format!("There are {MAX_PLANS} plans already, which is the maximum.");
            return Err(Problem::conflict(detail));
        }
        if app.store.create_plan(&plan).await? == PlanOutcome::Written {
            return Ok(created(StatusCode::CREATED, app.represent(&plan)));
        }
    }
    let stored = app.plan(plan.id()).await?;
    if stored.latest().number == 1 && stored.latest().plan == plan.latest().plan {
        return Ok(created(StatusCode::OK, app.represent(&stored)));
    }
    let detail = "A plan with this id exists already. Plans are changed by further versions.";
    Err(Problem::conflict(detail).with(Member::Field, "id"))
}

/// Returns the response to a creating request.
fn created(status: StatusCode, plan: Plan) -> Response {
    let location = format!("/admin/plans/{}", plan.id);
    (status, [(header::LOCATION, location)], Json(plan)).into_response()
}

/// Returns a plan with its versions.
#[utoipa::path(
    get,
    path = "/admin/plans/{plan}",
    operation_id = "getPlan",
    tag = "plans",
    params(("plan" = schema::PlanId, Path, description = "Id of the plan.")),
    responses(
        (status = 200, description = "The plan.", body = Plan),
        (status = 404, response = NotFound),
    ),
)]
async fn show(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(id): PathParam<PlanId>,
) -> Result<Json<Plan>, Problem> {
    Ok(Json(app.represent(&app.plan(&id).await?)))
}

/// Retires a plan, or ends its retirement.
#[utoipa::path(
    patch,
    path = "/admin/plans/{plan}",
    operation_id = "updatePlan",
    tag = "plans",
    params(("plan" = schema::PlanId, Path, description = "Id of the plan.")),
    request_body = UpdatePlan,
    responses(
        (status = 200, description = "The changed plan.", body = Plan),
        (status = 404, response = NotFound),
        (status = 422, response = Unprocessable),
    ),
)]
async fn update(
    State(app): State<App>,
    _: AdminCaller,
    _: NoQuery,
    PathParam(id): PathParam<PlanId>,
    JsonBody(patch): JsonBody<UpdatePlan>,
) -> Result<Json<Plan>, Problem> {
    let retired = match patch.retired {
        None => return Err(Problem::unprocessable("The patch changes nothing.")),
        Some(None) => {
            let detail = "retired must be true or false.";
            return Err(Problem::unprocessable(detail).with(Member::Field, "retired"));
        }
        Some(Some(retired)) => retired,
    };
    let retired_at = retired.then(|| app.clock.now());
    if !app.store.retire_plan(&id, retired_at).await? {
        return Err(no_such_plan());
    }
    Ok(Json(app.represent(&app.plan(&id).await?)))
}

/// Adds a version to a plan, or lists the customers to whom it would apply.
#[utoipa::path(
    post,
    path = "/admin/plans/{plan}/versions",
    operation_id = "createPlanVersion",
    tag = "plans",
    params(("plan" = schema::PlanId, Path, description = "Id of the plan."), AffectedQuery),
    request_body = CreatePlanVersion,
    responses(
        (status = 201, description = "The version was added.", body = NewPlanVersion),
        (status = 200, description = "A dry run, or a repetition of the request that added the latest version.", body = NewPlanVersion),
        (status = 404, response = NotFound),
        (status = 409, response = Conflict),
        (status = 422, response = Unprocessable),
    ),
)]
async fn create_version(
    State(app): State<App>,
    _: AdminCaller,
    PathParam(id): PathParam<PlanId>,
    QueryParams(query): QueryParams<AffectedQuery>,
    JsonBody(body): JsonBody<CreatePlanVersion>,
) -> Result<Response, Problem> {
    let Some(dry_run) = body.dry_run else {
        let detail = "dry_run is required: true lists the customers to whom the version would apply, \
                      false adds it.";
        return Err(Problem::unprocessable(detail).with(Member::Field, "dry_run"));
    };
    if query.cursor.is_some() && !dry_run {
        let detail = "cursor is a position in the list of a dry run.";
        return Err(Problem::unprocessable(detail).with(Member::Field, "cursor"));
    }
    let (expected, takes_effect) = (body.expected_version.0, body.takes_effect);
    let Object(definition) = body.definition;
    let definition = check_definition(definition, id.clone())?;
    let plan = app.plan(&id).await?;
    let represent = |version: &StoredVersion, affected| NewPlanVersion {
        dry_run,
        plan: id.clone(),
        version: PlanVersion::from(version),
        affected,
    };
    let version = match plan.next(definition.clone(), takes_effect, expected, app.clock.now()) {
        Ok(version) => version,
        Err(InvalidVersion::NotExpected(_)) if !dry_run => {
            return app.repeated(&plan, expected, takes_effect, &definition);
        }
        Err(error) => return Err(invalid_version(&error)),
    };
    if version.number > MAX_VERSIONS {
        let detail = format!("The plan has {MAX_VERSIONS} versions, which is the maximum.");
        return Err(Problem::conflict(detail));
    }
    if dry_run {
        let affected = app.affected(&plan, &version, &query).await?;
        return Ok(Json(represent(&version, Some(affected))).into_response());
    }
    match app.store.add_plan_version(&version).await? {
        PlanOutcome::Written => {
            let body = Json(represent(&version, None));
            Ok((StatusCode::CREATED, body).into_response())
        }
        PlanOutcome::Changed => {
            let plan = app.plan(&id).await?;
            app.repeated(&plan, expected, takes_effect, &definition)
        }
    }
}

impl App {
    /// Returns the response to a request whose expected version is not the latest: the latest version if it is
    /// the one that an earlier try of the request has added.
    fn repeated(
        &self,
        plan: &PlanVersions,
        expected: u64,
        takes_effect: Month,
        definition: &plan::Plan,
    ) -> Result<Response, Problem> {
        let latest = plan.latest();
        let is_repetition = latest.number == expected.saturating_add(1)
            && latest.takes_effect == takes_effect
            && latest.plan == *definition;
        if !is_repetition {
            return Err(invalid_version(&InvalidVersion::NotExpected(latest.number)));
        }
        let body = NewPlanVersion {
            dry_run: false,
            plan: plan.id().clone(),
            version: PlanVersion::from(latest),
            affected: None,
        };
        Ok(Json(body).into_response())
    }
}

fn invalid_version(error: &InvalidVersion) -> Problem {
    let detail = format!("{error}.");
    match error {
        InvalidVersion::NotExpected(latest) => Problem::conflict(detail)
            .with(Member::Field, "expected_version")
            .with(Member::LatestVersion, *latest),
        InvalidVersion::TooEarly(earliest)
        | InvalidVersion::BeforeLatest {
            month: earliest, ..
        } => Problem::unprocessable(detail)
            .with(Member::Field, "takes_effect")
            .with(Member::Earliest, earliest.to_string()),
        InvalidVersion::TooLate(latest) => Problem::unprocessable(detail)
            .with(Member::Field, "takes_effect")
            .with(Member::Latest, latest.to_string()),
    }
}
