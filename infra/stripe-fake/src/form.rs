//! Form-encoded parameters with names in brackets, such as `items[0][price]=price_1`.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// Parameters of a request, or of one level of it, in the order sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Params(Vec<(String, Param)>);

/// Value of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Param {
    Text(String),
    Nested(Params),
}

impl Params {
    /// Parses a query or a form body. A name that is sent twice has its last value.
    pub(crate) fn parse(encoded: &str) -> Self {
        let mut params = Self::default();
        for pair in encoded.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name);
            let (first, rest) = name.split_once('[').unwrap_or((&name, ""));
            let below: Vec<&str> = match rest {
                "" => Vec::new(),
                rest => rest.trim_end_matches(']').split("][").collect(),
            };
            params.insert(first, &below, decode(value));
        }
        params
    }

    fn insert(&mut self, name: &str, below: &[&str], text: String) {
        // `a[]=1&a[]=2` is a list.
        let index = self.0.len().to_string();
        let name = if name.is_empty() { &index } else { name };
        let at = self.0.iter().position(|(known, _)| known == name);
        let at = at.unwrap_or_else(|| {
            let empty = Param::Nested(Self::default());
            self.0.push((name.to_owned(), empty));
            self.0.len() - 1
        });
        let param = &mut self.0[at].1;
        let Some((first, below)) = below.split_first() else {
            *param = Param::Text(text);
            return;
        };
        if let Param::Text(_) = param {
            *param = Param::Nested(Self::default());
        }
        if let Param::Nested(params) = param {
            params.insert(first, below, text);
        }
    }

    /// Iterates over names and values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.0.iter().map(|(name, param)| (name.as_str(), param))
    }

    /// Returns a parameter by its path, such as `recurring.interval`.
    pub(crate) fn get(&self, path: &str) -> Option<&Param> {
        let (first, rest) = match path.split_once('.') {
            Some((first, rest)) => (first, Some(rest)),
            None => (path, None),
        };
        let (_, param) = self.0.iter().find(|(name, _)| name == first)?;
        match (param, rest) {
            (param, None) => Some(param),
            (Param::Nested(params), Some(rest)) => params.get(rest),
            (Param::Text(_), Some(_)) => None,
        }
    }

    /// Returns a text, which may be empty.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        match self.get(path)? {
            Param::Text(text) => Some(text),
            Param::Nested(_) => None,
        }
    }

    /// Returns a text that is not empty.
    pub(crate) fn non_empty(&self, path: &str) -> Option<&str> {
        self.text(path).filter(|text| !text.is_empty())
    }

    /// Returns an integer. The types of parameters are checked before.
    pub(crate) fn integer(&self, path: &str) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    /// Returns a truth value. The types of parameters are checked before.
    pub(crate) fn boolean(&self, path: &str) -> Option<bool> {
        self.text(path).map(|text| text == "true")
    }

    /// Returns the parameters below a name.
    pub(crate) fn nested(&self, path: &str) -> Option<&Self> {
        match self.get(path)? {
            Param::Nested(params) => Some(params),
            Param::Text(_) => None,
        }
    }

    /// Returns the members of a list of objects.
    pub(crate) fn objects(&self, path: &str) -> Vec<&Self> {
        let members = self.nested(path).into_iter().flat_map(Self::iter);
        let objects = members.filter_map(|(_, param)| match param {
            Param::Nested(params) => Some(params),
            Param::Text(_) => None,
        });
        objects.collect()
    }

    /// Returns the members of a list of texts.
    pub(crate) fn texts(&self, path: &str) -> Vec<&str> {
        let members = self.nested(path).into_iter().flat_map(Self::iter);
        let texts = members.filter_map(|(_, param)| match param {
            Param::Text(text) => Some(text.as_str()),
            Param::Nested(_) => None,
        });
        texts.collect()
    }

    /// Returns the parameters as JSON, for objects that are stored as they were sent.
    pub(crate) fn to_json(&self) -> Value {
        let members = self.iter().map(|(name, param)| {
            let value = match param {
                Param::Text(text) => Value::from(text.as_str()),
                Param::Nested(params) => params.to_json(),
            };
            (name.to_owned(), value)
        });
        Value::Object(Map::from_iter(members))
    }

    /// Returns a text that is equal for equal parameters, in whatever order they were sent.
    pub(crate) fn canonical(&self) -> String {
        let mut pairs = Vec::new();
        self.flatten(&mut String::new(), &mut pairs);
        pairs.sort_unstable();
        pairs.join("\n")
    }

    fn flatten(&self, path: &mut String, pairs: &mut Vec<String>) {
        for (name, param) in self.iter() {
            let length = path.len();
            let _ = write!(path, "[{name}]");
            match param {
                Param::Text(text) => pairs.push(format!("{path}={text}")),
                Param::Nested(params) => params.flatten(path, pairs),
            }
            path.truncate(length);
        }
    }
}

fn decode(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(encoded: &str, expected: Value) {
        assert_eq!(Params::parse(encoded).to_json(), expected, "{encoded}");
    }

    #[test]
    fn names_in_brackets_are_nested() {
        check("", json!({}));
        check("a=1&b=", json!({ "a": "1", "b": "" }));
        check("a=x+y%26%C3%A9", json!({ "a": "x y&é" }));
        check("m[k]=v&m[l]=w", json!({ "m": { "k": "v", "l": "w" } }));
        check("m%5Bk%5D=v", json!({ "m": { "k": "v" } }));
        check("e[]=a&e[]=b", json!({ "e": { "0": "a", "1": "b" } }));
        check(
            "items[0][price]=p&items[0][quantity]=2&items[1][price]=q",
            json!({ "items": { "0": { "price": "p", "quantity": "2" }, "1": { "price": "q" } } }),
        );
        check("m[]=1", json!({ "m": { "0": "1" } }));
        check("m=1&m[k]=v", json!({ "m": { "k": "v" } }));
    }

    #[test]
    fn the_canonical_text_ignores_the_order() {
        let canonical = |encoded| Params::parse(encoded).canonical();
        assert_eq!(canonical("a=1&m[x]=2"), canonical("m[x]=2&a=1"));
        assert_ne!(canonical("a=1"), canonical("a=2"));
        assert_ne!(canonical("a=1"), canonical("a=1&b="));
    }
}
