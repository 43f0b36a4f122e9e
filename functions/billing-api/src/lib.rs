//! The billing API: subscription, checkout, billing portal, invoices and charges, of the calling customer, and for
//! admins of any customer.

mod charges;
mod checkout;
mod deadline;
mod invoices;
mod portal;
mod problems;
mod subscription;

use axum::{Router, middleware};
use tollgate_payments::{Patience, Payments, ReturnOrigins};
use tollgate_runtime::Init;
use tollgate_runtime::config::InvalidConfig;
use utoipa::OpenApi;

/// State of a billing-api instance. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    /// Tables, Stripe and clock.
    pub payments: Payments,
    /// Origins of the pages to which Stripe may lead customers back.
    pub return_origins: ReturnOrigins,
}

impl App {
    /// Builds the state of a new instance.
    ///
    /// # Errors
    /// When the environment lacks a variable, or has an invalid one.
    pub fn build(init: &Init) -> Result<Self, InvalidConfig> {
        Ok(Self {
            payments: Payments::build(init, Patience::Caller)?,
            return_origins: ReturnOrigins::from_env(&init.env)?,
        })
    }
}

/// Returns the routes.
pub fn routes(app: App) -> Router {
    subscription::routes(app.clone())
        .merge(checkout::routes(app.clone()))
        .merge(portal::routes(app.clone()))
        .merge(invoices::routes(app.clone()))
        .merge(charges::routes(app))
        .layer(middleware::from_fn(deadline::within_deadline))
}

/// Returns the OpenAPI document of the operations.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = subscription::Operations::openapi();
    for part in [
        checkout::Operations::openapi(),
        portal::Operations::openapi(),
        invoices::Operations::openapi(),
        charges::Operations::openapi(),
    ] {
        document.merge(part);
    }
    document
}
