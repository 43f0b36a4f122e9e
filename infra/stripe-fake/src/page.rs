//! Pages of checkout, portal and invoices, as far as a browser clicks through them.

use std::fmt::Write as _;

use axum::Router;
use axum::extract::{Path, State as Shared};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::calendar::day;
use crate::checkout::{Completion, Session, Status as SessionStatus};
use crate::error::ApiError;
use crate::fake::StripeFake;
use crate::form::Params;
use crate::invoice::Status as InvoiceStatus;
use crate::pdf;
use crate::price::Price;
use crate::state::State;
use crate::subscription::Subscription;

pub(crate) fn routes() -> Router<StripeFake> {
    Router::new()
        .route("/c/pay/{id}", get(checkout).post(complete))
        .route("/p/session/{secret}", get(portal))
        .route("/p/session/{secret}/change", post(change))
        .route("/i/{id}", get(invoice).post(pay))
        .route("/i/{id}/pdf", get(invoice_pdf))
}

/// Error page.
struct Failed(ApiError);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::BAD_REQUEST);
        let body = format!("<p role=\"alert\">{}</p>", escape(&self.0.message));
        (status, document("Not possible", &body)).into_response()
    }
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

async fn checkout(
    Shared(fake): Shared<StripeFake>,
    Path(id): Path<String>,
) -> Result<Response, Failed> {
    let mut inner = fake.lock();
    checkout_page(inner.state_of(&id), &id, None)
}

fn checkout_page(state: &State, id: &str, alert: Option<&str>) -> Result<Response, Failed> {
    let session = state.sessions.find(id, "id")?;
    if session.status != SessionStatus::Open {
        return Ok(closed_page(session));
    }
    let mut body = String::new();
    if let Some(alert) = alert {
        let _ = write!(body, "<p role=\"alert\">{}</p>", escape(alert));
    }
    body.push_str("<ul>");
    for item in &session.items {
        let name = escape(state.product_name(&item.price));
        let price = state
            .prices
            .get(&item.price)
            .map(price_text)
            .unwrap_or_default();
        let _ = write!(body, "<li>{} × {name}: {price}</li>", item.quantity);
    }
    let total = money(state.session_total(session), &session.currency);
    let _ = write!(
        body,
        "</ul><p>Total <strong id=\"total\">{total}</strong></p><form method=\"post\">"
    );
    if session.customer.is_none() {
        let email = escape(session.customer_email.as_deref().unwrap_or_default());
        let _ = write!(
            body,
            "<label>Email <input name=\"email\" type=\"email\" value=\"{email}\"></label>"
        );
    }
    body.push_str(
        "<button id=\"pay\" name=\"payment\" value=\"paid\">Pay by card</button> \
         <button id=\"pay-later\" name=\"payment\" value=\"unpaid\">Pay by bank debit</button> \
         <button id=\"decline\" name=\"payment\" value=\"declined\">Pay by a card that is declined</button></form>",
    );
    if let Some(url) = &session.cancel_url {
        let _ = write!(
            body,
            "<p><a id=\"cancel\" href=\"{}\">Cancel</a></p>",
            escape(url)
        );
    }
    Ok(document("Checkout", &body).into_response())
}

/// Creates the page of a session that is complete or has expired. Who submits an open page twice sees it too.
fn closed_page(session: &Session) -> Response {
    let (text, url) = match session.status {
        SessionStatus::Complete => ("is complete", Some(session.success_url())),
        SessionStatus::Open | SessionStatus::Expired => ("has expired", session.cancel_url.clone()),
    };
    let mut body = format!("<p role=\"alert\">This checkout {text}. It takes no payment.</p>");
    if let Some(url) = url.filter(|url| !url.is_empty()) {
        let _ = write!(
            body,
            "<p><a id=\"return\" href=\"{}\">Return</a></p>",
            escape(&url)
        );
    }
    (StatusCode::BAD_REQUEST, document("Checkout", &body)).into_response()
}

async fn complete(
    Shared(fake): Shared<StripeFake>,
    Path(id): Path<String>,
    form: String,
) -> Result<Response, Failed> {
    let form = Params::parse(&form);
    let completion = match form.text("payment") {
        Some("paid") => Completion::Paid,
        Some("unpaid") => Completion::Unpaid,
        _ => Completion::Declined,
    };
    let mut inner = fake.lock();
    let state = inner.state_of(&id);
    if state.sessions.find(&id, "id")?.status != SessionStatus::Open {
        return checkout_page(state, &id, None);
    }
    match state.complete_session(&id, completion, form.text("email")) {
        Ok(()) => Ok(redirect(&state.sessions.find(&id, "id")?.success_url())),
        Err(error) if error.status == 402 => checkout_page(state, &id, Some(&error.message)),
        Err(error) => Err(error.into()),
    }
}

async fn portal(
    Shared(fake): Shared<StripeFake>,
    Path(secret): Path<String>,
) -> Result<Html<String>, Failed> {
    let mut inner = fake.lock();
    portal_page(mode_of(&mut inner, &secret), &secret, None)
}

/// Returns the mode of a portal session by the secret in its URL.
fn mode_of<'a>(inner: &'a mut crate::fake::Inner, secret: &str) -> &'a mut State {
    if secret.starts_with("live_") {
        &mut inner.live
    } else {
        &mut inner.test
    }
}

fn portal_page(state: &State, secret: &str, alert: Option<&str>) -> Result<Html<String>, Failed> {
    let session = state.portal_session(secret)?;
    let customer = state.customers.find(&session.customer, "customer")?;
    let mut body = String::new();
    if let Some(alert) = alert {
        let _ = write!(body, "<p role=\"alert\">{}</p>", escape(alert));
    }
    let action = format!("/p/session/{secret}/change");
    let subscriptions = state.subscriptions.of_customer(&session.customer);
    for subscription in subscriptions.filter(|subscription| !subscription.status.is_ended()) {
        subscription_section(&mut body, state, subscription, &action);
    }
    let card = if customer.is_declined {
        "declined"
    } else {
        "accepted"
    };
    let _ = write!(
        body,
        "<h2>Payment method</h2><form method=\"post\" action=\"{action}\"><p>Payments are <span id=\"card\">{card}</span>.</p>\
         <button id=\"new-card\" name=\"do\" value=\"new-card\">Add a card that is accepted</button></form><h2>Invoices</h2><ul>"
    );
    for invoice in state
        .invoices
        .of_customer(&session.customer)
        .rev()
        .filter(|invoice| invoice.number.is_some())
    {
        let _ = write!(
            body,
            "<li><a href=\"/i/{}\">{}</a> {} {}</li>",
            invoice.id,
            escape(invoice.number.as_deref().unwrap_or_default()),
            money(invoice.total(), &invoice.currency),
            invoice.status.name(),
        );
    }
    body.push_str("</ul>");
    if let Some(url) = &session.return_url {
        let _ = write!(
            body,
            "<p><a id=\"return\" href=\"{}\">Return</a></p>",
            escape(url)
        );
    }
    Ok(document("Billing", &body))
}

fn subscription_section(
    body: &mut String,
    state: &State,
    subscription: &Subscription,
    action: &str,
) {
    let current = subscription
        .items
        .first()
        .map_or("", |item| item.price.as_str());
    let id = &subscription.id;
    let _ = write!(
        body,
        "<section><h2>{}</h2><p>Status <span class=\"status\">{}</span>, until {}{}</p>\
         <form method=\"post\" action=\"{action}\"><input type=\"hidden\" name=\"subscription\" value=\"{id}\">\
         <label>Plan <select name=\"price\">",
        escape(state.product_name(current)),
        subscription.status.name(),
        day(subscription.period.1),
        if subscription.cancels_at_period_end {
            ", when it ends"
        } else {
            ""
        },
    );
    let offered = state.prices.iter().filter(|price| {
        let is_current = price.id == current;
        let is_offered =
            price.is_active && price.recurring.is_some() && price.currency == subscription.currency;
        is_current || is_offered
    });
    for price in offered {
        let selected = if price.id == current { " selected" } else { "" };
        let name = escape(state.product_name(&price.id));
        let _ = write!(
            body,
            "<option value=\"{}\"{selected}>{name}: {}</option>",
            price.id,
            price_text(price)
        );
    }
    let cancel = match subscription.cancels_at_period_end {
        true => "<button id=\"keep\" name=\"do\" value=\"keep\">Do not cancel</button>",
        false => {
            "<button id=\"cancel\" name=\"do\" value=\"cancel\">Cancel at the end of the period</button>"
        }
    };
    let _ = write!(
        body,
        "</select></label> <button id=\"change\" name=\"do\" value=\"change\">Change plan</button> {cancel} \
         <button id=\"cancel-now\" name=\"do\" value=\"cancel-now\">Cancel at once</button></form></section>"
    );
}

async fn change(
    Shared(fake): Shared<StripeFake>,
    Path(secret): Path<String>,
    form: String,
) -> Result<Response, Failed> {
    let form = Params::parse(&form);
    let mut inner = fake.lock();
    let state = mode_of(&mut inner, &secret);
    let customer = state.portal_session(&secret)?.customer.clone();
    let id = form.text("subscription").unwrap_or_default().to_owned();
    if form.text("do") == Some("new-card") {
        let card = state.attach_card(&customer, false);
        let customer = state.customers.find_mut(&customer, "customer")?;
        customer.is_declined = false;
        customer.set_default_method(card);
    } else {
        let subscription = state.subscriptions.find(&id, "subscription")?;
        if subscription.customer != customer || subscription.status.is_ended() {
            return Err(ApiError::missing("subscription", &id, "subscription").into());
        }
        change_subscription(state, &id, &form)?;
    }
    Ok(redirect(&format!("/p/session/{secret}")))
}

fn change_subscription(state: &mut State, id: &str, form: &Params) -> Result<(), ApiError> {
    let now = state.now;
    match form.text("do") {
        Some("cancel-now") => {
            state.end_subscription(id, None);
        }
        Some(wanted @ ("cancel" | "keep")) => {
            let is_canceled = wanted == "cancel";
            state.change_subscription(id, |subscription| {
                subscription.cancels_at_period_end = is_canceled;
                subscription.cancel_at = is_canceled.then_some(subscription.period.1);
                subscription.canceled_at = is_canceled.then_some(now);
            });
            state.schedule_subscription(id);
        }
        _ => {
            let price = form.text("price").unwrap_or_default();
            let subscription = state.subscriptions.find(id, "subscription")?;
            let before = state.subscription_json(subscription);
            let currency = subscription.currency.clone();
            let (interval, of_price) =
                crate::subscription::check_price(state, price, "price", None)?;
            if of_price != currency {
                return Err(ApiError::invalid(
                    "The price has another currency than the subscription.",
                ));
            }
            let subscription = state.subscriptions.find(id, "subscription")?;
            let is_reset = interval != subscription.interval;
            let mut items = subscription.items.clone();
            items.truncate(1);
            if let Some(item) = items.first_mut() {
                price.clone_into(&mut item.price);
            }
            state.change_items(id, items, interval, is_reset, "create_prorations");
            let after = state.rendered_subscription(id);
            state.emit_change("customer.subscription.updated", &before, after);
        }
    }
    Ok(())
}

async fn invoice(
    Shared(fake): Shared<StripeFake>,
    Path(id): Path<String>,
) -> Result<Html<String>, Failed> {
    let mut inner = fake.lock();
    invoice_page(inner.state_of(&id), &id, None)
}

fn invoice_page(state: &State, id: &str, alert: Option<&str>) -> Result<Html<String>, Failed> {
    let invoice = state.invoices.find(id, "id")?;
    let mut body = String::new();
    if let Some(alert) = alert {
        let _ = write!(body, "<p role=\"alert\">{}</p>", escape(alert));
    }
    let _ = write!(
        body,
        "<p>Status <span id=\"status\">{}</span></p>\
         <table><tr><th>Item</th><th>Period</th><th>Amount</th></tr>",
        invoice.status.name()
    );
    for line in &invoice.lines {
        let _ = write!(
            body,
            "<tr><td>{}</td><td><time>{}</time> – <time>{}</time></td><td>{}</td></tr>",
            escape(line.description.as_deref().unwrap_or_default()),
            day(line.period.0),
            day(line.period.1),
            money(line.amount, &invoice.currency),
        );
    }
    let total = money(invoice.total(), &invoice.currency);
    let due = money(invoice.amount_due - invoice.amount_paid, &invoice.currency);
    let _ = write!(
        body,
        "</table><p>Total <strong id=\"total\">{total}</strong>, due <strong id=\"due\">{due}</strong></p>"
    );
    if invoice.status == InvoiceStatus::Open {
        body.push_str(
            "<form method=\"post\"><button id=\"pay\" name=\"card\" value=\"accepted\">Pay</button> \
             <button id=\"decline\" name=\"card\" value=\"declined\">Pay by a card that is declined</button></form>",
        );
    }
    let number = invoice.number.as_deref().unwrap_or("draft");
    Ok(document(&format!("Invoice {number}"), &body))
}

async fn invoice_pdf(
    Shared(fake): Shared<StripeFake>,
    Path(id): Path<String>,
) -> Result<Response, Failed> {
    let mut inner = fake.lock();
    let invoice = inner.state_of(&id).invoices.find(&id, "id")?;
    let number = invoice.number.as_deref().unwrap_or("draft");
    let title = format!("Invoice {number}");
    let total = format!("Total {}", money(invoice.total(), &invoice.currency));
    let note = "This file stands in for Stripe's. No money moves.";
    let file = pdf::of_lines(&[&title, &total, note]);
    Ok(([(CONTENT_TYPE, "application/pdf")], file).into_response())
}

async fn pay(
    Shared(fake): Shared<StripeFake>,
    Path(id): Path<String>,
    form: String,
) -> Result<Response, Failed> {
    let form = Params::parse(&form);
    let mut inner = fake.lock();
    let state = inner.state_of(&id);
    if state.invoices.find(&id, "id")?.status != InvoiceStatus::Open {
        return Err(ApiError::invalid("This invoice is not open.").into());
    }
    if form.text("card") == Some("declined") {
        return Ok(invoice_page(state, &id, Some("Your card was declined."))?.into_response());
    }
    state.mark_paid(&id);
    Ok(redirect(&format!("/i/{id}")))
}

/// Returns a redirect with which a browser goes on by GET.
fn redirect(url: &str) -> Response {
    Redirect::to(url).into_response()
}

fn price_text(price: &Price) -> String {
    let amount = money(price.unit_amount.times(1), &price.currency);
    match price.recurring {
        Some(interval) if interval.count == 1 => format!("{amount} a {}", interval.unit.name()),
        Some(interval) => format!(
            "{amount} every {} {}s",
            interval.count,
            interval.unit.name()
        ),
        None => amount,
    }
}

fn money(cents: i64, currency: &str) -> String {
    let sign = if cents < 0 { "−" } else { "" };
    let cents = cents.unsigned_abs();
    format!(
        "{sign}{}.{:02} {}",
        cents / 100,
        cents % 100,
        currency.to_uppercase()
    )
}

fn document(title: &str, body: &str) -> Html<String> {
    let title = escape(title);
    Html(format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><link rel=\"icon\" href=\"data:,\"><title>{title} – stripe-fake</title>\
         <style>body{{font-family:sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem}}\
         button,select,input{{font:inherit;padding:.4rem;margin:.2rem 0}}\
         [role=alert]{{border-left:.3rem solid #b00;padding-left:.5rem}}\
         th,td{{text-align:left;vertical-align:top;padding:0 .8rem .4rem 0}}\
         time,td:last-child{{white-space:nowrap}}</style></head>\
         <body><h1>{title}</h1>{body}<hr><p>This page stands in for Stripe's. No money moves.</p></body></html>"
    ))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            character => escaped.push(character),
        }
    }
    escaped
}
