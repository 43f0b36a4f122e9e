//! Extractors of bodies and parameters of requests, with a problem for invalid ones.

use std::error::Error;
use std::str::FromStr;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tollgate_api::json::Object;
use tollgate_api::problem::Member;
use tollgate_domain::name::is_name;

use crate::Problem;

/// Maximum size of a body, in bytes.
pub const MAX_BODY: usize = 1024 * 1024;

/// JSON body. Any other is rejected with a 400 that names the field, a 413 or a 415. The media type in
/// `Content-Type` is ignored, because `curl -d` sends that of a form.
#[derive(Debug, Clone)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        check_coding(request.headers())?;
        check_charset(request.headers())?;
        let text = read_text(request.into_body(), MAX_BODY, Problem::body_too_large).await?;
        let mut json = serde_json::Deserializer::from_str(&text);
        let body = serde_path_to_error::deserialize(&mut json);
        let Object(value) = body.map_err(|error| {
            let path = error.path().to_string();
            invalid_field("In the JSON body", &path, &error.into_inner().to_string())
        })?;
        json.end()
            .map_err(|error| Problem::bad_request(format!("After the JSON body: {error}.")))?;
        Ok(Self(value))
    }
}

/// Reads the text of a body of at most `max` bytes. Any other is rejected: with a 400, or with `too_large`.
///
/// # Errors
/// When the body is larger, incomplete, or not UTF-8.
pub async fn read_text(
    body: Body,
    max: usize,
    too_large: impl FnOnce() -> Problem,
) -> Result<String, Problem> {
    let bytes = match Limited::new(body, max).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(too_large()),
        Err(_) => return Err(Problem::bad_request("The body is incomplete.")),
    };
    let text = String::from_utf8(bytes.into());
    text.map_err(|_| Problem::bad_request("The body is not UTF-8 text."))
}

/// Creates a 400 for a field of the body or the query that is invalid according to serde.
fn invalid_field(location: &str, path: &str, reason: &str) -> Problem {
    // For a missing or duplicate field, serde's path is that of the object; the message has the name.
    let named = |prefix: &str| Some(reason.strip_prefix(prefix)?.split_once('`')?.0);
    let field = match path {
        "." => named("missing field `").or_else(|| named("duplicate field `")),
        // The path ends in `?` where the input is not JSON.
        path => Some(path).filter(|path| !path.ends_with('?')),
    };
    let reason = reword_for_callers(reason);
    let problem = Problem::bad_request(format!("{location}: {reason}."));
    match field {
        Some(field) => problem.with(Member::Field, field),
        None => problem,
    }
}

/// Replaces the Rust terms in messages of serde and the standard library.
fn reword_for_callers(reason: &str) -> String {
    const WORDS: [(&str, &str); 6] = [
        ("invalid digit found in string", "it is not a whole number"),
        (
            "cannot parse integer from empty string",
            "it is not a whole number",
        ),
        (
            "number too large to fit in target type",
            "it is too large a number",
        ),
        (
            "provided string was not `true` or `false`",
            "it is neither true nor false",
        ),
        ("expected i64", "expected a whole number"),
        ("expected a boolean", "expected true or false"),
    ];
    let words = WORDS.iter();
    words.fold(reason.to_owned(), |reason, (theirs, ours)| {
        reason.replace(theirs, ours)
    })
}

/// Returns the value of a header field that may occur once at most.
///
/// # Errors
/// When it occurs more than once, so that the intended value is ambiguous.
pub(crate) fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    match values.next() {
        None => Ok(value),
        Some(_) => Err(Problem::bad_request(format!(
            "The header field {name} occurs more than once."
        ))),
    }
}

/// Rejects a body in a content coding other than gzip. The gateway has already decompressed gzip, within
/// its own limits, before it invoked the function, and has left the header field unchanged
/// (<https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-make-request-with-compressed-payload.html>).
fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let fields = headers.get_all(CONTENT_ENCODING).iter();
    let codings = fields.flat_map(|field| field.as_bytes().split(|b| *b == b','));
    let mut codings = codings
        .map(<[u8]>::trim_ascii)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"));
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if is_gzip(coding) => Ok(()),
        _ => {
            let detail = "A body may be compressed with gzip only.";
            let problem = Problem::unsupported_media_type(detail);
            Err(problem.with_header(ACCEPT_ENCODING, HeaderValue::from_static("gzip")))
        }
    }
}

/// Whether a value of `Content-Encoding` is gzip (RFC 9110, section 8.4.1.3).
#[must_use]
pub fn is_gzip(coding: &[u8]) -> bool {
    coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip")
}

/// Rejects a body in another charset than UTF-8, the charset of JSON (RFC 8259, section 8.1), because it
/// could be misread.
fn check_charset(headers: &HeaderMap) -> Result<(), Problem> {
    let content_type = single(headers, &CONTENT_TYPE)?;
    let content_type = content_type.and_then(|value| value.to_str().ok());
    match content_type.and_then(charset) {
        Some(charset) if !["utf-8", "utf8"].contains(&&*charset.to_ascii_lowercase()) => {
            let detail =
                "A body must be JSON in UTF-8, but its Content-Type names another charset.";
            Err(Problem::unsupported_media_type(detail))
        }
        _ => Ok(()),
    }
}

fn charset(content_type: &str) -> Option<&str> {
    // A semicolon within quotes is part of the value (RFC 9110, section 5.6.4).
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parameters = content_type.split(move |c| {
        is_quoted ^= c == '"' && !is_escaped;
        is_escaped = c == '\\' && is_quoted && !is_escaped;
        c == ';' && !is_quoted
    });
    let mut parameters = parameters.skip(1);
    parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_charset = name.trim().eq_ignore_ascii_case("charset");
        is_charset.then(|| value.trim().trim_matches('"'))
    })
}

/// Error of axum's extractor for an invalid query.
type InvalidQuery = serde_path_to_error::Error<serde::de::value::Error>;

/// Query parameters. An invalid or unknown one is rejected with a 400 that names it.
#[derive(Debug, Clone)]
pub struct QueryParams<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => {
                let mut errors = std::iter::successors(rejection.source(), |&error| error.source());
                let invalid = errors.find_map(|error| error.downcast_ref::<InvalidQuery>());
                Err(match invalid {
                    Some(error) => {
                        let path = error.path().to_string();
                        invalid_field("In the query", &path, &error.to_string())
                    }
                    None => Problem::bad_request("The query cannot be parsed."),
                })
            }
        }
    }
}

/// Empty query. Any parameter is rejected with a 400, because one that was meant for the body would
/// otherwise be ignored.
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

/// Single parameter of the path. A value that cannot be parsed is a 404, because no resource can have it.
#[derive(Debug, Clone)]
pub struct PathParam<T>(pub T);

impl<S: Send + Sync, T: FromStr + Send> FromRequestParts<S> for PathParam<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| no_such_resource())?;
        text.parse().map(Self).map_err(|_| no_such_resource())
    }
}

/// Both parameters of a path with two, as [`PathParam`].
#[derive(Debug, Clone)]
pub struct PathParams<T, U>(pub T, pub U);

impl<S, T, U> FromRequestParts<S> for PathParams<T, U>
where
    S: Send + Sync,
    T: FromStr + Send,
    U: FromStr + Send,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((first, second)) = path.map_err(|_| no_such_resource())?;
        let first = first.parse().map_err(|_| no_such_resource())?;
        let second = second.parse().map_err(|_| no_such_resource())?;
        Ok(Self(first, second))
    }
}

fn no_such_resource() -> Problem {
    Problem::not_found("There is no such resource.")
}

/// Checks the `name` of a customer or key.
///
/// # Errors
/// When it is too long, or has control characters.
pub fn check_name(name: &str) -> Result<(), Problem> {
    if is_name(name) {
        return Ok(());
    }
    let detail = "name must have at most 100 characters, and no control characters.";
    Err(Problem::unprocessable(detail).with(Member::Field, "name"))
}

/// Checks the `enabled` field of a merge patch, which cannot be removed with `null`.
///
/// # Errors
/// For `null`.
pub fn check_enabled(enabled: Option<bool>) -> Result<bool, Problem> {
    enabled.ok_or_else(|| {
        let detail = "enabled must be true or false.";
        Problem::unprocessable(detail).with(Member::Field, "enabled")
    })
}
