//! Inventory of personal data in the tables, and its erasure when a customer leaves.
//!
//! Ids are pseudonyms by contract: those of customers, keys and requests, those of Stripe's objects, and
//! all text that producers put into usage events and admins into the reasons of adjustments. They stay in
//! usage, log and ledger, whose sums must remain correct. Attributes that identify a person are listed in
//! [`CONTENTS`], and are erased.

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::ReturnValue;
use jiff::Timestamp;
use tollgate_domain::customer::Customer;
use tollgate_domain::id::CustomerId;
use tollgate_domain::key::KeyRecord;

use crate::Store;
use crate::customers::{customer_pk, read_customer};
use crate::error::StoreError;
use crate::item::{self, Item, Reader, s, t};
use crate::keys::read_key;
use crate::listing::KEYS;
use crate::plans::PLANS;
use crate::schema::{
    BILLING, COUNTERS, EVENTS, QUARANTINE, REGISTRY, Table, USAGE, USAGE_LOG, attr,
};

/// Keys per page.
const PAGE: usize = 100;

const KEY: &str = "KEY#";
const CUSTOMER: &str = "CUSTOMER#";

/// Attributes of one kind of item, besides its keys.
#[derive(Debug, Clone, Copy)]
pub struct Contents {
    /// Name of the kind of item.
    pub name: &'static str,
    /// Table of the items.
    pub table: Table,
    /// Beginning of the items' partition keys. Of two kinds that apply, it is the one with the longer beginning.
    pub pk: &'static str,
    /// Attributes that identify a person.
    pub personal: &'static [Personal],
    /// All other attributes. A name that ends in `*` matches all that begin with the rest.
    pub others: &'static [&'static str],
}

/// An attribute that identifies a person, by the way in which it is erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Personal {
    /// Required in every item: set to an empty text.
    Emptied(&'static str),
    /// Removed.
    Removed(&'static str),
    /// Deleted with its item, which expires. An erasure cannot find the item by the customer.
    Expires(&'static str),
}

impl Personal {
    /// Returns the attribute's name.
    #[must_use]
    pub fn attribute(self) -> &'static str {
        match self {
            Personal::Emptied(attribute)
            | Personal::Removed(attribute)
            | Personal::Expires(attribute) => attribute,
        }
    }

    /// Whether an erasure erases it, and not the item's expiry.
    #[must_use]
    pub fn is_erased(self) -> bool {
        !matches!(self, Personal::Expires(_))
    }
}

/// All attributes of every kind of item in every table. A test fails for a table or an attribute that is
/// missing here.
pub const CONTENTS: &[Contents] = &[
    Contents {
        name: "customer",
        table: REGISTRY,
        pk: CUSTOMER,
        personal: &[Personal::Emptied("name"), Personal::Removed("email")],
        others: &[
            "created_at",
            "erased_at",
            "followed_by",
            "id",
            "listing",
            "listing_order",
            "pins",
            "plan",
            "plan_waiver",
            "relinked_at",
            "stripe_customer",
            "stripe_subscription",
            "subscription_plan",
            "subscription_reads",
            "suspended_at",
            "suspension_waiver",
            "unpaid_by",
            "unpaid_consequence",
            "unpaid_since",
            "written_by",
        ],
    },
    Contents {
        name: "key",
        table: REGISTRY,
        pk: KEY,
        personal: &[Personal::Emptied("name")],
        others: &[
            "created_at",
            "customer",
            "expires_at",
            "hour_counter_id",
            "id",
            "listing",
            "listing_order",
            "monthly_quota",
            "prefix",
            "requests_per_hour",
            "revoked_at",
            "role",
            "rotated_to",
            "suspended_at",
        ],
    },
    Contents {
        name: "admin key",
        table: REGISTRY,
        pk: "ADMIN#KEY#",
        personal: &[],
        others: &[
            "created_at",
            "expires_at",
            "id",
            "listing",
            "listing_order",
            "name",
            "prefix",
            "revoked_at",
        ],
    },
    Contents {
        name: "id of an admin key",
        table: REGISTRY,
        pk: "ADMIN#KEYID#",
        personal: &[],
        others: &["digest"],
    },
    Contents {
        name: "prefix of an admin key",
        table: REGISTRY,
        pk: "ADMIN#PREFIX#",
        personal: &[],
        others: &["digest"],
    },
    Contents {
        name: "id of a key",
        table: REGISTRY,
        pk: "KEYID#",
        personal: &[],
        others: &["digest"],
    },
    Contents {
        name: "prefix of a key",
        table: REGISTRY,
        pk: "PREFIX#",
        personal: &[],
        others: &["digest"],
    },
    Contents {
        name: "repeatable request",
        table: REGISTRY,
        pk: "IDEMPOTENCY#",
        // A digest of the request, name and address included, with which a guess of them can be checked.
        personal: &[Personal::Expires("request")],
        others: &["expires", "made"],
    },
    Contents {
        name: "Stripe customer",
        table: REGISTRY,
        pk: "STRIPE#CUSTOMER#",
        personal: &[],
        others: &["customer"],
    },
    Contents {
        name: "checkout session",
        table: REGISTRY,
        pk: "STRIPE#CHECKOUT#",
        personal: &[],
        others: &["created_at", "customer", "expires", "plan", "written_by"],
    },
    Contents {
        name: "open checkout session",
        table: REGISTRY,
        pk: "STRIPE#OPEN#",
        personal: &[],
        others: &["expires", "open_session"],
    },
    Contents {
        name: "handled event of Stripe",
        table: REGISTRY,
        pk: "STRIPE#EVENT#",
        personal: &[],
        others: &["expires"],
    },
    Contents {
        name: "follow-up",
        table: REGISTRY,
        pk: "FOLLOWUP#",
        personal: &[],
        others: &[
            "customer",
            "listing",
            "listing_order",
            "stripe_customer",
            "written_by",
        ],
    },
    Contents {
        name: "counter",
        table: COUNTERS,
        pk: "",
        personal: &[],
        others: &[
            "b*",
            "expires",
            "granted",
            "i*",
            "r*",
            // Lease shares of an earlier release.
            "s*",
            "shares",
            "shares_removed_at",
            "spent",
            "top",
            "uncounted",
            "unreserved",
            "used",
        ],
    },
    Contents {
        name: "usage",
        table: USAGE,
        pk: "",
        personal: &[],
        others: &[
            // Numbers by value of a dimension, and the values.
            "B*",
            "C*",
            "E*",
            "F*",
            "H*",
            "L*",
            "M*",
            "N*",
            "T*",
            "U*",
            "adjusted#*",
            "adjusted_cost_micro_usd",
            "adjustments",
            "admitted",
            "at",
            "billable#*",
            "billable_calls",
            "billable_month",
            "calls",
            "client_errors",
            "cost_micro_usd",
            "customers",
            "discrepancies",
            "id",
            "latency_ms",
            "metered",
            "plan",
            "reason",
            "received_at",
            "server_errors",
            "source",
            "time",
            "tokens",
            "unpriced_tokens",
        ],
    },
    Contents {
        name: "usage event",
        table: USAGE_LOG,
        pk: "",
        personal: &[],
        others: &[
            "body",
            "claims",
            "content",
            "customer",
            "digest",
            "dimensions",
            "except",
            "expires",
            "first",
            "log_order",
            "received_at",
            "records",
            "since",
            "state",
            "written_by",
        ],
    },
    Contents {
        name: "quarantined usage event",
        table: QUARANTINE,
        pk: "",
        personal: &[],
        others: &[
            "body",
            "customer",
            "open",
            "received_at",
            "rejected",
            "replaying_since",
            "resolution",
            "resolved_at",
        ],
    },
    Contents {
        name: "plan",
        table: BILLING,
        pk: PLANS,
        personal: &[],
        others: &[
            "created_at",
            "definition",
            "digest",
            "latest",
            "number",
            "plan",
            "retired_at",
            "takes_effect",
            "written_by",
        ],
    },
    Contents {
        name: "ledger",
        table: BILLING,
        pk: "",
        personal: &[],
        others: &[
            "adjusted_calls",
            "attempted_by",
            "attempts",
            "cents",
            "charges",
            "closed_at",
            "created_at",
            "cumulative_overage_micro_usd",
            "customer",
            "description",
            "failure_reason",
            "from_call",
            "id",
            "last_attempt_at",
            "month",
            "next_try",
            "number",
            "open_charge",
            "overage_by_plan",
            "overage_calls",
            "rejected",
            "settled_at",
            "status",
            "stripe_customer",
            "stripe_item",
            "stripe_subscription",
            "to_call",
            "usage",
            "usage_digest",
            "written_by",
        ],
    },
    Contents {
        name: "event",
        table: EVENTS,
        pk: "EVENT#",
        personal: &[],
        others: &[
            "customer",
            "data",
            "expires",
            "kind",
            "number",
            "occurred_at",
            "outbox",
            "published_at",
        ],
    },
    Contents {
        name: "numbered event",
        table: EVENTS,
        pk: "LOG",
        personal: &[],
        others: &[
            "customer",
            "data",
            "expires",
            "id",
            "kind",
            "number",
            "occurred_at",
            "published_at",
        ],
    },
    Contents {
        name: "last number of an event",
        table: EVENTS,
        pk: "SEQUENCE",
        personal: &[],
        others: &["last_number"],
    },
    Contents {
        name: "webhook",
        table: EVENTS,
        pk: "WEBHOOK",
        personal: &[],
        others: &[
            "created_at",
            "disabled_at",
            "failed_at",
            "failed_event",
            "failure_reason",
            "kinds",
            "url",
            "webhooks",
            "written_by",
        ],
    },
    Contents {
        name: "secret of a webhook",
        table: EVENTS,
        pk: "SECRET#",
        personal: &[],
        others: &["secret"],
    },
];

/// Effect of a customer's erasure, as planned or as carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// The customer, after the erasure if it was carried out.
    pub customer: Customer,
    /// Number of all keys of the customer, whose names are erased.
    pub keys: u64,
    /// Number of keys that the erasure revokes.
    pub revoked: u64,
}

fn is_erased(key: &KeyRecord) -> bool {
    key.revoked_at.is_some() && key.name.is_empty()
}

/// Reads a key and its partition key.
fn read_with_pk(item: &Item) -> Result<(String, KeyRecord), StoreError> {
    let pk = Reader::new("key", item).text(attr::PK)?.to_owned();
    Ok((pk, read_key(item)?))
}

impl Store {
    /// Computes the effect of erasing a customer; `None` if there is none of that id.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn erasure(&self, id: &CustomerId) -> Result<Option<Erasure>, StoreError> {
        match self.customer(id).await? {
            Some(customer) => self.erase_keys(customer, None).await.map(Some),
            None => Ok(None),
        }
    }

    /// Erases a customer's personal data at `now` and revokes its keys; returns `None` if there is none of
    /// that id. From the first write on, the customer's requests are denied, and no key can be created for
    /// it. Idempotent: a repetition completes an earlier try. One is also needed for a key that was created
    /// just before the erasure, which the eventually consistent list may not have contained yet.
    ///
    /// # Errors
    /// When the store fails; part of the erasure may then be done.
    pub async fn erase_customer(
        &self,
        id: &CustomerId,
        now: Timestamp,
    ) -> Result<Option<Erasure>, StoreError> {
        let Some(item) = self
            .erase(CUSTOMER, customer_pk(id), "erased_at", now)
            .await?
        else {
            return Ok(None);
        };
        let erasure = self.erase_keys(read_customer(&item)?, Some(now));
        erasure.await.map(Some)
    }

    /// Erases and revokes the listed keys of a customer at `now`; with `None`, only counts them. The list is
    /// eventually consistent.
    async fn erase_keys(
        &self,
        customer: Customer,
        now: Option<Timestamp>,
    ) -> Result<Erasure, StoreError> {
        let (mut keys, mut revoked) = (0, 0);
        let mut after: Option<String> = None;
        loop {
            let prefix = Some(format!("{}#", customer.id));
            let page = self.list(KEYS, prefix, after.as_deref(), PAGE, read_with_pk);
            let page = page.await?;
            for (_, (pk, key)) in page.items {
                keys += 1;
                revoked += u64::from(key.revoked_at.is_none());
                if let Some(now) = now
                    && !is_erased(&key)
                {
                    // `None` for a key that was deleted meanwhile: nothing is left to erase.
                    self.erase(KEY, pk, "revoked_at", now).await?;
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(Erasure {
                    customer,
                    keys,
                    revoked,
                });
            }
        }
    }

    /// Erases the personal data of an item whose kind has the partition key prefix `kind`, and sets the
    /// attribute `since` to `now` unless it is set. Returns the item after the erasure; `None` if there is
    /// none.
    async fn erase(
        &self,
        kind: &'static str,
        pk: String,
        since: &'static str,
        now: Timestamp,
    ) -> Result<Option<Item>, StoreError> {
        const OPERATION: &str = "erasing a customer";
        let mut set = "#since = if_not_exists(#since, :now)".to_owned();
        let mut remove = Vec::new();
        let mut request = self
            .client
            .update_item()
            .table_name(self.table(REGISTRY))
            .set_key(Some(item::key(pk)))
            // Exists: an update must not create an incomplete item.
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_names("#since", since)
            .expression_attribute_values(":now", t(now))
            .return_values(ReturnValue::AllNew);
        let contents = CONTENTS.iter().filter(|contents| contents.pk == kind);
        let personal = contents.flat_map(|contents| contents.personal);
        let erased = personal.filter(|personal| personal.is_erased());
        for (at, personal) in erased.enumerate() {
            request = request.expression_attribute_names(format!("#p{at}"), personal.attribute());
            match personal {
                Personal::Emptied(_) => {
                    set.push_str(&format!(", #p{at} = :empty"));
                    request = request.expression_attribute_values(":empty", s(""));
                }
                Personal::Removed(_) => remove.push(format!("#p{at}")),
                Personal::Expires(_) => {}
            }
        }
        let remove = match remove.as_slice() {
            [] => String::new(),
            attributes => format!(" REMOVE {}", attributes.join(", ")),
        };
        let erased = request
            .update_expression(format!("SET {set}{remove}"))
            .send();
        match erased.await {
            Ok(erased) => Ok(erased.attributes),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(None),
                _ => Err(StoreError::service(OPERATION, error)),
            },
        }
    }
}
