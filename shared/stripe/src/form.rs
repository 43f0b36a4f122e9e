//! Form encoding of parameters, with members of members in brackets: `period[start]=1730419200`.

use std::fmt::{Display, Write};

use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything except the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Parameters of a request, in the order in which they were added. All attempts of a call send the same
/// bytes: Stripe rejects an idempotency key whose parameters have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Form(String);

impl Form {
    /// Adds a parameter. `name` is a constant of this crate, brackets included.
    pub(crate) fn add(&mut self, name: &str, value: impl Display) {
        self.separate();
        self.0.push_str(name);
        self.push_value(value);
    }

    /// Adds a parameter if there is a value.
    pub(crate) fn add_some(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// Adds a time, in whole seconds.
    pub(crate) fn add_time(&mut self, name: &str, time: Option<Timestamp>) {
        self.add_some(name, time.map(Timestamp::as_second));
    }

    /// Adds members of `name`, whose own names are data.
    pub(crate) fn add_map(&mut self, name: &str, members: &[(&str, &str)]) {
        for (member, value) in members {
            self.separate();
            self.0.push_str(name);
            self.0.push('[');
            self.0.extend(utf8_percent_encode(member, RESERVED));
            self.0.push(']');
            self.push_value(value);
        }
    }

    /// Returns the encoded parameters.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn separate(&mut self) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
    }

    fn push_value(&mut self, value: impl Display) {
        self.0.push('=');
        // Writing to a string does not fail.
        let _ = write!(Encoder(&mut self.0), "{value}");
    }
}

/// Writer that percent-encodes.
struct Encoder<'a>(&'a mut String);

impl Write for Encoder<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend(utf8_percent_encode(text, RESERVED));
        Ok(())
    }
}

/// Encodes an id as one segment of a path.
pub(crate) fn segment(id: &str) -> impl Display + '_ {
    utf8_percent_encode(id, RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_encoded_in_the_order_in_which_they_were_added() {
        let check = |add: fn(&mut Form), expected: &str| {
            let mut form = Form::default();
            add(&mut form);
            assert_eq!(form.as_str(), expected);
        };
        check(|_| (), "");
        check(|form| form.add("amount", -12), "amount=-12");
        check(
            |form| {
                form.add("period[start]", 1);
                form.add("period[end]", 2);
                form.add("customer", "cus_1");
            },
            "period[start]=1&period[end]=2&customer=cus_1",
        );
        check(
            |form| form.add("description", "1,234 calls, 1–15 Nov & more=100%"),
            "description=1%2C234%20calls%2C%201%E2%80%9315%20Nov%20%26%20more%3D100%25",
        );
        check(
            |form| form.add("success_url", "https://a.example/?s={CHECKOUT_SESSION_ID}"),
            "success_url=https%3A%2F%2Fa.example%2F%3Fs%3D%7BCHECKOUT_SESSION_ID%7D",
        );
        check(
            |form| form.add_map("metadata", &[("a]&b", "[1]"), ("c", "")]),
            "metadata[a%5D%26b]=%5B1%5D&metadata[c]=",
        );
        check(|form| form.add_some("email", None::<&str>), "");
        check(
            |form| form.add_time("created[gte]", Timestamp::from_second(1_730_419_200).ok()),
            "created[gte]=1730419200",
        );
    }

    #[test]
    fn an_id_is_one_segment() {
        assert_eq!(segment("gold/2?x").to_string(), "gold%2F2%3Fx");
    }
}
