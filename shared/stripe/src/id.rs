//! Ids of Stripe's objects: opaque strings, each kind its own type.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Error: the text cannot be an id of a Stripe object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id of a Stripe object is 1 to 255 visible ASCII characters, and neither '.' nor '..'")]
pub struct InvalidStripeId;

/// Maximum length of an id: Stripe asks to store ids in fields of 255 characters
/// (<https://docs.stripe.com/upgrades>).
const MAX_LEN: usize = 255;

macro_rules! stripe_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidStripeId;

            fn try_from(text: String) -> Result<Self, InvalidStripeId> {
                // Clients resolve the path segments `.` and `..`, even percent-encoded (RFC 3986, 5.2.4).
                let is_segment = !matches!(text.as_str(), "." | "..");
                let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
                if (1..=MAX_LEN).contains(&text.len()) && visible && is_segment {
                    Ok(Self(text))
                } else {
                    Err(InvalidStripeId)
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidStripeId;

            fn from_str(text: &str) -> Result<Self, InvalidStripeId> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

stripe_id! {
    /// Id of a customer at Stripe, usually `cus_…`.
    CustomerId
}
stripe_id! {
    /// Id of a subscription, usually `sub_…`.
    SubscriptionId
}
stripe_id! {
    /// Id of one item of a subscription, usually `si_…`.
    SubscriptionItemId
}
stripe_id! {
    /// Id of an invoice item, usually `ii_…`.
    InvoiceItemId
}
stripe_id! {
    /// Id of an invoice, usually `in_…`.
    InvoiceId
}
stripe_id! {
    /// Id of a payment method, usually `pm_…`.
    PaymentMethodId
}
stripe_id! {
    /// Id of a price, usually `price_…`; older prices have ids that were chosen freely.
    PriceId
}
stripe_id! {
    /// Id of a product, usually `prod_…`.
    ProductId
}
stripe_id! {
    /// Id of a checkout session, usually `cs_…`.
    CheckoutSessionId
}
stripe_id! {
    /// Id of a session of the billing portal, usually `bps_…`.
    PortalSessionId
}
stripe_id! {
    /// Id of an event, usually `evt_…`.
    EventId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_path_segment_is_an_id() {
        let check = |text: &str, expected: bool| {
            assert_eq!(text.parse::<PriceId>().is_ok(), expected, "{text:?}");
        };
        check("price_1Pgafu2eZvKYlo2C", true);
        check("gold", true);
        check("gold/2", true);
        check(&"x".repeat(255), true);
        check(&"x".repeat(256), false);
        check("", false);
        check(".", false);
        check("..", false);
        check("a b", false);
        check("a\r\nb", false);
        check("é", false);
    }
}
