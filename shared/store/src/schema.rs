//! Names of all tables, keys, attributes and indexes. No other crate writes them out.
//!
//! The template declares the same tables for AWS; a test compares the two.

/// A table.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Name, which follows the prefix and a hyphen.
    pub name: &'static str,
    /// Partition key; all keys are strings.
    pub hash: &'static str,
    /// Sort key.
    pub range: Option<&'static str>,
    /// TTL attribute: the Unix second after which an item may be deleted.
    pub ttl: Option<&'static str>,
    /// Global secondary indexes.
    pub indexes: &'static [Index],
}

/// A global secondary index.
#[derive(Debug, Clone, Copy)]
pub struct Index {
    /// Name.
    pub name: &'static str,
    /// Partition key.
    pub hash: &'static str,
    /// Sort key.
    pub range: &'static str,
    /// Attributes that are copied into the index.
    pub projection: Projection,
}

/// Attributes of an item that an index contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projection {
    /// All attributes.
    All,
    /// The keys of the table and of the index.
    KeysOnly,
}

/// Keys and customers, the items that make their creation unique and idempotent, and what Stripe has of
/// customers.
///
/// | `pk` | item |
/// |---|---|
/// | `KEY#<digest>` | a key of a customer |
/// | `PREFIX#<prefix>` | the digest of the customer's key with that prefix |
/// | `KEYID#<id>` | the digest of the customer's key with that id |
/// | `ADMIN#KEY#<digest>`, `ADMIN#PREFIX#<prefix>`, `ADMIN#KEYID#<id>` | as above, for an admin key |
/// | `CUSTOMER#<id>` | a customer |
/// | `IDEMPOTENCY#<operation>#<caller>#<key>` | the id that a creating request created; expires |
/// | `STRIPE#CUSTOMER#<id>` | the customer to which a Stripe customer is linked |
/// | `STRIPE#CHECKOUT#<id>` | the customer and the plan of a checkout session; expires |
/// | `STRIPE#OPEN#<customer>` | the customer's last checkout session, the only one that may be open; expires |
/// | `STRIPE#EVENT#<id>` | an event of Stripe's that was handled; expires |
/// | `FOLLOWUP#CUSTOMER#<customer>` | when a customer is to be followed: for an outstanding payment, or another link |
/// | `FOLLOWUP#INVOICE#<Stripe customer>` | when items that no subscription invoices get an invoice |
///
/// The functions' IAM roles are restricted to these prefixes (`docs/adr/0020`).
pub const REGISTRY: Table = Table {
    name: "registry",
    hash: "pk",
    range: None,
    ttl: Some(attr::EXPIRES),
    indexes: &[LISTING],
};

/// Keys and customers in the order in which they are listed.
///
/// | `listing` | `listing_order` |
/// |---|---|
/// | `keys` | `<customer>#<created_at>#<id>`; the customer is empty for admin keys |
/// | `customers` | `<id>` |
///
/// One partition each, which becomes hot at 1,000 created keys per second.
pub const LISTING: Index = Index {
    name: "listing",
    hash: attr::LISTING,
    range: attr::LISTING_ORDER,
    projection: Projection::All,
};

/// Quota counters.
///
/// | `pk` | counts |
/// |---|---|
/// | `HOUR#<key id>#<hour>` | calls with a key in a UTC hour |
/// | `MONTH#<customer>#<month>` | calls of a customer in a UTC month |
/// | either with `#<n>` | the calls of the counter's branch `n`, 1 to 16 |
pub const COUNTERS: Table = Table {
    name: "counters",
    hash: "pk",
    range: None,
    ttl: Some(attr::EXPIRES),
    indexes: &[],
};

/// Aggregates of usage, reconciliations and adjustments.
///
/// | `pk` | `sk` | item |
/// |---|---|---|
/// | `<customer>` | `DAY#<day>` | aggregate of a UTC day, and by dimensions for the first sixteen values; a month is the sum of its days |
/// | `<customer>` | `BY#<month>#<dimension>#<value>#<day>` | aggregate of another value of a dimension in a UTC day |
/// | `<customer>` | `BUNDLED#<day>#<attempt>#<transaction>#<number>` | aggregates of the values of a transaction that has too many |
/// | `ALL#<month>` | `DAY#…`, `BY#…`, `BUNDLED#…` | as above, of all customers; not by key |
/// | `<customer>` | `ENDPOINT#<day>#<method> <route>` | aggregate of an endpoint in a UTC day, as earlier releases kept it; no longer written |
/// | `<customer>` | `MONTH#<month>` | aggregate of a UTC month, as earlier releases kept it; no longer read or written |
/// | `RECONCILIATION#<day>` | `<customer>` | discrepancy between the two ledgers of a customer's day |
/// | `RECONCILIATION#<day>` | `#` | summary of the day's reconciliation |
/// | `OVERAGE#<month>#<shard>` | `<customer>` | mark of a customer with calls beyond the included ones |
/// | `LATE#<month>#<shard>` | `<customer>` | mark of a customer whose calls were adjusted when the month may have been closed |
/// | `<customer>` | `ADJUSTMENT#<day>#<source>#<id>#<index>` | one adjustment, which the aggregate of its day includes |
///
/// An aggregate on which writers conflict is sharded: in its further items `/<shard>`, from `/1`, follows
/// the day. The aggregate is the sum of all its items.
pub const USAGE: Table = Table {
    name: "usage",
    hash: "pk",
    range: Some("sk"),
    ttl: None,
    indexes: &[BILLABLE],
};

/// Customers with calls in a month on a plan that charges overage: the items of days, and of months in earlier
/// releases, with `billable_month` = `<month>#<shard>`.
pub const BILLABLE: Index = Index {
    name: "billable",
    hash: attr::BILLABLE_MONTH,
    range: "pk",
    projection: Projection::KeysOnly,
};

/// Log of counted usage events, and the claims by which each of them is counted once (`docs/adr/0038`).
///
/// | `pk` | `sk` | item |
/// |---|---|---|
/// | `#CLAIMS#<step>` | `<attempt>` | claims of an attempt on usage events whose ids are of a step of five seconds |
/// | `#CLAIMS#<identity>` | `<attempt>` | claims of an attempt on a usage event whose id has no time |
/// | either with `/<child>`, repeatedly | `<attempt>` | claims whose bucket is closed |
/// | any of these | `#CLOSED` | mark that the bucket is closed |
/// | `#ATTEMPT#<attempt>#<transaction>` | `#` | marker: whether a transaction has counted its claims, and which not |
/// | `#LOG#<customer>` | `<day>#<received_at>#<attempt>#<transaction>#<piece>` | segment: the usage events of a customer's day that a transaction counts, compressed together |
/// | `#BODY#<attempt>#<transaction>#<claim>` | `00` | body of a usage event that is not in a segment |
/// | `#CLAIMS_SINCE` | `#` | time since which all releases that count usage put claims |
/// | `<source>#<id>` | number of the part | claim and body of a usage event that an earlier release counted |
///
/// In the last one, `#` and `%` in the source are percent-encoded. A large body continues in further items, with `+1`,
/// `+2`… after the sort key.
pub const USAGE_LOG: Table = Table {
    name: "usage-log",
    hash: "pk",
    range: Some("sk"),
    ttl: Some(attr::EXPIRES),
    indexes: &[LOGGED],
};

/// Parts of usage events that earlier releases counted, by customer, in the order of their records' days: `log_order` =
/// `<day>#<received_at>`.
pub const LOGGED: Index = Index {
    name: "logged",
    hash: attr::CUSTOMER,
    range: attr::LOG_ORDER,
    projection: Projection::KeysOnly,
};

/// The quarantine: usage events and messages that failed validation, complete, with the reasons.
///
/// | `pk` | `sk` | item |
/// |---|---|---|
/// | `<source>#<id>` | number of the part | a usage event of which some records or adjustments were rejected |
/// | `<source>#<id>` | `CONFLICT#<digest>` | a usage event whose source and id another one has claimed |
/// | `#<digest>` | `00` | a message that is not a usage event |
///
/// A large body continues in further items, with `+1`, `+2`… after the sort key.
pub const QUARANTINE: Table = Table {
    name: "quarantine",
    hash: "pk",
    range: Some("sk"),
    ttl: None,
    indexes: &[OPEN_QUARANTINE],
};

/// Quarantined items that are neither replayed nor discarded, oldest first: items with `open` =
/// `yes`. One partition, which takes 1,000 writes per second; messages beyond that stay in the queue
/// for as long.
pub const OPEN_QUARANTINE: Index = Index {
    name: "open",
    hash: attr::OPEN,
    range: attr::RECEIVED_AT,
    projection: Projection::KeysOnly,
};

/// The plans, and the ledger of charges.
///
/// | `pk` | `sk` | item |
/// |---|---|---|
/// | `PLANS` | `<plan>` | a plan: the number of its latest version, and its retirement |
/// | `PLANS` | `<plan>#<version>` | a version of a plan |
/// | `PLANS` | `#SEED` | digest of the plans with which the store was seeded |
/// | `<customer>#<month>` | `PERIOD` | period ledger: count and sum of the billing period's charges |
/// | `<customer>#<month>` | `CHARGE#<number>` | one charge |
/// | `MONTH#<month>` | `CLOSED` | mark that the month is no longer billed |
/// | `LEFT_OPEN` | `<month>` | mark that a billing run could not close the month, so that all further runs include it |
pub const BILLING: Table = Table {
    name: "billing",
    hash: "pk",
    range: Some("sk"),
    ttl: None,
    indexes: &[OPEN_CHARGES],
};

/// Charges that are not settled, by state and by the time at which they are submitted next: the partition is
/// `<status>#<shard>`.
pub const OPEN_CHARGES: Index = Index {
    name: "open-charges",
    hash: attr::OPEN_CHARGE,
    range: attr::NEXT_TRY,
    projection: Projection::KeysOnly,
};

/// Events for operators and customers, and the webhooks that they are sent to.
///
/// | `pk` | `sk` | item |
/// |---|---|---|
/// | `EVENT#<id>` | `#` | an event; expires some time after it was numbered |
/// | `LOG` | `<number>` | a numbered event; expires with it |
/// | `SEQUENCE` | `#` | the last number |
/// | `WEBHOOK` | `<id>` | a webhook |
/// | `WEBHOOK` | `#` | the number of webhooks |
/// | `SECRET#<id>` | `#` | the secret of a webhook |
///
/// A table of its own, because functions that read nothing else of billing put events, and because they expire.
pub const EVENTS: Table = Table {
    name: "events",
    hash: "pk",
    range: Some("sk"),
    ttl: Some(attr::EXPIRES),
    indexes: &[OUTBOX],
};

/// Events that have no number yet, oldest first, and those that may not be sent to everyone: `outbox` = `new` or
/// `numbered`.
pub const OUTBOX: Index = Index {
    name: "outbox",
    hash: attr::OUTBOX,
    range: attr::OCCURRED_AT,
    projection: Projection::KeysOnly,
};

/// All tables.
pub const TABLES: &[Table] = &[
    REGISTRY, COUNTERS, USAGE, USAGE_LOG, QUARANTINE, BILLING, EVENTS,
];

/// Attribute names that are used in more than one place. Others are written out where they are used.
pub mod attr {
    /// Partition key of every table.
    pub const PK: &str = "pk";
    /// Sort key of the tables that have one.
    pub const SK: &str = "sk";
    /// Unix second after which the item may be deleted.
    pub const EXPIRES: &str = "expires";
    /// Partition of [`super::LISTING`].
    pub const LISTING: &str = "listing";
    /// Sort key of [`super::LISTING`].
    pub const LISTING_ORDER: &str = "listing_order";
    /// Customer of a usage event; partition of [`super::LOGGED`].
    pub const CUSTOMER: &str = "customer";
    /// Sort key of [`super::LOGGED`].
    pub const LOG_ORDER: &str = "log_order";
    /// Partition of [`super::OPEN_QUARANTINE`].
    pub const OPEN: &str = "open";
    /// Time of arrival; sort key of [`super::OPEN_QUARANTINE`].
    pub const RECEIVED_AT: &str = "received_at";
    /// Partition of [`super::BILLABLE`].
    pub const BILLABLE_MONTH: &str = "billable_month";
    /// Partition of [`super::OPEN_CHARGES`].
    pub const OPEN_CHARGE: &str = "open_charge";
    /// Time at which a charge is submitted next; sort key of [`super::OPEN_CHARGES`].
    pub const NEXT_TRY: &str = "next_try";
    /// Partition of [`super::OUTBOX`].
    pub const OUTBOX: &str = "outbox";
    /// Time of an event; sort key of [`super::OUTBOX`].
    pub const OCCURRED_AT: &str = "occurred_at";
    /// Random id of the write that created an item, by which a writer that lost the response distinguishes
    /// its own item from an equal one of another writer.
    pub const WRITTEN_BY: &str = "written_by";
    /// Id of the write that last gave a customer the state of its subscription.
    pub const FOLLOWED_BY: &str = "followed_by";
    /// Units of a window's limit that are reserved or granted to branches.
    pub const USED: &str = "used";
    /// Calls that each spent a unit.
    pub const SPENT: &str = "spent";
    /// Calls that were allowed without a unit.
    pub const UNCOUNTED: &str = "uncounted";
    /// Number of lease shares in a counter item.
    pub const SHARES: &str = "shares";
}

/// Number of partitions of [`BILLABLE`] per month; the billing planner reads them one after another.
pub const BILLABLE_SHARDS: u32 = 8;

/// Number of partitions of [`OPEN_CHARGES`] per state, which are read one after another.
pub const OPEN_CHARGE_SHARDS: u32 = 8;
