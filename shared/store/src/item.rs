//! DynamoDB items, read and written by attribute.
//!
//! Items are not mapped by serde: an item has attributes whose names are data (`billable#<plan>`, a lease
//! share's id), numbers whose sum may exceed their type, and an error must name the item and the attribute.

use std::collections::HashMap;
use std::str::FromStr;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;

use crate::error::StoreError;
use crate::schema::attr;

/// An item, or the values of an expression.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// DynamoDB's bounds on the bytes of keys.
pub(crate) const MAX_PK: usize = 2_048;
pub(crate) const MAX_SK: usize = 1_024;

/// Returns the key of an item in a table without a sort key.
pub(crate) fn key(pk: impl Into<String>) -> Item {
    HashMap::from([(attr::PK.to_owned(), s(pk))])
}

/// Returns the key of an item in a table with a sort key.
pub(crate) fn keys(pk: impl Into<String>, sk: impl Into<String>) -> Item {
    HashMap::from([(attr::PK.to_owned(), s(pk)), (attr::SK.to_owned(), s(sk))])
}

pub(crate) fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(crate) fn n(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(crate) fn signed(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(crate) fn b(bytes: Vec<u8>) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

/// Returns an instant in RFC 3339, always with three decimals, so that texts sort as instants do.
pub(crate) fn t(instant: Timestamp) -> AttributeValue {
    s(format!("{instant:.3}"))
}

/// Returns the Unix second of an instant, as TTL attributes hold it.
pub(crate) fn ttl(instant: Timestamp) -> AttributeValue {
    AttributeValue::N(instant.as_second().to_string())
}

/// Typed access to an item's attributes. Errors name the kind of item and the attribute.
pub(crate) struct Reader<'a> {
    kind: &'static str,
    item: &'a Item,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(kind: &'static str, item: &'a Item) -> Self {
        Self { kind, item }
    }

    pub(crate) fn corrupt(&self, attribute: &'static str) -> StoreError {
        StoreError::corrupt(self.kind, attribute)
    }

    pub(crate) fn opt_text(&self, attribute: &'static str) -> Result<Option<&'a str>, StoreError> {
        match self.item.get(attribute) {
            None => Ok(None),
            Some(AttributeValue::S(text)) => Ok(Some(text)),
            Some(_) => Err(self.corrupt(attribute)),
        }
    }

    pub(crate) fn text(&self, attribute: &'static str) -> Result<&'a str, StoreError> {
        self.opt_text(attribute)?
            .ok_or_else(|| self.corrupt(attribute))
    }

    /// Reads a text attribute and parses it.
    pub(crate) fn parsed<T: FromStr>(&self, attribute: &'static str) -> Result<T, StoreError> {
        self.opt_parsed(attribute)?
            .ok_or_else(|| self.corrupt(attribute))
    }

    pub(crate) fn opt_parsed<T: FromStr>(
        &self,
        attribute: &'static str,
    ) -> Result<Option<T>, StoreError> {
        self.opt_text(attribute)?
            .map(|text| text.parse().map_err(|_| self.corrupt(attribute)))
            .transpose()
    }

    fn opt_n<N: Whole>(&self, attribute: &'static str) -> Result<Option<N>, StoreError> {
        let number = self.item.get(attribute);
        let number = number.map(|value| whole(value).ok_or_else(|| self.corrupt(attribute)));
        number.transpose()
    }

    pub(crate) fn opt_number(&self, attribute: &'static str) -> Result<Option<u64>, StoreError> {
        self.opt_n(attribute)
    }

    pub(crate) fn opt_signed(&self, attribute: &'static str) -> Result<Option<i64>, StoreError> {
        self.opt_n(attribute)
    }

    pub(crate) fn number(&self, attribute: &'static str) -> Result<u64, StoreError> {
        self.opt_number(attribute)?
            .ok_or_else(|| self.corrupt(attribute))
    }

    /// Whether the item was created by the write with this id ([`attr::WRITTEN_BY`]).
    pub(crate) fn is_written_by(&self, write_id: &str) -> Result<bool, StoreError> {
        Ok(self.opt_text(attr::WRITTEN_BY)? == Some(write_id))
    }

    pub(crate) fn opt_bytes(
        &self,
        attribute: &'static str,
    ) -> Result<Option<&'a [u8]>, StoreError> {
        match self.item.get(attribute) {
            None => Ok(None),
            Some(AttributeValue::B(blob)) => Ok(Some(blob.as_ref())),
            Some(_) => Err(self.corrupt(attribute)),
        }
    }

    pub(crate) fn bytes(&self, attribute: &'static str) -> Result<&'a [u8], StoreError> {
        self.opt_bytes(attribute)?
            .ok_or_else(|| self.corrupt(attribute))
    }
}

/// An integer that can be stored. A sum that grows in the table can exceed the type's range; it is then
/// read as the type's largest value, as sums in memory saturate.
pub(crate) trait Whole: Sized {
    fn saturating(number: i128) -> Option<Self>;
}

impl Whole for u64 {
    fn saturating(number: i128) -> Option<Self> {
        let is_count = number >= 0;
        is_count.then(|| Self::try_from(number).unwrap_or(Self::MAX))
    }
}

impl Whole for i64 {
    fn saturating(number: i128) -> Option<Self> {
        let number = number.clamp(Self::MIN.into(), Self::MAX.into());
        Self::try_from(number).ok()
    }
}

pub(crate) fn whole<N: Whole>(value: &AttributeValue) -> Option<N> {
    let AttributeValue::N(number) = value else {
        return None;
    };
    N::saturating(number.parse().ok()?)
}
