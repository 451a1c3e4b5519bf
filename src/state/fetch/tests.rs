#![allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.

mod crowd;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::patience::STALL;
use super::*;

const CHUNK: u64 = 256 << 10;
const POLICY: FetchPolicy = FetchPolicy {
    window_bytes: 8 << 20,
    total_bytes: 24 << 20,
    swarm: true,
    announces: true,
    patience: Duration::from_secs(30),
    seed: 7,
};

fn geometry(chunks: u64) -> Geometry {
    Geometry::new(chunks * CHUNK).unwrap()
}

/// How a source behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Has every so manieth chunk, and says so.
    Part(u64),
    /// Says that it has everything, and has nothing.
    Boaster,
    Liar,
    Dead,
    Forgetful,
    Busy,
    /// Answers some requests and fails others.
    Flaky,
}

impl Manner {
    fn whole(&self) -> bool {
        !matches!(self, Self::Part(_) | Self::Boaster)
    }

    fn says(&self, chunks: u64) -> Option<ChunkSet> {
        let Self::Part(each) = self else { return None };
        let mut set = ChunkSet::none(chunks);
        (0..chunks).filter(|index| index % each == 0).for_each(|index| {
            set.insert(index);
        });
        Some(set)
    }
}

struct Outcome {
    end: Action<u8>,
    asked: usize,
}

/// Runs a download to its end against sources of given manners, checking the invariants on the way.
fn run(chunks: u64, manners: &[Manner], order: &[u8]) -> Outcome {
    let mut now = Instant::now();
    let mut download = Download::new(geometry(chunks), POLICY, None);
    for (source, manner) in manners.iter().enumerate() {
        assert!(download.add_source(source as u8, manner.whole(), now));
    }
    let mut under_way: Vec<(u8, u64, u32)> = Vec::new();
    let mut written = BTreeSet::new();
    let (mut asked, mut turn) = (0, 0usize);
    for _ in 0..100_000 {
        while let Some(action) = download.poll_action(now) {
            match action {
                Action::Request { source, first, count } => {
                    let new = first..first + u64::from(count);
                    let same = |first: &u64, count: u32| new.start < *first + u64::from(count) && *first < new.end;
                    let others: Vec<_> = under_way.iter().filter(|(_, first, count)| same(first, *count)).collect();
                    assert!(others.len() <= 5, "a chunk is asked of few");
                    assert!(others.iter().all(|(other, ..)| *other != source), "asked twice of one");
                    assert!(new.clone().all(|chunk| !written.contains(&chunk)), "asked although written");
                    let says = manners[source as usize].says(chunks);
                    assert!(
                        says.is_none_or(|says| new.clone().all(|chunk| says.contains(chunk))),
                        "asked for what it has not"
                    );
                    under_way.push((source, first, count));
                    let bytes: u64 = under_way
                        .iter()
                        .filter(|(other, ..)| *other == source)
                        .map(|run| u64::from(run.2) * CHUNK)
                        .sum();
                    assert!(bytes <= POLICY.window_bytes, "window");
                    asked += 1;
                }
                Action::Cancel { source, first, .. } => {
                    under_way.retain(|(other, begin, _)| (*other, *begin) != (source, first));
                }
                Action::Have(source) => match &manners[source as usize] {
                    Manner::Dead => download.on_have_failed(source, now),
                    // Part of them is told along with something else.
                    manner @ Manner::Part(each) if each % 2 == 0 => {
                        let says = manner.says(chunks).unwrap();
                        let mut some = ChunkSet::none(chunks);
                        some.insert(0);
                        download.on_have(source, Some(some), now);
                        download.on_have_update(source, &says, now);
                    }
                    manner => download.on_have(source, manner.says(chunks), now),
                },
                Action::Report(_) => {}
                Action::Search => download.set_searching(false),
                end => {
                    assert_eq!(end == Action::Done, written.len() as u64 == chunks);
                    return Outcome { end, asked };
                }
            }
        }
        if under_way.is_empty() {
            let at = download.poll_timeout(now).expect("a download that waits says until when");
            now = now.max(at);
            download.handle_timeout(now);
            continue;
        }
        turn += 1;
        now += Duration::from_millis(order[turn % order.len()].into());
        let pick = order[turn % order.len()] as usize % under_way.len();
        let (source, first, count) = under_way.swap_remove(pick);
        let manner = match &manners[source as usize] {
            Manner::Flaky if turn % 3 == 0 => &Manner::Dead,
            Manner::Flaky | Manner::Part(_) => &Manner::Honest,
            manner => manner,
        };
        match manner {
            Manner::Liar => {
                if download.on_chunks(source, first, count, now) {
                    download.on_bad(source, first);
                }
                under_way.retain(|(other, ..)| *other != source);
            }
            Manner::Dead => {
                download.on_failed(source, first, now);
                // Connections end with all that is on them.
                under_way.retain(|(other, begin, _)| {
                    if *other == source {
                        download.on_failed(source, *begin, now);
                    }
                    *other != source
                });
            }
            Manner::Forgetful | Manner::Boaster => {
                download.on_refused(source, first, FetchRefusal::NotFound, now);
                under_way.retain(|(other, ..)| *other != source);
            }
            Manner::Busy => download.on_refused(source, first, FetchRefusal::Busy, now),
            _ => {
                if download.on_chunks(source, first, count, now) {
                    download.on_written(source, first, count);
                    for chunk in first..first + u64::from(count) {
                        assert!(written.insert(chunk), "written twice");
                    }
                }
            }
        }
    }
    panic!("no end");
}

fn manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        Just(Manner::Honest),
        (1u64..5).prop_map(Manner::Part),
        Just(Manner::Boaster),
        Just(Manner::Liar),
        Just(Manner::Dead),
        Just(Manner::Forgetful),
        Just(Manner::Busy),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn ends_done_if_one_honest_source_has_each_chunk_and_exhausted_otherwise(
        chunks in 1u64..200,
        manners in prop::collection::vec(manner(), 1..7),
        order in prop::collection::vec(any::<u8>(), 1..50),
    ) {
        let outcome = run(chunks, &manners, &order);
        let has = |manner: &Manner, chunk: u64| match manner {
            Manner::Honest => true,
            Manner::Part(each) => chunk.is_multiple_of(*each),
            _ => false,
        };
        let possible = (0..chunks).all(|chunk| manners.iter().any(|manner| has(manner, chunk)));
        prop_assert_eq!(outcome.end == Action::Done, possible);
    }
}

#[test]
fn the_gravest_reason_is_given() {
    assert_eq!(run(3, &[Manner::Dead, Manner::Liar], &[0]).end, Action::Exhausted(Exhausted::Wrong));
    assert_eq!(run(3, &[Manner::Forgetful, Manner::Dead], &[0]).end, Action::Exhausted(Exhausted::Unreachable));
    assert_eq!(run(3, &[Manner::Forgetful], &[0]).end, Action::Exhausted(Exhausted::Gone));
}

#[test]
fn small_chunks_of_a_fast_source_are_asked_for_in_runs() {
    assert!(run(100, &[Manner::Honest], &[0]).asked < 35);
}

#[test]
fn a_flaky_source_is_not_given_up() {
    assert_eq!(run(100, &[Manner::Flaky], &[0]).end, Action::Done);
}

#[test]
fn what_comes_late_is_welcome_once() {
    let now = Instant::now();
    let mut download = Download::new(geometry(1), POLICY, None);
    download.add_source(1u8, true, now);
    assert_eq!(download.poll_action(now), Some(Action::Request { source: 1, first: 0, count: 1 }));
    download.on_failed(1, 0, now);
    assert!(!download.on_chunks(2, 0, 1, now), "nobody asked that one");
    assert!(download.on_chunks(1, 0, 1, now));
    assert!(!download.on_chunks(1, 0, 1, now));
    download.on_written(1, 0, 1);
    assert!(!download.on_chunks(1, 0, 1, now));
    assert_eq!((download.written(), download.wasted()), (1, 3 * CHUNK));
    while let Some(action) = download.poll_action(now) {
        assert!(!matches!(action, Action::Request { .. }), "{action:?}");
    }
}

#[test]
fn chunks_that_are_not_written_yet_fill_the_window_too() {
    let now = Instant::now();
    let mut download = Download::new(geometry(1000), FetchPolicy { swarm: false, ..POLICY }, None);
    download.add_source(1u8, true, now);
    let mut unwritten = Vec::new();
    while let Some(Action::Request { source, first, count }) = download.poll_action(now) {
        assert!(download.on_chunks(source, first, count, now));
        unwritten.push((first, count));
    }
    let bytes: u64 = unwritten.iter().map(|(_, count)| u64::from(*count) * CHUNK).sum();
    assert_eq!(bytes, POLICY.window_bytes, "a slow disk holds the download up, and memory stays bounded");
    download.on_written(1, unwritten[0].0, unwritten[0].1);
    assert!(matches!(download.poll_action(now), Some(Action::Request { .. })));
}

#[test]
fn what_is_there_already_is_not_asked_for() {
    let now = Instant::now();
    let mut have = ChunkSet::none(20);
    [0, 1, 5, 19].into_iter().for_each(|index| {
        have.insert(index);
    });
    let mut download = Download::new(geometry(20), POLICY, Some(&have));
    download.add_source(1u8, true, now);
    let mut asked = BTreeSet::new();
    loop {
        match download.poll_action(now) {
            Some(Action::Request { source, first, count }) => {
                assert!(download.on_chunks(source, first, count, now));
                download.on_written(source, first, count);
                asked.extend(first..first + u64::from(count));
            }
            Some(Action::Done) => break,
            Some(_) => {}
            None => panic!("nothing to do"),
        }
    }
    assert_eq!(asked.len(), 16);
    assert!(asked.iter().all(|index| !have.contains(*index)));
}

#[test]
fn a_late_request_is_taken_over_and_the_loser_cancelled() {
    let mut now = Instant::now();
    let mut download = Download::new(geometry(8), FetchPolicy { swarm: false, ..POLICY }, None);
    download.add_source(1u8, true, now);
    download.add_source(2u8, true, now);
    let mut asked = Vec::new();
    while let Some(Action::Request { source, first, count }) = download.poll_action(now) {
        asked.push((source, first, count));
    }
    // The second answers at once, the first never.
    let (late, quick): (Vec<_>, Vec<_>) = asked.into_iter().partition(|(source, ..)| *source == 1);
    for (source, first, count) in quick {
        now += Duration::from_millis(10);
        assert!(download.on_chunks(source, first, count, now));
        download.on_written(source, first, count);
    }
    assert!(!late.is_empty());
    let mut cancelled = 0;
    for _ in 0..100 {
        match download.poll_action(now) {
            Some(Action::Request { source, first, count }) => {
                assert_eq!(source, 2);
                assert!(download.on_chunks(source, first, count, now));
                download.on_written(source, first, count);
            }
            Some(Action::Cancel { source, .. }) => {
                assert_eq!(source, 1);
                cancelled += 1;
            }
            Some(Action::Done) => return assert_eq!(cancelled, late.len()),
            Some(_) => {}
            None => now = download.poll_timeout(now).unwrap(),
        }
    }
    panic!("no end");
}

/// One source answers a run each 10 ms. The other has answered once, at 1 MiB a second, and stops then: what it was
/// asked for next is late by less than would make it overdue when all else is there.
#[test]
fn at_the_end_what_is_late_is_taken_over_before_it_is_overdue() {
    const QUICK: Duration = Duration::from_millis(10);
    let begin = Instant::now();
    for chunks in (500..700).step_by(10) {
        let mut now = begin;
        let mut download = Download::new(geometry(chunks), FetchPolicy { swarm: false, ..POLICY }, None);
        download.add_source(1u8, true, now);
        download.add_source(2u8, true, now);
        let (mut slow, mut quick, mut free) = (VecDeque::new(), VecDeque::new(), now);
        let mut answered = false;
        let end = loop {
            match download.poll_action(now) {
                Some(Action::Request { source: 1, first, count }) => slow.push_back((now, first, count)),
                Some(Action::Request { first, count, .. }) => {
                    free = free.max(now) + QUICK;
                    quick.push_back((free, first, count));
                }
                Some(Action::Done) => break now,
                Some(_) => {}
                None => {
                    let (at, ..) = *quick.front().unwrap_or(&(download.poll_timeout(now).unwrap(), 0, 0));
                    now = now.max(at);
                    if let Some(&(asked, first, count)) = slow.front()
                        && !answered
                        && now >= asked + Duration::from_secs(1)
                    {
                        slow.pop_front();
                        answered = true;
                        assert!(download.on_chunks(1, first, count, now));
                        download.on_written(1, first, count);
                    }
                    if let Some((_, first, count)) = quick.pop_front_if(|(at, ..)| *at <= now) {
                        assert!(download.on_chunks(2, first, count, now));
                        download.on_written(2, first, count);
                    }
                }
            }
        };
        assert!(answered && !slow.is_empty(), "the slow one was asked again");
        let alone = QUICK * (chunks / 4) as u32;
        assert!(end - begin < alone + Duration::from_millis(150), "{:?} instead of {alone:?}", end - begin);
    }
}

#[test]
fn sources_are_bounded() {
    let now = Instant::now();
    let mut download = Download::new(geometry(100), POLICY, None);
    for source in 0..100u8 {
        download.add_source(source, true, now);
    }
    assert_eq!(download.sources.len(), MAX_SOURCES);
}

#[test]
fn a_download_that_nobody_can_serve_ends() {
    let mut now = Instant::now();
    let mut download = Download::new(geometry(100), POLICY, None);
    download.add_source(1u8, false, now);
    let begin = now;
    loop {
        match download.poll_action(now) {
            Some(Action::Have(source)) => download.on_have(source, Some(ChunkSet::none(100)), now),
            Some(Action::Search) => download.set_searching(false),
            Some(Action::Exhausted(_)) => break,
            Some(other) => panic!("{other:?}"),
            None => now = now.max(download.poll_timeout(now).unwrap()),
        }
    }
    assert!(now - begin >= STALL && now - begin < STALL * 2);
}

#[test]
fn when_none_is_left_more_sources_are_looked_for_until_that_is_in_vain() {
    let now = Instant::now();
    let mut download = Download::new(geometry(100), POLICY, None);
    for source in 1..3u8 {
        download.add_source(source, true, now);
        download.set_searching(false);
        // It sends one chunk, and then it has the content no more.
        let mut asked = Vec::new();
        while let Some(action) = download.poll_action(now) {
            if let Action::Request { first, count, .. } = action {
                asked.push((first, count));
            }
        }
        let (first, count) = asked[0];
        assert!(download.on_chunks(source, first, count, now));
        download.on_written(source, first, count);
        download.on_refused(source, asked[1].0, FetchRefusal::NotFound, now);
        assert_eq!(download.poll_action(now), Some(Action::Search));
        assert_eq!(download.poll_action(now), None, "it waits while it is looked for");
    }
    download.add_source(3, true, now);
    let mut actions = std::iter::from_fn(|| download.poll_action(now)).collect::<Vec<_>>().into_iter();
    let first = actions
        .find_map(|action| match action {
            Action::Request { first, .. } => Some(first),
            _ => None,
        })
        .unwrap();
    download.on_refused(3, first, FetchRefusal::NotFound, now);
    download.set_searching(false);
    assert_eq!(download.poll_action(now), Some(Action::Exhausted(Exhausted::Gone)));
}

#[test]
fn millions_of_chunks_cost_little() {
    let geometry = Geometry::new(swarmdex_protocols::limits::MAX_FILE_BYTES).unwrap();
    let download = Download::<u8>::new(geometry, POLICY, None);
    assert_eq!(download.unasked.len(), 1);
}

/// An owner that is restarted is waited for, looked for again and again, and used when it is back.
#[test]
fn a_download_that_has_come_by_something_waits_for_its_owner_and_no_longer_than_a_lease() {
    let begin = Instant::now();
    let after = |ms: u64| begin + Duration::from_millis(ms);
    let lost = |came: bool| {
        let mut download = Download::new(geometry(8), FetchPolicy { swarm: false, ..POLICY }, None);
        download.add_source(0, true, begin);
        let mut asked = Vec::new();
        while let Some(Action::Request { first, count, .. }) = download.poll_action(begin) {
            asked.push((first, count));
        }
        if came {
            let (first, count) = asked.remove(0);
            assert!(download.on_chunks(0, first, count, begin));
            download.on_written(0, first, count);
        }
        for failure in 0..MAX_FAILURES {
            let now = after(3000 * u64::from(failure));
            download.handle_timeout(now);
            while let Some(action) = download.poll_action(now) {
                match action {
                    Action::Request { first, count, .. } => asked.push((first, count)),
                    // More are looked for early if nothing comes.
                    Action::Search if !came => download.set_searching(false),
                    action => assert_eq!(action, Action::Report(0)),
                }
            }
            asked.drain(..).for_each(|(first, _)| download.on_failed(0, first, now));
        }
        download
    };
    // Nobody who never sent anything is waited for.
    let mut download = lost(false);
    assert_eq!(download.poll_action(after(7000)), Some(Action::Exhausted(Exhausted::Unreachable)));

    for is_back in [false, true] {
        let mut download = lost(true);
        let mut searches = 0;
        for second in 7..29 {
            match download.poll_action(after(1000 * second)) {
                Some(Action::Search) => searches += 1,
                action => assert_eq!(action, None),
            }
            download.set_searching(false);
            assert!(download.poll_timeout(after(1000 * second)).unwrap() <= after(1000 * second + 2000));
        }
        assert!((10..=12).contains(&searches), "{searches}");
        if is_back {
            assert!(download.add_source(0, true, after(29_000)) && !download.add_source(0, true, after(29_000)));
            assert!(matches!(download.poll_action(after(29_000)), Some(Action::Request { source: 0, .. })));
        } else {
            assert_eq!(download.poll_action(after(30_000)), Some(Action::Exhausted(Exhausted::Unreachable)));
        }
    }
}

#[test]
fn a_source_that_no_connection_leads_to_is_given_up_at_once_and_reported_once() {
    let now = Instant::now();
    let after = |millis| now + Duration::from_millis(millis);
    let mut download = Download::new(geometry(1), POLICY, None);
    download.add_source(1u8, true, now);
    assert!(matches!(download.poll_action(now), Some(Action::Request { source: 1, first: 0, .. })));
    // Others are looked for while it is still tried, and once.
    assert_eq!(download.poll_timeout(now).unwrap(), after(1000));
    assert_eq!(download.poll_action(after(1000)), Some(Action::Search));
    download.set_searching(false);
    assert_eq!(download.poll_action(after(1000)), None);
    download.on_unreachable(1, Some(0));
    assert_eq!(download.poll_action(after(5000)), Some(Action::Report(1)));
    assert_eq!(download.poll_action(after(5000)), Some(Action::Exhausted(Exhausted::Unreachable)));
}

#[test]
fn a_source_that_is_found_again_is_asked_again() {
    let now = Instant::now();
    let mut download = Download::new(geometry(1), POLICY, None);
    download.add_source(1u8, true, now);
    assert!(matches!(download.poll_action(now), Some(Action::Request { .. })));
    download.on_unreachable(1, Some(0));
    assert_eq!(download.poll_action(now), Some(Action::Report(1)));
    assert_eq!(download.poll_action(now), Some(Action::Search));
    assert!(download.add_source(1, true, now));
    assert!(matches!(download.poll_action(now), Some(Action::Request { source: 1, first: 0, .. })));
    download.on_unreachable(1, Some(0));
    download.set_searching(false);
    assert_eq!(download.poll_action(now), Some(Action::Exhausted(Exhausted::Unreachable)), "and not reported again");
    assert!(!download.has_come());
}

/// An owner that was restarted answers before it has looked what it has.
#[test]
fn an_owner_that_is_back_and_does_not_know_yet_what_it_has_is_asked_again() {
    let begin = Instant::now();
    let after = |seconds: u64| begin + Duration::from_secs(seconds);
    // What is asked for at a time, and what comes after it.
    let requests = |download: &mut Download<u8>, now| {
        let mut asked = Vec::new();
        loop {
            match download.poll_action(now) {
                Some(Action::Request { first, count, .. }) => asked.push((first, count)),
                action => return (asked, action),
            }
        }
    };
    for was_away in [true, false] {
        let mut download = Download::new(geometry(8), FetchPolicy { swarm: false, ..POLICY }, None);
        download.add_source(0, true, begin);
        let (asked, _) = requests(&mut download, begin);
        let (first, count) = asked[0];
        assert!(download.on_chunks(0, first, count, begin));
        download.on_written(0, first, count);
        let (more, _) = requests(&mut download, begin);
        let (missing, _) = *asked.iter().skip(1).chain(&more).next().unwrap();
        if !was_away {
            // Whoever was there all the time has it no more.
            download.on_refused(0, missing, FetchRefusal::NotFound, after(3));
            assert_eq!(download.poll_action(after(3)), Some(Action::Search));
            download.set_searching(false);
            assert!(!download.add_source(0, true, after(4)));
            assert_eq!(download.poll_action(after(4)), Some(Action::Exhausted(Exhausted::Gone)));
            continue;
        }
        download.on_unreachable(0, Some(missing));
        assert_eq!(download.poll_action(after(1)), Some(Action::Report(0)));
        assert_eq!(download.poll_action(after(1)), Some(Action::Search));
        download.set_searching(false);
        assert!(download.is_waiting());
        for second in [4, 8] {
            assert!(download.add_source(0, true, after(second)));
            assert!(!download.is_waiting());
            let (asked, _) = requests(&mut download, after(second));
            download.on_refused(0, asked[0].0, FetchRefusal::NotFound, after(second + 1));
            assert!(download.is_waiting());
            assert_eq!(download.poll_action(after(second + 3)), Some(Action::Search));
            download.set_searching(false);
            assert_eq!(download.poll_action(after(second + 3)), None, "it waits");
            assert!(!download.add_source(0, false, after(second + 3)), "somebody's word is not enough");
        }
        // What the name does not stand for any more is not waited for.
        download.on_superseded();
        assert_eq!(download.poll_action(after(12)), Some(Action::Exhausted(Exhausted::Gone)));
    }
}

#[test]
fn who_is_told_to_waits_for_sources_from_the_start_and_no_longer_than_that() {
    let begin = Instant::now();
    let after = |seconds: u64| begin + Duration::from_secs(seconds);
    let mut download = Download::<u8>::new(geometry(1), FetchPolicy { swarm: false, ..POLICY }, None);
    download.wait_from(begin);
    assert!(download.is_waiting() && download.is_patient());
    let mut searches = 0;
    for second in 0..30 {
        if let Some(action) = download.poll_action(after(second)) {
            assert_eq!(action, Action::Search);
            searches += 1;
            download.set_searching(false);
        }
    }
    assert!((14..=16).contains(&searches), "{searches}");
    assert!(download.add_source(1, true, after(29)));
    assert!(matches!(download.poll_action(after(29)), Some(Action::Request { source: 1, .. })));
    download.on_unreachable(1, Some(0));
    assert_eq!(download.poll_action(after(29)), Some(Action::Report(1)));
    assert_eq!(download.poll_action(after(30)), Some(Action::Exhausted(Exhausted::Unreachable)));
}
