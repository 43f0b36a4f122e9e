//! Tables of objects in the order of their creation, and Stripe's lists of them.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::form::{Param, Params};

/// Stored object.
pub(crate) trait Row {
    /// Name of the object in errors, such as `customer`.
    const WHAT: &'static str;

    fn id(&self) -> &str;

    /// Customer by which lists find it.
    fn customer(&self) -> Option<&str> {
        None
    }

    fn is_deleted(&self) -> bool {
        false
    }
}

/// Objects of one kind.
pub(crate) struct Table<T> {
    rows: Vec<T>,
    by_id: HashMap<String, usize>,
    by_customer: HashMap<String, Vec<usize>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            by_id: HashMap::new(),
            by_customer: HashMap::new(),
        }
    }
}

impl<T: Row> Table<T> {
    /// Inserts an object. Its customer does not change afterwards.
    pub(crate) fn insert(&mut self, row: T) {
        let at = self.rows.len();
        self.by_id.insert(row.id().to_owned(), at);
        if let Some(customer) = row.customer() {
            let of_customer = self.by_customer.entry(customer.to_owned());
            of_customer.or_default().push(at);
        }
        self.rows.push(row);
    }

    /// Returns an object, which may be deleted.
    pub(crate) fn get(&self, id: &str) -> Option<&T> {
        self.by_id.get(id).map(|at| &self.rows[*at])
    }

    /// Returns an object to change it.
    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.by_id.get(id).map(|at| &mut self.rows[*at])
    }

    /// Returns an object that is not deleted. `param` is the parameter that names it, or `id` if the path does.
    pub(crate) fn find(&self, id: &str, param: &str) -> Result<&T, ApiError> {
        let row = self.get(id).filter(|row| !row.is_deleted());
        row.ok_or_else(|| ApiError::missing(T::WHAT, id, param))
    }

    /// Returns an object that is not deleted, to change it.
    pub(crate) fn find_mut(&mut self, id: &str, param: &str) -> Result<&mut T, ApiError> {
        let row = self.get_mut(id).filter(|row| !row.is_deleted());
        row.ok_or_else(|| ApiError::missing(T::WHAT, id, param))
    }

    /// Iterates over all objects, from the oldest.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.rows.iter()
    }

    /// Iterates over a customer's objects, from the oldest.
    pub(crate) fn of_customer(&self, customer: &str) -> impl DoubleEndedIterator<Item = &T> {
        let positions = self.by_customer.get(customer).into_iter().flatten();
        positions.map(|at| &self.rows[*at])
    }

    /// Adds an object to a customer's, for one that was created without a customer.
    pub(crate) fn assign(&mut self, id: &str, customer: &str) {
        if let Some(at) = self.by_id.get(id) {
            let of_customer = self.by_customer.entry(customer.to_owned()).or_default();
            // In the order of creation.
            let before = of_customer.partition_point(|other| other < at);
            of_customer.insert(before, *at);
        }
    }

    /// Returns a page of a list, newest first, by `limit`, `starting_after` and `ending_before`.
    pub(crate) fn list(
        &self,
        params: &Params,
        url: &str,
        matches: impl Fn(&T) -> bool,
        render: impl Fn(&T) -> Value,
    ) -> Result<Value, ApiError> {
        let matches = |row: &&T| !row.is_deleted() && matches(row);
        let position = |param: &str| match params.text(param) {
            Some(id) => match self.by_id.get(id) {
                Some(at) => Ok(Some(*at)),
                None => Err(ApiError::missing(T::WHAT, id, param)),
            },
            None => Ok(None),
        };
        let limit = limit(params)?;
        let after = position("starting_after")?;
        let before = position("ending_before")?;
        if after.is_some() && before.is_some() {
            let message =
                "You may only specify one of these parameters: ending_before, starting_after.";
            return Err(ApiError::invalid(message));
        }
        let every: Vec<usize>;
        let positions = match params.text("customer") {
            Some(customer) => self
                .by_customer
                .get(customer)
                .map_or(&[][..], Vec::as_slice),
            None => {
                every = (0..self.rows.len()).collect();
                &every
            }
        };
        let rows = |at: &usize| &self.rows[*at];
        // One more than the page, which says whether there are more.
        let mut found: Vec<&T> = match before {
            Some(before) => {
                let newer = positions.iter().filter(|at| **at > before);
                newer.map(rows).filter(matches).take(limit + 1).collect()
            }
            None => {
                let older = positions
                    .iter()
                    .rev()
                    .filter(|at| after.is_none_or(|after| **at < after));
                older.map(rows).filter(matches).take(limit + 1).collect()
            }
        };
        let has_more = found.len() > limit;
        found.truncate(limit);
        if before.is_some() {
            found.reverse();
        }
        let data: Vec<Value> = found.into_iter().map(render).collect();
        Ok(json!({ "object": "list", "url": url, "has_more": has_more, "data": data }))
    }
}

/// Returns the size of a page.
pub(crate) fn limit(params: &Params) -> Result<usize, ApiError> {
    let limit = params.integer("limit").unwrap_or(10);
    let bound = match limit {
        ..1 => "greater than or equal to 1",
        1..=100 => return Ok(usize::try_from(limit).unwrap_or(10)),
        _ => "less than or equal to 100",
    };
    let message = format!("This value must be {bound} (it currently is '{limit}').");
    Err(ApiError::invalid(message)
        .with_code("parameter_invalid_integer")
        .with_param("limit"))
}

/// Returns whether a time is in the range of a parameter such as `created`, if that was sent.
pub(crate) fn in_range(params: &Params, name: &str, time: i64) -> bool {
    match params.get(name) {
        None => true,
        Some(Param::Text(exact)) => exact.parse() == Ok(time),
        Some(Param::Nested(bounds)) => {
            let holds = |bound: &str, holds: fn(&i64, &i64) -> bool| {
                bounds
                    .integer(bound)
                    .is_none_or(|bound| holds(&time, &bound))
            };
            holds("gt", i64::gt)
                && holds("gte", i64::ge)
                && holds("lt", i64::lt)
                && holds("lte", i64::le)
        }
    }
}
