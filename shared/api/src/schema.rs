//! OpenAPI schemas of text values whose types are in `tollgate_domain`.

use utoipa::ToSchema;

/// Declares the schema of a text.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident { $($schema:tt)* }) => {
        $(#[$doc])*
        #[derive(Debug, ToSchema)]
        #[schema($($schema)*)]
        pub struct $name(pub String);
    };
}

text! {
    /// Id of a customer: chosen at creation, or drawn as `cus_` and 20 letters and digits. It must not
    /// identify a person: it stays in usage and ledger when the customer is erased.
    CustomerId { pattern = "^(?!\\.{1,2}$)[A-Za-z0-9_.-]{1,64}$", examples("acme") }
}
text! {
    /// Id of a key: `key_` and 20 letters and digits.
    KeyId { pattern = "^[A-Za-z0-9_-]{1,64}$", examples("key_8Zc2mQx04LwTnE7sVb1K") }
}
text! {
    /// Visible prefix of a key, which identifies it and is safe to show.
    KeyPrefix { pattern = "^[a-z0-9]{1,12}_[a-z0-9]{1,12}_[0-9A-Za-z]{8}$", examples("tg_live_4fJ9aQ2c") }
}
text! {
    /// Id of a plan.
    PlanId { pattern = "^[a-z0-9-]{1,32}$", examples("pro") }
}
text! {
    /// Id of a charge: customer, month, and number within the month.
    ChargeId { pattern = "^ci_[A-Za-z0-9_.-]{1,64}_[0-9]{4}-(0[1-9]|1[0-2])_[0-9]{4,}$", examples("ci_acme_2026-11_0001") }
}
text! {
    /// Id of a Stripe price.
    StripePriceId { pattern = "^price_[A-Za-z0-9_]{1,249}$", examples("price_1QbZk2LkdIwHu7ix") }
}
text! {
    /// Id of a Stripe customer.
    StripeCustomerId { pattern = "^cus_[A-Za-z0-9_]{1,251}$", examples("cus_R1bZk2LkdIwHu7") }
}
text! {
    /// Id of a subscription at Stripe.
    StripeSubscriptionId { pattern = "^sub_[A-Za-z0-9_]{1,251}$", examples("sub_1QbZk2LkdIwHu7ix") }
}
text! {
    /// Address of a page on one of the origins that the operator allows.
    ReturnUrl { max_length = 2048, pattern = "^https?://[!-~]+$", examples("https://app.example/billing") }
}
text! {
    /// Instant in UTC (RFC 3339).
    Timestamp { format = DateTime, examples("2026-11-22T10:00:00Z") }
}
text! {
    /// UTC day.
    Day { format = Date, examples("2026-11-22") }
}
text! {
    /// UTC month.
    Month { pattern = "^[0-9]{4}-(0[1-9]|1[0-2])$", examples("2026-11") }
}
text! {
    /// Opaque position in one list. It is valid for that list only.
    Cursor { pattern = "^[A-Za-z0-9_-]+$", examples("pZ0qEGFjbWU") }
}
text! {
    /// Name, for people: without control characters.
    Name { max_length = 100, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$", examples("Acme") }
}
text! {
    /// E-mail address. Only its form is checked.
    Email {
        max_length = 254,
        pattern = "^[^\\s\\x00-\\x1f\\x7f-\\x9f]+@[^@\\s\\x00-\\x1f\\x7f-\\x9f]+$",
        examples("billing@acme.example"),
    }
}
text! {
    /// Id of an event, the same in all messages about it: `evt_` and 32 hexadecimal digits.
    EventId { pattern = "^evt_[0-9a-f]{32}$", examples("evt_0b6c1f0d1be4a9c6d1b8a2b2c7e3f4a5") }
}
text! {
    /// Id of a webhook: `wh_` and 20 letters and digits.
    WebhookId { pattern = "^wh_[A-Za-z0-9]{1,61}$", examples("wh_8Zc2mQx04LwTnE7sVb1K") }
}
text! {
    /// Address of a webhook: `https`, and public.
    WebhookUrl { max_length = 2048, pattern = "^https?://[!-~]+$", examples("https://hooks.example/tollgate") }
}
