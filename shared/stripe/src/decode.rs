//! Tolerant decoding: Stripe adds members and values without a new version of its API
//! (<https://docs.stripe.com/upgrades>), so that only members that are needed are required.

use serde::{Deserialize, Deserializer};

/// Error: a text is not the object that it should be. It states the place and the member, and no values,
/// which may be personal data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

impl From<serde_json::Error> for DecodeError {
    fn from(error: serde_json::Error) -> Self {
        let place = format!("line {}, column {}", error.line(), error.column());
        let text = error.to_string();
        // serde quotes values in most of its messages, but only the names of members in this one.
        let missing = text
            .split('`')
            .nth(1)
            .filter(|_| text.starts_with("missing field"));
        Self(match missing {
            Some(member) => format!("no member {member} at {place}"),
            None if error.is_data() => format!("an unexpected value at {place}"),
            None => format!("not JSON at {place}"),
        })
    }
}

/// A reference to an object: its id, or the object itself where a request expanded it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Reference<Id> {
    Id(Id),
    Expanded { id: Id },
}

impl<Id> Reference<Id> {
    fn into_id(self) -> Id {
        match self {
            Reference::Id(id) | Reference::Expanded { id } => id,
        }
    }
}

/// Decodes the id of a referenced object.
pub(crate) fn id<'de, D: Deserializer<'de>, Id: Deserialize<'de>>(from: D) -> Result<Id, D::Error> {
    Ok(Reference::deserialize(from)?.into_id())
}

/// Decodes the id of a referenced object, or `null`.
pub(crate) fn optional_id<'de, D: Deserializer<'de>, Id: Deserialize<'de>>(
    from: D,
) -> Result<Option<Id>, D::Error> {
    Ok(Option::<Reference<Id>>::deserialize(from)?.map(Reference::into_id))
}

/// Decodes a value for which `null` means its default.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Declares an enum of the values that Stripe documents for a member, which keeps any other value.
macro_rules! open_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
            /// Value that this client does not know.
            Other(String),
        }

        impl $name {
            /// Returns the value as Stripe writes it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(text) => text,
                }
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                match text.as_str() {
                    $($text => Self::$variant,)+
                    _ => Self::Other(text),
                }
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.as_str().to_owned()
            }
        }
    };
}
pub(crate) use open_enum;
