//! Sets of chunks that are cut: over three windows and more.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;

use swarmdex_protocols::fetch::AnyOf;
use swarmdex_protocols::limits::{MAX_ANY_CHUNKS, MAX_HAVE_ALONG};
use swarmdex_protocols::{ChunkSet, ContentId};

/// A question for any of many chunks names those of its own window, whichever that is, and no other.
#[test]
fn any_of_the_chunks_of_a_window_is_any_of_them() {
    let chunks = 3 * MAX_ANY_CHUNKS + 1;
    let firsts = (0..4).flat_map(|window| {
        let begin = window * MAX_ANY_CHUNKS;
        [begin, begin + 1, begin + MAX_ANY_CHUNKS / 2, begin + MAX_ANY_CHUNKS - 1]
    });
    for first in firsts.filter(|first| *first < chunks) {
        let begin = first - first % MAX_ANY_CHUNKS;
        for step in [1, 7, MAX_ANY_CHUNKS - 1] {
            let others: Vec<_> = (0..chunks).step_by(step as usize).collect();
            let any = AnyOf::new(ContentId::of(b"x"), first, others.clone());
            assert!(any.others.len() as u64 <= MAX_ANY_CHUNKS / 8);
            let choices: Vec<_> = any.choices().collect();
            assert_eq!(choices[0], first);
            let near = |index: &u64| (begin..begin + MAX_ANY_CHUNKS).contains(index);
            assert_eq!(choices[1..], others.into_iter().filter(near).collect::<Vec<_>>(), "{first} {step}");
        }
    }
}

/// A set is the same in one piece whatever its length, and travels along up to its bound.
#[test]
fn sets_of_chunks_over_many_bytes_keep_every_chunk() {
    let most = MAX_HAVE_ALONG as u64 * 8;
    for chunks in [1, 7, 8, 9, most - 1, most, most + 1, 3 * most + 5] {
        let mut set = ChunkSet::none(chunks);
        let wanted: BTreeSet<_> = (0..chunks).filter(|index| index % 3 == 0 || index + 1 == chunks).collect();
        assert!(wanted.iter().all(|index| set.insert(*index)));
        let read = ChunkSet::from_bytes(set.as_bytes(), chunks).unwrap();
        assert_eq!(read.iter().collect::<BTreeSet<_>>(), wanted);
        assert_eq!(set.along().is_empty(), chunks > most, "{chunks} chunks");
        assert!(set.along().is_empty() || ChunkSet::from_bytes(&set.along(), chunks) == Some(set));
    }
}
