//! Lists of the API, a page at a time.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::client::StripeClient;
use crate::error::{StripeError, Unavailable, UnavailableCause};
use crate::request::ApiRequest;

/// Maximum number of objects that Stripe returns in a page.
const MAX_PAGE_SIZE: u8 = 100;
/// Default maximum number of pages that are read of one list.
const DEFAULT_MAX_PAGES: u32 = 100;

/// Object of a list, which knows the cursor that continues after it.
pub(crate) trait Listed: DeserializeOwned + Send {
    /// Returns the id.
    fn cursor(&self) -> &str;
}

/// One page of a list, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// Objects of the page.
    pub items: Vec<T>,
    /// Whether there are further objects.
    pub has_more: bool,
}

/// Page as Stripe writes it.
#[derive(Deserialize)]
struct RawPage<T> {
    data: Vec<T>,
    has_more: bool,
}

/// Pages of a list, newest first, each read when it is asked for. A list of more than a maximum of pages
/// ends in an error, so that a part of a list is never taken for all of it.
#[must_use = "pages are read when they are asked for"]
pub struct Pages<T> {
    client: StripeClient,
    request: ApiRequest,
    page_size: u8,
    max_pages: u32,
    read: u32,
    after: Option<String>,
    ended: bool,
    of: PhantomData<fn() -> T>,
}

impl<T> Pages<T> {
    pub(crate) fn new(client: &StripeClient, request: ApiRequest) -> Self {
        Self {
            client: client.clone(),
            request,
            page_size: MAX_PAGE_SIZE,
            max_pages: DEFAULT_MAX_PAGES,
            read: 0,
            after: None,
            ended: false,
            of: PhantomData,
        }
    }

    /// Sets the number of objects in a page, 1 to 100. The default is 100.
    pub fn page_size(mut self, size: u8) -> Self {
        self.page_size = size.clamp(1, MAX_PAGE_SIZE);
        self
    }

    /// Sets the maximum number of pages, at least 1. The default is 100.
    pub fn max_pages(mut self, pages: u32) -> Self {
        self.max_pages = pages.max(1);
        self
    }

    /// Continues a list after the object with this id.
    pub fn after(mut self, id: &str) -> Self {
        self.after = Some(id.to_owned());
        self
    }
}

#[expect(private_bounds, reason = "only objects of this crate are listed")]
impl<T: Listed> Pages<T> {
    /// Reads the next page. Returns `None` after the last one.
    ///
    /// # Errors
    /// When the page cannot be read, or the list has more pages than the maximum. The same page may then be
    /// asked for again.
    pub async fn next_page(&mut self) -> Result<Option<Page<T>>, StripeError> {
        if self.ended {
            return Ok(None);
        }
        if self.read >= self.max_pages {
            return Err(too_long(self.max_pages));
        }
        let mut request = self.request.clone();
        request.form.add("limit", self.page_size);
        request
            .form
            .add_some("starting_after", self.after.as_deref());
        let page: RawPage<T> = self.client.call(&request).await?;
        self.read += 1;
        match page.data.last() {
            Some(last) if page.has_more => self.after = Some(last.cursor().to_owned()),
            // Without an object there is nothing to continue after: more of the list cannot be read.
            None if page.has_more => return Err(too_long(self.read)),
            _ => self.ended = true,
        }
        Ok(Some(Page {
            items: page.data,
            has_more: page.has_more,
        }))
    }

    /// Reads the list to its end.
    ///
    /// # Errors
    /// When a page cannot be read, or the list has more pages than the maximum.
    pub async fn all(mut self) -> Result<Vec<T>, StripeError> {
        let mut items = Vec::new();
        while let Some(page) = self.next_page().await? {
            items.extend(page.items);
        }
        Ok(items)
    }
}

fn too_long(pages: u32) -> StripeError {
    StripeError::Unavailable(Unavailable {
        cause: UnavailableCause::ListTooLong(pages),
        retry_after: None,
        request_id: None,
        attempts: 0,
    })
}

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Pages");
        debug
            .field("route", &self.request.route)
            .field("read", &self.read);
        debug.finish_non_exhaustive()
    }
}
