use proptest::prelude::*;
use unicode_normalization::UnicodeNormalization;

use super::*;
use crate::limits::{MAX_NAME_BYTES, MAX_WORD_KEYS};
use crate::{Name, Network, Pattern, RecordKey};

#[test]
fn what_people_take_for_the_same_is_folded_to_the_same() {
    for (text, folded) in [
        ("Résumé", "resume"),
        ("re\u{301}sume\u{301}", "resume"),
        ("Straße STRASSE ẞ", "strasse strasse ss"),
        ("İstanbul ISPARTA ısparta", "istanbul isparta isparta"),
        ("Οδυσσεύς ΟΔΥΣΣΕΎΣ", "οδυσσευσ οδυσσευσ"),
        ("ᾳ ΑΙ", "αι αι"),
        ("Отчёт Йод", "отчет иод"),
        ("ｆｕｌｌ　Ｗｉｄｔｈ１２", "full width12"),
        ("ﬁ ﬂ ĳ ŉ æ Œ", "fi fl ij 'n ae oe"),
        ("Łódź Øre Đuro Þórr", "lodz ore duro thorr"),
        ("مَدْرَسَة كِتَاب كـتـاب", "مدرسه كتاب كتاب"),
        ("ﺳﻼﻡ", "سلام"),
        ("کتابی كتابي", "كتابي كتابي"),
        ("שָׁלוֹם", "שלום"),
        ("ガギ ｶﾞｷﾞ がぎ か\u{3099}", "がぎ がぎ がぎ が"),
        ("\u{1112}\u{1161}\u{11ab} 한", "한 한"),
        ("हिन्दी", "हिन्दी"),
        ("ไทย ที่", "ไทย ที่"),
        ("٢٠٢٤ २०२४ ２０２４", "2024 2024 2024"),
        ("x² ½ Ⅳ", "x2 1⁄2 iv"),
        ("don’t – “so”", "don't - \"so\""),
        ("a\u{200d}b\u{ad}c\u{fe0f}", "abc"),
    ] {
        assert_eq!(fold(text), folded, "{text}");
    }
}

#[test]
fn runs_of_letters_digits_and_scripts_are_told_apart() {
    for (text, words) in [
        ("IMG20240131.jpg", "img 20240131 jpg"),
        ("отчётReport", "отчет report"),
        ("2024年の地図map", "2024 年 年の の の地 地 地図 図 map"),
        ("カード", "か かー ー ーど ど"),
        ("हिन्दी-पाठ", "हिन्दी पाठ"),
        ("ไทย", "ไ ไท ท ทย ย"),
        ("l’été", "l ete"),
        ("- . _", ""),
        ("\u{301}a", "a"),
    ] {
        assert_eq!(index_words(text).join(" "), words, "{text}");
    }
}

/// Names that are made to have many words have no more keys than the bound, and ordinary ones about as many as before.
#[test]
fn keys_of_a_name_are_bounded() {
    let network = Network::default();
    let keys = |name: &str| RecordKey::of_words(&network, &Name::from_path_text(name).unwrap()).len();
    let fill = |part: &dyn Fn(usize) -> String| {
        let (mut name, mut segment, mut number) = (String::new(), 0, 0);
        loop {
            let part = part(number);
            let gap = segment + part.len() > 255;
            if name.len() + part.len() + usize::from(gap) > MAX_NAME_BYTES {
                return name;
            }
            if gap {
                name.push('/');
                segment = 0;
            }
            name.push_str(&part);
            segment += part.len();
            number += 1;
        }
    };
    let letters = |number: usize| {
        [number / 676 % 26, number / 26 % 26, number % 26]
            .map(|at| char::from(b'a' + at as u8))
            .iter()
            .collect::<String>()
    };
    let worst = [
        fill(&|number| format!("{}-", letters(number))),
        fill(&|number| if number % 2 == 0 { letters(number / 2) } else { format!("{:03}", number / 2) }),
        fill(&|number| char::from_u32(0x4e00 + number as u32).unwrap().to_string()),
        fill(&|number| char::from_u32(0x3300 + number as u32 * 7 % 0x58).unwrap().to_string()),
        fill(&|number| char::from_u32(0xac00 + number as u32 * 31).unwrap().to_string()),
        fill(&|_| "\u{fdfa}".to_owned()),
    ];
    for name in &worst {
        assert!(keys(name) < MAX_WORD_KEYS, "{} keys of {name}", keys(name));
    }
    // The empty word, and a word and its beginning for each; as it was.
    assert_eq!(keys("photos/summer-holidays/beach.jpg"), 1 + 5 * 2);
    // What the second rule takes apart is there both ways.
    assert_eq!(keys("IMG20240131.jpg"), 1 + 2 * 2 + 3);
    assert_eq!(keys("東京の地図.pdf"), 1 + 2 * 2 + 4);
}

/// Whatever letter there is: a name that has it is found by the word that it is in, in any case and any normal form, and its owner is
/// looked for where it is found.
#[test]
fn every_letter_is_found_in_any_case_and_any_normal_form() {
    let network = Network::default();
    let mut letters = 0;
    for letter in (0..=u32::from(char::MAX)).filter_map(char::from_u32).filter(|char| char.is_alphabetic()) {
        // Of what is written without spaces each character is a word, and the whole blocks are alike.
        if matches!(class(letter), Class::Unspaced) && u32::from(letter) % 64 != 0 {
            continue;
        }
        letters += 1;
        for word in [format!("{letter}"), format!("a{letter}b"), format!("{letter}stan"), format!("x{letter}")] {
            let Ok(name) = Name::from_path_text(&format!("one {word} two")) else { continue };
            let keys = RecordKey::of_words(&network, &name);
            let cases = [word.clone(), word.to_lowercase(), word.to_uppercase(), CASE.fold_string(&word).into_owned()];
            for typed in cases.iter().flat_map(|text| {
                let forms: [String; 4] =
                    [text.nfc().collect(), text.nfd().collect(), text.nfkc().collect(), text.nfkd().collect()];
                forms
            }) {
                // Some letters stand for several words, or for a mark alone.
                let pattern = Pattern::parse(&typed).unwrap();
                assert!(pattern.matches(&name), "{typed:?} in {name:?}");
                let key = RecordKey::of_search(&network, &pattern);
                assert!(key.iter().any(|key| keys.contains(key)), "{typed:?} of {name:?}");
            }
        }
    }
    assert!(letters > 20_000, "{letters}");
}

fn word() -> impl Strategy<Value = String> {
    let latin = "[A-Za-zÀ-ÖØ-öø-ÿĀ-ſß]{1,8}";
    let others = prop_oneof![
        "[Α-ΡΣ-Ωα-ωάέήίόύώϊϋΐΰς]{1,8}",
        "[А-яЁёЇїЎўҐґ]{1,8}",
        "[א-ת\u{5b0}-\u{5bd}]{1,8}",
        "[ا-يآأإ\u{64b}-\u{652}]{1,8}"
    ];
    let unspaced = prop_oneof!["[一-十ぁ-んァ-ンー]{1,6}", "[가-힣]{1,5}", "[ก-ฮะ-ูเ-ไ่-๋]{1,6}"];
    prop_oneof![latin, "[0-9]{1,8}", "[A-Z]{2,3}[0-9]{3,8}", others, unspaced, "[अ-ह][ा-्]?[अ-ह]"]
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec((word(), "[-_. /]"), 1..5)
        .prop_map(|parts| parts.into_iter().map(|(word, gap)| format!("{word}{gap}")).collect::<String>() + "x")
}

proptest! {
    #[test]
    fn folding_twice_changes_nothing(text in "\\PC{0,30}|[\u{0}-\u{3ff}\u{1e00}-\u{1fff}\u{3000}-\u{30ff}\u{fb00}-\u{ffef}]{0,20}") {
        let once = fold(&text).into_owned();
        prop_assert_eq!(&fold(&once), &once);
    }

    #[test]
    fn normal_forms_are_folded_alike(text in "\\PC{0,20}") {
        let forms: [String; 3] = [text.nfd().collect(), text.nfc().collect(), text.nfkc().collect()];
        for form in forms {
            prop_assert_eq!(fold(&text), fold(&form));
        }
    }

    /// Each word as it stands in the name, typed composed or decomposed, in capitals or small letters, finds the name, and
    /// is looked for where its owner is found.
    #[test]
    fn every_name_is_found_by_each_of_its_words(text in name()) {
        let Ok(name) = Name::from_path_text(&text) else { return Ok(()) };
        let network = Network::default();
        let (indexed, keys) = (index_words(name.as_str()), RecordKey::of_words(&network, &name));
        let as_typed = name.as_str().split(|char: char| "-_. /".contains(char)).map(str::to_owned);
        for word in as_typed.chain(indexed.iter().cloned()) {
            let forms = [
                word.clone(),
                word.nfd().collect(),
                word.nfc().collect(),
                word.nfkd().collect(),
                word.to_uppercase(),
                word.to_lowercase(),
            ];
            for typed in forms {
                let pattern = Pattern::parse(&typed).unwrap();
                prop_assert!(pattern.matches(&name), "{:?} in {:?}", typed, name);
                prop_assert!(keys.contains(&RecordKey::of_search(&network, &pattern)[0]), "{:?} of {:?}", typed, name);
            }
        }
    }

    #[test]
    fn words_are_in_the_text_in_order(text in "\\PC{0,30}") {
        let folded = fold(&text);
        let mut rest = &*folded;
        for word in split(&folded) {
            let at = rest.find(word.text);
            prop_assert!(at.is_some() && !word.text.is_empty());
            rest = &rest[at.unwrap_or_default() + word.text.len()..];
        }
    }
}
