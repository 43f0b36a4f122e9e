//! Usage: entries claimed and counted in one transaction, and the tallies they add up to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tollgate_domain::billing::{BillableDays, billable_days};
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::key::hex;
use tollgate_domain::money::MicroUsd;
use tollgate_domain::plan::Catalog;
use tollgate_domain::usage::{Adjusted, Adjustment, Aggregates, Endpoint, Aggregate};
use tollgate_domain::window::{Day, Month};

use crate::Store;
use crate::adjustments::adjustment_item;
use crate::body::{Body, Compressor};
use crate::canonical::is_same_event;
use crate::error::StoreError;
use crate::item::{Item, Reader, Whole, keys, n, s, signed, t, ttl, whole};
use crate::quarantine::{RefusedRecord, refused_of};
use crate::schema::{BILLABLE_SHARDS, QUARANTINE, USAGE, USAGE_LOG, attr};
use crate::spread::ShardCounts;
use crate::transaction::{Action, Backoff, Effect, Refusal, Transacted, Unsettled};

/// How long an entry, and with it the claim that keeps it from being counted twice, is kept. Its
/// records are refused as ancient long before.
const LOG_KEPT: SignedDuration = SignedDuration::from_hours(400 * 24);

/// What comes before the plan in the attributes that count billable calls by plan.
const BILLABLE_PREFIX: &str = "billable#";
/// The same of those that count what adjustments add or take away.
const ADJUSTED_PREFIX: &str = "adjusted#";

/// DynamoDB's bound on the actions of a transaction.
const MAX_ACTIONS: usize = 100;
/// The most bytes of bodies in one: DynamoDB's 4 MB, less room for the rest of a hundred items.
const MAX_BODY_BYTES: usize = 3_500_000;

/// An entry, or part of one, that is counted as a whole.
#[derive(Debug)]
pub struct EventPart<'a> {
    /// With `id`, the entry's identity.
    pub source: &'a str,
    /// Unique within the source.
    pub id: &'a str,
    /// Which part of the entry, from 0.
    pub part: usize,
    /// Whose usage.
    pub customer: &'a CustomerId,
    /// What its good records and adjustments add up to. They are all of one day.
    pub aggregates: &'a Aggregates,
    /// Its good records: how many.
    pub records: usize,
    /// Its good adjustments, with their places in the entry.
    pub adjustments: &'a [(usize, Adjustment)],
    /// Its records or adjustments that cannot be counted.
    pub refused: &'a [RefusedRecord],
    /// The entry as it arrived.
    pub body: &'a [u8],
    /// When it arrived.
    pub received_at: Timestamp,
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

/// `<source>#<id>`, with what separates them encoded where it stands in the source: two identities
/// never share a key.
pub(crate) fn event_pk(source: &str, id: &str) -> String {
    format!("{}#{id}", source.replace('%', "%25").replace('#', "%23"))
}

/// What a tally is of, as sort keys begin; the same for all items that it is spread over.
fn day_sk(day: Day) -> String {
    format!("DAY#{day}")
}

fn endpoints_sk(day: Day) -> String {
    format!("ENDPOINT#{day}")
}

fn month_sk(month: Month) -> String {
    format!("MONTH#{month}")
}

/// The sort key of one of the items that a tally is spread over. The first is the one of a tally that
/// is not spread.
fn in_shard(sk: String, shard: u32) -> String {
    match shard {
        0 => sk,
        shard => format!("{sk}/{shard}"),
    }
}

pub(crate) fn part_sk(part: usize) -> String {
    format!("{part:02}")
}

/// The partition of the index of a month's billable customers that this one is in.
fn billable_month(month: Month, shard: u32) -> String {
    format!("{month}#{shard}")
}

fn shard_of(customer: &CustomerId) -> u32 {
    crc32fast::hash(customer.as_str().as_bytes()) % BILLABLE_SHARDS
}

/// Adds a tally to the item under `key`, which need not exist yet.
fn add(key: Item, tally: &Aggregate) -> Action {
    let Aggregate { adjusted, .. } = tally;
    let fixed = [
        ("calls", n(tally.calls)),
        ("client_errors", n(tally.client_errors)),
        ("server_errors", n(tally.server_errors)),
        ("latency_ms", n(tally.latency_ms)),
        ("tokens", n(tally.tokens)),
        ("unpriced_tokens", n(tally.unpriced_tokens)),
        ("cost_micro_usd", n(tally.cost.0)),
        ("adjustments", n(adjusted.count)),
        ("adjusted_cost_micro_usd", signed(adjusted.micro_usd)),
    ];
    let fixed = fixed.map(|(name, value)| (name.to_owned(), value));
    let billable = tally.billable.iter();
    let billable = billable.map(|(plan, calls)| (format!("{BILLABLE_PREFIX}{plan}"), n(*calls)));
    let of_plans = adjusted.billable.iter();
    let of_plans =
        of_plans.map(|(plan, calls)| (format!("{ADJUSTED_PREFIX}{plan}"), signed(*calls)));
    let nothing = n(0);
    let sums: Vec<(String, AttributeValue)> = fixed
        .into_iter()
        .chain(billable)
        .chain(of_plans)
        .filter(|(_, value)| *value != nothing)
        .collect();
    let terms: Vec<String> = (0..sums.len()).map(|i| format!("#a{i} :a{i}")).collect();
    let mut action = Action::update(USAGE, key, format!("ADD {}", terms.join(", ")));
    for (i, (name, value)) in sums.into_iter().enumerate() {
        action = action
            .name(format!("#a{i}"), name)
            .value(format!(":a{i}"), value);
    }
    action
}

fn read_tally(item: &Item) -> Result<Aggregate, StoreError> {
    let billable = read_by_plan(item, BILLABLE_PREFIX)?;
    let mut adjusted = read_by_plan(item, ADJUSTED_PREFIX)?;
    adjusted.retain(|_, calls| *calls != 0);
    let item = Reader::new("tally", item);
    let sum = |name| item.opt_number(name).map(|sum| sum.unwrap_or(0));
    Ok(Aggregate {
        calls: sum("calls")?,
        billable,
        client_errors: sum("client_errors")?,
        server_errors: sum("server_errors")?,
        latency_ms: sum("latency_ms")?,
        tokens: sum("tokens")?,
        unpriced_tokens: sum("unpriced_tokens")?,
        cost: MicroUsd(sum("cost_micro_usd")?),
        adjusted: Adjusted {
            count: sum("adjustments")?,
            billable: adjusted,
            micro_usd: item.opt_signed("adjusted_cost_micro_usd")?.unwrap_or(0),
        },
    })
}

/// The numbers whose attributes begin with `prefix`, by the plan that follows it.
fn read_by_plan<N: Whole>(
    item: &Item,
    prefix: &'static str,
) -> Result<BTreeMap<PlanId, N>, StoreError> {
    let corrupt = || StoreError::corrupt("tally", prefix);
    item.iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)))
        .map(|(plan, value)| {
            let plan = plan.parse().map_err(|_| corrupt())?;
            Ok((plan, whole(value).ok_or_else(corrupt)?))
        })
        .collect()
}

impl EventPart<'_> {
    pub(crate) fn pk(&self) -> String {
        event_pk(self.source, self.id)
    }

    /// What tells this entry from another of the same identity, as a rule: a digest of its text.
    pub(crate) fn digest(&self) -> String {
        hex(&Sha256::digest(self.body))
    }

    /// Whether `body` is this entry. The spacing of JSON, the order of its members and the extension
    /// attributes are not part of what it says, and may differ between deliveries.
    fn is_same_as(&self, body: &[u8]) -> bool {
        is_same_event(self.body, body)
    }
}

/// A part that is ready to be written.
struct Prepared<'a> {
    /// Its place among those that are written.
    at: usize,
    part: &'a EventPart<'a>,
    pk: String,
    digest: String,
    /// With the first part of an entry, and with what is set aside.
    body: Option<Body>,
}

impl<'a> Prepared<'a> {
    fn new(
        at: usize,
        part: &'a EventPart<'a>,
        compressor: &mut Compressor,
    ) -> Result<Self, StoreError> {
        let keeps_body = part.part == 0 || !part.refused.is_empty();
        let body = keeps_body.then(|| compressor.compress(part.body));
        let body = body.transpose()?;
        Ok(Self {
            at,
            part,
            pk: part.pk(),
            digest: part.digest(),
            body,
        })
    }

    /// What tells its entry from all others.
    fn identity(&self) -> (&str, &str) {
        (&self.pk, &self.digest)
    }

    /// How many items it puts, and how many bytes of bodies they hold.
    fn puts(&self) -> (usize, usize) {
        let body = self.body.as_ref();
        let (items, bytes) = body.map_or((1, 0), |body| (body.items(), body.len()));
        let adjustments = self.part.adjustments.len();
        let logged = if self.part.part == 0 {
            (items + adjustments, bytes)
        } else {
            (1 + adjustments, 0)
        };
        match self.part.refused.is_empty() {
            true => logged,
            false => (logged.0 + items, logged.1 + bytes),
        }
    }

    /// The claim, and what is put beside it.
    fn actions(&self, mark: &str) -> (Action, Vec<Action>) {
        let part = self.part;
        let kept_until = part.received_at.saturating_add(LOG_KEPT);
        let kept_until = kept_until.unwrap_or(part.received_at);
        let mut claim = keys(&self.pk, part_sk(part.part));
        claim.insert(attr::CUSTOMER.into(), s(part.customer.as_str()));
        if let Some(day) = part.aggregates.days.keys().next() {
            let order = format!("{day}#{:.3}", part.received_at);
            claim.insert(attr::LOG_ORDER.into(), s(order));
        }
        claim.insert("records".into(), n(part.records as u64));
        claim.insert("digest".into(), s(&self.digest));
        claim.insert(attr::WRITTEN_BY.into(), s(mark));
        claim.insert(attr::RECEIVED_AT.into(), t(part.received_at));
        claim.insert(attr::EXPIRES.into(), ttl(kept_until));
        let logged = self.body.as_ref().filter(|_| part.part == 0);
        let (claim, mut beside) = match logged {
            Some(body) => body.put(USAGE_LOG, claim),
            None => (Action::put(USAGE_LOG, claim), Vec::new()),
        };
        if let Some(body) = self.body.as_ref().filter(|_| !part.refused.is_empty()) {
            let (head, pieces) = body.put(QUARANTINE, refused_of(part, part_sk(part.part)));
            beside.push(head);
            beside.extend(pieces);
        }
        let adjustments = part.adjustments.iter();
        beside.extend(adjustments.map(|(place, adjustment)| {
            Action::put(USAGE, adjustment_item(part, *place, adjustment))
        }));
        // Absent: only the first delivery of an entry counts. The tallies, and what else is put, are
        // unconditional because they change together with this item or not at all.
        (claim.when("attribute_not_exists(pk)"), beside)
    }
}

/// What became of a part, or why that is not known.
pub type Outcome = Result<Written, Arc<StoreError>>;

impl Store {
    /// Counts entries, each at most once for ever: a transaction claims their identities, adds their
    /// records to the tallies, and sets aside those that cannot be counted. As many of the parts as
    /// fit share one, in their order, so that each tally is written once for all of them. The parts
    /// of an entry come one after another, from the first; `spread` is that of the instance.
    ///
    /// Returns what became of each part. One whose fate is not known may have been counted, and
    /// counting it again finds that out.
    pub async fn write_usage(
        &self,
        parts: &[EventPart<'_>],
        plans: &Catalog,
        spread: &ShardCounts,
    ) -> Vec<Outcome> {
        let mut outcomes: Vec<Option<Outcome>> = vec![None; parts.len()];
        let mut prepared = Vec::with_capacity(parts.len());
        let mut compressor = Compressor::new();
        for (at, part) in parts.iter().enumerate() {
            match Prepared::new(at, part, &mut compressor) {
                Ok(part) => prepared.push(part),
                Err(error) => outcomes[at] = Some(Err(Arc::new(error))),
            }
        }
        // Reversed, so that the next to be written is the last.
        let mut batches = batches(&prepared);
        batches.reverse();
        // What keeps the parts after it from being counted: were they counted all the same, an entry
        // of the same identity could take the place of the first.
        let mut stopped: BTreeMap<(&str, &str), Outcome> = BTreeMap::new();
        while let Some(mut batch) = batches.pop() {
            batch.retain(|part| {
                let outcome = stopped.get(&part.identity());
                outcomes[part.at] = outcome.cloned();
                outcome.is_none()
            });
            match self.write_batch(&batch, plans, spread).await {
                Batch::Written(written) => {
                    let mut rest = Vec::new();
                    for (part, written) in batch.into_iter().zip(written) {
                        match written {
                            Some(written) => outcomes[part.at] = Some(Ok(written)),
                            None => rest.push(part),
                        }
                        if written == Some(Written::Conflict) {
                            stopped.insert(part.identity(), Ok(Written::Conflict));
                        }
                    }
                    if !rest.is_empty() {
                        batches.push(rest);
                    }
                }
                // One of them may be what stands in the way of all.
                Batch::Failed(error) if batch.len() > 1 && !error.is_transient() => {
                    let rest = batch.split_off(batch.len() / 2);
                    batches.extend([rest, batch]);
                }
                Batch::Failed(error) => {
                    let error = Arc::new(error);
                    for part in batch {
                        outcomes[part.at] = Some(Err(Arc::clone(&error)));
                        stopped.insert(part.identity(), Err(Arc::clone(&error)));
                    }
                }
            }
        }
        let lost = || Err(Arc::new(StoreError::corrupt("claim", attr::PK)));
        let outcomes = outcomes.into_iter();
        outcomes
            .map(|outcome| outcome.unwrap_or_else(lost))
            .collect()
    }

    /// Counts parts that fit into one transaction, if none of them is in the log yet. Otherwise
    /// counts none, and says what those are that are in it.
    async fn write_batch(
        &self,
        batch: &[&Prepared<'_>],
        plans: &Catalog,
        spread: &ShardCounts,
    ) -> Batch {
        const OPERATION: &str = "counting usage";
        if batch.is_empty() {
            return Batch::Written(Vec::new());
        }
        let mark = self.transaction_token();
        let mut backoff = Backoff::new();
        loop {
            // Made anew each time, so that after a conflict it goes to other items.
            let actions = self.counting(batch, &mark, plans, spread);
            let actions = match self.built(OPERATION, actions) {
                Ok(actions) => actions,
                Err(error) => return Batch::Failed(error),
            };
            let token = self.transaction_token();
            let Unsettled { error, effect } = match self.attempt(OPERATION, actions, &token).await {
                Ok(Transacted::Done) => {
                    return Batch::Written(vec![Some(Written::Counted); batch.len()]);
                }
                Ok(Transacted::Refused(refusals)) => {
                    let found = self.found(batch, &mark, &refusals).await;
                    return found.map_or_else(Batch::Failed, Batch::Written);
                }
                Err(unsettled) => unsettled,
            };
            if effect == Effect::Conflict {
                let customers: BTreeSet<_> = batch.iter().map(|p| p.part.customer).collect();
                for customer in customers {
                    spread.conflicted(customer, self.clock.now());
                }
            }
            if effect == Effect::Never || !backoff.another(&self.entropy).await {
                return Batch::Failed(error);
            }
        }
    }

    /// What the log holds of each part, after a transaction that found some of them in it.
    async fn found(
        &self,
        batch: &[&Prepared<'_>],
        mark: &str,
        refusals: &[Refusal],
    ) -> Result<Vec<Option<Written>>, StoreError> {
        let mut found = Vec::with_capacity(batch.len());
        for (at, prepared) in batch.iter().enumerate() {
            let Some(Refusal::Condition(claimed)) = refusals.get(at) else {
                found.push(None);
                continue;
            };
            let claimed = claimed.as_ref();
            let claimed = claimed.ok_or_else(|| StoreError::corrupt("claim", attr::PK))?;
            let claimed = Reader::new("claim", claimed);
            found.push(Some(if claimed.text("digest")? != prepared.digest {
                match self.logged_entry(&prepared.pk).await? {
                    Some(body) if prepared.part.is_same_as(&body) => Written::Duplicate,
                    _ => Written::Conflict,
                }
            } else if claimed.is_written_by(mark)? {
                Written::Counted
            } else {
                Written::Duplicate
            }));
        }
        if found.iter().all(Option::is_none) {
            return Err(StoreError::corrupt("claim", attr::PK));
        }
        Ok(found)
    }

    /// The transaction that counts these parts. The claims come first, in the order of the parts.
    fn counting(
        &self,
        batch: &[&Prepared<'_>],
        mark: &str,
        plans: &Catalog,
        spread: &ShardCounts,
    ) -> Vec<Action> {
        let mut claims = Vec::new();
        let mut beside = Vec::new();
        let mut sums: BTreeMap<&CustomerId, Aggregates> = BTreeMap::new();
        for prepared in batch {
            let (claim, puts) = prepared.actions(mark);
            claims.push(claim);
            beside.extend(puts);
            let sum = sums.entry(prepared.part.customer).or_default();
            sum.merge(prepared.part.aggregates);
        }
        for (customer, sums) in &sums {
            let over = spread.over(customer, self.clock.now());
            let shard = u32::try_from(self.entropy.below(over.into())).unwrap_or_default();
            let key = |sk| keys(customer.as_str(), in_shard(sk, shard));
            for (day, tally) in &sums.days {
                beside.push(add(key(day_sk(*day)), tally));
            }
            for ((day, endpoint), tally) in &sums.endpoints {
                let Endpoint { method, route } = endpoint;
                let mut key = key(endpoints_sk(*day));
                if let Some(AttributeValue::S(sk)) = key.get_mut(attr::SK) {
                    sk.push_str(&format!("#{method} {route}"));
                }
                beside.push(add(key, tally));
            }
            for (month, tally) in &sums.months {
                let action = add(key(month_sk(*month)), tally);
                beside.push(list_if_billable(action, customer, *month, tally, plans));
            }
        }
        claims.extend(beside);
        claims
    }

    /// The tally of a customer's month.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn month_usage(
        &self,
        customer: &CustomerId,
        month: Month,
    ) -> Result<Aggregate, StoreError> {
        self.tally(customer, month_sk(month)).await
    }

    /// The tallies of the days of a customer's month.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn day_usage(
        &self,
        customer: &CustomerId,
        month: Month,
    ) -> Result<BTreeMap<Day, Aggregate>, StoreError> {
        let items = self.usage_items(customer, format!("DAY#{month}-")).await?;
        let mut days: BTreeMap<Day, Aggregate> = BTreeMap::new();
        for (sk, item) in &items {
            let day = sk
                .strip_prefix("DAY#")
                .map(|rest| match rest.split_once('/') {
                    Some((day, _)) => day,
                    None => rest,
                });
            let day = day.and_then(|day| day.parse().ok());
            let day = day.ok_or_else(|| StoreError::corrupt("tally", attr::SK))?;
            days.entry(day).or_default().merge(&read_tally(item)?);
        }
        Ok(days)
    }

    /// The tally of a customer's day.
    pub(crate) async fn one_day_usage(
        &self,
        customer: &CustomerId,
        day: Day,
    ) -> Result<Aggregate, StoreError> {
        self.tally(customer, day_sk(day)).await
    }

    /// What the items of a tally come to.
    async fn tally(&self, customer: &CustomerId, sk: String) -> Result<Aggregate, StoreError> {
        let items = self.usage_items(customer, sk).await?;
        let mut sum = Aggregate::default();
        for (_, item) in &items {
            sum.merge(&read_tally(item)?);
        }
        Ok(sum)
    }

    /// The tallies of the endpoints of a customer's day.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn endpoint_usage(
        &self,
        customer: &CustomerId,
        day: Day,
    ) -> Result<BTreeMap<Endpoint, Aggregate>, StoreError> {
        let prefix = endpoints_sk(day);
        let items = self.usage_items(customer, prefix.clone()).await?;
        let mut endpoints: BTreeMap<Endpoint, Aggregate> = BTreeMap::new();
        for (sk, item) in &items {
            // After the day, `/<shard>` where it is spread; no method has a space.
            let endpoint = sk
                .strip_prefix(&prefix)
                .and_then(|rest| rest.split_once('#'))
                .and_then(|(_, endpoint)| endpoint.split_once(' '));
            let (method, route) = endpoint.ok_or_else(|| StoreError::corrupt("tally", attr::SK))?;
            let endpoint = Endpoint {
                method: method.to_owned(),
                route: route.to_owned(),
            };
            endpoints
                .entry(endpoint)
                .or_default()
                .merge(&read_tally(item)?);
        }
        Ok(endpoints)
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
        Ok(billable_days(&days))
    }

    /// All usage items of a customer whose sort key begins with `prefix`.
    async fn usage_items(
        &self,
        customer: &CustomerId,
        prefix: String,
    ) -> Result<Vec<(String, Item)>, StoreError> {
        let items = self.query_all(
            "reading usage",
            USAGE,
            "pk = :pk AND begins_with(sk, :prefix)",
            [(":pk", s(customer.as_str())), (":prefix", s(prefix))],
        );
        let items = items.await?.into_iter();
        let with_sk = items.map(|item| {
            let sk = Reader::new("tally", &item).text(attr::SK)?.to_owned();
            Ok((sk, item))
        });
        with_sk.collect()
    }
}

/// What became of a batch.
enum Batch {
    /// Of each part, if it is known. If it is not, the part was not counted, and can be.
    Written(Vec<Option<Written>>),
    /// It may have been counted.
    Failed(StoreError),
}

/// An item that tallies are added to.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Sum<'a> {
    Day(Day),
    Endpoint(&'a (Day, Endpoint)),
    Month(Month),
}

fn sums_of<'a>(part: &'a EventPart<'_>) -> impl Iterator<Item = (&'a CustomerId, Sum<'a>)> {
    let sums = part.aggregates;
    let days = sums.days.keys().map(|day| Sum::Day(*day));
    let endpoints = sums.endpoints.keys().map(Sum::Endpoint);
    let months = sums.months.keys().map(|month| Sum::Month(*month));
    let sums = days.chain(endpoints).chain(months);
    sums.map(|sum| (part.customer, sum))
}

/// Batches that fit into a transaction each. A batch has no identity twice.
fn batches<'a, 'b>(parts: &'b [Prepared<'a>]) -> Vec<Vec<&'b Prepared<'a>>> {
    let mut batches = Vec::new();
    let mut batch: Vec<&Prepared> = Vec::new();
    let (mut puts, mut bytes) = (0, 0);
    let mut claims = BTreeSet::new();
    let mut sums = BTreeSet::new();
    for prepared in parts {
        let (more_puts, more_bytes) = prepared.puts();
        let more_sums = sums_of(prepared.part).filter(|sum| !sums.contains(sum));
        let fits = puts + more_puts + sums.len() + more_sums.count() <= MAX_ACTIONS
            && bytes + more_bytes <= MAX_BODY_BYTES
            && !claims.contains(&(&prepared.pk, prepared.part.part));
        if !fits && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            (puts, bytes) = (0, 0);
            claims.clear();
            sums.clear();
        }
        sums.extend(sums_of(prepared.part));
        claims.insert((&prepared.pk, prepared.part.part));
        puts += more_puts;
        bytes += more_bytes;
        batch.push(prepared);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// Enters a month in the index of billable months if any of its calls was made on a plan that charges
/// overage.
fn list_if_billable(
    action: Action,
    customer: &CustomerId,
    month: Month,
    tally: &Aggregate,
    plans: &Catalog,
) -> Action {
    let charges = |plan: &PlanId| plans.get(plan).is_some_and(|plan| plan.charges_overage());
    let mut of_plans = tally.billable.keys().chain(tally.adjusted.billable.keys());
    if of_plans.any(charges) {
        let listed = billable_month(month, shard_of(customer));
        action.also_set(attr::BILLABLE_MONTH, s(listed))
    } else {
        action
    }
}
