//! Texts of others on their way to a person: reasons of refusals, names, versions, whatever a peer, a file system or
//! a database says of itself.
//!
//! A terminal obeys control characters, a line feed begins a line that looks like one of the program's own, and format
//! characters make a text show as another one. Whoever prints for people passes everything through here, and whoever
//! prints JSON escapes there what a terminal would obey: programs get the text as it is, people see what is in it.

use unicode_general_category::{GeneralCategory, get_general_category};

/// Whether a character shows as what it is. Private and unassigned ones count as such: which are assigned changes with
/// each version of Unicode.
pub fn is_visible(char: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator, Surrogate};
    match char {
        ' '..='~' => true,
        _ => !matches!(get_general_category(char), Control | Format | LineSeparator | ParagraphSeparator | Surrogate),
    }
}

/// The text on one line, with everything that does not show, or that a terminal would obey, made visible.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for char in text.chars() {
        if is_visible(char) { plain.push(char) } else { plain.extend(char.escape_unicode()) }
    }
    plain
}

/// The same for a text whose lines are the program's own.
pub fn plain_lines(text: &str) -> String {
    text.split('\n').map(plain).collect::<Vec<_>>().join("\n")
}

/// The bytes as text, those that are no UTF-8 as `\xE9`. File systems have such names.
pub fn of_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for piece in bytes.utf8_chunks() {
        text.push_str(piece.valid());
        piece.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02X}")));
    }
    text
}

/// JSON that means the same, with everything escaped that does not show: its writers leave most of it as it is.
/// What is no UTF-8 stays.
pub fn plain_json(json: Vec<u8>) -> Vec<u8> {
    if json.iter().all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\n') {
        return json;
    }
    let Ok(text) = str::from_utf8(&json) else { return json };
    let mut plain = String::with_capacity(json.len() + 16);
    for char in text.chars() {
        // Every ASCII character but this one is escaped within strings already, or stands between values.
        if is_visible(char) || (char.is_ascii() && char != '\x7f') {
            plain.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                plain.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    plain.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_shown() {
        for (bytes, text) in [
            (&b"caf\xe9.txt"[..], "caf\\xE9.txt"),
            (b"\xc3\xa9\xc3", "\u{e9}\\xC3"),
            (b"\xf0\x9f\xa6a", "\\xF0\\x9F\\xA6a"),
            ("日本".as_bytes(), "日本"),
            (b"", ""),
        ] {
            assert_eq!(of_bytes(bytes), text);
        }
    }

    #[test]
    fn nothing_reaches_a_terminal_as_a_command_and_no_line_is_forged() {
        for (text, expected) in [
            ("a\x1b[31m\nb\u{202e}c", "a\\u{1b}[31m\\u{a}b\\u{202e}c"),
            ("\r\t\0\x7f", "\\u{d}\\u{9}\\u{0}\\u{7f}"),
            ("\u{9b}31m\u{85}\u{9d}0;title\u{7}", "\\u{9b}31m\\u{85}\\u{9d}0;title\\u{7}"),
            (
                "\u{2028}\u{2029}\u{61c}\u{200b}\u{200f}\u{2060}\u{2066}\u{feff}",
                "\\u{2028}\\u{2029}\\u{61c}\\u{200b}\\u{200f}\\u{2060}\\u{2066}\\u{feff}",
            ),
            ("\u{ad}\u{fff9}\u{e0041}", "\\u{ad}\\u{fff9}\\u{e0041}"),
            ("日本 é Straße 🦀", "日本 é Straße 🦀"),
        ] {
            assert_eq!(plain(text), expected);
            assert_eq!(plain(&plain(text)), expected, "once more changes nothing");
        }
        assert_eq!(plain_lines("own\nline\x1b[2J"), "own\nline\\u{1b}[2J");
    }

    #[test]
    fn json_means_the_same_and_has_nothing_that_does_not_show() {
        for (json, expected) in [
            ("{\"a\":\"b\"}\n", "{\"a\":\"b\"}\n"),
            ("\"\u{7f}\u{9b}\u{202e}é\"", "\"\\u007f\\u009b\\u202eé\""),
            ("\"\u{e0041}🦀\"", "\"\\udb40\\udc41🦀\""),
            ("[\n\t1]", "[\n\t1]"),
        ] {
            assert_eq!(plain_json(json.into()), expected.as_bytes());
        }
        assert_eq!(plain_json(vec![b'"', 0xff, b'"']), [b'"', 0xff, b'"']);
    }
}
