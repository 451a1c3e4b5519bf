//! One downloader and one owner, in virtual time, over paths from a cellar to a satellite: does the scheduler keep them full?
//!
//! The path carries one answer after the other, in order, at a rate of which loss takes its part. A packet that is lost comes a round trip
//! later, and all that is behind it.
#![allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.

use std::collections::BTreeMap;

use super::*;
use crate::state::random::Random;

const CHUNK: u64 = 256 << 10;
const PACKET: f64 = 1448.0;
const WINDOW: u64 = 8 << 20;

#[derive(Debug, Clone, Copy)]
struct Path {
    /// Seconds each way.
    way: f64,
    /// Bytes a second.
    rate: f64,
    /// Share of packets that get lost.
    loss: f64,
}

enum Event {
    Asked(u64, u32),
    Arrived(u64, u32),
    Have,
    Wake,
}

/// Seconds that a file of so many chunks takes. `rate_at` changes the rate of the path over time.
fn seconds(path: Path, chunks: u64, rate_at: impl Fn(f64) -> f64) -> f64 {
    let (begin, mut random) = (Instant::now(), Random(7));
    let policy = FetchPolicy {
        window_bytes: WINDOW,
        total_bytes: 3 * WINDOW,
        swarm: true,
        announces: true,
        patience: Duration::from_secs(30),
        seed: 3,
    };
    let mut download = Download::new(Geometry::new(chunks * CHUNK).unwrap(), policy, None);
    download.add_source(0, true, begin);
    download.set_round_trip(0, Duration::from_secs_f64(2.0 * path.way));
    let (mut events, mut number) = (BTreeMap::from([((0, 0), Event::Wake)]), 0);
    let (mut free, mut last) = (0.0f64, 0.0f64);
    while let Some(((at, _), event)) = events.pop_first() {
        let seconds = at as f64 / 1e9;
        let now = begin + Duration::from_nanos(at);
        let mut later = |time: f64, event: Event| {
            number += 1;
            events.insert(((time * 1e9) as u64, number), event);
        };
        match event {
            Event::Asked(first, count) => {
                let bytes = (u64::from(count) * CHUNK) as f64;
                free = sent(free.max(seconds), bytes, |at| path.rate * rate_at(at) * (1.0 - path.loss));
                let whole = (1.0 - path.loss).powf(bytes / PACKET);
                let again = if random.fraction() > whole { 2.0 * path.way } else { 0.0 };
                last = last.max(free + path.way + again);
                later(last, Event::Arrived(first, count));
            }
            Event::Arrived(first, count) => {
                if download.on_chunks(0, first, count, now) {
                    download.on_written(0, first, count);
                }
            }
            Event::Have => download.on_have(0, None, now),
            Event::Wake => download.handle_timeout(now),
        }
        while let Some(action) = download.poll_action(now) {
            match action {
                Action::Request { first, count, .. } => later(seconds + path.way, Event::Asked(first, count)),
                Action::Have(_) => later(seconds + 2.0 * path.way, Event::Have),
                Action::Search => download.set_searching(false),
                Action::Done => return seconds,
                Action::Cancel { .. } | Action::Report(_) => {}
                Action::Exhausted(reason) => panic!("{path:?}: gave up: {reason:?}"),
            }
        }
        if let Some(at) = download.poll_timeout(now) {
            let at = at.saturating_duration_since(begin).as_secs_f64().max(seconds + 1e-4);
            later(at, Event::Wake);
        }
        assert!(seconds < 10_000.0, "{path:?}: no end");
    }
    unreachable!("it ends, or waits for something")
}

/// When so many bytes have left that begin to at a time, at a rate that changes.
fn sent(begin: f64, bytes: f64, rate: impl Fn(f64) -> f64) -> f64 {
    const STEP: f64 = 0.01;
    let (mut at, mut left) = (begin, bytes);
    loop {
        let rate = rate(at);
        if left <= rate * STEP {
            return at + left / rate;
        }
        (at, left) = (at + STEP, left - rate * STEP);
    }
}

#[test]
fn paths_of_every_kind_are_kept_full() {
    for way in [0.001, 0.02, 0.05, 0.1, 0.2, 0.4] {
        for rate in [125e3, 1.25e6, 12.5e6, 125e6, 1.25e9] {
            for loss in [0.0, 0.01, 0.05] {
                let path = Path { way, rate, loss };
                // What memory allows for: on the longest and fastest paths that is less than they carry. Nearly every chunk loses a packet
                // where any are lost, and waits a round trip for it.
                let trip = 2.0 * way * if loss > 0.0 { 2.0 } else { 1.0 };
                let most = rate.min(4.0 * WINDOW as f64 / trip) * (1.0 - loss);
                let chunks = ((most * 10.0) as u64 / CHUNK).clamp(16, 20_000);
                let ideal = (chunks * CHUNK) as f64 / most;
                let took = seconds(path, chunks, |_| 1.0);
                // The start doubles from round trip to round trip.
                let trips = trip * (4.0 + (most * trip / CHUNK as f64).max(1.0).log2());
                let bound = ideal * 1.1 + trips + 0.1;
                println!(
                    "{:3} ms, {:7.1} Mbit/s, {:.0} %: {took:.2} s, ideal {ideal:.2}, bound {bound:.2}",
                    way * 1e3,
                    rate * 8e-6,
                    loss * 100.0
                );
                assert!(took <= bound, "{path:?}: {took:.2} s of {ideal:.2}, more than {bound:.2}");
            }
        }
    }
}

/// The rate falls to a hundredth for ten seconds and comes back: the download takes as much longer, and not more.
#[test]
fn a_rate_that_falls_to_a_hundredth_and_comes_back_is_followed() {
    let path = Path { way: 0.02, rate: 12.5e6, loss: 0.0 };
    let chunks = 1500;
    let steady = seconds(path, chunks, |_| 1.0);
    let took = seconds(path, chunks, |at| if (5.0..15.0).contains(&at) { 0.01 } else { 1.0 });
    println!("{steady:.1} s, and {took:.1} s with ten seconds of almost nothing");
    assert!(took < steady + 10.0 + 3.0, "{took}");
}
