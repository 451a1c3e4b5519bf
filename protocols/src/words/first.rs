//! The rule of the builds before: words are runs of letters and digits in lower case, character by character.
//!
//! It stays for as long as such builds are about: they look for owners under the keys that follow from it, and expect
//! matches by it.

/// The words of a text, in order.
pub fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|char: char| !char.is_alphanumeric()).filter(|run| !run.is_empty()).map(lower)
}

/// A text in lower case, letter by letter: unlike `str::to_lowercase` the result for a part of a text is
/// that part of the result for the whole.
pub(crate) fn lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// The dot that "İ" has in lower case: it is no letter, and yet no end of the word that the name has there.
const DOT_ABOVE: char = '\u{307}';

/// Runs of letters and digits in a glob in lower case that begin a word in every match. These are the one at its
/// beginning and those after a character that is neither letter nor digit. Each comes with whether a longer word will
/// do, by what follows.
pub(crate) fn glob_words(glob: &[char]) -> Vec<(String, bool)> {
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
            required.push((glob[at..end].iter().collect(), prefix));
        }
        at = end;
    }
    required
}
