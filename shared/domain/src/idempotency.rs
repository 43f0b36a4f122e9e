//! Idempotency keys of creating requests.

/// Idempotency key of a creating request, so that its repetition creates nothing.
#[derive(Debug, Clone)]
pub struct Idempotency {
    /// Operation and caller: equal keys in different scopes are independent.
    pub scope: String,
    /// Value of the `Idempotency-Key` header.
    pub key: String,
    /// Digest of the request. Another request under the same key is a conflict.
    pub request: String,
}
