//! Who speaks: fleet and box names, and the epoch of a spool. All of them are checked once, here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest fleet, group or controller name in bytes.
pub const NAME_MAX: usize = 24;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `box-` and sixteen lower-case hex digits.
    #[error("box id must be `box-` and 16 lower-case hex digits")]
    BoxId,
    /// Not one to 24 of `a-z 0-9 -`.
    #[error("name must be 1 to 24 of a-z, 0-9 and -")]
    Name,
    /// Not eight lower-case hex digits.
    #[error("epoch must be 8 lower-case hex digits")]
    Epoch,
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= NAME_MAX
        && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b'-')
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $check:expr, $error:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Check and keep `text`.
            ///
            /// # Errors
            /// The [`NameError`] of this kind of name when `text` is not one.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                let check: fn(&str) -> bool = $check;
                if check(&text) { Ok(Self(text)) } else { Err($error) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

checked_name!(
    /// A box: `box-` and sixteen hex digits; also its certificate's common name and its MQTT client id.
    BoxId,
    |text| text.strip_prefix("box-").is_some_and(|hex| is_hex(hex, 16)),
    NameError::BoxId
);
checked_name!(
    /// A fleet, group, ring or controller: `[a-z0-9-]{1,24}`.
    FleetId,
    is_name,
    NameError::Name
);
checked_name!(
    /// Epoch of a box's spool: eight hex digits, drawn anew when the spool is wiped or the box re-enrolled.
    Epoch,
    |text| is_hex(text, 8),
    NameError::Epoch
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_id_is_sixteen_hex_digits_and_never_reserved() {
        assert!(BoxId::new("box-7f3a9c2e41d05b68").is_ok());
        for bad in ["_ctl", "_g", "box-7F3a9c2e41d05b68", "box-7f3a", "box-7f3a9c2e41d05b68/", "+", "#", ""] {
            assert_eq!(BoxId::new(bad), Err(NameError::BoxId), "{bad}");
        }
    }

    #[test]
    fn a_fleet_name_holds_no_wildcard_and_no_separator() {
        assert!(FleetId::new("acme-1").is_ok());
        for bad in ["", "a/b", "+", "#", "_g", "Acme", "a-name-that-is-far-too-long"] {
            assert_eq!(FleetId::new(bad), Err(NameError::Name), "{bad}");
        }
    }

    #[test]
    fn names_are_checked_when_read_from_json() {
        assert!(serde_json::from_str::<BoxId>("\"box-00\"").is_err());
        assert!(serde_json::from_str::<Epoch>("\"9c1f02aa\"").is_ok());
    }
}
