//! Checkout sessions and their line items, as the API returns them.

use serde_json::{Value, json};

use super::{LineItem, Payment, Session, Status};
use crate::state::State;

impl State {
    /// Returns what a session costs now.
    pub(crate) fn session_total(&self, session: &Session) -> i64 {
        let amounts = session.items.iter().map(|item| self.line_item_amount(item));
        amounts.sum()
    }

    fn line_item_amount(&self, item: &LineItem) -> i64 {
        let price = self.prices.get(&item.price);
        price.map_or(0, |price| price.unit_amount.times(item.quantity))
    }

    pub(crate) fn session_json(&self, session: &Session) -> Value {
        let total = self.session_total(session);
        let customer = session
            .customer
            .as_deref()
            .and_then(|customer| self.customers.get(customer));
        let email = customer.and_then(|customer| customer.email.clone());
        let email = email.or_else(|| session.customer_email.clone());
        let details = (session.status == Status::Complete || email.is_some()).then(|| {
            json!({
                "address": null, "business_name": null, "email": email, "individual_name": null,
                "name": null, "phone": null, "tax_exempt": "none", "tax_ids": null,
            })
        });
        let is_open = session.status == Status::Open;
        let url = is_open.then(|| format!("{}/c/pay/{}", self.settings.url, session.id));
        let mut json = json!({
            "id": session.id,
            "object": "checkout.session",
            "adaptive_pricing": session.is_adaptive.map(|enabled| json!({ "enabled": enabled })),
            "after_expiration": null,
            "allow_promotion_codes": session.allows_promotion_codes,
            "allowed_payment_method_types": null,
            "amount_subtotal": total,
            "amount_total": total,
            "automatic_tax": { "enabled": false, "liability": null, "provider": null, "status": null },
            "billing_address_collection": null,
            "cancel_url": session.cancel_url,
            "client_reference_id": session.client_reference_id,
            "client_secret": null,
            "collected_information": null,
            "consent": null,
            "consent_collection": null,
            "created": session.created,
            "currency": session.currency,
            "currency_conversion": null,
            "custom_fields": [],
            "custom_text": {
                "after_submit": null, "shipping_address": null, "submit": null,
                "terms_of_service_acceptance": null,
            },
            "customer": session.customer,
            "customer_account": null,
            "customer_creation": if session.is_subscription { "always" } else { "if_required" },
            "customer_details": details,
            "customer_email": session.customer_email,
            "discounts": [],
            "expires_at": session.expires_at,
            "integration_identifier": null,
            "invoice": session.invoice,
            "invoice_creation": null,
        });
        let rest = json!({
            "livemode": self.is_live,
            "locale": null,
            "managed_payments": null,
            "metadata": session.metadata,
            "mode": if session.is_subscription { "subscription" } else { "payment" },
            "origin_context": null,
            "payment_intent": session.payment_intent,
            "payment_link": null,
            "payment_method_collection": if session.is_subscription { "always" } else { "if_required" },
            "payment_method_configuration_details": null,
            "payment_method_options": {},
            "payment_method_types": ["card", "sepa_debit"],
            "payment_status": match session.payment {
                Payment::Unpaid => "unpaid",
                Payment::Paid => "paid",
                Payment::NotRequired => "no_payment_required",
            },
            "permissions": null,
            "recovered_from": null,
            "saved_payment_method_options": null,
            "setup_intent": null,
            "shipping_address_collection": null,
            "shipping_cost": null,
            "shipping_options": [],
            "status": match session.status {
                Status::Open => "open",
                Status::Complete => "complete",
                Status::Expired => "expired",
            },
            "submit_type": null,
            "subscription": session.subscription,
            "success_url": session.success_url,
            "total_details": { "amount_discount": 0, "amount_shipping": 0, "amount_tax": 0 },
            "ui_mode": "hosted_page",
            "url": url,
            "wallet_options": null,
        });
        if let (Value::Object(json), Value::Object(rest)) = (&mut json, rest) {
            json.extend(rest);
        }
        json
    }

    /// Returns the list of a session's line items.
    pub(crate) fn line_items_of(&self, id: &str) -> Option<Value> {
        let session = self.sessions.get(id)?;
        let data = session
            .items
            .iter()
            .map(|item| self.line_item_json(session, item));
        let data: Vec<Value> = data.collect();
        let url = format!("/v1/checkout/sessions/{id}/line_items");
        Some(json!({ "object": "list", "data": data, "has_more": false, "url": url }))
    }

    fn line_item_json(&self, session: &Session, item: &LineItem) -> Value {
        let amount = self.line_item_amount(item);
        json!({
            "id": item.id,
            "object": "item",
            "adjustable_quantity": null,
            "amount_discount": 0,
            "amount_subtotal": amount,
            "amount_tax": 0,
            "amount_total": amount,
            "currency": session.currency,
            "description": self.product_name(&item.price),
            "metadata": {},
            "price": self.prices.get(&item.price).map(|price| self.price_json(price)),
            "quantity": item.quantity,
        })
    }
}
