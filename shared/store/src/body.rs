//! Bodies stored exactly as they arrived: compressed, and split over several items where one is too
//! small.
//!
//! The first item is the head, whose other attributes describe the body. The others have its key, with
//! `+1`, `+2` and so on after the sort key, and nothing but the bytes and the expiry. All are written
//! in one transaction.

use std::io::Read;

use aws_sdk_dynamodb::types::AttributeValue;
use flate2::read::GzDecoder;
use flate2::{Compress, Compression, FlushCompress, Status};

use crate::error::StoreError;
use crate::item::{Item, Reader, b, keys};
use crate::schema::{Table, attr};
use crate::transaction::Action;

/// Bytes of a body per item: DynamoDB's 400 KB, less room for the head's other attributes.
const PIECE: usize = 380_000;
/// The largest window that gzip knows.
const WINDOW_BITS: u8 = 15;
const COMPRESSING: &str = "compressing a body";

/// A compressed body.
#[derive(Debug, Clone)]
pub(crate) struct Body(Vec<u8>);

/// Compressor that is reused for one body after another: its working memory is larger than most of
/// them.
pub(crate) struct Compressor(Compress);

impl Compressor {
    pub(crate) fn new() -> Self {
        Self(Compress::new_gzip(Compression::default(), WINDOW_BITS))
    }

    pub(crate) fn compress(&mut self, body: &[u8]) -> Result<Body, StoreError> {
        self.0.reset();
        // Enough for the header and for incompressible input as a rule; it grows if it is not.
        let mut gzip = Vec::with_capacity(body.len() / 4 + 256);
        loop {
            let read = usize::try_from(self.0.total_in()).unwrap_or(usize::MAX);
            let rest = body.get(read..).unwrap_or_default();
            let status = self.0.compress_vec(rest, &mut gzip, FlushCompress::Finish);
            let status = status.map_err(|error| StoreError::request(COMPRESSING, error))?;
            if status == Status::StreamEnd {
                return Ok(Body(gzip));
            }
            gzip.reserve(gzip.capacity());
        }
    }
}

impl Body {
    /// Returns the number of items that store the body.
    pub(crate) fn items(&self) -> usize {
        self.0.len().div_ceil(PIECE)
    }

    /// Returns the compressed length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the puts of the body's items. The first is `head` with the beginning of the body.
    pub(crate) fn puts(&self, table: Table, head: Item) -> impl Iterator<Item = Action> {
        let items = self.in_items(head).into_iter();
        items.map(move |item| Action::put(table, item))
    }

    /// Returns the items that store the body. The first is `head` with the beginning of the body.
    pub(crate) fn in_items(&self, mut head: Item) -> Vec<Item> {
        let mut pieces = self.0.chunks(PIECE);
        let first = pieces.next().unwrap_or_default();
        head.insert("body".into(), b(first.to_vec()));
        let text = |name: &str| match head.get(name) {
            Some(AttributeValue::S(text)) => text.clone(),
            _ => String::new(),
        };
        let (pk, sk) = (text(attr::PK), text(attr::SK));
        let expires = head.get(attr::EXPIRES).cloned();
        let rest = pieces.enumerate().map(|(at, piece)| {
            let mut item = keys(&pk, format!("{sk}+{}", at + 1));
            item.insert("body".into(), b(piece.to_vec()));
            if let Some(expires) = &expires {
                item.insert(attr::EXPIRES.into(), expires.clone());
            }
            item
        });
        let rest: Vec<Item> = rest.collect();
        std::iter::once(head).chain(rest).collect()
    }
}

/// Whether the sort key is that of a further piece, and not of a head.
pub(crate) fn is_piece(sk: &str) -> bool {
    sk.contains('+')
}

/// Reads the body from its head and the pieces after it, in their order.
pub(crate) fn read_body<'a>(
    kind: &'static str,
    items: impl IntoIterator<Item = &'a Item>,
) -> Result<Vec<u8>, StoreError> {
    let mut gzip = Vec::new();
    for item in items {
        gzip.extend(Reader::new(kind, item).bytes("body")?);
    }
    let mut body = Vec::new();
    GzDecoder::new(&gzip[..])
        .read_to_end(&mut body)
        .map_err(|_| StoreError::corrupt(kind, "body"))?;
    Ok(body)
}
