//! Every table, key, attribute and index, by name. Nothing outside this crate knows one.
//!
//! The template declares the same tables for AWS; a test compares the two.

/// A table.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its name after the prefix and a hyphen.
    pub name: &'static str,
    /// The partition key; all keys are strings.
    pub hash: &'static str,
    /// The sort key.
    pub range: Option<&'static str>,
    /// The attribute that holds the second after which an item may be deleted.
    pub ttl: Option<&'static str>,
    /// Its global secondary indexes.
    pub indexes: &'static [Index],
}

/// A global secondary index.
#[derive(Debug, Clone, Copy)]
pub struct Index {
    /// Its name.
    pub name: &'static str,
    /// The partition key.
    pub hash: &'static str,
    /// The sort key.
    pub range: &'static str,
    /// Whether items are copied whole, or their keys alone.
    pub projection: Projection,
}

/// What an index holds of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projection {
    /// All attributes.
    All,
    /// The keys of the table and of the index.
    KeysOnly,
}

/// Keys, customers, and what makes their creation unique.
///
/// | `pk` | item |
/// |---|---|
/// | `KEY#<digest>` | a key of a customer |
/// | `PREFIX#<prefix>` | the digest of the customer's key with that prefix |
/// | `KEYID#<id>` | the digest of the customer's key with that id |
/// | `ADMIN#KEY#<digest>`, `ADMIN#PREFIX#<prefix>`, `ADMIN#KEYID#<id>` | the same of an admin key |
/// | `CUSTOMER#<id>` | a customer |
/// | `IDEMPOTENCY#<operation>#<caller>#<key>` | what a creating request made; expires |
///
/// The functions' roles go by the beginnings of these keys (`docs/adr/0020`).
pub const REGISTRY: Table = Table {
    name: "registry",
    hash: "pk",
    range: None,
    ttl: Some(attr::EXPIRES),
    indexes: &[LISTING],
};

/// Keys and customers in the order they are listed.
///
/// | `listing` | `listing_order` |
/// |---|---|
/// | `keys` | `<customer>#<created_at>#<id>`; the customer is empty for admin keys |
/// | `customers` | `<id>` |
///
/// One partition each: it takes 1,000 keys created a second to make it hot.
pub const LISTING: Index = Index {
    name: "listing",
    hash: attr::LISTING,
    range: attr::LISTING_ORDER,
    projection: Projection::All,
};

/// Units of limits that are taken.
///
/// | `pk` | counts |
/// |---|---|
/// | `HOUR#<key id>#<hour>` | calls with a key in a UTC hour |
/// | `MONTH#<customer>#<month>` | calls of a customer in a UTC month |
/// | either with `#<n>` | those at a branch of the counter, 1 to 16 |
pub const COUNTERS: Table = Table {
    name: "counters",
    hash: "pk",
    range: None,
    ttl: Some(attr::EXPIRES),
    indexes: &[],
};

/// What usage adds up to.
///
/// | `pk` | `sk` | tally of |
/// |---|---|---|
/// | `<customer>` | `DAY#<day>` | a UTC day |
/// | `<customer>` | `ENDPOINT#<day>#<method> <route>` | an endpoint in a UTC day |
/// | `<customer>` | `MONTH#<month>` | a UTC month |
/// | `RECONCILIATION#<day>` | `<customer>` | none: what two ledgers say of a customer's day, where they differ |
/// | `RECONCILIATION#<day>` | `#` | none: what all customers' ledgers come to |
/// | `<customer>` | `ADJUSTMENT#<day>#<source>#<id>#<place>` | none: one adjustment, which is in its day and month |
///
/// A tally that writers met at is spread: `/<shard>`, from `/1`, then follows the day or month, and
/// what all its items come to is the tally.
pub const USAGE: Table = Table {
    name: "usage",
    hash: "pk",
    range: Some("sk"),
    ttl: None,
    indexes: &[BILLABLE],
};

/// Customers with calls in a month on a plan that charges overage: the month items that carry
/// `billable_month` = `<month>#<shard>`.
pub const BILLABLE: Index = Index {
    name: "billable",
    hash: attr::BILLABLE_MONTH,
    range: "pk",
    projection: Projection::KeysOnly,
};

/// Every entry that was counted: the claim that keeps it from being counted again, and the raw
/// record. `pk` = `<source>#<id>`, `#` and `%` in the source percent-encoded; `sk` = number of the
/// part. The body is with the first part, and goes on in `00+1`, `00+2`… if it is large.
pub const USAGE_LOG: Table = Table {
    name: "usage-log",
    hash: "pk",
    range: Some("sk"),
    ttl: Some(attr::EXPIRES),
    indexes: &[LOGGED],
};

/// The parts of entries that were counted, by customer, in the order of the days of their records:
/// `log_order` = `<day>#<received_at>`.
pub const LOGGED: Index = Index {
    name: "logged",
    hash: attr::CUSTOMER,
    range: attr::LOG_ORDER,
    projection: Projection::KeysOnly,
};

/// What could not be counted, whole, with the reason.
///
/// | `pk` | `sk` | holds |
/// |---|---|---|
/// | `<source>#<id>` | number of the part | an entry some of whose records were refused |
/// | `<source>#<id>` | `CONFLICT#<digest>` | an entry whose identity was taken |
/// | `#<digest>` | `00` | a message that is no entry at all |
///
/// A large body goes on in items of their own, with `+1`, `+2`… after the sort key.
pub const QUARANTINE: Table = Table {
    name: "quarantine",
    hash: "pk",
    range: Some("sk"),
    ttl: None,
    indexes: &[WAITING],
};

/// What was set aside and is neither replayed nor dismissed, oldest first: items that carry
/// `waiting` = `yes`. One partition: what is set aside faster than 1,000 times a second waits in the
/// queue.
pub const WAITING: Index = Index {
    name: "waiting",
    hash: attr::WAITING,
    range: attr::RECEIVED_AT,
    projection: Projection::KeysOnly,
};

/// The ledger.
///
/// | `pk` | `sk` | holds |
/// |---|---|---|
/// | `<customer>#<month>` | `ACCOUNT` | what the month was charged so far |
/// | `<customer>#<month>` | `INTENT#<number>` | one charge |
/// | `MONTH#<month>` | `CLOSED` | that the month is no longer billed |
/// | `LEFT_OPEN` | `<month>` | that a run could not close the month, so that all further runs look at it |
pub const BILLING: Table = Table {
    name: "billing",
    hash: "pk",
    range: Some("sk"),
    ttl: None,
    indexes: &[],
};

/// All tables.
pub const TABLES: &[Table] = &[REGISTRY, COUNTERS, USAGE, USAGE_LOG, QUARANTINE, BILLING];

/// Attribute names, but for those that stand beside their one reader and writer.
pub mod attr {
    /// Partition key of every table.
    pub const PK: &str = "pk";
    /// Sort key of those that have one.
    pub const SK: &str = "sk";
    /// Unix second after which the item may be deleted.
    pub const EXPIRES: &str = "expires";
    /// Partition of [`super::LISTING`].
    pub const LISTING: &str = "listing";
    /// Order within it.
    pub const LISTING_ORDER: &str = "listing_order";
    /// Whose an entry is; partition of [`super::LOGGED`].
    pub const CUSTOMER: &str = "customer";
    /// Order within it.
    pub const LOG_ORDER: &str = "log_order";
    /// Partition of [`super::WAITING`].
    pub const WAITING: &str = "waiting";
    /// When something arrived; the order within it.
    pub const RECEIVED_AT: &str = "received_at";
    /// Partition of [`super::BILLABLE`].
    pub const BILLABLE_MONTH: &str = "billable_month";
    /// Names the write that made an item, so that a writer whose answer was lost knows its own item
    /// from an equal one of another writer.
    pub const WRITTEN_BY: &str = "written_by";
    /// Units of a window's limit that are taken.
    pub const USED: &str = "used";
    /// Calls that units were spent on.
    pub const SPENT: &str = "spent";
    /// Calls that were allowed without a unit.
    pub const UNCOUNTED: &str = "uncounted";
    /// Lease shares in a counter's item.
    pub const SHARES: &str = "shares";
}

/// Partitions of [`BILLABLE`] in a month; the planner reads them one after another.
pub const BILLABLE_SHARDS: u32 = 8;
