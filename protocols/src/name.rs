//! Names of files, names of networks and search patterns: parsed once, then known to be good.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{MAX_NAME_BYTES, MAX_NETWORK_BYTES};

/// The name of a file in the network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// It has no bytes.
    #[error("the name is empty")]
    Empty,
    /// It is over [`MAX_NAME_BYTES`].
    #[error("the name has {0} bytes; at most {MAX_NAME_BYTES} are allowed")]
    TooLong(usize),
}

impl Name {
    /// Parses a name.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(InvalidName::TooLong(text.len()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its segments, at least one.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

/// The distinct words of a name: runs of letters and digits, in lower case.
pub fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase)
}

/// The name of a network: ASCII letters, digits, `-`, `_` and `.`, 1 to [`MAX_NETWORK_BYTES`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(String);

impl Default for Network {
    /// The network of nodes that name none.
    fn default() -> Self {
        Self("swarmdex".to_owned())
    }
}

/// A text is no name of a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a network's name has 1 to {MAX_NETWORK_BYTES} ASCII letters, digits, '-', '_' or '.'")]
pub struct InvalidNetwork;

impl Network {
    /// Parses the name of a network.
    pub fn parse(text: &str) -> Result<Self, InvalidNetwork> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > MAX_NETWORK_BYTES || !text.chars().all(good) {
            return Err(InvalidNetwork);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A search query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    terms: Vec<String>,
}

/// Why a text is no search query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPattern {
    /// Too long.
    #[error("the query is too long")]
    TooLong,
}

impl Pattern {
    /// Parses a query.
    pub fn parse(query: &str) -> Result<Self, InvalidPattern> {
        Ok(Self { terms: query.split_whitespace().map(str::to_lowercase).collect() })
    }

    /// Whether a name matches: every term does.
    pub fn matches(&self, name: &Name) -> bool {
        self.terms.iter().all(|t| words(name.as_str()).any(|w| w.starts_with(t.as_str())))
    }

    /// Words that every match has, to narrow an index by.
    pub fn required_words(&self) -> Vec<RequiredWord> {
        self.terms.iter().map(|t| RequiredWord { text: t.clone(), prefix: true }).collect()
    }
}

/// A word, or the beginning of one, that every match of a pattern has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredWord {
    /// The word in lower case, letters and digits alone.
    pub text: String,
    /// Whether a longer word that begins so will do.
    pub prefix: bool,
}

macro_rules! text_newtype {
    ($type:ident, $error:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_newtype!(Name, InvalidName);
text_newtype!(Network, InvalidNetwork);
