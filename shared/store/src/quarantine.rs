//! The quarantine: what could not be counted, whole, with the reasons.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tollgate_domain::key::hex;

use crate::Store;
use crate::body::{Compressor, is_piece, read_body};
use crate::error::StoreError;
use crate::item::{Item, Reader, keys, n, s, t};
use crate::schema::{QUARANTINE, attr};
use crate::usage::{EntryPart, entry_pk, part_sk};

/// A record that cannot be counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRecord {
    /// Its place in the entry, from 0.
    pub index: usize,
    /// Why.
    pub reason: String,
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

/// The item, but for its body, that sets aside what is wrong with an entry.
pub(crate) fn refused_of(entry: &EntryPart<'_>, sk: String) -> Item {
    let mut item = keys(entry_pk(entry.source, entry.id), sk);
    item.insert("customer".into(), s(entry.customer.as_str()));
    item.insert("refused".into(), reasons(entry.refused));
    item.insert("received_at".into(), t(entry.received_at));
    item
}

impl Store {
    /// Sets aside an entry whose identity another one has taken.
    ///
    /// # Errors
    /// When the store does not answer; it may then have been set aside, and can be again.
    pub async fn quarantine_conflict(&self, entry: &EntryPart<'_>) -> Result<(), StoreError> {
        let item = refused_of(entry, format!("CONFLICT#{}", entry.digest()));
        self.quarantine(item, entry.body).await
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
        item.insert("received_at".into(), t(received_at));
        self.quarantine(item, body).await
    }

    async fn quarantine(&self, item: Item, body: &[u8]) -> Result<(), StoreError> {
        let (head, pieces) = Compressor::new().compress(body)?.put(QUARANTINE, item);
        // Absent: the key has a digest of what is set aside, so a repeat has nothing to add, and must
        // not undo what was done with the first. The pieces change together with the head.
        let mut actions = vec![head.when("attribute_not_exists(pk)")];
        actions.extend(pieces);
        self.transact("quarantining", actions).await?;
        Ok(())
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
        let items = self.query_all(
            "reading the quarantine",
            QUARANTINE,
            "pk = :pk",
            [(":pk", s(pk))],
        );
        let items = items.await?;
        let mut bodies: Vec<&[Item]> = Vec::new();
        let mut from = 0;
        for at in 1..=items.len() {
            let is_next = match items.get(at) {
                Some(item) => !is_piece(Reader::new("quarantine", item).text(attr::SK)?),
                None => true,
            };
            if is_next {
                bodies.push(&items[from..at]);
                from = at;
            }
        }
        bodies
            .into_iter()
            .map(|items| {
                let head = Reader::new("quarantine", &items[0]);
                Ok(Quarantined {
                    refused: read_reasons(&items[0])?,
                    body: read_body("quarantine", items)?,
                    received_at: head.parsed("received_at")?,
                })
            })
            .collect()
    }
}
