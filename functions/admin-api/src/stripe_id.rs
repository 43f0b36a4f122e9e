//! The form of Stripe's ids in requests of admins, to catch typing errors.

/// Maximum length of an id: Stripe asks to store ids in fields of 255 characters
/// (<https://docs.stripe.com/upgrades>).
const MAX_LEN: usize = 255;

/// Whether the text is an id of the kind of object whose ids begin with `prefix`.
pub(crate) fn is_stripe_id(text: &str, prefix: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= MAX_LEN
        && text
            .strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.chars().all(is_word))
}
