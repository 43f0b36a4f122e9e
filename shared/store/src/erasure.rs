//! What the tables know of people, and how it is erased when a customer leaves.
//!
//! Ids are pseudonyms by contract: those of customers, keys and requests, and whatever producers put
//! into usage events and admins into the reasons of adjustments. They stay in usage, log and ledger,
//! which have to add up. What says who somebody is stands in [`CONTENTS`], and goes.

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::ReturnValue;
use jiff::Timestamp;
use tollgate_domain::customer::Customer;
use tollgate_domain::id::CustomerId;
use tollgate_domain::key::KeyRecord;

use crate::Store;
use crate::accounts::{KEYS, customer_pk, read_customer, read_key};
use crate::error::StoreError;
use crate::item::{self, Item, Reader, s, t};
use crate::schema::{REGISTRY, BILLING, COUNTERS, QUARANTINE, Table, USAGE, USAGE_LOG, attr};

/// Keys read in one go.
const PAGE: usize = 100;

const KEY: &str = "KEY#";
const CUSTOMER: &str = "CUSTOMER#";

/// What items of one kind hold besides their keys.
#[derive(Debug, Clone, Copy)]
pub struct Contents {
    /// What such an item is.
    pub name: &'static str,
    /// Their table.
    pub table: Table,
    /// What their partition keys begin with.
    pub pk: &'static str,
    /// Attributes that say who somebody is.
    pub personal: &'static [Personal],
    /// All others. One that ends in `*` stands for all that begin so.
    pub others: &'static [&'static str],
}

/// An attribute that says who somebody is, and what an erasure leaves of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Personal {
    /// Every item has it: an empty text is left.
    Emptied(&'static str),
    /// Nothing is left.
    Removed(&'static str),
    /// It goes with its item, which expires: no erasure finds it under the customer.
    Expires(&'static str),
}

impl Personal {
    /// The attribute.
    #[must_use]
    pub fn attribute(self) -> &'static str {
        match self {
            Personal::Emptied(attribute)
            | Personal::Removed(attribute)
            | Personal::Expires(attribute) => attribute,
        }
    }

    /// Whether an erasure erases it.
    #[must_use]
    pub fn is_erased(self) -> bool {
        !matches!(self, Personal::Expires(_))
    }
}

/// Every kind of item in every table. A table or an attribute that is new joins this list; a test
/// finds one that has not.
pub const CONTENTS: &[Contents] = &[
    Contents {
        name: "customer",
        table: REGISTRY,
        pk: CUSTOMER,
        personal: &[Personal::Emptied("name"), Personal::Removed("email")],
        others: &[
            "created_at",
            "erased_at",
            "id",
            "listing",
            "listing_order",
            "plan",
            "suspended_at",
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
            "hour_of",
            "id",
            "listing",
            "listing_order",
            "monthly_quota",
            "prefix",
            "requests_per_hour",
            "revoked_at",
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
        // A digest of what was asked for, a name and an address included: whoever knows all the rest of it
        // can find out whether they have guessed them.
        personal: &[Personal::Expires("request")],
        others: &["expires", "made"],
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
            // Shares of an earlier form.
            "s*",
            "shares",
            "spent",
            "swept",
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
            "id",
            "latency_ms",
            "metered",
            "off",
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
        name: "entry",
        table: USAGE_LOG,
        pk: "",
        personal: &[],
        others: &[
            "body",
            "customer",
            "digest",
            "expires",
            "log_order",
            "received_at",
            "records",
            "written_by",
        ],
    },
    Contents {
        name: "quarantined entry",
        table: QUARANTINE,
        pk: "",
        personal: &[],
        others: &[
            "body",
            "closed_as",
            "closed_at",
            "customer",
            "received_at",
            "refused",
            "replaying_since",
            "waiting",
        ],
    },
    Contents {
        name: "ledger",
        table: BILLING,
        pk: "",
        personal: &[],
        others: &[
            "adjusted_calls",
            "cents",
            "charges",
            "closed_at",
            "covered",
            "created_at",
            "cumulative_micro_usd",
            "customer",
            "from_call",
            "id",
            "month",
            "number",
            "over_calls",
            "status",
            "to_call",
            "usage_digest",
            "written_by",
        ],
    },
];

/// What the erasure of a customer does, or has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// The customer as it is then.
    pub customer: Customer,
    /// The keys that it ever had, whose names are erased.
    pub keys: u64,
    /// Those of them that it revokes.
    pub revoked: u64,
}

fn is_erased(key: &KeyRecord) -> bool {
    key.revoked_at.is_some() && key.name.is_empty()
}

/// A key where it is stored.
fn read_with_pk(item: &Item) -> Result<(String, KeyRecord), StoreError> {
    let pk = Reader::new("key", item).text(attr::PK)?.to_owned();
    Ok((pk, read_key(item)?))
}

impl Store {
    /// What erasing that customer would do; `None` if there is none of that id.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn erasure(&self, id: &CustomerId) -> Result<Option<Erasure>, StoreError> {
        match self.customer(id).await? {
            Some(customer) => self.erase_keys(customer, None).await.map(Some),
            None => Ok(None),
        }
    }

    /// Erases who the customer is, at `now`, and ends its keys; `None` if there is none of that id.
    /// The customer is refused, and can have no new key, from the first write on. Doing it again
    /// does what an earlier try left undone, and changes nothing else: a key that was made just before
    /// may not have been in the list yet, and have kept its name.
    ///
    /// # Errors
    /// When the store does not answer; part of it may then be done.
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

    /// Erases and revokes the keys of a customer that are in the list, or only counts them without an
    /// instant to do it at. The list lags, by well under a second as a rule.
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
                    // One that has gone meanwhile holds nothing.
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

    /// Erases what an item of that kind says of people, and dates that in `since`, unless it is
    /// dated already. The item after it; `None` if there is none.
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
            // Exists: an update must not make half an item.
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
