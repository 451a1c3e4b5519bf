//! The search language.
//!
//! A query is split at white space into terms. A name matches if every term does, in any order, and
//! without regard to case:
//!
//! - a term without `*` matches if its words follow one another in the name, the last one as the
//!   beginning of a word: `rep 2024`, `climate-dat`; a term of no letters or digits matches as it stands;
//! - a term with `*` is a glob over the whole name, or, if it has no `/`, over the last segment.
//!   `*` stands for any characters, `/` among them.

use unicode_normalization::UnicodeNormalization;

use crate::limits::{MAX_QUERY_BYTES, MAX_QUERY_TERMS};
use crate::name::{Name, lower, words};

/// A search query. The empty one matches every name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    /// Words that follow one another, the last one a prefix.
    Words(Vec<String>),
    /// Text that stands somewhere in the name.
    Text(String),
    /// A glob, in lower case.
    Glob { glob: Vec<char>, whole: bool },
}

/// Why a text is no query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPattern {
    /// It is over [`MAX_QUERY_BYTES`].
    #[error("it has {0} bytes; at most {MAX_QUERY_BYTES} are allowed")]
    TooLong(usize),
    /// It is over [`MAX_QUERY_TERMS`].
    #[error("it has {0} terms; at most {MAX_QUERY_TERMS} are allowed")]
    TooManyTerms(usize),
    /// It has a control character.
    #[error("it has a control character")]
    ControlCharacter,
}

/// A word, or the beginning of one, that every match of a pattern has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredWord {
    /// The word in lower case, letters and digits alone.
    pub text: String,
    /// Whether a longer word that begins so will do.
    pub prefix: bool,
}

impl Pattern {
    /// Parses a query.
    pub fn parse(query: &str) -> Result<Self, InvalidPattern> {
        if query.len() > MAX_QUERY_BYTES {
            return Err(InvalidPattern::TooLong(query.len()));
        }
        if query.chars().any(|char| char.is_control() && !char.is_whitespace()) {
            return Err(InvalidPattern::ControlCharacter);
        }
        let terms: Vec<_> = query.split_whitespace().map(Term::parse).collect();
        if terms.len() > MAX_QUERY_TERMS {
            return Err(InvalidPattern::TooManyTerms(terms.len()));
        }
        Ok(Self { terms })
    }

    /// Whether a name matches.
    pub fn matches(&self, name: &Name) -> bool {
        self.terms.iter().all(|term| term.matches(name))
    }

    /// Words that every match has, to narrow an index by; may be fewer than there are.
    pub fn required_words(&self) -> Vec<RequiredWord> {
        self.terms.iter().flat_map(Term::required_words).collect()
    }
}

impl Term {
    fn parse(term: &str) -> Self {
        let term: String = term.nfc().collect();
        if term.contains('*') {
            return Self::Glob { glob: lower(&term).chars().collect(), whole: term.contains('/') };
        }
        let words: Vec<_> = words(&term).collect();
        if words.is_empty() { Self::Text(term) } else { Self::Words(words) }
    }

    fn matches(&self, name: &Name) -> bool {
        match self {
            Self::Text(text) => name.as_str().contains(text),
            Self::Glob { glob, whole } => {
                let text = if *whole { name.as_str() } else { name.file_name() };
                glob_matches(glob, &lower(text).chars().collect::<Vec<_>>())
            }
            Self::Words(wanted) => {
                let Some((last, first)) = wanted.split_last() else { return true };
                let found: Vec<_> = words(name.as_str()).collect();
                found.windows(wanted.len()).any(|run| {
                    run.split_last().is_some_and(|(end, begin)| begin == first && end.starts_with(last.as_str()))
                })
            }
        }
    }

    fn required_words(&self) -> Vec<RequiredWord> {
        match self {
            Self::Text(_) => Vec::new(),
            Self::Words(words) => {
                let last = words.len().saturating_sub(1);
                let required =
                    |(number, text): (usize, &String)| RequiredWord { text: text.clone(), prefix: number == last };
                words.iter().enumerate().map(required).collect()
            }
            Self::Glob { glob, .. } => glob_words(glob),
        }
    }
}

/// The dot that "İ" has in lower case: it is no letter, and yet no end of the word that the name has there.
const DOT_ABOVE: char = '\u{307}';

/// Runs of letters and digits in a glob that begin a word in every match: those at its beginning and
/// those after a character that is neither letter nor digit. What follows decides whether the word ends there.
fn glob_words(glob: &[char]) -> Vec<RequiredWord> {
    let mut required = Vec::new();
    let mut at = 0;
    while at < glob.len() {
        if !glob[at].is_alphanumeric() {
            at += 1;
            continue;
        }
        let end = glob[at..].iter().position(|char| !char.is_alphanumeric()).map_or(glob.len(), |length| at + length);
        // After '*' the run may continue a word, and then says nothing of how one begins.
        let goes_on = |char: &char| *char == '*' || *char == DOT_ABOVE;
        if at == 0 || !goes_on(&glob[at - 1]) {
            let prefix = glob.get(end).is_some_and(goes_on);
            required.push(RequiredWord { text: glob[at..end].iter().collect(), prefix });
        }
        at = end;
    }
    required
}

/// Whether a glob matches a text, in time proportional to the product of their lengths at worst: only the last
/// asterisk is ever tried again.
fn glob_matches(glob: &[char], text: &[char]) -> bool {
    let (mut g, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if glob.get(g) == Some(&'*') {
            retry = Some((g + 1, t));
            g += 1;
        } else if glob.get(g) == text.get(t) {
            (g, t) = (g + 1, t + 1);
        } else if let Some((after, from)) = retry {
            (g, t) = (after, from + 1);
            retry = Some((after, from + 1));
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|char| *char == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(query: &str, name: &str) -> bool {
        Pattern::parse(query).unwrap().matches(&Name::parse(name).unwrap())
    }

    #[test]
    fn words_match_in_any_order_by_their_beginning_and_whatever_the_case() {
        for (query, name) in [
            ("", "anything"),
            ("foo", "foobar.txt"),
            ("FOO", "my/foo"),
            ("2024 rep", "Report-2024.pdf"),
            ("report-20", "my report 2024b.pdf"),
            ("ÉTÉ", "photos/été 2023.jpg"),
            ("e\u{301}t", "été"),
            ("-", "a-b"),
            ("a.b.c", "x/a-b/cd"),
        ] {
            assert!(matches(query, name), "{query} {name}");
        }
        for (query, name) in
            [("bar", "foobar"), ("foo x", "foo"), ("a b", "a"), ("b-a", "a-b"), ("fo-bar", "foo-bar"), ("-", "ab")]
        {
            assert!(!matches(query, name), "{query} {name}");
        }
    }

    #[test]
    fn globs_match_the_last_segment_or_with_a_slash_the_whole_name() {
        for (query, name) in [
            ("*.iso", "images/Debian.ISO"),
            ("*", "a/b"),
            ("deb*12*", "x/debian-12.iso"),
            ("images/*", "images/a/b.iso"),
            ("im*/deb*", "images/debian"),
            ("**a**", "cat"),
        ] {
            assert!(matches(query, name), "{query} {name}");
        }
        for (query, name) in [("*.iso", "a.iso/b"), ("images*", "images/a"), ("images/*", "my/images/a"), ("a*", "ba")]
        {
            assert!(!matches(query, name), "{query} {name}");
        }
    }

    #[test]
    fn queries_are_bounded() {
        assert_eq!(Pattern::parse(&"a".repeat(513)), Err(InvalidPattern::TooLong(513)));
        assert_eq!(Pattern::parse(&"a ".repeat(17)), Err(InvalidPattern::TooManyTerms(17)));
        assert_eq!(Pattern::parse("a\x1bb"), Err(InvalidPattern::ControlCharacter));
    }

    #[test]
    fn a_glob_of_many_asterisks_is_no_trap() {
        let glob = "*a".repeat(200);
        let name = ["a".repeat(250).as_str(); 4].join("/");
        assert!(!matches(&format!("{glob}/b"), &name));
    }

    /// "İ" in lower case is an "i" and a dot that is no letter.
    #[test]
    fn a_letter_that_is_two_characters_in_lower_case_is_found() {
        for (query, name) in
            [("İ*", "1/İ"), ("İstanbul*", "İstanbul.jpg"), ("aİb*", "x/Aİbc"), ("q\u{307}y*", "q\u{307}yz")]
        {
            let (pattern, name) = (Pattern::parse(query).unwrap(), Name::parse(name).unwrap());
            assert!(pattern.matches(&name), "{query} {name}");
            let found: Vec<_> = words(name.as_str()).collect();
            for RequiredWord { text, prefix } in pattern.required_words() {
                let has = |word: &String| *word == text || prefix && word.starts_with(&text);
                assert!(found.iter().any(has), "{query}: {text} in {found:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn required_words_never_exclude_a_match(
            query in "[abAB12ßİéE.*/_ -]{0,10}",
            name in "[abAB12ßİéE._ -]{1,6}(/[abAB12ßİéE._ -]{1,6}){0,2}",
        ) {
            let (Ok(pattern), Ok(name)) = (Pattern::parse(&query), Name::from_path_text(&name)) else { return Ok(()) };
            if pattern.matches(&name) {
                let found: Vec<_> = words(name.as_str()).collect();
                for word in pattern.required_words() {
                    let satisfied = found.iter().any(|other| *other == word.text || word.prefix && other.starts_with(&word.text));
                    prop_assert!(satisfied, "{:?} in {:?}", word, found);
                }
            }
        }
    }
}
