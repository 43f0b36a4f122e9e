//! Claims on usage events, by which each part of one is counted once.
//!
//! A write first puts its claims into buckets, unconditionally, and then looks who else has claims on the same events. If
//! two attempts claim the same part, at least one sees the other: its look begins after the other's put was acknowledged.
//! An attempt counts a part only if every other one that it sees has not counted it and never will, which the markers say,
//! each of them written once. The proof and its limits are in `docs/adr/0038`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tollgate_domain::id::random_base62;
use uuid::{Uuid, Variant, Version};

use crate::Store;
use crate::error::StoreError;
use crate::item::{Item, Reader, b, keys, n, s, ttl};
use crate::log::LOG_KEPT;
use crate::query::concurrently;
use crate::schema::{USAGE_LOG, attr};
use crate::transaction::Action;

const CLAIMING: &str = "claiming usage events";

/// Span of the ids that share a bucket, in milliseconds.
const STEP_MS: u64 = 5_000;
/// Claims of a bucket at which it is closed. 2,000 usage events a second are half as many.
pub(crate) const MAX_CLAIMS: usize = 20_000;
/// Children of a closed bucket, as a power of two: most claims of a batch then have a child for themselves, so that few
/// levels hold any number of claims.
const CHILD_BITS: usize = 12;
/// Levels of buckets: as many as the digest of an identity has bits for.
const MAX_LEVEL: usize = 16;
/// Bytes of a stored claim.
pub(super) const CLAIM_BYTES: usize = 18;
/// Age at which an attempt without a marker is taken for ended. It is longer than a write takes; one that takes longer
/// finds that it was aborted.
const ABANDONED_AFTER: SignedDuration = SignedDuration::from_secs(20);
/// Time for which markers outlast their claims, so that clocks may differ and TTL may delete in any order.
const MARKER_KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Closed buckets that an instance remembers.
const MAX_REMEMBERED: usize = 10_000;

/// Sort key of the item that closes a bucket. It precedes those of claims.
const CLOSED: &str = "#CLOSED";
/// Condition on markers: the first one decides for ever.
const IS_FIRST: &str = "attribute_not_exists(pk)";
/// Sort key of items that are alone in their partition.
const ONLY: &str = "#";

/// Identity of a usage event: the digest of its source and id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Identity([u8; 32]);

impl Identity {
    /// Creates the identity of the event with this key ([`crate::event_part::event_pk`]).
    pub(super) fn of(event_pk: &str) -> Self {
        Self(Sha256::digest(event_pk).into())
    }

    /// Returns the bytes that a stored claim has of it. Within one bucket, two events practically never have the same.
    fn short(&self) -> [u8; 8] {
        first_eight(&self.0)
    }

    pub(super) fn to_hex(self) -> String {
        hex::encode(&self.0[..16])
    }

    /// Returns the number of the child that has the identity's claims, at this level.
    fn child(&self, level: usize) -> usize {
        let bits = (level * CHILD_BITS)..((level + 1) * CHILD_BITS);
        // From the end: claims have the beginning.
        let bit = |at: usize| usize::from(self.0[31 - at / 8] >> (at % 8) & 1);
        bits.fold(0, |child, at| child << 1 | bit(at))
    }
}

/// Returns the first eight bytes, or zeros for those that there are not.
pub(super) fn first_eight(bytes: &[u8]) -> [u8; 8] {
    let mut eight = [0; 8];
    for (to, from) in eight.iter_mut().zip(bytes) {
        *to = *from;
    }
    eight
}

/// A claim on a part of a usage event.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) identity: Identity,
    /// Bucket of the event, unless that is closed.
    pub(super) bucket: Arc<str>,
    /// Number of the part.
    pub(super) part: u8,
    /// Beginning of the digest of the event's content.
    pub(super) digest: [u8; 8],
}

/// Returns the bucket of the event with this identity and id: that of the id's own time if it is a UUID of version 7
/// (RFC 9562), so that the events of a batch share few buckets, or else one for the event alone.
pub(super) fn bucket(identity: &Identity, id: &str) -> String {
    match uuid_v7_ms(id) {
        Some(ms) => format!("#CLAIMS#{:x}", ms / STEP_MS),
        None => format!("#CLAIMS#{}", identity.to_hex()),
    }
}

/// Returns the Unix time of a UUID of version 7, in milliseconds.
pub(super) fn uuid_v7_ms(id: &str) -> Option<u64> {
    // In its usual form only: in another one, it is another id.
    let uuid = Uuid::try_parse(id).ok().filter(|_| id.len() == 36)?;
    let is_v7 =
        uuid.get_version() == Some(Version::SortRand) && uuid.get_variant() == Variant::RFC4122;
    is_v7.then(|| {
        let (ms, _) = uuid.as_u64_pair();
        ms >> 16
    })
}

/// Id of an attempt to count parts: its time, and randomness. Never used again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AttemptId(Arc<str>);

impl AttemptId {
    pub(super) fn draw(store: &Store) -> Self {
        let ms = u64::try_from(store.clock.now().as_millisecond()).unwrap_or(0);
        let random = store.entropy.with(|rng| random_base62(rng, 14));
        Self(format!("{ms:012x}{random}").into())
    }

    pub(super) fn transaction(&self, number: u8) -> TransactionId {
        TransactionId {
            attempt: self.clone(),
            number,
        }
    }

    fn began(&self) -> Option<Timestamp> {
        let ms = i64::from_str_radix(self.0.get(..12)?, 16).ok()?;
        Timestamp::from_millisecond(ms).ok()
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// One of the transactions of an attempt, whose marker says what it has counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TransactionId {
    pub(crate) attempt: AttemptId,
    pub(crate) number: u8,
}

impl TransactionId {
    /// Creates the id of a transaction by the text of its attempt's id.
    pub(crate) fn new(attempt: &str, number: u8) -> Self {
        Self {
            attempt: AttemptId(attempt.into()),
            number,
        }
    }

    fn key(&self) -> Item {
        keys(format!("#ATTEMPT#{}#{}", self.attempt.0, self.number), ONLY)
    }

    fn read(item: &Item) -> Result<Self, StoreError> {
        let item = Reader::new("marker", item);
        let key = item.text(attr::PK)?.strip_prefix("#ATTEMPT#");
        let read = key.and_then(|key| {
            let (attempt, number) = key.split_once('#')?;
            Some(Self::new(attempt, number.parse().ok()?))
        });
        read.ok_or_else(|| item.corrupt(attr::PK))
    }
}

/// Mark that decides for ever whether a transaction has counted its claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Marker {
    /// It has counted its claims, except those with these indexes in the attempt.
    Committed { except: BTreeSet<u16> },
    /// It has counted nothing, and never will.
    Aborted,
}

impl Marker {
    pub(super) fn read(item: &Item) -> Result<Self, StoreError> {
        let item = Reader::new("marker", item);
        match item.text("state")? {
            "aborted" => Ok(Self::Aborted),
            "committed" => {
                let except = match item.opt_bytes("except")? {
                    None => BTreeSet::new(),
                    Some(bytes) => bytes
                        .chunks_exact(2)
                        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
                        .collect(),
                };
                Ok(Self::Committed { except })
            }
            _ => Err(item.corrupt("state")),
        }
    }

    pub(crate) fn has_counted(&self, index: u16) -> bool {
        matches!(self, Self::Committed { except } if !except.contains(&index))
    }

    /// Returns the put of the marker in its transaction.
    pub(super) fn put(&self, id: &TransactionId, now: Timestamp) -> Action {
        Action::put(USAGE_LOG, self.item(id, now)).when(IS_FIRST)
    }

    fn item(&self, id: &TransactionId, now: Timestamp) -> Item {
        let kept_until = now.saturating_add(LOG_KEPT + MARKER_KEPT);
        let mut item = id.key();
        let state = match self {
            Self::Aborted => "aborted",
            Self::Committed { except } => {
                if !except.is_empty() {
                    let indexes = except.iter().flat_map(|index| index.to_be_bytes());
                    item.insert("except".into(), b(indexes.collect()));
                }
                // Absent where a release counted that did not sum up by dimensions.
                item.insert("dimensions".into(), AttributeValue::Bool(true));
                "committed"
            }
        };
        item.insert("state".into(), s(state));
        item.insert(attr::EXPIRES.into(), ttl(kept_until.unwrap_or(now)));
        item
    }
}

/// A claim of another attempt on the same usage event.
#[derive(Debug, Clone)]
pub(super) struct Rival {
    pub(super) transaction: TransactionId,
    /// Index of the claim in its attempt.
    pub(super) index: u16,
    pub(super) part: u8,
    pub(super) digest: [u8; 8],
}

impl Rival {
    /// Whether not both claims may be counted: they are on the same part, or on different events of the same identity.
    fn excludes(&self, claim: &Claim) -> bool {
        self.part == claim.part || self.digest != claim.digest
    }

    /// Whether the attempt is so old, or began before `alone_since`, that it is to be aborted if it has no marker.
    pub(super) fn is_abandoned(&self, now: Timestamp, alone_since: Timestamp) -> bool {
        let began = self.transaction.attempt.began();
        began.is_none_or(|began| began < alone_since || now.duration_since(began) > ABANDONED_AFTER)
    }
}

/// Closed buckets that this instance knows. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct ClosedBuckets(Arc<Mutex<HashSet<String>>>);

impl ClosedBuckets {
    fn contains(&self, bucket: &str) -> bool {
        let closed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        closed.contains(bucket)
    }

    fn insert(&self, bucket: &str) {
        let mut closed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if closed.len() >= MAX_REMEMBERED {
            closed.clear();
        }
        closed.insert(bucket.to_owned());
    }
}

impl fmt::Debug for ClosedBuckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClosedBuckets")
    }
}

fn child_of(bucket: &str, identity: &Identity, level: usize) -> String {
    format!("{bucket}/{:03x}", identity.child(level))
}

/// An attempt whose claims are put.
pub(super) struct Attempt {
    pub(super) id: AttemptId,
    /// Indexes of the claims in the attempt, in the order in which they were given.
    pub(super) indexes: Vec<u16>,
    /// Claims of others that exclude them, likewise.
    pub(super) rivals: Vec<Vec<Rival>>,
}

impl Store {
    /// Puts the claims of an attempt, each with the number of the transaction that is to count it, and then looks for others
    /// on the same events. There must be so few that one item has room for them.
    pub(super) async fn claim(
        &self,
        id: &AttemptId,
        claims: &[(Claim, u8)],
    ) -> Result<Attempt, StoreError> {
        let mut by_bucket: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, (claim, _)) in claims.iter().enumerate() {
            by_bucket
                .entry(self.open_bucket(claim))
                .or_default()
                .push(at);
        }
        let now = self.clock.now();
        let kept_until = now.saturating_add(LOG_KEPT).unwrap_or(now);
        let mut indexes = vec![0; claims.len()];
        let mut next: u16 = 0;
        let mut items = Vec::with_capacity(by_bucket.len());
        for (bucket, of_bucket) in by_bucket {
            let mut item = keys(bucket, id.as_str());
            item.insert("first".into(), n(next.into()));
            let mut bytes = Vec::with_capacity(of_bucket.len() * CLAIM_BYTES);
            for at in of_bucket {
                let (claim, transaction) = &claims[at];
                bytes.extend(claim.identity.short());
                bytes.extend([claim.part, *transaction]);
                bytes.extend(claim.digest);
                indexes[at] = next;
                next = next.wrapping_add(1);
            }
            item.insert("claims".into(), b(bytes));
            item.insert(attr::EXPIRES.into(), ttl(kept_until));
            items.push(item);
        }
        self.put_all(CLAIMING, USAGE_LOG, items).await?;
        // Strictly after the puts were acknowledged: whoever puts a claim later sees ours.
        let rivals = self
            .look(Some(id), claims.iter().map(|(claim, _)| claim))
            .await?;
        Ok(Attempt {
            id: id.clone(),
            indexes,
            rivals,
        })
    }

    /// Returns the bucket into which a claim is put.
    fn open_bucket(&self, claim: &Claim) -> String {
        let mut bucket = claim.bucket.to_string();
        let mut level = 0;
        while level < MAX_LEVEL && self.closed_buckets.contains(&bucket) {
            bucket = child_of(&bucket, &claim.identity, level);
            level += 1;
        }
        bucket
    }

    /// Looks for the claims of other attempts than `own` that exclude these, or, without one, for all on the same events.
    /// Reads consistently.
    pub(super) async fn look<'a>(
        &self,
        own: Option<&AttemptId>,
        claims: impl Iterator<Item = &'a Claim>,
    ) -> Result<Vec<Vec<Rival>>, StoreError> {
        let claims: Vec<&Claim> = claims.collect();
        let mut rivals = vec![Vec::new(); claims.len()];
        let mut level = 0;
        let mut buckets: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, claim) in claims.iter().enumerate() {
            buckets
                .entry(claim.bucket.to_string())
                .or_default()
                .push(at);
        }
        // A closed bucket is read, too: whoever did not know that it is closed has put claims there.
        while !buckets.is_empty() {
            let names = buckets.keys().cloned();
            let reads = names.map(|bucket| self.read_bucket(bucket)).collect();
            let read = concurrently(reads).await;
            let read: Vec<Vec<Item>> = read.into_iter().collect::<Result<_, _>>()?;
            let mut children: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            for ((bucket, of_bucket), items) in buckets.iter().zip(read) {
                let mut by_identity: HashMap<[u8; 8], Vec<usize>> = HashMap::new();
                for at in of_bucket {
                    let identity = claims[*at].identity.short();
                    by_identity.entry(identity).or_default().push(*at);
                }
                let mut is_closed = false;
                let mut count = 0;
                for item in &items {
                    let Some(put) = PutClaims::read(item, self.clock.now())? else {
                        is_closed |= is_closing(item)?;
                        continue;
                    };
                    count += put.bytes.len() / CLAIM_BYTES;
                    if own == Some(&put.attempt) {
                        continue;
                    }
                    for (offset, stored) in put.bytes.chunks_exact(CLAIM_BYTES).enumerate() {
                        for at in by_identity.get(&stored[..8]).into_iter().flatten() {
                            let rival = put.rival(offset, stored);
                            if own.is_none() || rival.excludes(claims[*at]) {
                                rivals[*at].push(rival);
                            }
                        }
                    }
                }
                if is_closed {
                    self.closed_buckets.insert(bucket);
                    for at in of_bucket {
                        let child = child_of(bucket, &claims[*at].identity, level);
                        children.entry(child).or_default().push(*at);
                    }
                } else if count > self.max_claims && level < MAX_LEVEL {
                    // If it fails, the next one to look closes it.
                    let _ = self.close_bucket(bucket).await;
                }
            }
            buckets = children;
            level += 1;
        }
        Ok(rivals)
    }

    async fn read_bucket(&self, bucket: String) -> Result<Vec<Item>, StoreError> {
        self.query_all(CLAIMING, USAGE_LOG, "pk = :pk", [(":pk", s(bucket))])
            .await
    }

    /// Closes a bucket. Whoever looks at it from now on looks at its children, too.
    async fn close_bucket(&self, bucket: &str) -> Result<(), StoreError> {
        // Never expires: its children may have claims for as long as there are ids of its time.
        let item = keys(bucket, CLOSED);
        self.put_all(CLAIMING, USAGE_LOG, vec![item]).await?;
        self.closed_buckets.insert(bucket);
        Ok(())
    }

    /// Reads the markers of these transactions.
    pub(crate) async fn markers(
        &self,
        of: impl IntoIterator<Item = TransactionId>,
    ) -> Result<HashMap<TransactionId, Marker>, StoreError> {
        let ids: BTreeSet<TransactionId> = of.into_iter().collect();
        let wanted = ids.iter().map(TransactionId::key).collect();
        let found = self.batch_get(CLAIMING, USAGE_LOG, wanted).await?;
        let markers = found.iter();
        let markers = markers.map(|item| Ok((TransactionId::read(item)?, Marker::read(item)?)));
        markers.collect()
    }

    /// Aborts a transaction that has no marker. Returns the marker that it has then.
    pub(super) async fn abort(&self, id: &TransactionId) -> Result<Marker, StoreError> {
        let item = Marker::Aborted.item(id, self.clock.now());
        let put = self
            .client
            .put_item()
            .table_name(self.table(USAGE_LOG))
            .set_item(Some(item))
            .condition_expression(IS_FIRST)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let Err(error) = put else {
            return Ok(Marker::Aborted);
        };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failed)) => {
                let found = failed.item.as_ref();
                let found = found.ok_or_else(|| StoreError::corrupt("marker", attr::PK))?;
                Marker::read(found)
            }
            _ => Err(StoreError::service(CLAIMING, error)),
        }
    }
}

/// Claims that an attempt has put into a bucket.
struct PutClaims<'a> {
    attempt: AttemptId,
    /// Index of the first.
    first: u16,
    bytes: &'a [u8],
}

impl<'a> PutClaims<'a> {
    /// Reads an item of a bucket: `None` if it has no claims, or has expired.
    fn read(item: &'a Item, now: Timestamp) -> Result<Option<Self>, StoreError> {
        let item = Reader::new("claims", item);
        let sort_key = item.text(attr::SK)?;
        if sort_key == CLOSED || has_expired(&item, now)? {
            return Ok(None);
        }
        Ok(Some(Self {
            attempt: AttemptId(sort_key.into()),
            first: u16::try_from(item.number("first")?).map_err(|_| item.corrupt("first"))?,
            bytes: item.bytes("claims")?,
        }))
    }

    fn rival(&self, offset: usize, stored: &[u8]) -> Rival {
        let index = u16::try_from(offset).unwrap_or(u16::MAX);
        Rival {
            transaction: TransactionId {
                attempt: self.attempt.clone(),
                number: stored[9],
            },
            index: self.first.wrapping_add(index),
            part: stored[8],
            digest: first_eight(&stored[10..]),
        }
    }
}

fn is_closing(item: &Item) -> Result<bool, StoreError> {
    Ok(Reader::new("claims", item).text(attr::SK)? == CLOSED)
}

/// Whether TTL may have deleted the item, or others that were written with it.
fn has_expired(item: &Reader<'_>, now: Timestamp) -> Result<bool, StoreError> {
    let expires = i64::try_from(item.number(attr::EXPIRES)?).unwrap_or(i64::MAX);
    Ok(expires <= now.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_uuid_of_version_7_is_read_and_no_other_id_has_one() {
        // RFC 9562, appendix A.6.
        let example = "017F22E2-79B0-7CC3-98C4-DC0C0C07398F";
        assert_eq!(uuid_v7_ms(example), Some(1_645_557_742_000));
        assert_eq!(uuid_v7_ms(&example.to_lowercase()), uuid_v7_ms(example));
        for other in [
            "",
            "e-1",
            "017F22E2-79B0-4CC3-98C4-DC0C0C07398F",
            "017F22E2-79B0-7CC3-C8C4-DC0C0C07398F",
            "017F22E279B07CC398C4DC0C0C07398F----",
            "017F22E2-79B0-7CC3-98C4-DC0C0C07398",
            "{017F22E2-79B0-7CC3-98C4-DC0C0C0739}",
            "017F22E2-79B0-7CC3-98C4-DC0C0C07398\u{e9}",
        ] {
            assert_eq!(uuid_v7_ms(other), None, "{other}");
        }
    }

    #[test]
    fn ids_of_a_few_seconds_share_a_bucket_and_others_have_their_own() {
        let of = |id: &str| bucket(&Identity::of(&format!("source#{id}")), id);
        let at = |ms: u64| {
            let hex = format!("{ms:012x}");
            of(&format!(
                "{}-{}-7000-8000-000000000000",
                &hex[..8],
                &hex[8..]
            ))
        };
        assert_eq!(at(1_795_341_600_000), at(1_795_341_604_999));
        assert_ne!(at(1_795_341_600_000), at(1_795_341_605_000));
        assert_ne!(of("e-1"), of("e-2"));
    }

    #[test]
    fn children_of_a_level_do_not_follow_from_those_of_another() {
        let identities: Vec<Identity> = (0..20_000)
            .map(|id| Identity::of(&format!("s#{id}")))
            .collect();
        let first = identities[0].child(0);
        let same = identities.iter().filter(|it| it.child(0) == first);
        let next: BTreeSet<usize> = same.clone().map(|it| it.child(1)).collect();
        assert!(same.count() < 20);
        assert!(next.len() > 1);
        assert!(
            identities
                .iter()
                .all(|it| it.child(MAX_LEVEL - 1) < 1 << CHILD_BITS)
        );
    }
}
