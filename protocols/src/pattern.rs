//! The search language.
//!
//! A query is split at white space into terms. A name matches if every term does, in any order, as both are folded
//! ([`crate::words`]): case, accents, width and the like make no difference.
//!
//! - A term without `*` matches if its words follow one another in the name: `rep 2024`, `climate-dat`, `img2024`. The
//!   last one may be the beginning of a word. Characters of scripts without spaces follow one another directly, as they
//!   do in the term. A term of no letters or digits matches as it stands.
//! - A term with `*` is a glob over the whole name, or, if it has no `/`, over the last segment. `*` stands for any
//!   characters, `/` among them.
//!
//! Builds before had other words ([`first`]); a query of theirs is answered by that rule.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

use crate::limits::{MAX_QUERY_BYTES, MAX_QUERY_TERMS};
use crate::name::Name;
use crate::words::{self, Rule, first};

/// A search query. The empty one matches every name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// By which rule names match.
    rule: Rule,
    first: Vec<Term>,
    second: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    /// Words that follow one another, the last one a prefix.
    Words(Vec<PatternWord<'static>>),
    /// Text that stands somewhere in the name.
    Text(String),
    /// A glob.
    Glob { glob: String, whole: bool },
}

/// A word of a name or a query.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PatternWord<'a> {
    text: Cow<'a, str>,
    /// One character of a script without spaces.
    single: bool,
    /// It follows the one before directly.
    joined: bool,
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

/// What every match of a pattern has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequiredWord {
    /// This word, or this pair of characters of a script without spaces.
    Whole(String),
    /// A word that begins so.
    Begins(String),
    /// This character of a script without spaces.
    Character(String),
}

impl Pattern {
    /// Parses a query of at most [`MAX_QUERY_BYTES`] bytes and [`MAX_QUERY_TERMS`] terms.
    ///
    /// # Errors
    /// [`InvalidPattern`] if it has more, or control characters other than white space.
    pub fn parse(query: &str) -> Result<Self, InvalidPattern> {
        Self::parse_by(query, Rule::Second)
    }

    /// Parses a query that names are to match by a rule.
    ///
    /// # Errors
    /// [`InvalidPattern`] as [`Pattern::parse`].
    pub fn parse_by(query: &str, rule: Rule) -> Result<Self, InvalidPattern> {
        if query.len() > MAX_QUERY_BYTES {
            return Err(InvalidPattern::TooLong(query.len()));
        }
        if query.chars().any(|char| char.is_control() && !char.is_whitespace()) {
            return Err(InvalidPattern::ControlCharacter);
        }
        let count = query.split_whitespace().count();
        if count > MAX_QUERY_TERMS {
            return Err(InvalidPattern::TooManyTerms(count));
        }
        let by = |rule| query.split_whitespace().map(|term| Term::parse(term, rule)).collect();
        Ok(Self { rule, first: by(Rule::First), second: by(Rule::Second) })
    }

    /// Whether a name matches.
    pub fn matches(&self, name: &Name) -> bool {
        let terms = if self.rule.is_first() { &self.first } else { &self.second };
        if terms.is_empty() {
            return true;
        }
        let folded = fold(name.as_str(), self.rule);
        let mut words = None;
        terms.iter().all(|term| match term {
            Term::Text(text) => folded.contains(text),
            Term::Glob { glob, whole: true } => glob_matches(glob, &folded),
            Term::Glob { glob, whole: false } => glob_matches(glob, &fold(name.file_name(), self.rule)),
            Term::Words(wanted) => {
                follow(words.get_or_insert_with(|| split(name.as_str(), &folded, self.rule)), wanted)
            }
        })
    }

    /// What every match has of [`words::index_words`], to narrow an index by; may be less than there is. What matches by the
    /// first rule has it as well, but for marks that count there as gaps.
    pub fn required_words(&self) -> Vec<RequiredWord> {
        self.second.iter().flat_map(Term::required).collect()
    }

    /// What every match by the first rule has of [`first::words`].
    pub fn required_first_words(&self) -> Vec<RequiredWord> {
        self.first.iter().flat_map(Term::required_first).collect()
    }
}

/// A text as a rule compares it.
fn fold(text: &str, rule: Rule) -> Cow<'_, str> {
    match rule {
        Rule::First => Cow::Owned(first::lower(text)),
        Rule::Second => words::fold(text),
    }
}

/// The words of a text, of which `folded` is what the rule compares.
fn split<'a>(text: &str, folded: &'a str, rule: Rule) -> Vec<PatternWord<'a>> {
    match rule {
        Rule::First => {
            let word = |text| PatternWord { text: Cow::Owned(text), single: false, joined: false };
            first::words(text).map(word).collect()
        }
        Rule::Second => words::split(folded).map(PatternWord::from).collect(),
    }
}

impl<'a> From<words::Word<'a>> for PatternWord<'a> {
    fn from(word: words::Word<'a>) -> Self {
        let words::Word { text, single, joined, sure: _ } = word;
        Self { text: Cow::Borrowed(text), single, joined }
    }
}

/// Whether the wanted words follow one another somewhere, the last one as the beginning of a word.
fn follow(found: &[PatternWord<'_>], wanted: &[PatternWord<'_>]) -> bool {
    let Some((last, first)) = wanted.split_last() else { return true };
    let holds = |(number, (has, word)): (usize, (&PatternWord<'_>, &PatternWord<'_>))| {
        has.text == word.text && (number == 0 || has.joined || !word.joined)
    };
    found.windows(wanted.len()).any(|run| {
        run.split_last().is_some_and(|(end, begin)| {
            end.text.starts_with(&*last.text)
                && (begin.is_empty() || end.joined || !last.joined)
                && begin.iter().zip(first).enumerate().all(holds)
        })
    })
}

impl Term {
    fn parse(term: &str, rule: Rule) -> Self {
        let term: String = term.nfc().collect();
        let folded = fold(&term, rule);
        if folded.contains('*') {
            return Self::Glob { glob: folded.into_owned(), whole: term.contains('/') };
        }
        let owned = |PatternWord { text, single, joined }: PatternWord<'_>| {
            let text = Cow::Owned(text.into_owned());
            PatternWord { text, single, joined }
        };
        let words: Vec<_> = split(&term, &folded, rule).into_iter().map(owned).collect();
        if words.is_empty() { Self::Text(folded.into_owned()) } else { Self::Words(words) }
    }

    fn required(&self) -> Vec<RequiredWord> {
        match self {
            Self::Text(_) => Vec::new(),
            Self::Words(words) => {
                let last = words.len().saturating_sub(1);
                required(words, |number| Some(number == last))
            }
            Self::Glob { glob, .. } => {
                let last = glob.split('*').count() - 1;
                glob.split('*')
                    .enumerate()
                    .flat_map(|(number, piece)| piece_words(piece, number == 0, number == last))
                    .collect()
            }
        }
    }

    fn required_first(&self) -> Vec<RequiredWord> {
        let kind = |(text, prefix): (String, bool)| {
            if prefix { RequiredWord::Begins(text) } else { RequiredWord::Whole(text) }
        };
        match self {
            Self::Text(_) => Vec::new(),
            Self::Words(words) => {
                let last = words.len().saturating_sub(1);
                let all = words.iter().enumerate().map(|(number, word)| (word.text.to_string(), number == last));
                all.map(kind).collect()
            }
            Self::Glob { glob, .. } => {
                first::glob_words(&glob.chars().collect::<Vec<_>>()).into_iter().map(kind).collect()
            }
        }
    }
}

/// What an index has of these words if they follow one another in a name. `begins` says of a word whether a longer one
/// that begins so will do, and `None` if nothing is known of where it begins.
fn required(words: &[PatternWord<'_>], begins: impl Fn(usize) -> Option<bool>) -> Vec<RequiredWord> {
    let mut required = Vec::new();
    for (number, word) in words.iter().enumerate() {
        let before = number.checked_sub(1).and_then(|number| words.get(number));
        let paired = words.get(number + 1).is_some_and(|next| next.joined);
        match (word, before) {
            (PatternWord { joined: true, text, .. }, Some(before)) => {
                required.push(RequiredWord::Whole([&*before.text, &**text].concat()));
            }
            (PatternWord { single: true, .. }, _) if paired => {}
            (PatternWord { single: true, text, .. }, _) => required.push(RequiredWord::Character(text.to_string())),
            (PatternWord { text, .. }, _) => required.extend(begins(number).map(|longer| match longer {
                true => RequiredWord::Begins(text.to_string()),
                false => RequiredWord::Whole(text.to_string()),
            })),
        }
    }
    required
}

/// The words of what stands between two asterisks of a glob, as far as it says where they begin. One that ends where an
/// asterisk follows may go on.
fn piece_words(piece: &str, first: bool, last: bool) -> Vec<RequiredWord> {
    let sure: Vec<_> = words::split(piece).map(|word| first || word.sure).collect();
    let words: Vec<_> = words::split(piece).map(PatternWord::from).collect();
    let open = |number: usize| !last && number + 1 == words.len() && piece.ends_with(&*words[number].text);
    required(&words, |number| sure.get(number).copied().unwrap_or_default().then(|| open(number)))
}

/// Whether a glob matches a text, in time proportional to the product of their lengths at worst: only the last
/// asterisk is ever tried again.
fn glob_matches(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<_>, Vec<_>) = (glob.chars().collect(), text.chars().collect());
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
            has_what_is_required(&pattern, &name);
        }
    }

    /// Whether an index finds the name by what it requires of a match.
    fn has_what_is_required(pattern: &Pattern, name: &Name) {
        let satisfied = |words: &[String], required: &RequiredWord| match required {
            RequiredWord::Whole(text) | RequiredWord::Character(text) => words.contains(text),
            RequiredWord::Begins(text) => words.iter().any(|word| word.starts_with(text.as_str())),
        };
        let words = words::index_words(name.as_str());
        for required in pattern.required_words() {
            assert!(satisfied(&words, &required), "{required:?} in {words:?}");
        }
    }

    #[test]
    fn what_people_take_for_the_same_is_found() {
        for (query, name) in [
            ("resume", "résumé.pdf"),
            ("résumé", "RESUME.pdf"),
            ("strasse", "Straße.txt"),
            ("STRASSE", "Straße.txt"),
            ("straße", "HAUPT-STRASSE"),
            ("отчет", "Отчёт 2024.docx"),
            ("ОТЧЁТ", "отчет.docx"),
            ("地図", "東京の地図.pdf"),
            ("京の", "東京の地図.pdf"),
            ("図", "東京の地図.pdf"),
            ("20240131", "IMG20240131.jpg"),
            ("img 2024", "IMG20240131.jpg"),
            ("IMG20240131", "img-20240131.jpg"),
            ("istanbul", "İSTANBUL.jpg"),
            ("ISPARTA", "ısparta.jpg"),
            ("ｒｅｐｏｒｔ", "report.txt"),
            ("report", "ｒｅｐｏｒｔ.txt"),
            ("office", "oﬃce.doc"),
            ("ΟΔΥΣΣΕΥΣ", "Οδυσσεύς.txt"),
            ("οδυσσευσ", "ΟΔΥΣΣΕΎΣ.txt"),
            ("مدرسة", "مَدْرَسَة.pdf"),
            ("שלום", "שָׁלוֹם.txt"),
            ("さくら", "サクラ.png"),
            ("ガンダム", "ｶﾞﾝﾀﾞﾑ.mkv"),
            ("한글", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}.txt"),
            ("지도", "서울지도.pdf"),
            ("lodz", "Łódź.jpg"),
            ("smorrebrod", "smørrebrød.txt"),
            ("2024", "٢٠٢٤.txt"),
            ("*.PDF", "Übersicht.pdf"),
            ("uber*", "Übersicht.pdf"),
            ("*straße.txt", "haupt-STRASSE.txt"),
            ("東京*", "東京の地図.pdf"),
            ("*地図.pdf", "東京の地図.pdf"),
            ("don't*", "Don’t panic.txt"),
        ] {
            let name = Name::from_path_text(name).unwrap();
            let pattern = Pattern::parse(query).unwrap();
            assert!(pattern.matches(&name), "{query} {name}");
            has_what_is_required(&pattern, &name);
            let keys = crate::RecordKey::of_words(&crate::Network::default(), &name);
            let asked = crate::RecordKey::of_search(&crate::Network::default(), &pattern);
            assert!(keys.contains(&asked[0]), "{query} {name}");
        }
        for (query, name) in [
            ("京地", "東京の地図.pdf"),
            ("東図", "東京の地図.pdf"),
            ("地図", "地-図.pdf"),
            ("か", "が.txt"),
            ("0131", "IMG20240131.jpg"),
            ("mg2024", "IMG20240131.jpg"),
        ] {
            assert!(!matches(query, name), "{query} {name}");
        }
        assert!(matches("地-図", "地図.pdf"), "what stands apart in the query may stand together");
    }

    #[test]
    fn a_query_of_an_earlier_build_is_answered_by_its_rule() {
        let matches = |query: &str, name: &str| {
            Pattern::parse_by(query, Rule::First).unwrap().matches(&Name::parse(name).unwrap())
        };
        for (query, name) in [("été", "Été 2023.jpg"), ("img2024", "IMG20240131.jpg"), ("東京", "東京の地図")]
        {
            assert!(matches(query, name), "{query} {name}");
        }
        for (query, name) in [("ete", "Été 2023.jpg"), ("20240131", "IMG20240131.jpg"), ("地図", "東京の地図")]
        {
            assert!(!matches(query, name), "{query} {name}");
        }
    }

    proptest! {
        #[test]
        fn required_words_never_exclude_a_match(
            query in "[abAB12ßİéE.*/_ー日か゛เ́-]{0,10}",
            name in "[abAB12ßİéE._ー日か゛เ́-]{1,6}(/[abAB12ßİéE._ー日か゛เ́-]{1,6}){0,2}",
        ) {
            let (Ok(pattern), Ok(name)) = (Pattern::parse(&query), Name::from_path_text(&name)) else { return Ok(()) };
            if pattern.matches(&name) {
                has_what_is_required(&pattern, &name);
                let network = crate::Network::default();
                let keys = crate::RecordKey::of_words(&network, &name);
                prop_assert!(keys.contains(&crate::RecordKey::of_search(&network, &pattern)[0]));
            }
        }

        /// So an index by the second rule answers for the first, and who knows the second finds what those find who do not.
        #[test]
        fn what_matches_by_the_first_rule_matches_by_the_second(
            query in "[abAB12ßéEйЁ日本かガ한._-]{0,4}",
            name in "[abAB12ßéEйЁ日本かガ한._-]{1,8}(/[abAB12ßéEйЁ日本かガ한._-]{1,8}){0,1}",
        ) {
            let (Ok(first), Ok(second)) = (Pattern::parse_by(&query, Rule::First), Pattern::parse(&query)) else { return Ok(()) };
            let Ok(name) = Name::from_path_text(&name) else { return Ok(()) };
            if first.matches(&name) {
                prop_assert!(second.matches(&name), "{:?} {}", query, name);
                has_what_is_required(&first, &name);
                let network = crate::Network::default();
                let keys = crate::RecordKey::of_words(&network, &name);
                let asked = crate::RecordKey::of_search(&network, &first);
                prop_assert!(asked.iter().any(|key| keys.contains(key)));
            }
        }
    }
}
