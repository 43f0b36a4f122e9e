//! Idempotency keys of creating requests.

use jiff::{SignedDuration, Timestamp};
use tollgate_domain::idempotency::Idempotency;

use crate::error::StoreError;
use crate::item::{Item, Reader, s, ttl};
use crate::schema::{REGISTRY, attr};
use crate::transaction::{Action, ConditionResult};
use crate::{Store, item};

/// Time for which a creating request can be repeated under its idempotency key.
const IDEMPOTENCY_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// Outcome of a creating request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateOutcome<T> {
    /// Created by this request.
    New,
    /// Created by an earlier request under the same idempotency key.
    Replayed(T),
    /// The idempotency key was used for another request.
    KeyReused,
    /// The customer of the key does not exist, or is erased.
    NoCustomer,
    /// The id, prefix or digest is already taken by something else.
    Taken,
}

fn pk(request: &Idempotency) -> String {
    format!("IDEMPOTENCY#{}#{}", request.scope, request.key)
}

/// Returns the put of the idempotency item, which refers to the created item's id `made`.
pub(crate) fn put(request: &Idempotency, made: &str, now: Timestamp) -> Action {
    let expires = now.saturating_add(IDEMPOTENCY_KEPT).unwrap_or(now);
    let mut item = item::key(pk(request));
    item.insert("request".into(), s(&request.request));
    item.insert("made".into(), s(made));
    item.insert(attr::EXPIRES.into(), ttl(expires));
    Action::put(REGISTRY, item)
        // Absent: the first request under this key. Or expired, which counts as absent: TTL
        // deletes days late.
        .when("attribute_not_exists(pk) OR expires <= :now")
        .value(":now", ttl(now))
}

/// Earlier use of an idempotency key.
pub(crate) enum EarlierUse {
    /// A repetition: the same request created the item with this id.
    SameRequest(String),
    /// Another request used the key.
    OtherRequest,
}

/// Returns the earlier use of the key because of which the idempotency item was not put, if it was one.
pub(crate) fn earlier_use(
    request: &Idempotency,
    result: &ConditionResult,
) -> Result<Option<EarlierUse>, StoreError> {
    let item = result.item();
    item.map(|item| read_use(request, item)).transpose()
}

fn read_use(request: &Idempotency, item: &Item) -> Result<EarlierUse, StoreError> {
    let item = Reader::new("idempotency", item);
    if item.text("request")? == request.request {
        Ok(EarlierUse::SameRequest(item.text("made")?.to_owned()))
    } else {
        Ok(EarlierUse::OtherRequest)
    }
}

/// Returns the error for an idempotency item that refers to nothing that exists.
pub(crate) fn corrupt() -> StoreError {
    StoreError::corrupt("idempotency", "made")
}

impl Store {
    /// Reads the earlier use of the idempotency key, if there was one.
    pub(crate) async fn find_earlier_use(
        &self,
        request: &Idempotency,
    ) -> Result<Option<EarlierUse>, StoreError> {
        let item = self.registry_item(pk(request), "finding an earlier request");
        let Some(item) = item.await? else {
            return Ok(None);
        };
        // As in the condition of the put: an expired item counts as absent.
        let expires = Reader::new("idempotency", &item).number(attr::EXPIRES)?;
        let now = u64::try_from(self.clock.now().as_second()).unwrap_or(0);
        match now < expires {
            true => read_use(request, &item).map(Some),
            false => Ok(None),
        }
    }
}
