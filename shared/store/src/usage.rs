//! Usage: entries claimed and counted in one transaction, and the tallies they add up to.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write as _};

use aws_sdk_dynamodb::types::AttributeValue;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tollgate_domain::billing::BillableDays;
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::key::hex;
use tollgate_domain::money::MicroUsd;
use tollgate_domain::plan::Catalog;
use tollgate_domain::usage::{Aggregates, Endpoint, Tally};
use tollgate_domain::window::{Day, Month};

use crate::Store;
use crate::error::StoreError;
use crate::item::{Item, Reader, b, keys, n, s, t, ttl};
use crate::schema::{BILLABLE_SHARDS, QUARANTINE, USAGE, USAGE_LOG, attr};
use crate::transaction::{Action, Transacted};

/// How long an entry, and with it the claim that keeps it from being counted twice, is kept. Its
/// records are refused as ancient long before.
const LOG_KEPT: SignedDuration = SignedDuration::from_hours(400 * 24);

/// What comes before the plan in the attributes that count billable calls by plan.
const BILLABLE_PREFIX: &str = "billable#";

/// An entry, or part of one, that is counted as a whole.
#[derive(Debug)]
pub struct EntryPart<'a> {
    /// With `id`, the entry's identity.
    pub source: &'a str,
    /// Unique within the source.
    pub id: &'a str,
    /// Which part of the entry, from 0.
    pub part: usize,
    /// Whose usage.
    pub customer: &'a CustomerId,
    /// What its good records add up to.
    pub aggregates: &'a Aggregates,
    /// Its good records: how many.
    pub records: usize,
    /// Its records that cannot be counted.
    pub refused: &'a [RefusedRecord],
    /// The entry as it arrived.
    pub body: &'a [u8],
    /// When it arrived.
    pub received_at: Timestamp,
}

/// A record that cannot be counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRecord {
    /// Its place in the entry, from 0.
    pub index: usize,
    /// Why.
    pub reason: String,
}

/// What became of counting an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is counted now.
    Counted,
    /// It was counted before.
    Duplicate,
    /// Another entry of the same identity was counted before; this one is not.
    Conflict,
}

/// An item of the quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Why, record by record; one entry with index 0 where the whole is refused.
    pub refused: Vec<RefusedRecord>,
    /// What was refused, byte for byte.
    pub body: Vec<u8>,
    /// When it arrived.
    pub received_at: Timestamp,
}

/// `<source>#<id>`, with what separates them encoded where it stands in the source: two identities
/// never share a key.
fn entry_pk(source: &str, id: &str) -> String {
    format!("{}#{id}", source.replace('%', "%25").replace('#', "%23"))
}

fn day_sk(day: Day) -> String {
    format!("DAY#{day}")
}

fn endpoint_sk(day: Day, endpoint: &Endpoint) -> String {
    format!("ENDPOINT#{day}#{} {}", endpoint.method, endpoint.route)
}

fn month_sk(month: Month) -> String {
    format!("MONTH#{month}")
}

fn part_sk(part: usize) -> String {
    format!("{part:02}")
}

/// The partition of the index of a month's billable customers that this one is in.
fn billable_month(month: Month, shard: u32) -> String {
    format!("{month}#{shard}")
}

fn shard_of(customer: &CustomerId) -> u32 {
    crc32fast::hash(customer.as_str().as_bytes()) % BILLABLE_SHARDS
}

fn compress(body: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(body)
        .and_then(|()| gzip.finish())
        .map_err(|error| StoreError::request("compressing an entry", error))
}

fn decompress(gzip: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut body = Vec::new();
    GzDecoder::new(gzip)
        .read_to_end(&mut body)
        .map_err(|_| StoreError::corrupt("quarantine", "body"))?;
    Ok(body)
}

/// Adds a tally to the item under `key`, which need not exist yet.
fn add(key: Item, tally: &Tally) -> Action {
    let fixed = [
        ("calls", tally.calls),
        ("client_errors", tally.client_errors),
        ("server_errors", tally.server_errors),
        ("latency_ms", tally.latency_ms),
        ("tokens", tally.tokens),
        ("unpriced_tokens", tally.unpriced_tokens),
        ("cost_micro_usd", tally.cost.0),
    ];
    let fixed = fixed.map(|(name, value)| (name.to_owned(), value));
    let billable = tally
        .billable
        .iter()
        .map(|(plan, calls)| (format!("{BILLABLE_PREFIX}{plan}"), *calls));
    let sums: Vec<(String, u64)> = fixed
        .into_iter()
        .chain(billable)
        .filter(|(_, value)| *value > 0)
        .collect();
    let terms: Vec<String> = (0..sums.len()).map(|i| format!("#a{i} :a{i}")).collect();
    let mut action = Action::update(USAGE, key, format!("ADD {}", terms.join(", ")));
    for (i, (name, value)) in sums.into_iter().enumerate() {
        action = action
            .name(format!("#a{i}"), name)
            .value(format!(":a{i}"), n(value));
    }
    action
}

fn read_tally(item: &Item) -> Result<Tally, StoreError> {
    let billable = read_billable(item)?;
    let item = Reader::new("tally", item);
    let sum = |name| item.opt_number(name).map(|sum| sum.unwrap_or(0));
    Ok(Tally {
        calls: sum("calls")?,
        billable,
        client_errors: sum("client_errors")?,
        server_errors: sum("server_errors")?,
        latency_ms: sum("latency_ms")?,
        tokens: sum("tokens")?,
        unpriced_tokens: sum("unpriced_tokens")?,
        cost: MicroUsd(sum("cost_micro_usd")?),
    })
}

fn read_billable(item: &Item) -> Result<BTreeMap<PlanId, u64>, StoreError> {
    let corrupt = || StoreError::corrupt("tally", "billable");
    item.iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(BILLABLE_PREFIX)?, value)))
        .map(|(plan, value)| match value {
            AttributeValue::N(calls) => Ok((
                plan.parse().map_err(|_| corrupt())?,
                calls.parse().map_err(|_| corrupt())?,
            )),
            _ => Err(corrupt()),
        })
        .collect()
}

fn reasons(refused: &[RefusedRecord]) -> AttributeValue {
    let reason = |record: &RefusedRecord| {
        AttributeValue::M(HashMap::from([
            ("index".to_owned(), n(record.index as u64)),
            ("reason".to_owned(), s(&record.reason)),
        ]))
    };
    AttributeValue::L(refused.iter().map(reason).collect())
}

fn read_reasons(item: &Item) -> Result<Vec<RefusedRecord>, StoreError> {
    let corrupt = || StoreError::corrupt("quarantine", "refused");
    let Some(AttributeValue::L(refused)) = item.get("refused") else {
        return Err(corrupt());
    };
    refused
        .iter()
        .map(|refused| {
            let AttributeValue::M(refused) = refused else {
                return Err(corrupt());
            };
            let refused = Reader::new("refused record", refused);
            Ok(RefusedRecord {
                index: usize::try_from(refused.number("index")?).map_err(|_| corrupt())?,
                reason: refused.text("reason")?.to_owned(),
            })
        })
        .collect()
}

impl EntryPart<'_> {
    fn pk(&self) -> String {
        entry_pk(self.source, self.id)
    }

    /// What tells this entry from another of the same identity: a digest of its JSON, whatever
    /// its spacing and order of members, which differ between deliveries.
    fn digest(&self) -> String {
        match serde_json::from_slice::<serde_json::Value>(self.body) {
            Ok(json) => hex(&Sha256::digest(json.to_string())),
            Err(_) => hex(&Sha256::digest(self.body)),
        }
    }

    /// How many actions the transaction takes that counts this part.
    #[must_use]
    pub fn actions(&self) -> usize {
        1 + self.aggregates.len() + usize::from(!self.refused.is_empty())
    }
}

impl Store {
    /// Counts an entry, at most once for ever: one transaction claims its identity, adds its
    /// records to the tallies, and sets aside those that cannot be counted.
    ///
    /// # Errors
    /// When the store does not answer. The entry may then have been counted; counting it again
    /// finds that out.
    pub async fn write_usage(
        &self,
        entry: &EntryPart<'_>,
        plans: &Catalog,
    ) -> Result<Written, StoreError> {
        let digest = entry.digest();
        let body = b(compress(entry.body)?);
        let kept_until = entry
            .received_at
            .saturating_add(LOG_KEPT)
            .unwrap_or(entry.received_at);
        let mut claim = keys(entry.pk(), part_sk(entry.part));
        claim.insert("customer".into(), s(entry.customer.as_str()));
        claim.insert("records".into(), n(entry.records as u64));
        claim.insert("digest".into(), s(&digest));
        claim.insert("body".into(), body.clone());
        claim.insert("received_at".into(), t(entry.received_at));
        claim.insert(attr::EXPIRES.into(), ttl(kept_until));
        // Absent: only the first delivery of an entry counts. The tallies below are unconditional
        // because they change together with this item or not at all.
        let claim = Action::put(USAGE_LOG, claim).when("attribute_not_exists(pk)");

        let customer = entry.customer.as_str();
        let mut actions = vec![claim];
        let sums = entry.aggregates;
        for (day, tally) in &sums.days {
            actions.push(add(keys(customer, day_sk(*day)), tally));
        }
        for ((day, endpoint), tally) in &sums.endpoints {
            actions.push(add(keys(customer, endpoint_sk(*day, endpoint)), tally));
        }
        for (month, tally) in &sums.months {
            actions.push(self.add_to_month(entry.customer, *month, tally, plans));
        }
        if !entry.refused.is_empty() {
            let key = keys(entry.pk(), part_sk(entry.part));
            actions.push(Action::put(QUARANTINE, quarantined(key, entry, body)));
        }
        match self.transact("counting usage", actions).await? {
            Transacted::Done => Ok(Written::Counted),
            Transacted::Refused(refusals) => {
                let claimed = refusals.first().and_then(|refusal| refusal.item());
                let claimed = claimed.ok_or_else(|| StoreError::corrupt("claim", attr::PK))?;
                if Reader::new("claim", claimed).text("digest")? == digest {
                    Ok(Written::Duplicate)
                } else {
                    Ok(Written::Conflict)
                }
            }
        }
    }

    /// Adds to a month, and enters it in the index of billable months if any of its calls was made
    /// on a plan that charges overage.
    fn add_to_month(
        &self,
        customer: &CustomerId,
        month: Month,
        tally: &Tally,
        plans: &Catalog,
    ) -> Action {
        let charges = |plan: &PlanId| plans.get(plan).is_some_and(|plan| plan.charges_overage());
        let action = add(keys(customer.as_str(), month_sk(month)), tally);
        if tally.billable.keys().any(charges) {
            action.also_set(
                attr::BILLABLE_MONTH,
                s(billable_month(month, shard_of(customer))),
            )
        } else {
            action
        }
    }

    /// Sets aside an entry whose identity another one has taken.
    ///
    /// # Errors
    /// When the store does not answer; it may then have been set aside, and can be again.
    pub async fn quarantine_conflict(&self, entry: &EntryPart<'_>) -> Result<(), StoreError> {
        let key = keys(entry.pk(), format!("CONFLICT#{}", entry.digest()));
        let body = b(compress(entry.body)?);
        self.quarantine(quarantined(key, entry, body)).await
    }

    /// Sets aside a message that is no entry at all.
    ///
    /// # Errors
    /// When the store does not answer; it may then have been set aside, and can be again.
    pub async fn quarantine_message(
        &self,
        body: &[u8],
        reason: &str,
        received_at: Timestamp,
    ) -> Result<(), StoreError> {
        let digest = hex(&Sha256::digest(body));
        let mut item = keys(format!("#{digest}"), part_sk(0));
        let refused = RefusedRecord {
            index: 0,
            reason: reason.to_owned(),
        };
        item.insert("refused".into(), reasons(&[refused]));
        item.insert("body".into(), b(compress(body)?));
        item.insert("received_at".into(), t(received_at));
        self.quarantine(item).await
    }

    async fn quarantine(&self, item: Item) -> Result<(), StoreError> {
        let outcome = self
            .client
            .put_item()
            .table_name(self.table(QUARANTINE))
            .set_item(Some(item))
            // Absent: the key is a digest of what is set aside, so a repeat has nothing to add,
            // and must not undo what was done with the first.
            .condition_expression("attribute_not_exists(pk)")
            .send()
            .await;
        match outcome {
            Ok(_) => Ok(()),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_conditional_check_failed_exception()) =>
            {
                Ok(())
            }
            Err(error) => Err(StoreError::service("quarantining", error)),
        }
    }

    /// What was set aside of the entry of this identity.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn quarantined_of_entry(
        &self,
        source: &str,
        id: &str,
    ) -> Result<Vec<Quarantined>, StoreError> {
        self.quarantined(entry_pk(source, id)).await
    }

    /// What was set aside of this message.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn quarantined_message(&self, body: &[u8]) -> Result<Vec<Quarantined>, StoreError> {
        self.quarantined(format!("#{}", hex(&Sha256::digest(body))))
            .await
    }

    async fn quarantined(&self, pk: String) -> Result<Vec<Quarantined>, StoreError> {
        // An entry has few parts and conflicts: one page holds them.
        let found = self
            .client
            .query()
            .table_name(self.table(QUARANTINE))
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(pk))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::service("reading the quarantine", error))?;
        found
            .items()
            .iter()
            .map(|item| {
                let refused = read_reasons(item)?;
                let item = Reader::new("quarantine", item);
                Ok(Quarantined {
                    refused,
                    body: decompress(item.bytes("body")?)?,
                    received_at: item.parsed("received_at")?,
                })
            })
            .collect()
    }

    /// The tally of a customer's month.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn month_usage(
        &self,
        customer: &CustomerId,
        month: Month,
    ) -> Result<Tally, StoreError> {
        let found = self
            .client
            .get_item()
            .table_name(self.table(USAGE))
            .set_key(Some(keys(customer.as_str(), month_sk(month))))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::service("reading usage", error))?;
        found.item.as_ref().map_or(Ok(Tally::default()), read_tally)
    }

    /// The tallies of the days of a customer's month.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn day_usage(
        &self,
        customer: &CustomerId,
        month: Month,
    ) -> Result<BTreeMap<Day, Tally>, StoreError> {
        let sk = format!("DAY#{month}-");
        let items = self.usage_items(customer, sk).await?;
        items
            .iter()
            .map(|(sk, item)| {
                let day = sk.strip_prefix("DAY#").and_then(|day| day.parse().ok());
                let day = day.ok_or_else(|| StoreError::corrupt("tally", attr::SK))?;
                Ok((day, read_tally(item)?))
            })
            .collect()
    }

    /// The tallies of the endpoints of a customer's day.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn endpoint_usage(
        &self,
        customer: &CustomerId,
        day: Day,
    ) -> Result<BTreeMap<Endpoint, Tally>, StoreError> {
        let prefix = format!("ENDPOINT#{day}#");
        let items = self.usage_items(customer, prefix.clone()).await?;
        items
            .iter()
            .map(|(sk, item)| {
                let endpoint = sk
                    .strip_prefix(&prefix)
                    .and_then(|rest| rest.split_once(' '));
                let (method, route) =
                    endpoint.ok_or_else(|| StoreError::corrupt("tally", attr::SK))?;
                let endpoint = Endpoint {
                    method: method.to_owned(),
                    route: route.to_owned(),
                };
                Ok((endpoint, read_tally(item)?))
            })
            .collect()
    }

    /// Billable calls of a customer's month by day and plan, read consistently.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn billable_days(
        &self,
        customer: &CustomerId,
        month: Month,
    ) -> Result<BillableDays, StoreError> {
        let days = self.day_usage(customer, month).await?;
        let days = days.into_iter().map(|(day, tally)| (day, tally.billable));
        Ok(days.filter(|(_, plans)| !plans.is_empty()).collect())
    }

    /// All usage items of a customer whose sort key begins with `prefix`.
    async fn usage_items(
        &self,
        customer: &CustomerId,
        prefix: String,
    ) -> Result<Vec<(String, Item)>, StoreError> {
        let mut items = Vec::new();
        let mut start = None;
        loop {
            let found = self
                .client
                .query()
                .table_name(self.table(USAGE))
                .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
                .expression_attribute_values(":pk", s(customer.as_str()))
                .expression_attribute_values(":prefix", s(&prefix))
                .consistent_read(true)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| StoreError::service("reading usage", error))?;
            for item in found.items.unwrap_or_default() {
                let sk = Reader::new("tally", &item).text(attr::SK)?.to_owned();
                items.push((sk, item));
            }
            start = found.last_evaluated_key;
            if start.is_none() {
                return Ok(items);
            }
        }
    }
}

fn quarantined(key: Item, entry: &EntryPart<'_>, body: AttributeValue) -> Item {
    let mut item = key;
    item.insert("customer".into(), s(entry.customer.as_str()));
    item.insert("refused".into(), reasons(entry.refused));
    item.insert("body".into(), body);
    item.insert("received_at".into(), t(entry.received_at));
    item
}
