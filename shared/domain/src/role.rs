//! Roles of keys, and the bound of keys that are minted with another one.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Role of a key, which decides the routes it may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Calls the API on behalf of one customer, and reads the customer's usage.
    Call,
    /// As `Call`, and also manages the customer's keys, billing and sign-in.
    Manage,
    /// Calls `/admin`; belongs to no customer and is neither limited nor metered.
    Admin,
}

/// Role of a customer's key. A later one may do all that an earlier one may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CustomerRole {
    /// [`Role::Call`], the default.
    #[default]
    Call,
    /// [`Role::Manage`].
    Manage,
}

/// Error: the text is not a role, or not one of a customer's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key's role is call, manage or admin, and admin only for admin keys")]
pub struct InvalidRole;

impl Role {
    /// Returns the role as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Manage => "manage",
            Self::Admin => "admin",
        }
    }

    /// Returns the role of a customer's key, or `None` for `admin`.
    #[must_use]
    pub fn of_customer(self) -> Option<CustomerRole> {
        match self {
            Self::Call => Some(CustomerRole::Call),
            Self::Manage => Some(CustomerRole::Manage),
            Self::Admin => None,
        }
    }
}

impl From<CustomerRole> for Role {
    fn from(role: CustomerRole) -> Self {
        match role {
            CustomerRole::Call => Self::Call,
            CustomerRole::Manage => Self::Manage,
        }
    }
}

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, InvalidRole> {
        let all = [Self::Call, Self::Manage, Self::Admin];
        let found = all.into_iter().find(|role| role.as_str() == text);
        found.ok_or(InvalidRole)
    }
}

impl FromStr for CustomerRole {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, InvalidRole> {
        text.parse::<Role>()?.of_customer().ok_or(InvalidRole)
    }
}

impl fmt::Display for CustomerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Role::from(*self).as_str())
    }
}

/// Grant of a customer's key: its role and its expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyGrant {
    /// Role.
    pub role: CustomerRole,
    /// Expiry; `None` for never.
    pub expires_at: Option<Timestamp>,
}

/// Error: a minted key would exceed its maker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExceedsMaker {
    /// The maker's role does not include the requested one.
    #[error("the role exceeds that of the key's maker")]
    Role,
    /// The maker ends before the requested expiry.
    #[error("the expiry is after that of the key's maker")]
    Expiry,
}

impl KeyGrant {
    /// Returns the grant of a key that is minted with this one. Without a requested role it is `call`, and
    /// without a requested expiry the minted key ends with its maker.
    ///
    /// # Errors
    /// When the requested role or expiry exceeds the maker's. A request is never reduced silently.
    pub fn mint(
        self,
        role: Option<CustomerRole>,
        expires_at: Option<Timestamp>,
    ) -> Result<Self, ExceedsMaker> {
        let minted = Self {
            role: role.unwrap_or_default(),
            expires_at: expires_at.or(self.expires_at),
        };
        if !self.includes_role(minted) {
            return Err(ExceedsMaker::Role);
        }
        if !self.outlasts(minted) {
            return Err(ExceedsMaker::Expiry);
        }
        Ok(minted)
    }

    /// Whether `other` exceeds this grant in neither role nor expiry. Also decides whether a key may rotate
    /// another one or change its expiry.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.includes_role(other) && self.outlasts(other)
    }

    fn includes_role(self, other: Self) -> bool {
        other.role <= self.role
    }

    fn outlasts(self, other: Self) -> bool {
        match (self.expires_at, other.expires_at) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ends_at), Some(other_ends_at)) => other_ends_at <= ends_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn grant(role: CustomerRole, ends_at: Option<i64>) -> KeyGrant {
        KeyGrant {
            role,
            expires_at: ends_at.map(at),
        }
    }

    #[test]
    fn a_role_is_its_text() {
        for (role, text, of_customer) in [
            (Role::Call, "call", Some(CustomerRole::Call)),
            (Role::Manage, "manage", Some(CustomerRole::Manage)),
            (Role::Admin, "admin", None),
        ] {
            assert_eq!(text.parse(), Ok(role));
            assert_eq!(role.as_str(), text);
            let json = format!("\"{text}\"");
            assert_eq!(serde_json::to_string(&role).unwrap(), json);
            assert_eq!(serde_json::from_str::<Role>(&json).unwrap(), role);
            assert_eq!(role.of_customer(), of_customer);
            assert_eq!(text.parse::<CustomerRole>().ok(), of_customer);
            if let Some(of_customer) = of_customer {
                assert_eq!(Role::from(of_customer), role);
                assert_eq!(of_customer.to_string(), text);
            }
        }
        for text in ["", "Call", "customer", "call manage", "root"] {
            assert_eq!(text.parse::<Role>(), Err(InvalidRole), "{text}");
            assert_eq!(text.parse::<CustomerRole>(), Err(InvalidRole), "{text}");
        }
    }

    #[test]
    fn a_minted_key_may_call_and_ends_with_its_maker_unless_requested_otherwise() {
        for role in [CustomerRole::Call, CustomerRole::Manage] {
            for ends_at in [None, Some(10)] {
                let minted = grant(role, ends_at).mint(None, None);
                assert_eq!(minted, Ok(grant(CustomerRole::Call, ends_at)));
            }
        }
    }

    #[test]
    fn a_minted_key_exceeds_its_maker_in_neither_role_nor_expiry() {
        use CustomerRole::{Call, Manage};
        let check = |maker: KeyGrant, role, ends_at: Option<i64>, expected| {
            let minted = maker.mint(Some(role), ends_at.map(at));
            assert_eq!(minted, expected, "{maker:?} {role:?} {ends_at:?}");
        };
        let manager = grant(Manage, Some(10));
        check(manager, Manage, Some(10), Ok(manager));
        check(manager, Manage, Some(9), Ok(grant(Manage, Some(9))));
        check(manager, Call, Some(10), Ok(grant(Call, Some(10))));
        check(manager, Call, Some(11), Err(ExceedsMaker::Expiry));
        check(manager, Manage, None, Ok(manager));
        let forever = grant(Manage, None);
        check(forever, Manage, Some(11), Ok(grant(Manage, Some(11))));
        check(forever, Manage, None, Ok(forever));
        let caller = grant(Call, Some(10));
        check(caller, Manage, Some(10), Err(ExceedsMaker::Role));
        check(caller, Manage, Some(11), Err(ExceedsMaker::Role));
        check(caller, Call, Some(11), Err(ExceedsMaker::Expiry));
        check(caller, Call, Some(10), Ok(caller));
    }

    #[test]
    fn a_grant_without_an_end_is_covered_by_no_grant_that_ends() {
        let (ending, forever) = (
            grant(CustomerRole::Manage, Some(10)),
            grant(CustomerRole::Call, None),
        );
        assert!(!ending.covers(forever));
        assert!(!forever.covers(ending));
        assert!(ending.covers(ending));
        assert!(grant(CustomerRole::Manage, None).covers(ending));
    }

    fn role() -> impl Strategy<Value = CustomerRole> {
        prop_oneof![Just(CustomerRole::Call), Just(CustomerRole::Manage)]
    }

    proptest! {
        /// Keys mint keys that mint keys.
        #[test]
        fn no_chain_of_minted_keys_exceeds_its_first_maker(
            first in (role(), prop::option::of(0..20_i64)),
            requests in prop::collection::vec(
                (prop::option::of(role()), prop::option::of(0..20_i64)), 0..8),
        ) {
            let first = grant(first.0, first.1);
            let mut maker = first;
            for (role, ends_at) in requests {
                let minted = maker.mint(role, ends_at.map(at));
                let asked = KeyGrant {
                    role: role.unwrap_or_default(),
                    expires_at: ends_at.map(at).or(maker.expires_at),
                };
                // Exactly what the maker covers is minted, as requested.
                prop_assert_eq!(minted.ok(), Some(asked).filter(|asked| maker.covers(*asked)));
                if let Ok(minted) = minted {
                    prop_assert!(first.covers(minted));
                    maker = minted;
                }
            }
        }
    }
}
