use std::collections::BTreeSet;

use proptest::prelude::*;
use swarmdex_protocols::{ContentId, PeerId, Version};

use super::*;

fn name(number: usize) -> Name {
    Name::parse(&format!("name {number}")).unwrap()
}

fn entry(number: usize, version: u64) -> Entry {
    let owner = PeerId::from_bytes(&[0, 1, 7]).unwrap();
    Entry {
        name: name(number),
        content: ContentId::of(b"x"),
        size: 1,
        owner,
        version: Version(version),
        attributes: None,
    }
}

fn page(entries: impl IntoIterator<Item = Entry>, next: Option<u64>) -> Page {
    Page { entries: entries.into_iter().collect(), next: next.map(Cursor) }
}

fn all() -> Pattern {
    Pattern::parse("").unwrap()
}

fn numbers(found: Found) -> Vec<(String, u64)> {
    found.into_entries().into_iter().map(|entry| (entry.name.to_string(), entry.version.0)).collect()
}

#[test]
fn a_name_that_comes_on_two_pages_is_found_once_at_its_latest_version() {
    let mut found = Found::new(3, 10);
    assert_eq!(found.add_page(page([entry(1, 5), entry(2, 5)], Some(10)), &all()), Next::Page(Cursor(10)));
    assert_eq!(found.add_page(page([entry(1, 4)], Some(20)), &all()), Next::Page(Cursor(20)));
    // It takes up no room of others, and a full list still takes in what is later.
    assert_eq!(found.missing(), 1);
    assert_eq!(found.add_page(page([entry(1, 9), entry(3, 1), entry(4, 1), entry(2, 7)], Some(30)), &all()), Next::End);
    assert_eq!(numbers(found), [1, 2, 3].map(|n| (format!("name {n}"), [9, 7, 1][n - 1])));
}

#[test]
fn pages_that_are_empty_or_lead_nowhere_are_no_end() {
    let mut found = Found::new(10, 4);
    assert_eq!(found.add_page(page([], Some(1)), &all()), Next::Page(Cursor(1)));
    assert_eq!(found.cursor(), Some(Cursor(1)));
    assert_eq!(found.add_page(page([entry(1, 1)], Some(1)), &all()), Next::Astray, "it does not move");
    assert_eq!(found.missing(), 9, "what it said counts all the same");
    // Going round in a circle for ever.
    let mut found = Found::new(10, 4);
    let nexts: Vec<_> = (0..4).map(|turn| found.add_page(page([], Some(1 + turn % 2)), &all())).collect();
    assert_eq!(nexts[3], Next::Astray);
    assert!(nexts[..3].iter().all(|next| matches!(next, Next::Page(_))), "{nexts:?}");
    // The last page that may be read is the end if it says so.
    let mut found = Found::new(10, 2);
    found.add_page(page([], Some(1)), &all());
    assert_eq!(found.add_page(page([entry(1, 1)], None), &all()), Next::End);
}

#[test]
fn more_than_a_page_may_have_and_what_does_not_match_is_left_out() {
    let mut found = Found::new(10_000, 10);
    let many = (0..3 * MAX_PAGE_ENTRIES).map(|number| entry(number, 1));
    assert_eq!(found.add_page(page(many, None), &all()), Next::End);
    assert_eq!(found.into_entries().len(), MAX_PAGE_ENTRIES);
    let mut found = Found::new(10, 10);
    found.add_page(page([entry(1, 1), entry(2, 1)], None), &Pattern::parse("2").unwrap());
    assert_eq!(numbers(found), [("name 2".to_owned(), 1)]);
}

/// Everything that a node with these names tells in pages of `most`; `change` changes the names after each page.
fn told(mut names: Vec<Name>, most: usize, mut change: impl FnMut(&mut Vec<Name>)) -> Vec<Name> {
    let (mut told, mut cursor) = (Vec::new(), None);
    loop {
        names.sort();
        let places = NamePlaces::of(&names);
        let mut next = None;
        for (index, after) in places.page(cursor, most) {
            told.push(names[index].clone());
            next = after;
        }
        if next.is_none() {
            return told;
        }
        cursor = next;
        change(&mut names);
    }
}

#[test]
fn every_size_of_page_tells_every_name_once() {
    for count in [0, 1, 9, 10, 11, 29, 30, 31] {
        for most in [1, 10, 30, 100] {
            let names: Vec<_> = (0..count).map(name).collect();
            let told = told(names.clone(), most, |_| {});
            assert_eq!(told.len(), count, "{count} names, {most} a page");
            assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), names.into_iter().collect());
        }
    }
}

proptest! {
    /// Whatever comes and goes between the pages: what is there all the time is told once, and nothing twice.
    #[test]
    fn names_that_stay_are_told_once_while_others_come_and_go(
        stay in 0..60usize,
        most in 1..20usize,
        changes in prop::collection::vec((any::<bool>(), 0..200usize), 0..60),
    ) {
        let mut changes = changes.into_iter();
        let names: Vec<_> = (0..stay).map(name).chain((1000..1040).map(name)).collect();
        let told = told(names, most, |names| for (add, number) in changes.by_ref().take(3) {
            let other = name(1000 + number);
            match names.iter().position(|held| *held == other) {
                Some(at) if !add => drop(names.remove(at)),
                None if add => names.push(other),
                _ => {}
            }
        });
        let once: BTreeSet<_> = told.iter().cloned().collect();
        prop_assert_eq!(once.len(), told.len());
        prop_assert!((0..stay).all(|number| once.contains(&name(number))));
    }
}

#[test]
fn every_part_has_its_turn_also_if_the_first_fails_for_ever() {
    const MOST: usize = 10;
    for count in [0usize, 1, 9, 10, 11, 20, 35] {
        let (mut last, mut seen) = (None, BTreeSet::new());
        for _ in 0..count.div_ceil(MOST) {
            let part = part((0..count).collect(), &mut last, MOST, |item| item);
            assert!(part.len() <= MOST);
            seen.extend(part);
        }
        assert_eq!(seen.len(), count, "nothing of it was ever done");
    }
    // The last of the part before may be gone, and so may everything behind it.
    let mut last = Some(14);
    assert_eq!(part(vec![1, 2, 13, 15, 16], &mut last, 2, |item| item), [15, 16]);
    assert_eq!(part(vec![1, 2, 3, 4], &mut last, 3, |item| item), [1, 2, 3]);
    assert_eq!(part(vec![1, 4], &mut last, 3, |item| item), [1, 4], "all of them if there is room");
}
