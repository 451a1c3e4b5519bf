//! Finds the names about which a peer and its master differ, range by range (`protocols/src/agreement.rs`).
//!
//! The master divides ([`Division`]), the peer asks ([`Comparison`]). Neither believes the other: work is bounded on
//! both sides, whatever is answered.

use std::collections::VecDeque;

use swarmdex_protocols::Name;
use swarmdex_protocols::index::{Compared, Mark, Part, Range, ShareDigest, ShareSum};
use swarmdex_protocols::limits::{MAX_COMPARED_RANGES, MAX_RANGE_NAMES, MAX_RANGE_PARTS};

/// Questions of one comparison: ten thousand names that lie apart among a million take about 900.
const MAX_ROUNDS: usize = 1024;
/// Ranges that wait to be asked for.
const MAX_WAITING: usize = 16 * 1024;
/// Names that one comparison finds; with more, everything is told anew.
const MAX_FOUND: usize = 16 * 1024;

/// Names that are granted to a peer, as one side sees them.
pub(crate) trait Held {
    /// The names from one on to before another, in order, each with the digest of its entry.
    fn range<'a>(&'a self, from: &str, to: Option<&str>) -> Box<dyn Iterator<Item = (&'a Name, ShareDigest)> + 'a>;
}

/// Divides what the master holds in one range into parts of equal size; names come in order.
#[derive(Debug, Clone)]
pub(crate) struct Division {
    /// Each begins where it says, and ends where the next begins.
    parts: Vec<Part>,
    /// Entries in a part that is full.
    size: u64,
    sum: ShareSum,
    names: Vec<Mark>,
}

impl Division {
    /// Of a range that begins there.
    pub(crate) fn new(from: String) -> Self {
        let first = Part { from, held: ShareSum::default() };
        Self { parts: vec![first], size: 1, sum: ShareSum::default(), names: Vec::new() }
    }

    /// The next name of the range.
    pub(crate) fn push(&mut self, name: &str, entry: &ShareDigest) {
        self.sum.add(entry);
        if self.names.len() < MAX_RANGE_NAMES {
            self.names.push(Mark { name: name.to_owned(), mark: entry.mark() });
        }
        if self.parts.last().is_some_and(|part| part.held.entries >= self.size) {
            if self.parts.len() == MAX_RANGE_PARTS {
                self.merge();
            }
            if self.parts.last().is_some_and(|part| part.held.entries >= self.size) {
                self.parts.push(Part { from: name.to_owned(), held: ShareSum::default() });
            }
        }
        if let Some(part) = self.parts.last_mut() {
            part.held.add(entry);
        }
    }

    /// Makes one part of each two: half as many, twice as large.
    fn merge(&mut self) {
        let mut merged = Vec::with_capacity(MAX_RANGE_PARTS);
        for part in self.parts.drain(..) {
            match merged.last_mut() {
                Some(Part { held, .. }) if held.entries < 2 * self.size => held.join(&part.held),
                _ => merged.push(part),
            }
        }
        (self.parts, self.size) = (merged, 2 * self.size);
    }

    /// What is said to one who holds `other` in the range.
    pub(crate) fn finish(self, other: &ShareSum) -> Compared {
        if self.sum == *other {
            Compared::Same
        } else if self.sum.entries <= MAX_RANGE_NAMES as u64 {
            Compared::Names(self.names)
        } else {
            Compared::Split(self.parts)
        }
    }
}

/// What differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    /// Names that the peer holds and the master does not.
    pub missing: Vec<Name>,
    /// Names that the master holds for the peer and the peer does not.
    pub surplus: Vec<Name>,
    /// Names that both hold, with another content, size or version.
    pub other: Vec<Name>,
}

impl Differences {
    /// How many names differ.
    pub(crate) fn count(&self) -> usize {
        self.missing.len() + self.surplus.len() + self.other.len()
    }
}

/// Why a comparison leads nowhere: everything has to be told anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Hopeless {
    /// The answer does not fit the question.
    #[error("its answer does not fit the question")]
    Misfit,
    /// It takes too many questions, or too many names differ.
    #[error("too many names differ")]
    TooMany,
}

/// A comparison of all names, from the peer's side.
#[derive(Debug)]
pub(crate) struct Comparison {
    waiting: VecDeque<(String, Option<String>)>,
    asked: Vec<Range>,
    rounds: usize,
    found: Differences,
}

impl Default for Comparison {
    fn default() -> Self {
        let all = VecDeque::from([(String::new(), None)]);
        Self { waiting: all, asked: Vec::new(), rounds: 0, found: Differences::default() }
    }
}

impl Comparison {
    /// The next ranges to ask about, in order and apart; none at the end.
    pub(crate) fn next_ranges(&mut self, held: &(impl Held + ?Sized)) -> Vec<Range> {
        let most = self.waiting.len().min(MAX_COMPARED_RANGES);
        let ranges = self.waiting.drain(..most).map(|(from, to)| {
            let mut sum = ShareSum::default();
            held.range(&from, to.as_deref()).for_each(|(_, entry)| sum.add(&entry));
            Range { from, to, held: sum }
        });
        self.asked = ranges.collect();
        self.rounds += 1;
        self.asked.clone()
    }

    /// The answer to [`Comparison::next_ranges`].
    ///
    /// # Errors
    ///
    /// The answer cannot be right, or the comparison would go on for ever.
    pub(crate) fn on_compared(&mut self, answers: Vec<Compared>, held: &(impl Held + ?Sized)) -> Result<(), Hopeless> {
        let asked = std::mem::take(&mut self.asked);
        if asked.len() != answers.len() {
            return Err(Hopeless::Misfit);
        }
        // What is found goes to the front, so that ranges stay in order.
        let mut next = Vec::new();
        for (range, answer) in asked.into_iter().zip(answers) {
            match answer {
                Compared::Same => {}
                Compared::Split(parts) => next.extend(differing(&range, parts, held)?),
                Compared::Names(marks) => self.compare(&range, marks, held)?,
            }
        }
        for range in next.into_iter().rev() {
            self.waiting.push_front(range);
        }
        let endless = self.rounds >= MAX_ROUNDS && !self.waiting.is_empty();
        if endless || self.waiting.len() > MAX_WAITING || self.found.count() > MAX_FOUND {
            return Err(Hopeless::TooMany);
        }
        Ok(())
    }

    /// Compares a range name by name.
    fn compare(&mut self, range: &Range, marks: Vec<Mark>, held: &(impl Held + ?Sized)) -> Result<(), Hopeless> {
        if marks.len() > MAX_RANGE_NAMES {
            return Err(Hopeless::Misfit);
        }
        let mut mine = held.range(&range.from, range.to.as_deref()).peekable();
        let (mut last, found) = (None, &mut self.found);
        for mark in marks {
            let name = Name::parse(&mark.name).map_err(|_| Hopeless::Misfit)?;
            if !contains(range, name.as_str()) || last.as_ref().is_some_and(|last| *last >= name) {
                return Err(Hopeless::Misfit);
            }
            while let Some((missing, _)) = mine.next_if(|(mine, _)| **mine < name) {
                found.missing.push(missing.clone());
                if found.missing.len() > MAX_FOUND {
                    return Err(Hopeless::TooMany);
                }
            }
            match mine.next_if(|(mine, _)| **mine == name) {
                Some((_, entry)) if entry.mark() == mark.mark => {}
                Some(_) => found.other.push(name.clone()),
                None => found.surplus.push(name.clone()),
            }
            last = Some(name);
        }
        found.missing.extend(mine.take(MAX_FOUND + 1).map(|(name, _)| name.clone()));
        Ok(())
    }

    /// What was found, at the end.
    pub(crate) fn finish(self) -> Differences {
        self.found
    }
}

fn contains(range: &Range, name: &str) -> bool {
    range.from.as_str() <= name && range.to.as_deref().is_none_or(|to| name < to)
}

/// The parts of a range in which the peer holds something else.
fn differing(
    range: &Range,
    parts: Vec<Part>,
    held: &(impl Held + ?Sized),
) -> Result<Vec<(String, Option<String>)>, Hopeless> {
    let begins = parts.first().is_some_and(|first| first.from == range.from);
    let rises = parts.windows(2).all(|pair| matches!(pair, [a, b] if a.from < b.from && contains(range, &b.from)));
    if !begins || !rises || parts.len() < 2 || parts.len() > MAX_RANGE_PARTS {
        return Err(Hopeless::Misfit);
    }
    let ends: Vec<_> = parts.iter().skip(1).map(|part| Some(part.from.clone())).chain([range.to.clone()]).collect();
    let mut differing = Vec::new();
    for (part, to) in parts.into_iter().zip(ends) {
        let mut sum = ShareSum::default();
        held.range(&part.from, to.as_deref()).for_each(|(_, entry)| sum.add(&entry));
        if sum != part.held {
            differing.push((part.from, to));
        }
    }
    Ok(differing)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound;

    use proptest::prelude::*;
    use swarmdex_protocols::{ContentId, Version};

    use super::*;

    #[derive(Debug, Default, Clone)]
    struct Names(BTreeMap<Name, u64>);

    impl Held for Names {
        fn range<'a>(&'a self, from: &str, to: Option<&str>) -> Box<dyn Iterator<Item = (&'a Name, ShareDigest)> + 'a> {
            let end = to.map_or(Bound::Unbounded, Bound::Excluded);
            let digest =
                |name: &Name, version: u64| ShareDigest::of(name.as_str(), &ContentId::of(b""), 1, Version(version));
            let range = self.0.range::<str, _>((Bound::Included(from), end));
            Box::new(range.map(move |(name, version)| (name, digest(name, *version))))
        }
    }

    fn name(number: usize) -> Name {
        Name::parse(&format!("folder {}/file {number}", number % 7)).unwrap()
    }

    fn names(count: usize) -> Names {
        Names((0..count).map(|number| (name(number), 1)).collect())
    }

    /// What the master answers.
    fn answer(master: &Names, range: &Range) -> Compared {
        let mut division = Division::new(range.from.clone());
        for (name, entry) in master.range(&range.from, range.to.as_deref()) {
            division.push(name.as_str(), &entry);
        }
        division.finish(&range.held)
    }

    /// Compares to the end; also the questions and the bytes of all messages.
    fn compare(peer: &Names, master: &Names) -> Result<(Differences, usize, usize), Hopeless> {
        use swarmdex_protocols::codec::encode;
        use swarmdex_protocols::index::{Compare, IndexRequest, IndexResponse, Session};
        use swarmdex_protocols::limits::MAX_INDEX_MESSAGE;
        let (mut comparison, mut bytes, mut rounds) = (Comparison::default(), 0, 0);
        loop {
            let ranges = comparison.next_ranges(peer);
            if ranges.is_empty() {
                return Ok((comparison.finish(), rounds, bytes));
            }
            assert!(ranges.len() <= MAX_COMPARED_RANGES);
            assert!(ranges.windows(2).all(|pair| pair[0].to.as_ref().is_some_and(|to| *to <= pair[1].from)));
            let answers: Vec<_> = ranges.iter().map(|range| answer(master, range)).collect();
            let asked = IndexRequest::Compare(Compare { session: Session(1), ranges });
            bytes += encode(&asked, MAX_INDEX_MESSAGE).unwrap().len();
            bytes += encode(&IndexResponse::Compared(answers.clone()), MAX_INDEX_MESSAGE).unwrap().len();
            comparison.on_compared(answers, peer)?;
            rounds += 1;
        }
    }

    #[test]
    fn one_name_among_a_hundred_thousand_costs_kilobytes() {
        let peer = names(100_000);
        let mut master = peer.clone();
        master.0.remove(&name(54_321));
        let (differences, rounds, bytes) = compare(&peer, &master).unwrap();
        assert_eq!(differences, Differences { missing: vec![name(54_321)], ..Differences::default() });
        assert!(rounds <= 6 && bytes < 8_000, "{rounds} questions, {bytes} bytes");
    }

    #[test]
    fn one_side_may_hold_nothing() {
        assert_eq!(compare(&names(0), &names(0)).unwrap().0.count(), 0);
        assert_eq!(compare(&names(0), &names(100)).unwrap().0.surplus.len(), 100);
        assert_eq!(compare(&names(100), &names(0)).unwrap().0.missing.len(), 100);
        assert_eq!(compare(&names(MAX_FOUND + 1), &names(0)).unwrap_err(), Hopeless::TooMany);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn all_that_differs_is_found(
            count in 0..600usize,
            gone in prop::collection::btree_set(0..700usize, 0..40),
            new in prop::collection::btree_set(0..700usize, 0..40),
            changed in prop::collection::btree_set(0..700usize, 0..40),
        ) {
            let master = names(count);
            let mut peer = master.clone();
            peer.0.retain(|held, _| !gone.iter().any(|number| name(*number) == *held));
            peer.0.extend(new.iter().map(|number| (name(*number), 1)));
            for number in changed {
                peer.0.entry(name(number)).and_modify(|version| *version += 1);
            }
            let differ = |a: &Names, b: &Names| a.0.keys().filter(|name| !b.0.contains_key(*name)).cloned().collect::<Vec<_>>();
            let other: Vec<_> = peer.0.iter().filter(|(name, version)| master.0.get(*name).is_some_and(|held| held != *version)).map(|(name, _)| name.clone()).collect();
            let expected = Differences { missing: differ(&peer, &master), surplus: differ(&master, &peer), other };
            let (mut found, _, _) = compare(&peer, &master).unwrap();
            for list in [&mut found.missing, &mut found.surplus, &mut found.other] {
                list.sort();
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_division_is_in_order_and_whole(count in 0..3000usize) {
            let held = names(count);
            let mut division = Division::new(String::new());
            held.range("", None).for_each(|(name, entry)| division.push(name.as_str(), &entry));
            match division.finish(&ShareSum { entries: u64::MAX, ..ShareSum::default() }) {
                Compared::Split(parts) => {
                    prop_assert!(count > MAX_RANGE_NAMES && parts.len() > MAX_RANGE_PARTS / 2 && parts.len() <= MAX_RANGE_PARTS);
                    prop_assert_eq!(parts.iter().map(|part| part.held.entries).sum::<u64>(), count as u64);
                    let most = parts.iter().map(|part| part.held.entries).max().unwrap();
                    prop_assert!(most <= (2 * count / MAX_RANGE_PARTS + 1) as u64 * 2, "{most} of {count}");
                }
                Compared::Names(marks) => prop_assert_eq!(marks.len(), count),
                Compared::Same => prop_assert!(false),
            }
        }
    }

    #[test]
    fn answers_that_cannot_be_right_are_refused() {
        let peer = names(100);
        let part = |from: &str| Part { from: from.to_owned(), held: ShareSum::default() };
        let mark = |name: &str| Mark { name: name.to_owned(), mark: 1 };
        let wrong = [
            vec![],
            vec![Compared::Same, Compared::Same],
            vec![Compared::Split(vec![])],
            vec![Compared::Split(vec![part("")])],
            vec![Compared::Split(vec![part("a"), part("b")])],
            vec![Compared::Split(vec![part(""), part("b"), part("b")])],
            vec![Compared::Split(vec![part(""), part("c"), part("b")])],
            vec![Compared::Split((0..17).map(|number| part(&"x".repeat(number))).collect())],
            vec![Compared::Names(vec![mark("b"), mark("a")])],
            vec![Compared::Names(vec![mark("a"), mark("a")])],
            vec![Compared::Names(vec![mark("../a")])],
            vec![Compared::Names((0..33).map(|number| mark(&format!("a{number:02}"))).collect())],
        ];
        for answer in wrong {
            let mut comparison = Comparison::default();
            comparison.next_ranges(&peer);
            assert_eq!(comparison.on_compared(answer.clone(), &peer), Err(Hopeless::Misfit), "{answer:?}");
        }
    }

    #[test]
    fn a_master_that_always_says_that_there_is_more_is_given_up() {
        let peer = names(10);
        let mut comparison = Comparison::default();
        let mut rounds = 0;
        loop {
            let ranges = comparison.next_ranges(&peer);
            let split = |range: &Range| {
                let lie = ShareSum { entries: 7, ..ShareSum::default() };
                let part = |text: String| Part { from: text, held: lie };
                Compared::Split((0..16).map(|number| part(range.from.clone() + &"a".repeat(number))).collect())
            };
            let answers = ranges.iter().map(split).collect();
            rounds += 1;
            if let Err(error) = comparison.on_compared(answers, &peer) {
                assert!(matches!(error, Hopeless::TooMany | Hopeless::Misfit));
                break;
            }
            assert!(rounds <= MAX_ROUNDS);
        }
    }
}
