//! What somebody may have meant who asked for a name that nobody has: something below it, other letters' case, another folder,
//! a slip of the finger.

use std::collections::BTreeSet;

use swarmdex_protocols::Name;

/// Names that are suggested at most.
const MOST: usize = 3;
/// Letters of a name that are compared: bounds what one comparison costs.
const LETTERS: usize = 96;
/// Of so many letters one may be wrong.
const LETTERS_PER_SLIP: usize = 4;

/// What there is in place of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hint {
    /// It is the beginning of so many names, spelled like this.
    Folder {
        /// The beginning as it is spelled.
        folder: String,
        /// How many names there are below, of those that were looked at.
        names: usize,
    },
    /// Names that are like it, the most likely first.
    Names(Vec<String>),
    /// Beginnings of names that are like it.
    Folders(Vec<String>),
}

/// The best hint among names that were found. `recursive` if folders were asked for.
pub(crate) fn nearest<'a>(wanted: &str, found: impl IntoIterator<Item = &'a Name>, recursive: bool) -> Option<Hint> {
    let wanted = wanted.trim_matches('/');
    let names: BTreeSet<&Name> = found.into_iter().collect();
    if let Some((folder, names)) = folder_of(wanted, &names)
        && (!recursive || folder != wanted)
    {
        return Some(Hint::Folder { folder: folder.to_owned(), names });
    }
    let sought = Sought::new(wanted);
    let files = || sought.best(names.iter().map(|name| name.as_str())).map(Hint::Names);
    let places = || sought.best(names.iter().flat_map(|name| folders(name.as_str()))).map(Hint::Folders);
    if recursive { places() } else { files().or_else(places) }
}

/// The folder that is meant, in whatever case, and how many names are below it.
fn folder_of<'a>(wanted: &str, names: &BTreeSet<&'a Name>) -> Option<(&'a str, usize)> {
    let lower = wanted.to_lowercase();
    let spelled = |name: &&'a Name| folders(name.as_str()).find(|folder| folder.to_lowercase() == lower);
    let all: Vec<_> = names.iter().copied().filter_map(|name| spelled(&name)).collect();
    // As it was spelled, if there is one like this.
    let folder = all.iter().find(|folder| **folder == wanted).or(all.first()).copied()?;
    Some((folder, all.iter().filter(|other| **other == folder).count()))
}

/// Every beginning of a name that ends before a slash.
fn folders(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').filter_map(|(at, _)| name.get(..at))
}

/// What was asked for, ready to be compared.
struct Sought {
    lower: String,
    last: String,
}

impl Sought {
    fn new(wanted: &str) -> Self {
        let lower = wanted.to_lowercase();
        let last = last_segment(&lower).to_owned();
        Self { lower, last }
    }

    /// Those that are nearest.
    fn best<'a>(&self, places: impl Iterator<Item = &'a str>) -> Option<Vec<String>> {
        let places: BTreeSet<&str> = places.collect();
        let mut ranked: Vec<_> = places.into_iter().filter_map(|place| Some((self.distance(place)?, place))).collect();
        ranked.sort_unstable();
        // Where letters' case is all that differs, nobody slipped.
        if ranked.first().is_some_and(|(distance, _)| *distance == 0) {
            ranked.retain(|(distance, _)| *distance <= 1);
        }
        let best: Vec<_> = ranked.into_iter().take(MOST).map(|(_, place)| place.to_owned()).collect();
        (!best.is_empty()).then_some(best)
    }

    /// How far a name is from it, if it is near: other letters' case first, then the same file elsewhere, then slips.
    fn distance(&self, name: &str) -> Option<usize> {
        let lower = name.to_lowercase();
        if lower == self.lower {
            return Some(0);
        }
        let last = last_segment(&lower);
        if last == self.last {
            return Some(1);
        }
        let whole = slips(&self.lower, &lower);
        let of_last = slips(&self.last, last).map(|slips| slips + 1);
        [whole, of_last].into_iter().flatten().min().map(|slips| slips + 1)
    }
}

fn last_segment(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Letters that differ, are too many, too few or changed places; `None` if those are too many for a slip.
fn slips(a: &str, b: &str) -> Option<usize> {
    let a: Vec<char> = a.chars().take(LETTERS).collect();
    let b: Vec<char> = b.chars().take(LETTERS).collect();
    let longest = a.len().max(b.len());
    // Of the shortest names nothing would be left.
    let most = if longest < LETTERS_PER_SLIP - 1 { 0 } else { longest.div_ceil(LETTERS_PER_SLIP) };
    if a.len().abs_diff(b.len()) > most {
        return None;
    }
    // Optimal string alignment: rows of the table, the last three of them.
    let (mut before, mut last) = (Vec::new(), (0..=b.len()).collect::<Vec<_>>());
    for (row, letter) in a.iter().enumerate() {
        let mut now = vec![row + 1];
        for (column, other) in b.iter().enumerate() {
            let cost = usize::from(letter != other);
            let (left, above, corner) = (now.get(column)?, last.get(column + 1)?, last.get(column)?);
            let mut best = (left + 1).min(above + 1).min(corner + cost);
            if row > 0 && column > 0 && Some(letter) == b.get(column - 1) && a.get(row - 1) == Some(other) {
                best = best.min(before.get(column - 1).copied().unwrap_or(usize::MAX - 1) + 1);
            }
            now.push(best);
        }
        before = std::mem::replace(&mut last, now);
    }
    last.last().copied().filter(|slips| *slips <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<Name> {
        texts.iter().map(|text| Name::parse(text).unwrap()).collect()
    }

    fn hint(wanted: &str, texts: &[&str], recursive: bool) -> Option<Hint> {
        nearest(wanted, &names(texts), recursive)
    }

    #[test]
    fn a_folder_is_named_in_the_case_that_it_has() {
        let texts = ["docs/a", "docs/b/c", "Docs/x", "other/docs/y"];
        let folder = |folder: &str, names| Some(Hint::Folder { folder: folder.to_owned(), names });
        assert_eq!(hint("docs", &texts, false), folder("docs", 2));
        assert_eq!(hint("docs/", &texts, false), folder("docs", 2));
        assert_eq!(hint("DOCS/B", &texts, false), folder("docs/b", 1));
        assert_eq!(hint("DOCS/B", &texts, true), folder("docs/b", 1));
    }

    #[test]
    fn another_case_comes_before_another_folder_and_that_before_a_slip() {
        let texts = ["docs/Report.txt", "old/report.txt", "docs/reports.txt", "docs/unlike.csv"];
        let all = |names: &[&str]| Some(Hint::Names(names.iter().map(|name| (*name).to_owned()).collect()));
        assert_eq!(hint("docs/report.txt", &texts, false), all(&["docs/Report.txt", "old/report.txt"]));
        assert_eq!(hint("docs/report.txt", &texts[1..], false), all(&["old/report.txt", "docs/reports.txt"]));
        assert_eq!(hint("Report.txt", &texts[..1], false), Some(Hint::Names(vec!["docs/Report.txt".to_owned()])));
        assert_eq!(hint("ÄRGER.TXT", &["ärger.txt"], false), Some(Hint::Names(vec!["ärger.txt".to_owned()])));
        assert_eq!(hint("nothing like it", &texts, false), None);
    }

    #[test]
    fn slips_of_all_kinds_are_found() {
        for slip in ["climat.csv", "climaate.csv", "clmiate.csv", "climate.csw", "limate.csv"] {
            assert_eq!(
                hint(slip, &["climate.csv"], false),
                Some(Hint::Names(vec!["climate.csv".to_owned()])),
                "{slip}"
            );
        }
        for recursive in [true, false] {
            assert_eq!(hint("phtoos", &["photos/a"], recursive), Some(Hint::Folders(vec!["photos".to_owned()])));
        }
        assert_eq!(slips("", ""), Some(0));
        assert_eq!(slips("abcd", "badc"), None);
    }

    #[test]
    fn a_comparison_costs_little_however_long_the_names_are() {
        let long = "x".repeat(1000);
        assert_eq!(slips(&long, &format!("y{long}")), Some(1));
        assert!(hint(&"a/".repeat(500), &["b"], false).is_none());
    }
}
