//! Reading requests, and naming what cannot be read.

use std::fmt;
use std::marker::PhantomData;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::Problem;

/// The most bytes a body may have.
pub const MAX_BODY: usize = 1024 * 1024;

/// A JSON body. Anything else is a 400 that names the field, or a 413.
#[derive(Debug, Clone)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let body: Body = request.into_body();
        let bytes = match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(Problem::body_too_large()),
            Err(_) => return Err(Problem::bad_request("The body ended early.")),
        };
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| Problem::bad_request("The body is not UTF-8 text."))?;
        let mut json = serde_json::Deserializer::from_str(text);
        let body = serde_path_to_error::deserialize(&mut json);
        let Object(value) = body.map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            let problem = Problem::bad_request(format!("In the JSON body: {inner}."));
            match path.as_str() {
                // What is not JSON has a place of no name.
                path if path == "." || path.ends_with('?') => problem,
                path => problem.with("field", path),
            }
        })?;
        json.end()
            .map_err(|error| Problem::bad_request(format!("After the JSON body: {error}.")))?;
        Ok(Self(value))
    }
}

/// The query's parameters. A wrong or unknown one is a 400 that says so.
#[derive(Debug, Clone)]
pub struct QueryParams<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => {
                let text = rejection.body_text();
                let reason = text
                    .strip_prefix("Failed to deserialize query string: ")
                    .unwrap_or(&text);
                Err(Problem::bad_request(format!("In the query: {reason}.")))
            }
        }
    }
}

/// A query without parameters. Any is a 400 that says so: one that was meant for the body would
/// otherwise be passed over in silence.
#[derive(Debug, Clone, Copy)]
pub struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct None {}

        let QueryParams(None {}) = QueryParams::from_request_parts(parts, state).await?;
        Ok(Self)
    }
}

/// The one parameter of the path. One that names nothing of its kind is a 404, for there can be no
/// such thing.
#[derive(Debug, Clone)]
pub struct PathParam<T>(pub T);

impl<S: Send + Sync, T: std::str::FromStr + Send> FromRequestParts<S> for PathParam<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let not_found = || Problem::not_found("There is nothing of that name.");
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| not_found())?;
        text.parse().map(Self).map_err(|_| not_found())
    }
}

/// A JSON object, and nothing else: for a struct alone, serde would also take a list of its fields
/// in their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members)).map(Object)
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// For fields of a merge patch (RFC 7396): absent leaves, `null` removes, a value sets.
///
/// # Errors
/// When the value is none of `T`.
pub fn nullable<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// The `enabled` of a merge patch. It is never nothing, so `null` cannot make it so.
///
/// # Errors
/// For `null`.
pub fn check_enabled(enabled: Option<bool>) -> Result<bool, Problem> {
    enabled.ok_or_else(|| {
        let detail = "enabled is true or false.";
        Problem::unprocessable(detail).with("field", "enabled")
    })
}
