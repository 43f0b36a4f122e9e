//! Units of limits, taken in blocks and never beyond a limit.
//!
//! A counter's item holds how many units of its window are taken (`used`), how many of them were
//! spent on calls as far as their holders have said (`spent`), and an account for each instance
//! that took some lately: `<until> <id> <taken> <spent>`, in an attribute `s<n>`. An instance
//! changes its account in the same write as the sums, and only if the account stands where the
//! instance last saw it. So each write takes effect once, however often it is sent and however
//! late it arrives, and the next write finds out what became of one whose answer was lost. From
//! the second `until` on, an account is nobody's, and its place is free.

use std::fmt;
use std::str::FromStr;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use jiff::{SignedDuration, Timestamp};
use tollgate_domain::id::{CustomerId, KeyId, random_base62};
use tollgate_domain::window::{Hour, Month};

use crate::error::StoreError;
use crate::item::{Item, Reader, n, s, ttl};
use crate::schema::{COUNTERS, attr};
use crate::{Store, item};

/// How long a counter outlives its window. It must not vanish while a clock that is behind still
/// counts in it.
const KEPT_AFTER_WINDOW: SignedDuration = SignedDuration::from_hours(48);
/// How long an account outlives a claim of one unit, which leaves nothing to give back: long past
/// every repetition of the claim, and clocks that differ by seconds.
const ONE_UNIT_KEPT: SignedDuration = SignedDuration::from_secs(60);
/// How long it outlives a larger one: longer than Lambda keeps an instance.
const BLOCK_KEPT: SignedDuration = SignedDuration::from_hours(24);
/// Where a first claim takes its place unseen: as many as leave the item well below a write unit, so
/// that two instances rarely meet.
const FIRST_PLACES: u64 = 16;
/// Of the places it has seen to be free, among how many of the first it chooses.
const FREE_PLACES: u64 = 4;
/// Characters of an account's id, 48 bits.
const ID_LEN: usize = 8;
/// Tries for one claim, each of which another instance can get in the way of.
const TRIES: usize = 8;

const TAKING: &str = "taking units of a limit";
const GIVING_BACK: &str = "giving back units of a limit";

/// What one instance has taken of a counter. It takes part in one window, and ends when what is
/// left is given back.
#[derive(Debug)]
pub struct Account {
    pk: String,
    expires: AttributeValue,
    place: u64,
    /// Nobody else's, so that the account is told from others that had its place.
    id: String,
    /// As it stands in the counter, as far as is known; `None` if it was never there or has gone.
    stands: Option<Entry>,
    /// Units spent that the counter knows of.
    reported: u64,
    /// What a claim said to be spent of which it is not known what became.
    unanswered: Option<u64>,
}

/// What a counter holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Units {
    /// Units that are taken. Never more than the limit.
    pub taken: u64,
    /// Units of them that were spent on calls, as far as the instances that took them have said:
    /// all but those of the last second or so, and what an instance that crashed had not said.
    pub spent: u64,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// So many units are the instance's. They may have been taken by an earlier claim whose answer
    /// was lost.
    Granted {
        /// How many.
        units: u64,
        /// How many all instances have taken, these included.
        used: u64,
    },
    /// Nothing is left of the limit.
    Full,
}

/// An account as its counter holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Unix second.
    until: i64,
    id: String,
    taken: u64,
    spent: u64,
}

/// What a refused write has shown.
enum Seen {
    /// An earlier claim did take these.
    Taken { units: u64, used: u64 },
    /// The account stands as it was known to, or has found a place; so many units are used.
    Used(u64),
}

impl Account {
    fn new(store: &Store, pk: String, window_end: Timestamp) -> Self {
        let expires = window_end.saturating_add(KEPT_AFTER_WINDOW);
        Self {
            pk,
            expires: ttl(expires.unwrap_or(window_end)),
            place: store.entropy.below(FIRST_PLACES),
            id: store.entropy.with(|rng| random_base62(rng, ID_LEN)),
            stands: None,
            reported: 0,
            unanswered: None,
        }
    }

    /// Whether the counter knows that just these units are spent, and no claim is unanswered.
    #[must_use]
    pub fn is_settled(&self, spent: u64) -> bool {
        self.reported == spent && self.unanswered.is_none()
    }

    fn stand_at(&mut self, entry: Entry) {
        self.unanswered = None;
        self.reported = entry.spent;
        self.stands = Some(entry);
    }

    /// What `spent` adds to what the counter knows of. A call that was counted as spent with its
    /// claim, and then was not let in, is taken back by less than nothing.
    fn newly_spent(&self, spent: u64) -> AttributeValue {
        let newly = i128::from(spent) - i128::from(self.reported);
        AttributeValue::N(newly.to_string())
    }

    fn after_claim(&self, units: u64, spent: u64, now: Timestamp) -> Entry {
        let kept = if units > 1 { BLOCK_KEPT } else { ONE_UNIT_KEPT };
        Entry {
            until: now.as_second() + kept.as_secs(),
            id: self.id.clone(),
            taken: self.stands.as_ref().map_or(0, |entry| entry.taken) + units,
            spent,
        }
    }

    /// What the item says that a write was refused for.
    fn learn(&mut self, store: &Store, item: &Item, now: Timestamp) -> Result<Seen, StoreError> {
        let counter = Reader::new("counter", item);
        let used = counter.opt_number(attr::USED)?.unwrap_or(0);
        let text_at = |place| item.get(&place_name(place)).and_then(|at| at.as_s().ok());
        let entry = text_at(self.place).and_then(|text| text.parse::<Entry>().ok());
        if let Some(entry) = entry.filter(|entry| entry.id == self.id) {
            let known = self.stands.as_ref().map_or(0, |entry| entry.taken);
            let units = entry.taken.saturating_sub(known);
            self.stand_at(entry);
            return Ok(if units > 0 {
                Seen::Taken { units, used }
            } else {
                Seen::Used(used)
            });
        }
        // Never there, or given up for dead: what it had taken stays taken, and a claim that was
        // under way is lost with it. What that said to be spent is not said again: the counter may
        // know, and is to know too little rather than too much.
        self.stands = None;
        if let Some(spent) = self.unanswered.take() {
            self.reported = self.reported.max(spent);
        }
        let is_free = |place: &u64| text_at(*place).is_none_or(|text| *text < second(now));
        if !is_free(&self.place) {
            let choice = store.entropy.below(FREE_PLACES);
            let mut free = (0..).filter(is_free);
            let free = free.nth(usize::try_from(choice).unwrap_or(0));
            self.place = free.unwrap_or(self.place);
        }
        Ok(Seen::Used(used))
    }
}

fn place_name(place: u64) -> String {
    format!("s{place}")
}

/// A second as entries begin with it, so that texts sort as seconds do until the year 2286.
fn second(at: Timestamp) -> String {
    format!("{:010}", at.as_second())
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            until,
            id,
            taken,
            spent,
        } = self;
        write!(f, "{until:010} {id} {taken} {spent}")
    }
}

/// The text is no entry.
struct NoEntry;

impl FromStr for Entry {
    type Err = NoEntry;

    fn from_str(text: &str) -> Result<Self, NoEntry> {
        let parts: Vec<&str> = text.split(' ').collect();
        let [until, id, taken, spent] = parts[..] else {
            return Err(NoEntry);
        };
        Ok(Self {
            until: until.parse().map_err(|_| NoEntry)?,
            id: id.to_owned(),
            taken: taken.parse().map_err(|_| NoEntry)?,
            spent: spent.parse().map_err(|_| NoEntry)?,
        })
    }
}

impl Store {
    /// An account of the calls with a key in an hour.
    #[must_use]
    pub fn hour_account(&self, key: &KeyId, hour: Hour) -> Account {
        Account::new(self, hour_pk(key, hour), hour.end())
    }

    /// An account of the calls of a customer in a month.
    #[must_use]
    pub fn month_account(&self, customer: &CustomerId, month: Month) -> Account {
        Account::new(self, month_pk(customer, month), month.end())
    }

    /// Takes `wanted` units, or fewer where fewer are left, and says that `spent` of all that the
    /// account ever took are spent. Nothing is taken beyond `limit`.
    ///
    /// # Errors
    /// When the store does not answer. What was taken then is granted by the next claim.
    pub async fn claim(
        &self,
        account: &mut Account,
        wanted: u64,
        limit: Option<u64>,
        spent: u64,
    ) -> Result<Claimed, StoreError> {
        let mut units = match limit {
            Some(0) => return Ok(Claimed::Full),
            Some(limit) if limit < wanted => 1,
            _ => wanted,
        };
        for _ in 0..TRIES {
            let now = self.clock.now();
            let after = account.after_claim(units, spent, now);
            let earlier = account.unanswered;
            account.unanswered = Some(spent);
            let written = self.take(account, units, limit, &after, now).await?;
            account.unanswered = earlier;
            let seen = match written {
                Ok(used) => {
                    account.stand_at(after);
                    return Ok(Claimed::Granted { units, used });
                }
                Err(item) => account.learn(self, &item, now)?,
            };
            let used = match seen {
                Seen::Taken { units, used } => return Ok(Claimed::Granted { units, used }),
                Seen::Used(used) => used,
            };
            match limit.map(|limit| limit.saturating_sub(used)) {
                Some(0) => return Ok(Claimed::Full),
                // Others are as close to the limit, so nobody takes more than it needs now.
                Some(left) if left < units => units = 1,
                _ => {}
            }
        }
        Err(StoreError::contended(TAKING))
    }

    /// Writes the claim that leaves the account at `after`: the count with it, or the item that
    /// refused it.
    async fn take(
        &self,
        account: &Account,
        units: u64,
        limit: Option<u64>,
        after: &Entry,
        now: Timestamp,
    ) -> Result<Result<u64, Item>, StoreError> {
        let mut request = self
            .update(account)
            .update_expression(
                "SET used = if_not_exists(used, :none) + :units, \
                 spent = if_not_exists(spent, if_not_exists(used, :none)) + :newly_spent, \
                 expires = :expires, #place = :after",
            )
            .expression_attribute_values(":none", n(0))
            .expression_attribute_values(":units", n(units))
            .expression_attribute_values(":newly_spent", account.newly_spent(after.spent))
            .expression_attribute_values(":expires", account.expires.clone())
            .expression_attribute_values(":after", s(after.to_string()))
            .return_values(ReturnValue::UpdatedNew);
        let in_place = match &account.stands {
            // Where it was last seen: the write has not taken effect yet, nor has an earlier one
            // whose answer was lost, and nobody has taken the account for a dead one.
            Some(entry) => {
                request = request.expression_attribute_values(":before", s(entry.to_string()));
                "#place = :before"
            }
            // Nobody's: never used, or past its time. A write that arrives late finds its own
            // entry there, or a later one.
            None => {
                request = request.expression_attribute_values(":now", s(second(now)));
                "(attribute_not_exists(#place) OR #place < :now)"
            }
        };
        request = match limit {
            None => request.condition_expression(in_place),
            Some(limit) => request
                // The first claim of a window finds no counter. After that the sum must stay
                // within the limit at the instant of the write, whoever else takes units.
                .condition_expression(format!(
                    "{in_place} AND (attribute_not_exists(used) OR used <= :room)"
                ))
                .expression_attribute_values(":room", n(limit.saturating_sub(units))),
        };
        match request.send().await {
            Ok(updated) => {
                let counter = updated.attributes.unwrap_or_default();
                Reader::new("counter", &counter).number(attr::USED).map(Ok)
            }
            Err(error) => refusing_item(TAKING, error).map(Err),
        }
    }

    /// Ends the account and begins another: gives back `left` units, and says that `spent` of all
    /// that it ever took were spent. Where the account has been given up for dead meanwhile, they
    /// stay taken.
    ///
    /// # Errors
    /// When the store does not answer. Whether they are given back is then unknown.
    pub async fn give_back(
        &self,
        account: &mut Account,
        left: u64,
        spent: u64,
    ) -> Result<(), StoreError> {
        let ended = self.end(account, left, spent).await;
        account.id = self.entropy.with(|rng| random_base62(rng, ID_LEN));
        account.stands = None;
        account.reported = 0;
        account.unanswered = None;
        ended
    }

    async fn end(&self, account: &mut Account, left: u64, spent: u64) -> Result<(), StoreError> {
        let mut left = left;
        for _ in 0..TRIES {
            let before = match &account.stands {
                Some(entry) => entry.to_string(),
                // What is nowhere is refused, and shows whether the claim did take effect.
                None if account.unanswered.is_some() => String::new(),
                None => return Ok(()),
            };
            let now = self.clock.now();
            // What sorts after every claim of this account that may still arrive keeps it out.
            let free_from = now.saturating_add(ONE_UNIT_KEPT).unwrap_or(now);
            let written = self
                .update(account)
                .update_expression(
                    "SET used = used - :left, spent = spent + :newly_spent, #place = :free_from",
                )
                // Where it was last seen: the write has not taken effect yet, nor has a claim
                // whose answer was lost, and nobody has taken the account for a dead one.
                .condition_expression("#place = :before")
                .expression_attribute_values(":before", s(before))
                .expression_attribute_values(":left", n(left))
                .expression_attribute_values(":newly_spent", account.newly_spent(spent))
                .expression_attribute_values(":free_from", s(second(free_from)))
                .send()
                .await;
            let Err(error) = written else { return Ok(()) };
            let item = refusing_item(GIVING_BACK, error)?;
            match account.learn(self, &item, now)? {
                Seen::Taken { units, .. } => left += units,
                Seen::Used(_) => return Ok(()),
            }
        }
        Err(StoreError::contended(GIVING_BACK))
    }

    fn update(&self, account: &Account) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(self.table(COUNTERS))
            .set_key(Some(item::key(&account.pk)))
            .expression_attribute_names("#place", place_name(account.place))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// The units of `customer` in `month`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn month_units(
        &self,
        customer: &CustomerId,
        month: Month,
    ) -> Result<Units, StoreError> {
        let found = self
            .client
            .get_item()
            .table_name(self.table(COUNTERS))
            .set_key(Some(item::key(month_pk(customer, month))))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::service("reading a counter", error))?;
        found.item.as_ref().map_or(Ok(Units::default()), read_units)
    }
}

/// The units of a counter.
pub(crate) fn read_units(item: &Item) -> Result<Units, StoreError> {
    let counter = Reader::new("counter", item);
    let taken = counter.number(attr::USED)?;
    // A release that counted calls one by one spent what it took.
    let spent = counter.opt_number(attr::SPENT)?.unwrap_or(taken);
    Ok(Units { taken, spent })
}

pub(crate) fn hour_pk(key: &KeyId, hour: Hour) -> String {
    format!("HOUR#{key}#{hour}")
}

fn month_pk(customer: &CustomerId, month: Month) -> String {
    format!("MONTH#{customer}#{month}")
}

/// The item whose state refused a write, if that is what the error says.
fn refusing_item<R>(
    operation: &'static str,
    error: SdkError<UpdateItemError, R>,
) -> Result<Item, StoreError>
where
    R: fmt::Debug + Send + Sync + 'static,
{
    match error.as_service_error() {
        Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
            Ok(refused.item().cloned().unwrap_or_default())
        }
        _ => Err(StoreError::service(operation, error)),
    }
}
