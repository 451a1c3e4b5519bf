//! The words of names and queries: which letters count as the same, and where one word ends and the next begins.
//!
//! **Folding.** Texts that people take for the same are folded to the same characters ([`fold`]), by Unicode's own
//! tables. Compatibility decomposition comes first (width, ligatures, presentation forms), then full case folding (ß is
//! ss, ς is σ). Accents and points are left out of alphabets that are read without them (Latin, Greek, Cyrillic,
//! Arabic, Hebrew, Syriac). Native digits become ASCII's, katakana becomes hiragana, and what is left is composed
//! again. Marks of other scripts are a part of their word.
//!
//! **Words** are runs of letters of one script, and runs of digits. In scripts that are written without spaces (Han,
//! kana, Hangul, Thai, Lao, Khmer, Burmese, …) each character is a word of its own. It remembers whether it follows the
//! one before directly. An index holds single characters and pairs of them.
//!
//! Names found and keys published follow from this: what it says of a character must not change. Where Unicode adds
//! characters, nodes of different builds may disagree about these alone.
//!
//! The rule of earlier builds is in [`first`]; [`Rule`] says which of them is meant.

pub mod first;

use std::borrow::Cow;

use icu_casemap::{CaseMapper, CaseMapperBorrowed};
use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};
use icu_properties::CodePointMapData;
use icu_properties::props::{GeneralCategory, Script};
use serde::{Deserialize, Serialize};

/// By which rule a name matches a query. Builds that do not know of rules mean the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
pub enum Rule {
    /// Runs of letters and digits in lower case, see [`first`].
    #[default]
    First,
    /// The rule of this module.
    Second,
}

impl Rule {
    /// Whether it is the rule of builds that do not say which.
    pub fn is_first(&self) -> bool {
        *self == Self::First
    }
}

impl From<u32> for Rule {
    /// Who knows a later rule gets the latest that is known here.
    fn from(number: u32) -> Self {
        if number <= 1 { Self::First } else { Self::Second }
    }
}

impl From<Rule> for u32 {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::First => 1,
            Rule::Second => 2,
        }
    }
}

/// A word of a folded text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word<'a> {
    /// Its characters.
    pub text: &'a str,
    /// Whether it is one character of a run that is written without spaces.
    pub single: bool,
    /// Whether it is such a character, and follows another of the same run.
    pub joined: bool,
    /// Whether the text says where it begins, whatever stands before the text.
    pub sure: bool,
}

/// What a character is to words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// A letter of a script that separates words.
    Letter(Script),
    Digit,
    /// A character of a script that does not separate words.
    Unspaced,
    /// A mark, or a letter of no script of its own: goes on with what is there.
    Follows,
    /// Neither letter nor digit.
    Gap,
}

const CASE: CaseMapperBorrowed<'static> = CaseMapper::new();
const DECOMPOSE: DecomposingNormalizerBorrowed<'static> = DecomposingNormalizerBorrowed::new_nfkd();
const COMPOSE: ComposingNormalizerBorrowed<'static> = ComposingNormalizerBorrowed::new_nfc();

/// A text as it is compared: what people take for the same is the same.
pub fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        let plain = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        return if plain { Cow::Borrowed(text) } else { Cow::Owned(text.to_ascii_lowercase()) };
    }
    // Marks go before the case is folded, which would make letters of some; what it makes of letters is looked at again.
    let bare = strip(&DECOMPOSE.normalize(text));
    let cased = CASE.fold_string(&bare);
    let again = strip(&DECOMPOSE.normalize(&cased));
    Cow::Owned(COMPOSE.normalize(&again).into_owned())
}

/// Takes marks and what does not show out of a decomposed text, and puts one character in place of those that are
/// typed for each other.
fn strip(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            _ if char.is_ascii() => out.push(char),
            'æ' => out.push_str("ae"),
            'œ' => out.push_str("oe"),
            'þ' => out.push_str("th"),
            _ => out.extend(replaced(char)),
        }
    }
    out
}

/// What stands for one character in a folded text; `None` if nothing does.
fn replaced(char: char) -> Option<char> {
    Some(match char {
        // Letters with strokes and hooks, which Unicode does not take apart, and the dotless i.
        'ı' | 'ɨ' => 'i',
        'ø' => 'o',
        'ł' => 'l',
        'đ' | 'ð' | 'ɗ' => 'd',
        'ħ' => 'h',
        'ŧ' | 'ⱦ' | 'ƭ' => 't',
        'ƀ' | 'ɓ' => 'b',
        'ƶ' => 'z',
        'ǥ' | 'ɠ' => 'g',
        'ʉ' => 'u',
        'ⱥ' => 'a',
        'ɏ' | 'ƴ' => 'y',
        'ƙ' => 'k',
        'ƈ' | 'ȼ' => 'c',
        'ƒ' => 'f',
        'ɍ' => 'r',
        'ɉ' => 'j',
        'ɇ' => 'e',
        // Persian and Arabic keyboards have each their own of these; the last is left for the one before in haste.
        'ک' => 'ك',
        'ی' | 'ى' => 'ي',
        'ة' | 'ہ' => 'ه',
        // The iota below a vowel is one beside it in capitals.
        '\u{345}' => 'ι',
        // Stretches Arabic words.
        'ـ' => return None,
        // Hangul fillers do not show.
        '\u{115f}' | '\u{1160}' => return None,
        // Apostrophes, quotes and dashes as keyboards have them.
        '‘' | '’' | '‛' | '′' | '\u{2b9}'..='\u{2bf}' | 'ˈ' | 'ˮ' => '\'',
        '“' | '”' | '‟' => '"',
        '‐'..='―' | '−' => '-',
        '〜' => '~',
        // The voiced marks of kana make another letter.
        '\u{3099}' | '\u{309a}' => char,
        'ァ'..='ヶ' | 'ヽ' | 'ヾ' => char::from_u32(u32::from(char) - 0x60).unwrap_or(char),
        _ => match category(char) {
            GeneralCategory::Format => return None,
            GeneralCategory::NonspacingMark | GeneralCategory::EnclosingMark if is_left_out(char) => return None,
            GeneralCategory::DecimalNumber => digit(char),
            _ => char,
        },
    })
}

fn category(char: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(char)
}

fn script(char: char) -> Script {
    CodePointMapData::<Script>::new().get(char)
}

/// Whether a mark belongs to a script that is read without: those of any script are taken for accents.
fn is_left_out(mark: char) -> bool {
    let script = script(mark);
    [Script::Inherited, Script::Common, Script::Latin, Script::Greek, Script::Cyrillic].contains(&script)
        || [Script::Arabic, Script::Hebrew, Script::Syriac].contains(&script)
}

/// A digit of any script as one of ASCII. Unicode keeps the ten of each script together, in order.
fn digit(char: char) -> char {
    let before = (1..=u32::from(char)).take_while(|back| {
        char::from_u32(u32::from(char) - back).is_some_and(|char| category(char) == GeneralCategory::DecimalNumber)
    });
    char::from_digit(before.count() as u32 % 10, 10).unwrap_or(char)
}

fn class(char: char) -> Class {
    use GeneralCategory::{
        DecimalNumber, EnclosingMark, LetterNumber, LowercaseLetter, ModifierLetter, NonspacingMark, OtherLetter,
        OtherNumber, SpacingMark, TitlecaseLetter, UppercaseLetter,
    };
    if char.is_ascii() {
        return match char {
            'a'..='z' | 'A'..='Z' => Class::Letter(Script::Latin),
            '0'..='9' => Class::Digit,
            _ => Class::Gap,
        };
    }
    // The long vowel mark belongs to no script. It is written with kana, and by itself.
    if char == 'ー' {
        return Class::Unspaced;
    }
    match category(char) {
        UppercaseLetter | LowercaseLetter | TitlecaseLetter | ModifierLetter | OtherLetter => match script(char) {
            Script::Common | Script::Inherited => Class::Follows,
            script if is_unspaced(script) => Class::Unspaced,
            script => Class::Letter(script),
        },
        LetterNumber if is_unspaced(script(char)) => Class::Unspaced,
        DecimalNumber | LetterNumber | OtherNumber => Class::Digit,
        NonspacingMark | EnclosingMark | SpacingMark => Class::Follows,
        _ => Class::Gap,
    }
}

/// Whether a script is written without spaces between words, or, as Hangul, so that words are found inside others.
fn is_unspaced(script: Script) -> bool {
    const CHINESE_JAPANESE_KOREAN: [Script; 9] = [
        Script::Han,
        Script::Hiragana,
        Script::Katakana,
        Script::Hangul,
        Script::Bopomofo,
        Script::Yi,
        Script::Tangut,
        Script::Nushu,
        Script::KhitanSmallScript,
    ];
    const SOUTH_EAST_ASIAN: [Script; 8] = [
        Script::Thai,
        Script::Lao,
        Script::Khmer,
        Script::Myanmar,
        Script::TaiLe,
        Script::NewTaiLue,
        Script::TaiTham,
        Script::TaiViet,
    ];
    CHINESE_JAPANESE_KOREAN.contains(&script) || SOUTH_EAST_ASIAN.contains(&script)
}

/// The words of a folded text, in order.
pub fn split(folded: &str) -> impl Iterator<Item = Word<'_>> {
    let mut chars = folded.char_indices().peekable();
    // Which run the character before belongs to, and whether one that ends there is known to end, whatever stands before
    // the text.
    let (mut before, mut known) = (Class::Gap, false);
    std::iter::from_fn(move || {
        loop {
            let (start, char) = chars.next()?;
            let (run, joined) = match (class(char), before) {
                (Class::Gap, _) => {
                    (before, known) = (Class::Gap, true);
                    continue;
                }
                (Class::Follows | Class::Unspaced, Class::Unspaced) => (Class::Unspaced, true),
                // A mark on nothing.
                (Class::Follows, _) if is_mark(char) => continue,
                (Class::Follows, _) => (Class::Letter(Script::Common), false),
                (run, _) => (run, false),
            };
            let mut end = start + char.len_utf8();
            let single = run == Class::Unspaced;
            while !single && let Some((at, char)) = chars.next_if(|(_, char)| goes_on(*char, run)) {
                end = at + char.len_utf8();
            }
            let sure = known || single;
            // A letter of no script may go on with what stands before the text, and so may what follows it.
            (before, known) = (run, sure || run != Class::Letter(Script::Common));
            return Some(Word { text: &folded[start..end], single, joined, sure });
        }
    })
}

/// Whether a character belongs to the run before it.
fn goes_on(char: char, run: Class) -> bool {
    let class = class(char);
    class == run || class == Class::Follows
}

fn is_mark(char: char) -> bool {
    use GeneralCategory::{EnclosingMark, NonspacingMark, SpacingMark};
    matches!(category(char), NonspacingMark | EnclosingMark | SpacingMark)
}

/// What an index holds of a text: its words and, of what is written without spaces, each character and each pair.
pub fn index_words(text: &str) -> Vec<String> {
    let folded = fold(text);
    let (mut found, mut before) = (Vec::new(), "");
    for word in split(&folded) {
        if word.joined {
            found.push([before, word.text].concat());
        }
        found.push(word.text.to_owned());
        before = word.text;
    }
    found
}

#[cfg(test)]
mod tests;
