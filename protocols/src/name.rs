//! Names of files and of networks: parsed once, then known to be good.
//!
//! A name has to be usable as a relative path on every system, to look like itself on every screen, and to
//! be the same bytes for everybody.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use unicode_normalization::{UnicodeNormalization, is_nfc};

use crate::limits::{MAX_NAME_BYTES, MAX_NETWORK_BYTES, MAX_SEGMENT_BYTES};
use crate::text::is_visible;

/// The name of a file in the network: segments with `/` between them. Names that differ only in case
/// are different names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// It has no bytes.
    #[error("it is empty")]
    Empty,
    /// It is over [`MAX_NAME_BYTES`].
    #[error("it has {0} bytes; at most {MAX_NAME_BYTES} are allowed")]
    TooLong(usize),
    /// A segment is over [`MAX_SEGMENT_BYTES`].
    #[error("a segment has {0} bytes; at most {MAX_SEGMENT_BYTES} are allowed between two '/'")]
    SegmentTooLong(usize),
    /// The text is not in Unicode's normalization form C, so that two texts could look the same.
    #[error("it is not in Unicode normalization form C")]
    NotNormalized,
    /// It begins or ends with `/`, or has two in a row.
    #[error("it has an empty segment: it begins or ends with '/', or has '//'")]
    EmptySegment,
    /// A segment is `.` or `..`.
    #[error("it has a segment '.' or '..'")]
    DotSegment,
    /// A segment ends in a dot or a space, which Windows drops.
    #[error("a segment ends in a dot or a space")]
    TrailingDotOrSpace,
    /// A segment is the name of a Windows device.
    #[error("{0:?} is the name of a device on Windows")]
    Device(String),
    /// It begins like a drive of Windows: `C:`.
    #[error("it begins with a drive letter")]
    Drive,
    /// A character that does not show, or shows as something else.
    #[error("the character U+{0:04X} is not allowed")]
    Character(u32),
}

impl Name {
    /// Parses a name of 1 to [`MAX_NAME_BYTES`] bytes, in segments of at most [`MAX_SEGMENT_BYTES`].
    ///
    /// # Errors
    /// [`InvalidName`] says which rule the text breaks; of several it is the first that is found.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(InvalidName::TooLong(text.len()));
        }
        if let Some(char) = text.chars().find(|char| !is_allowed(*char)) {
            return Err(InvalidName::Character(char.into()));
        }
        if !is_nfc(text) {
            return Err(InvalidName::NotNormalized);
        }
        text.split('/').try_for_each(check_segment)?;
        if let [letter, b':', ..] = text.as_bytes()
            && letter.is_ascii_alphabetic()
        {
            return Err(InvalidName::Drive);
        }
        Ok(Self(text.to_owned()))
    }

    /// Parses a name that was found on a disk: some file systems decompose characters, so the text is
    /// brought to normalization form C first.
    ///
    /// # Errors
    /// [`InvalidName`], as [`Name::parse`] has it of the text in that form.
    pub fn from_path_text(text: &str) -> Result<Self, InvalidName> {
        if text.len() > 4 * MAX_NAME_BYTES {
            return Err(InvalidName::TooLong(text.len()));
        }
        Self::parse(&text.nfc().collect::<String>())
    }

    /// `rest` below `prefix`, with a `/` between them.
    ///
    /// # Errors
    /// [`InvalidName`]: mostly [`InvalidName::TooLong`].
    pub fn join_prefix(prefix: &Self, rest: &Self) -> Result<Self, InvalidName> {
        Self::parse(&format!("{prefix}/{rest}"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its segments, at least one.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, last)| last)
    }

    /// What follows `prefix` and a `/`; `None` if the name is not below the prefix.
    pub fn strip_prefix(&self, prefix: &Self) -> Option<&str> {
        self.0.strip_prefix(&prefix.0)?.strip_prefix('/')
    }

    /// Whether the name is below the prefix.
    pub fn is_below(&self, prefix: &Self) -> bool {
        self.strip_prefix(prefix).is_some()
    }
}

/// Characters that show as what they are, and separate nothing on any system.
fn is_allowed(char: char) -> bool {
    char != '\\' && is_visible(char)
}

fn check_segment(segment: &str) -> Result<(), InvalidName> {
    if segment.is_empty() {
        return Err(InvalidName::EmptySegment);
    }
    if segment == "." || segment == ".." {
        return Err(InvalidName::DotSegment);
    }
    if segment.len() > MAX_SEGMENT_BYTES {
        return Err(InvalidName::SegmentTooLong(segment.len()));
    }
    if segment.ends_with(['.', ' ']) {
        return Err(InvalidName::TrailingDotOrSpace);
    }
    // Windows takes `nul.txt` and `nul .txt` for the device as well.
    let stem = segment.split('.').next().unwrap_or(segment).trim_end_matches(' ');
    if is_device(stem) {
        return Err(InvalidName::Device(stem.to_owned()));
    }
    Ok(())
}

/// Names of devices, as listed in Microsoft's *Naming Files, Paths, and Namespaces*.
fn is_device(stem: &str) -> bool {
    let upper = stem.to_ascii_uppercase();
    if matches!(upper.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") {
        return true;
    }
    let number = upper.strip_prefix("COM").or_else(|| upper.strip_prefix("LPT"));
    number.is_some_and(|number| {
        let mut chars = number.chars();
        let digit = |char: char| char.is_ascii_digit() || matches!(char, '¹' | '²' | '³');
        matches!((chars.next(), chars.next()), (Some(char), None) if digit(char))
    })
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
    ///
    /// # Errors
    /// [`InvalidNetwork`] if it has other characters, none, or more than [`MAX_NETWORK_BYTES`].
    pub fn parse(text: &str) -> Result<Self, InvalidNetwork> {
        let good = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_rule_refuses_what_it_is_for() {
        let long = "a".repeat(256);
        let longer = ["a".repeat(200).as_str(); 6].join("/");
        let cases: &[(&str, InvalidName)] = &[
            ("", InvalidName::Empty),
            ("../../etc/passwd", InvalidName::DotSegment),
            ("a/../b", InvalidName::DotSegment),
            ("./a", InvalidName::DotSegment),
            ("/etc/passwd", InvalidName::EmptySegment),
            ("a/", InvalidName::EmptySegment),
            ("a//b", InvalidName::EmptySegment),
            ("C:\\x", InvalidName::Character('\\'.into())),
            ("C:x", InvalidName::Drive),
            ("c:/x", InvalidName::Drive),
            ("NUL", InvalidName::Device("NUL".to_owned())),
            ("a/nul.txt", InvalidName::Device("nul".to_owned())),
            ("Com1.tar.gz", InvalidName::Device("Com1".to_owned())),
            ("COM1 .txt", InvalidName::Device("COM1".to_owned())),
            ("lpt³", InvalidName::Device("lpt³".to_owned())),
            ("conin$", InvalidName::Device("conin$".to_owned())),
            ("COM1 ", InvalidName::TrailingDotOrSpace),
            ("a./b", InvalidName::TrailingDotOrSpace),
            ("a\0b", InvalidName::Character(0)),
            ("a\nb", InvalidName::Character(10)),
            ("a\x1b[31mb", InvalidName::Character(27)),
            ("a\u{202e}gpj.exe", InvalidName::Character(0x202e)),
            ("a\u{2066}b", InvalidName::Character(0x2066)),
            ("a\u{200d}b", InvalidName::Character(0x200d)),
            ("a\u{feff}b", InvalidName::Character(0xfeff)),
            ("a\u{2028}b", InvalidName::Character(0x2028)),
            ("e\u{301}", InvalidName::NotNormalized),
            (&long, InvalidName::SegmentTooLong(256)),
            (&longer, InvalidName::TooLong(1205)),
        ];
        for (text, error) in cases {
            assert_eq!(Name::parse(text).as_ref(), Err(error), "{text:?}");
        }
        let huge = "a".repeat(64 << 10);
        assert_eq!(Name::parse(&huge), Err(InvalidName::TooLong(64 << 10)));
    }

    #[test]
    fn ordinary_names_are_names() {
        let longest = format!("{}/{}/{}/{}/b", "a".repeat(255), "a".repeat(255), "a".repeat(255), "a".repeat(254));
        for text in [
            "a",
            "a b",
            " a",
            ".hidden",
            "a.b.c",
            "COM",
            "COM10",
            "COMx",
            "console",
            "nullable.txt",
            "12:30",
            "ab:c",
            "é",
            "日本/語",
            "a*b?",
            "r\"u|n<>",
            &longest,
        ] {
            assert_eq!(Name::parse(text).map(|name| name.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(longest.len(), MAX_NAME_BYTES);
    }

    #[test]
    fn case_twins_are_two_names_and_normal_forms_are_one() {
        assert_ne!(Name::parse("A").unwrap(), Name::parse("a").unwrap());
        assert_eq!(Name::from_path_text("e\u{301}").unwrap(), Name::parse("é").unwrap());
    }

    #[test]
    fn prefixes_are_whole_segments() {
        let name = |text| Name::parse(text).unwrap();
        assert_eq!(name("a/b/c").strip_prefix(&name("a/b")), Some("c"));
        assert_eq!(name("a/b").strip_prefix(&name("a/b")), None);
        assert!(!name("ab/c").is_below(&name("a")));
        assert_eq!(name("a/b/c").file_name(), "c");
        assert_eq!(Name::join_prefix(&name("x/y"), &name("a/b")), Ok(name("x/y/a/b")));
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_accepts_nothing_unsafe(text in "\\PC{0,40}|[a-zC:./\\\\ \u{301}\u{202e}]{0,20}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(name.as_str(), text.as_str());
                let path = std::path::Path::new(name.as_str());
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
}
