//! Names and numbers that identify things. A name is checked once, at construction, and cheap to clone afterwards.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name, in bytes: a DNS label (RFC 1035 §2.3.4), so that a region or node name can be one.
const MAX_NAME_LEN: usize = 63;

/// A lower-case identifier: a letter or digit first, then letters, digits and `-`; 63 bytes at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// Checks `text` and takes it as a name.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME_LEN {
            return Err(NameError::TooLong { len: text.len() });
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if let Some(character) = text.chars().find(|&c| !allowed(c)) {
            return Err(NameError::BadCharacter { character });
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::OuterHyphen);
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

/// Why a text is not a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// The text has no characters.
    #[error("a name may not be empty")]
    Empty,
    /// The text is longer than a DNS label.
    #[error("a name has at most 63 characters, this has {len}")]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// A character outside `a-z`, `0-9` and `-`.
    #[error("a name is made of a-z, 0-9 and `-`, not `{character}`")]
    BadCharacter {
        /// The first such character.
        character: char,
    },
    /// `-` stands first or last.
    #[error("a name may not start or end with `-`")]
    OuterHyphen,
}

macro_rules! name_newtype {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(Name);

        impl $type {
            /// Checks `text` and takes it as an identifier.
            pub fn new(text: &str) -> Result<Self, NameError> {
                Name::new(text).map(Self)
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

name_newtype! {
    /// A region, for example `eu-west`.
    RegionId
}
name_newtype! {
    /// A node as its certificate names it, for example `eu-west-1`. Stable over restarts and loss of data.
    NodeName
}

/// A Raft member: random, and drawn anew whenever a node starts without its log, so that it is never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The number of an accepted configuration document. 0 means none was accepted yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision that follows.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_why_it_is_refused() {
        let check = |text: &str, expected| assert_eq!(Name::new(text).map(|_| ()), expected);
        check("us-east", Ok(()));
        check("", Err(NameError::Empty));
        check("US", Err(NameError::BadCharacter { character: 'U' }));
        check("-a", Err(NameError::OuterHyphen));
        check(&"a".repeat(64), Err(NameError::TooLong { len: 64 }));
    }
}
