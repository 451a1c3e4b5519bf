//! What downloaders of the same content tell each other.

use super::*;

#[test]
fn a_word_is_as_good_as_an_answer_and_puts_the_question_off() {
    let mut now = Instant::now();
    let mut download = Download::new(geometry(100), POLICY, None);
    download.add_source(1u8, false, now);
    let set = |indexes: &[u64]| {
        let mut set = ChunkSet::none(100);
        assert!(indexes.iter().all(|index| set.insert(*index)));
        set
    };
    download.on_have_update(2, &set(&[1]), now);
    download.on_have_update(1, &set(&[7]), now);
    assert_eq!(download.poll_action(now), Some(Action::Request { source: 1, first: 7, count: 1 }));
    assert_eq!(download.poll_action(now), None);
    // An older word that comes late takes nothing back.
    download.on_have_update(1, &set(&[8]), now);
    assert!(download.on_chunks(1, 7, 1, now));
    download.on_written(1, 7, 1);
    assert_eq!(download.poll_action(now), Some(Action::Request { source: 1, first: 8, count: 1 }));
    for _ in 0..100 {
        now += Duration::from_millis(40);
        assert!(!download.on_have_update(1, &set(&[7]), now), "that is nothing new");
        assert_eq!(download.poll_action(now), None, "it need not be asked");
    }
    now += Duration::from_millis(500);
    assert_eq!(download.poll_action(now), Some(Action::Have(1)));
}

#[test]
fn a_chunk_that_nobody_else_has_is_told_at_once() {
    let now = Instant::now();
    let mut download = Download::new(geometry(100), POLICY, None);
    let set = |index: u64| {
        let mut set = ChunkSet::none(100);
        assert!(set.insert(index));
        set
    };
    download.add_source(1u8, true, now);
    for (source, index) in [(2, 20), (3, 30)] {
        download.add_source(source, false, now);
        download.on_have_update(source, &set(index), now);
    }
    let mut asked = Vec::new();
    let mut actions = std::iter::from_fn(|| download.poll_action(now)).inspect(|action| {
        if let Action::Request { source: 1, first, count } = action {
            asked.push((*first, *count));
        }
    });
    assert!(actions.all(|action| !matches!(action, Action::Have(2 | 3))), "they said it already");
    let (first, count) = asked[0];
    assert!(download.on_chunks(1, first, count, now));
    download.on_written(1, first, count);
    let told: Vec<_> =
        std::iter::from_fn(|| download.poll_action(now)).filter(|action| matches!(action, Action::Have(_))).collect();
    assert_eq!(told, [Action::Have(2), Action::Have(3)]);
    // What comes meanwhile is told afterwards; what others have is no news.
    for (source, first) in [(1, asked[1].0), (2, 20), (3, 30)] {
        assert!(download.on_chunks(source, first, 1, now));
        download.on_written(source, first, 1);
    }
    assert_eq!(std::iter::from_fn(|| download.poll_action(now)).find(|action| matches!(action, Action::Have(_))), None);
    download.on_have(3, Some(set(30)), now);
    let mut actions =
        std::iter::from_fn(|| download.poll_action(now)).filter(|action| matches!(action, Action::Have(_)));
    assert_eq!((actions.next(), actions.next()), (Some(Action::Have(3)), None));
}

#[test]
fn a_chunk_that_begins_to_arrive_is_told_then_and_not_again() {
    let now = Instant::now();
    let mut download = Download::new(geometry(100), POLICY, None);
    download.add_source(1u8, true, now);
    download.add_source(2, false, now);
    let mut some = ChunkSet::none(100);
    some.insert(99);
    download.on_have_update(2, &some, now);
    let actions: Vec<_> = std::iter::from_fn(|| download.poll_action(now)).collect();
    let asked = actions.iter().filter_map(|action| match action {
        Action::Request { source: 1, first, count: 1 } => Some(*first),
        _ => None,
    });
    let [early, late] = asked.take(2).collect::<Vec<_>>()[..] else { panic!("{actions:?}") };
    let told = |download: &mut Download<u8>| {
        let have = std::iter::from_fn(|| download.poll_action(now)).any(|action| action == Action::Have(2));
        download.on_have(2, Some(some.clone()), now);
        have
    };
    download.on_incoming(early);
    assert!(told(&mut download));
    for (first, news) in [(early, false), (late, true)] {
        assert!(download.on_chunks(1, first, 1, now));
        download.on_written(1, first, 1);
        assert_eq!(told(&mut download), news);
    }
}

#[test]
fn of_a_large_crowd_a_few_are_told_each_time_others() {
    let now = Instant::now();
    let mut download = Download::new(geometry(100), POLICY, None);
    let mut some = ChunkSet::none(100);
    some.insert(99);
    download.add_source(1u8, true, now);
    for source in 2..40 {
        download.add_source(source, false, now);
        download.on_have_update(source, &some, now);
    }
    let mut told = BTreeSet::new();
    for _ in 0..50 {
        let actions: Vec<_> = std::iter::from_fn(|| download.poll_action(now)).collect();
        let of_a_part = |action: &Action<u8>| match action {
            Action::Have(source) if *source > 1 => Some(*source),
            _ => None,
        };
        let haves: Vec<_> = actions.iter().filter_map(of_a_part).collect();
        assert!(haves.len() <= 6, "{haves:?}");
        haves.iter().for_each(|source| download.on_have(*source, Some(some.clone()), now));
        told.extend(haves);
        let of_the_owner = actions.iter().find_map(|action| match action {
            Action::Request { source: 1, first, .. } if *first != 99 => Some(*first),
            _ => None,
        });
        let Some(first) = of_the_owner else { break };
        assert!(download.on_chunks(1, first, 1, now));
        download.on_written(1, first, 1);
    }
    assert!(told.len() > 30, "{told:?}");
}
