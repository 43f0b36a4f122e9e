//! Names of customers and keys, for people to read.

/// Maximum length of a name, in characters.
pub const MAX_NAME: usize = 100;

/// Whether the text can be a name: at most [`MAX_NAME`] characters, none of them a control character.
#[must_use]
pub fn is_name(text: &str) -> bool {
    text.chars().count() <= MAX_NAME && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_printable() {
        assert!(is_name(""));
        assert!(is_name(&"é".repeat(MAX_NAME)));
        assert!(!is_name(&"é".repeat(MAX_NAME + 1)));
        assert!(!is_name("a\nb"));
    }
}
