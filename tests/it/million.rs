//! What a master of a million names takes; a benchmark.

use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::identity::Keypair;
use swarmdex_protocols::ContentId;
use swarmdex_protocols::index::{
    Announce, IndexRequest, IndexResponse, Offer, Revoke, Search, Sequence, Session, Verdict,
};
use swarmdex_protocols::limits::MAX_BATCH_ENTRIES;
use tempfile::TempDir;

use crate::harness::Process;
use crate::stranger::Stranger;

/// Members, with as many names each as one may have by default.
const MEMBERS: usize = 5;
const NAMES_EACH: usize = 200_000;
/// Searches that are timed.
const SEARCHES: usize = 50;

/// A member that says what it is told to, and shares nothing.
struct Member {
    stranger: Stranger,
    master: PeerId,
    session: Session,
    sequence: u64,
}

impl Member {
    async fn new(master: &Process) -> Self {
        let stranger = Stranger::with_key(Keypair::generate_ed25519()).await;
        let id = stranger.connect(&master.address().parse().unwrap()).await.unwrap();
        let session = stranger.join(id).await.session;
        Self { stranger, master: id, session, sequence: 0 }
    }

    async fn ask(&mut self, request: impl FnOnce(Session, Sequence) -> IndexRequest) -> IndexResponse {
        self.sequence += 1;
        self.stranger.ask(self.master, &request(self.session, Sequence(self.sequence))).await
    }

    async fn announce(&mut self, names: Vec<String>) {
        let count = names.len();
        let offers =
            names.into_iter().map(|name| Offer::new(name.clone(), ContentId::of(name.as_bytes()), 1)).collect();
        let response = self
            .ask(|session, sequence| {
                IndexRequest::Announce(Announce { session, sequence, offers, last: false, total: None })
            })
            .await;
        let IndexResponse::Announced(verdicts) = response else { panic!("{response:?}") };
        assert_eq!(verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Accepted { .. })).count(), count);
    }

    async fn revoke(&mut self, names: Vec<String>) {
        let count = names.len();
        let response = self.ask(|session, sequence| IndexRequest::Revoke(Revoke { session, sequence, names })).await;
        let IndexResponse::Revoked(outcomes) = response else { panic!("{response:?}") };
        assert_eq!(outcomes.len(), count);
    }
}

/// Names as data sets have them, with two words of their own in each.
fn names(round: char, member: usize, from: usize) -> Vec<String> {
    let name =
        |number: usize| format!("set{member}/{:03}/{round}{number:07} {round}{:07}.tar", number / 1000, number * 7);
    (from..NAMES_EACH.min(from + MAX_BATCH_ENTRIES)).map(name).collect()
}

/// Resident memory of a process in MiB.
fn memory(process: &Process) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// Median and slowest of some searches, each for one name by a word of its own.
async fn searches(member: &Member, round: char) -> (Duration, Duration) {
    let mut times = Vec::new();
    for number in 0..SEARCHES {
        let query = format!("{round}{:07}", number * NAMES_EACH / SEARCHES);
        let begin = Instant::now();
        let search = Search { query, cursor: None, limit: 100, rule: swarmdex_protocols::Rule::default() };
        let response = member.stranger.ask(member.master, &IndexRequest::Search(search)).await;
        let IndexResponse::Page(page) = response else { panic!("{response:?}") };
        assert!(page.entries.len() >= MEMBERS, "{page:?}");
        times.push(begin.elapsed());
    }
    times.sort();
    (times[SEARCHES / 2], times[SEARCHES - 1])
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: benches/million"]
async fn a_master_of_a_million_names() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("extra.toml"), "[lease]\nlease_seconds = 120\n").unwrap();
    let master = Process::start("master", folder.path(), &[]);
    let mut members = Vec::new();
    for _ in 0..MEMBERS {
        members.push(Member::new(&master).await);
    }
    let (all, start) = ((MEMBERS * NAMES_EACH) as f64, memory(&master));
    println!("{start:.0} MiB with {MEMBERS} members and no name");
    let say = |what: &str, begin: Instant| {
        let now = memory(&master);
        let each = (now - start) * 1024.0 * 1024.0 / all;
        println!("{what} in {:.0} s: {now:.0} MiB, {each:.0} bytes a name", begin.elapsed().as_secs_f64());
    };
    for round in ['a', 'b'] {
        let begin = Instant::now();
        let announcing = members.iter_mut().enumerate().map(async |(number, member)| {
            for from in (0..NAMES_EACH).step_by(MAX_BATCH_ENTRIES) {
                member.announce(names(round, number, from)).await;
            }
        });
        futures::future::join_all(announcing).await;
        say("a million names announced", begin);
        let (median, slowest) = searches(&members[0], round).await;
        println!("searches: {median:.1?} in the median, {slowest:.1?} at most");
        let begin = Instant::now();
        let revoking = members.iter_mut().enumerate().map(async |(number, member)| {
            for from in (0..NAMES_EACH).step_by(MAX_BATCH_ENTRIES) {
                member.revoke(names(round, number, from)).await;
            }
        });
        futures::future::join_all(revoking).await;
        say("a million names revoked", begin);
    }
}
