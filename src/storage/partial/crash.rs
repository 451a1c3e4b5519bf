//! Downloads that are cut off at any moment, by a signal or by a loss of power.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;
use swarmdex_protocols::ContentId;
use swarmdex_protocols::content::{Geometry, Outboard, chunk_value};
use tempfile::TempDir;

use super::{PartialFile, Placing};

const CHUNK: usize = 256 << 10;
/// Where the process that is killed works.
const FOLDER: &str = "SWARMDEX_TEST_FOLDER";

/// A content and its chunks with their proofs.
struct Content {
    bytes: Vec<u8>,
    geometry: Geometry,
    outboard: Outboard,
    id: ContentId,
}

impl Content {
    fn new(chunks: usize) -> Self {
        let mut bytes = vec![0; chunks * CHUNK - 1000];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let geometry = Geometry::new(bytes.len() as u64).unwrap();
        let values =
            bytes.chunks(CHUNK).enumerate().map(|(index, piece)| chunk_value(&geometry, index as u64, piece)).collect();
        let (outboard, id) = Outboard::build(geometry, values).unwrap();
        Self { bytes, geometry, outboard, id }
    }

    fn chunk(&self, index: u64) -> &[u8] {
        self.bytes.chunks(CHUNK).nth(index as usize).unwrap()
    }

    /// What a download does with a chunk that came.
    fn write(&self, partial: &PartialFile, index: u64) {
        partial.write_chunk(self.geometry.offset(index), self.chunk(index)).unwrap();
        partial.record([(index, &self.outboard.proof(index).unwrap())]).unwrap();
    }

    /// Goes on with a download to its end; the chunks that were missing.
    fn finish(&self, target: &Path, mut on_fetch: impl FnMut()) -> Vec<u64> {
        let (partial, tree) = PartialFile::resume(target, self.id, self.geometry, Placing::default()).unwrap();
        let missing: Vec<_> = (0..self.geometry.chunks()).filter(|index| !tree.have().contains(*index)).collect();
        for index in &missing {
            on_fetch();
            self.write(&partial, *index);
        }
        partial.finish(false).unwrap();
        missing
    }
}

fn partial_of(target: &Path) -> PathBuf {
    target.with_file_name(".file.swarmdex-part")
}

fn journal_of(target: &Path) -> PathBuf {
    target.with_file_name(".file.swarmdex-log")
}

/// The process that the test below kills.
#[test]
#[ignore = "run by the test of a thousand kills"]
fn download_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let content = Content::new(16);
    let mut fetched = OpenOptions::new().append(true).create(true).open(folder.join("fetched")).unwrap();
    content.finish(&folder.join("file"), || fetched.write_all(&[1]).unwrap());
}

/// Transfer: `kill -9` at a thousand moments: no chunk that was written down is fetched again, and what is in place is
/// never wrong.
#[test]
fn a_thousand_kills_cost_at_most_one_chunk_each() {
    const KILLS: u64 = 1000;
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("file");
    let content = Content::new(16);
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["storage::partial::crash::download_until_killed", "--exact", "--ignored"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    // How long it takes depends on the machine.
    let (mut whole, mut kills, mut files) = (100_000, 0, 0);
    for _ in 0..5 {
        let begin = std::time::Instant::now();
        assert!(start().wait().unwrap().success());
        whole = whole.min(begin.elapsed().as_micros() as u64).max(12_000);
        fs::remove_file(&target).unwrap();
    }
    // These do not count.
    fs::remove_file(folder.path().join("fetched")).unwrap();
    for round in 0u64.. {
        if kills == KILLS {
            break;
        }
        let mut process = start();
        // From the first moments of the process to its end.
        std::thread::sleep(Duration::from_micros(round * 7919 % whole));
        process.kill().unwrap();
        let ended = process.wait().unwrap();
        assert!(ended.success() || ended.code().is_none(), "{ended}");
        kills += u64::from(!ended.success());
        if target.exists() {
            assert!(fs::read(&target).unwrap() == content.bytes, "round {round}");
            fs::remove_file(&target).unwrap();
            files += 1;
        }
    }
    files += u64::from(!content.finish(&target, || ()).is_empty());
    let fetched = fs::metadata(folder.path().join("fetched")).unwrap().len();
    println!("{kills} kills: {fetched} chunks were fetched for {files} files of {}", content.geometry.chunks());
    assert!(files > 10, "{files} files");
    assert!(fetched <= files * content.geometry.chunks() + kills, "{fetched} chunks for {files} files");
}

/// What a loss of power does to the files of a download.
#[derive(Debug, Clone)]
enum Damage {
    CutJournal(u16),
    CutFile(u16),
    FlipInJournal(u16),
    FlipInFile(u32),
    NoJournal,
    NoFile,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<u16>().prop_map(Damage::CutJournal),
        any::<u16>().prop_map(Damage::CutFile),
        any::<u16>().prop_map(Damage::FlipInJournal),
        any::<u32>().prop_map(Damage::FlipInFile),
        Just(Damage::NoJournal),
        Just(Damage::NoFile),
    ]
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    if length > 0 {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at % length).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at % length).unwrap();
    }
}

fn cut(path: &Path, part: u16) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length * u64::from(part) / u64::from(u16::MAX)).unwrap();
}

fn hurt(target: &Path, damage: &Damage) {
    let (partial, journal) = (partial_of(target), journal_of(target));
    match damage {
        Damage::CutJournal(part) => cut(&journal, *part),
        Damage::CutFile(part) => cut(&partial, *part),
        Damage::FlipInJournal(at) => flip(&journal, u64::from(*at)),
        Damage::FlipInFile(at) => flip(&partial, u64::from(*at)),
        Damage::NoJournal => fs::remove_file(&journal).unwrap(),
        Damage::NoFile => fs::remove_file(&partial).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever is on disk: what counts as there is right, what no damage touched is not fetched again, and the file
    /// comes out right.
    #[test]
    fn no_torn_state_is_believed(written in prop::collection::btree_set(0u64..4, 1..4), damage in damage()) {
        thread_local!(static CONTENT: Content = Content::new(4));
        CONTENT.with(|content| -> Result<(), TestCaseError> {
            let folder = TempDir::new().unwrap();
            let target = folder.path().join("file");
            let (partial, _) = PartialFile::resume(&target, content.id, content.geometry, Placing::default()).unwrap();
            written.iter().for_each(|index| content.write(&partial, *index));
            drop(partial);
            hurt(&target, &damage);
            let spared = match damage {
                Damage::FlipInFile(at) => {
                    let hurt = u64::from(at) % content.geometry.size() / CHUNK as u64;
                    written.iter().copied().filter(|index| *index != hurt).collect()
                }
                // Records stand in order: at least none is believed that is not whole.
                _ => BTreeSet::new(),
            };
            let missing = content.finish(&target, || ());
            prop_assert!(spared.iter().all(|index| !missing.contains(index)), "{:?} fetched again", missing);
            prop_assert!((0..4).filter(|index| !written.contains(index)).all(|index| missing.contains(&index)));
            prop_assert!(fs::read(&target).unwrap() == content.bytes);
            prop_assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
            Ok(())
        })?;
    }
}
