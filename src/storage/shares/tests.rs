mod away;
mod lists;
mod origins;
mod selection;

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::AtomicBool;

use swarmdex_protocols::content::{Geometry, verify_chunk};
use swarmdex_protocols::fetch::{ChunkRun, FetchRefusal, FetchResponse, Header};
use tempfile::TempDir;

use super::*;
use crate::buffers::Buffers;
use crate::config::{Selection, ShareOptions};

const CHUNK: usize = 256 << 10;

/// A share table in a folder of its own, and files beside it.
struct Stage {
    folder: TempDir,
    table: ShareTable,
}

impl Stage {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir_all(folder.path().join("data")).unwrap();
        let table = ShareTable::open(&folder.path().join("data"), 2).unwrap();
        Self { folder, table }
    }

    /// The same after a restart.
    fn again(self) -> Self {
        let again = self.reopened();
        rescan(&again.table);
        again
    }

    /// The same after a restart at which nothing was looked at yet.
    fn reopened(self) -> Self {
        let Self { folder, table } = self;
        drop(table);
        let table = ShareTable::open(&folder.path().join("data"), 2).unwrap();
        Self { folder, table }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("files").join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("files").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn add(&self, path: &Path, name: Option<&str>) -> Result<ShareOutcome, ShareError> {
        self.add_selected(path, name, &Selection::default())
    }

    fn add_selected(&self, path: &Path, name: Option<&str>, selection: &Selection) -> Result<ShareOutcome, ShareError> {
        let options = ShareOptions { selection: selection.clone(), rehash: false };
        self.table.add(&[path.to_owned()], name, &options, &|_| {}, &AtomicBool::new(false))
    }

    fn update(&self, paths: &[PathBuf]) -> ShareOutcome {
        self.table.update(paths, &|_| {}, &AtomicBool::new(false)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.table.entries().iter().map(|entry| entry.name.to_string()).collect()
    }

    /// Those that are kept, of files that are away as well.
    fn kept(&self) -> Vec<String> {
        self.table.kept().iter().map(|entry| entry.name.to_string()).collect()
    }

    fn revoke(&self, name: &str) {
        assert_eq!(self.table.remove(&[Name::parse(name).unwrap()]).unwrap().len(), 1, "{name}");
    }

    fn read(&self, bytes: &[u8], first: u64, count: u32) -> FetchResponse {
        let run = ChunkRun { content: ContentId::of(bytes), first, count };
        self.table.read(&run, &Buffers::new(1)).unwrap_or_else(FetchResponse::refused)
    }
}

fn rescan(table: &ShareTable) -> ShareOutcome {
    table.recall().unwrap();
    table.rescan(&|_| {}, &AtomicBool::new(false)).unwrap()
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn files_and_folders_are_named_by_the_rules() {
    let stage = Stage::new();
    for name in ["top.txt", "tree/a", "tree/sub/b", "tree/sub/.hidden", "tree/.x.swarmdex-part"] {
        stage.file(name, name.as_bytes());
    }
    let files = stage.folder.path().join("files");
    stage.add(&files.join("top.txt"), None).unwrap();
    let hidden = Selection { hidden: true, ..Selection::default() };
    stage.add_selected(&files.join("tree"), None, &hidden).unwrap();
    assert_eq!(stage.names(), ["a", "sub/.hidden", "sub/b", "top.txt"]);
    stage.add_selected(&files.join("tree"), Some("my/tree"), &hidden).unwrap();
    assert_eq!(stage.names(), ["my/tree/a", "my/tree/sub/.hidden", "my/tree/sub/b", "top.txt"]);
    stage.add(&files.join("top.txt"), Some("other")).unwrap();
    assert_eq!(stage.names(), ["my/tree/a", "my/tree/sub/.hidden", "my/tree/sub/b", "other"]);
}

/// Transfer: the share root contains a symlink to /etc, or what is no file.
#[test]
fn links_and_special_files_are_left_out_and_said() {
    let stage = Stage::new();
    stage.file("tree/a", b"a");
    let tree = stage.folder.path().join("files/tree");
    symlink("/etc", tree.join("etc")).unwrap();
    symlink("/etc/passwd", tree.join("passwd")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, tree.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    stage.file("tree/nul", b"a device on Windows");
    let outcome = stage.add(&tree, None).unwrap();
    assert_eq!(stage.names(), ["a"]);
    let skipped: Vec<_> =
        outcome.skipped.iter().map(|skipped| skipped.path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(skipped, ["etc", "fifo", "nul", "passwd"]);
    assert!(stage.add(&tree.join("fifo"), None).is_err());
    assert!(stage.add(Path::new("/dev/null"), None).is_err());
    assert!(matches!(stage.add(Path::new("/does/not/exist"), None), Err(ShareError::Path { .. })));
}

/// Transfer: the share root contains hard links, or `.ssh`.
#[test]
fn hard_links_are_files_like_others_and_folders_of_keys_are_left_out_and_said() {
    let stage = Stage::new();
    let first = stage.file("tree/a", b"a");
    stage.file("tree/.ssh/id_ed25519", b"secret");
    stage.file("tree/home/.gnupg/keys", b"secret");
    let tree = stage.folder.path().join("files/tree");
    fs::hard_link(&first, tree.join("b")).unwrap();
    let outcome = stage.add(&tree, None).unwrap();
    assert_eq!(stage.names(), ["a", "b"]);
    let skipped: Vec<_> = outcome.skipped.iter().map(|skipped| skipped.path.file_name().unwrap()).collect();
    assert_eq!(skipped, [".ssh", ".gnupg"]);
    let contents: Vec<_> = stage.table.entries().iter().map(|entry| entry.content).collect();
    assert_eq!(contents, [ContentId::of(b"a"); 2]);
    // Who says so means it.
    stage.add(&tree.join(".ssh"), Some("keys")).unwrap();
    assert_eq!(stage.names(), ["a", "b", "keys/id_ed25519"]);
}

#[test]
fn the_data_directory_is_never_shared() {
    let stage = Stage::new();
    fs::write(stage.folder.path().join("data/identity.key"), "secret").unwrap();
    stage.file("a", b"a");
    stage.add(stage.folder.path(), None).unwrap();
    assert_eq!(stage.names(), ["files/a"]);
}

#[test]
fn shares_come_back_after_a_restart_without_reading_the_files() {
    let stage = Stage::new();
    let bytes = noise(3 * CHUNK);
    let path = stage.file("tree/large", &bytes);
    stage.file("tree/small", b"s");
    stage.add(path.parent().unwrap(), None).unwrap();
    let entries = stage.table.entries();
    let read_before = std::cell::Cell::new(0);
    let stage = stage.again();
    assert_eq!((stage.names(), stage.table.entries()), (vec!["large".to_owned(), "small".to_owned()], entries));
    let progress = std::sync::Mutex::new(HashProgress::default());
    stage.table.rescan(&|now| *progress.lock().unwrap() = now, &AtomicBool::new(false)).unwrap();
    read_before.set(progress.lock().unwrap().total_bytes);
    assert_eq!(read_before.get(), 0, "nothing is hashed anew");
    // A changed file is, and one that is gone is dropped.
    fs::write(&path, b"new").unwrap();
    fs::remove_file(path.with_file_name("small")).unwrap();
    let stage = stage.again();
    assert_eq!(stage.names(), ["large"]);
    assert_eq!(stage.table.entries()[0].content, ContentId::of(b"new"));
}

#[test]
fn what_was_revoked_stays_out_until_it_is_shared_anew() {
    let stage = Stage::new();
    let single = stage.file("single", b"1");
    let tree = stage.file("tree/a", b"a").parent().unwrap().to_owned();
    stage.file("tree/b", b"b");
    stage.add(&single, None).unwrap();
    stage.add(&tree, None).unwrap();
    let names = ["a", "single", "none"].map(|name| Name::parse(name).unwrap());
    assert_eq!(stage.table.remove(&names).unwrap().len(), 2);
    let stage = stage.again();
    assert_eq!(stage.names(), ["b"]);
    stage.add(&tree, None).unwrap();
    assert_eq!(stage.again().names(), ["a", "b"]);
}

#[test]
fn one_name_has_one_file() {
    let stage = Stage::new();
    let (a, b) = (stage.file("one/name", b"1"), stage.file("two/name", b"2"));
    stage.add(&a, None).unwrap();
    assert!(matches!(stage.add(&b, None), Err(ShareError::Taken { .. })));
    let outcome = stage.add(b.parent().unwrap(), None).unwrap();
    assert_eq!((outcome.entries.len(), outcome.skipped.len()), (0, 1));
    assert_eq!(stage.table.entries()[0].content, ContentId::of(b"1"));
    assert!(matches!(
        stage.table.add(&[a, b], Some("x"), &ShareOptions::default(), &|_| {}, &AtomicBool::new(false)),
        Err(ShareError::OneName)
    ));
}

#[test]
fn chunks_are_served_with_their_proofs() {
    let stage = Stage::new();
    for length in [0, 1, CHUNK, CHUNK + 1, 5 * CHUNK + 77] {
        let bytes = noise(length);
        stage.add(&stage.file(&format!("file {length}"), &bytes), None).unwrap();
        let geometry = Geometry::new(length as u64).unwrap();
        for index in 0..geometry.chunks() {
            let FetchResponse { header: Header::Chunks { bytes: count, proofs, .. }, body } =
                stage.read(&bytes, index, 1)
            else {
                panic!("{length} {index}")
            };
            assert_eq!(count as usize, body.len());
            verify_chunk(&ContentId::of(&bytes), &geometry, index, &body, &proofs[0]).unwrap();
        }
        for (first, count) in [(geometry.chunks(), 1), (0, 0), (0, 5), (u64::MAX, u32::MAX)] {
            assert_eq!(
                stage.read(&bytes, first, count).header,
                Header::Refused(FetchRefusal::Range),
                "{length} {first} {count}"
            );
        }
    }
    assert_eq!(stage.read(b"unknown", 0, 1).header, Header::Refused(FetchRefusal::NotFound));
}

/// Transfer: the source edits, truncates or replaces the file.
#[test]
fn a_file_that_changed_is_not_served_under_its_old_id() {
    let bytes = noise(2 * CHUNK);
    type Edit = fn(&Path);
    let changes: [(&str, Edit); 5] = [
        ("truncated", |path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(10).unwrap()),
        ("replaced by a link", |path| {
            fs::remove_file(path).unwrap();
            symlink("/etc/passwd", path).unwrap();
        }),
        ("replaced by another file", |path| {
            let other = path.with_extension("new");
            fs::write(&other, noise(2 * CHUNK + 1)).unwrap();
            fs::rename(other, path).unwrap();
        }),
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("below a folder that became a link", |path| {
            let folder = path.parent().unwrap();
            let elsewhere = folder.with_extension("elsewhere");
            fs::rename(folder, &elsewhere).unwrap();
            fs::write(elsewhere.join("file"), "secret").unwrap();
            symlink(&elsewhere, folder).unwrap();
        }),
    ];
    for (what, change) in changes {
        let stage = Stage::new();
        let path = stage.file("file", &bytes);
        stage.add(&path, None).unwrap();
        assert!(matches!(stage.read(&bytes, 0, 2).header, Header::Chunks { .. }));
        change(&path);
        assert_eq!(stage.read(&bytes, 0, 2), FetchResponse::refused(FetchRefusal::Changed), "{what}");
        let stale = stage.table.take_stale();
        assert_eq!(stale, [path]);
        stage.update(&stale);
        assert!(stage.table.take_stale().is_empty());
        assert_eq!(stage.read(&bytes, 0, 2).header, Header::Refused(FetchRefusal::NotFound), "{what}");
        let expected = usize::from(matches!(what, "truncated" | "replaced by another file"));
        assert_eq!(stage.table.entries().len(), expected, "{what}");
    }
}

#[test]
fn another_file_with_the_same_content_serves_instead() {
    let stage = Stage::new();
    let (a, b) = (stage.file("a", b"same"), stage.file("b", b"same"));
    stage.add(&a, None).unwrap();
    stage.add(&b, None).unwrap();
    fs::write(&a, "different").unwrap();
    assert!(matches!(stage.read(b"same", 0, 1).header, Header::Chunks { .. }));
    assert_eq!(stage.table.take_stale(), [a], "and the changed one was noticed");
}

#[test]
fn a_lost_or_damaged_outboard_is_made_anew_and_never_served() {
    let stage = Stage::new();
    let bytes = noise(3 * CHUNK);
    stage.add(&stage.file("file", &bytes), None).unwrap();
    let outboard = stage.folder.path().join("data/outboards").join(ContentId::of(&bytes).to_string());
    let mut damaged = fs::read(&outboard).unwrap();
    damaged[40] ^= 1;
    fs::write(&outboard, damaged).unwrap();
    assert_eq!(stage.read(&bytes, 0, 1), FetchResponse::refused(FetchRefusal::Changed));
    stage.update(&stage.table.take_stale());
    assert!(matches!(stage.read(&bytes, 0, 1).header, Header::Chunks { .. }));
}

/// As a power cut leaves it: the name is there, and the bytes are not.
#[test]
fn what_a_power_cut_left_of_an_outboard_is_noticed_at_the_start_and_not_by_others() {
    let bytes = noise(3 * CHUNK);
    for left in [Some(0), Some(96), Some(64), None] {
        let stage = Stage::new();
        stage.add(&stage.file("file", &bytes), None).unwrap();
        let outboard = stage.folder.path().join("data/outboards").join(ContentId::of(&bytes).to_string());
        assert_eq!(fs::metadata(&outboard).unwrap().len(), 96);
        match left {
            Some(zeros) => fs::write(&outboard, vec![0; zeros]).unwrap(),
            None => fs::remove_file(&outboard).unwrap(),
        }
        let stage = stage.again();
        assert!(matches!(stage.read(&bytes, 0, 1).header, Header::Chunks { .. }), "{left:?}");
        assert_eq!(fs::metadata(&outboard).unwrap().len(), 96);
    }
}

#[test]
fn an_update_looks_at_what_it_is_told_alone() {
    let stage = Stage::new();
    let files = stage.folder.path().join("files");
    for name in ["tree/a", "tree/sub/b", "tree/sub/c", "tree/revoked", "alone"] {
        stage.file(name, name.as_bytes());
    }
    stage.add(&files.join("tree"), Some("t")).unwrap();
    stage.add(&files.join("alone"), None).unwrap();
    stage.table.remove(&[Name::parse("t/revoked").unwrap()]).unwrap();
    let content = |name: &str| {
        let entries = stage.table.entries();
        entries.iter().find(|entry| entry.name.as_str() == name).map(|entry| entry.content)
    };
    // New, changed, renamed and deleted; beside it a change that nobody told of.
    let new = stage.file("tree/new/deep/d", b"new");
    stage.file("tree/a", b"changed");
    let unheard = stage.file("tree/sub/b", b"unheard");
    fs::rename(files.join("tree/sub/c"), files.join("tree/sub/c2")).unwrap();
    let paths =
        ["tree/new", "tree/a", "tree/sub/c", "tree/sub/c2", "tree/revoked", "nothing"].map(|name| files.join(name));
    let generation = *stage.table.generation().borrow();
    assert!(stage.update(&paths).skipped.is_empty());
    assert_eq!(stage.names(), ["alone", "t/a", "t/new/deep/d", "t/sub/b", "t/sub/c2"]);
    assert_eq!(content("t/a"), Some(ContentId::of(b"changed")));
    assert_eq!(content("t/sub/b"), Some(ContentId::of(b"tree/sub/b")));
    assert!(*stage.table.generation().borrow() > generation);
    stage.update(&[unheard]);
    assert_eq!(content("t/sub/b"), Some(ContentId::of(b"unheard")));
    // Nothing changes where nothing did.
    let generation = *stage.table.generation().borrow();
    stage.update(&[files.clone(), files.join("tree"), files.join("alone")]);
    assert_eq!(*stage.table.generation().borrow(), generation);
    // A file that another was put in the place of; folders that are gone, links, partial files and the node's own.
    fs::write(files.join("x"), "other").unwrap();
    fs::rename(files.join("x"), files.join("alone")).unwrap();
    fs::remove_dir_all(new.parent().unwrap()).unwrap();
    symlink("/etc", files.join("tree/etc")).unwrap();
    let part = stage.file("tree/.d.swarmdex-part", b"part");
    let outcome = stage.update(&[files.join("alone"), files.join("tree/new/deep"), files.join("tree/etc"), part]);
    assert_eq!(outcome.skipped.len(), 1, "{outcome:?}");
    assert_eq!(stage.names(), ["alone", "t/a", "t/sub/b", "t/sub/c2"]);
    assert_eq!(content("alone"), Some(ContentId::of(b"other")));
    fs::rename(files.join("tree"), files.join("moved")).unwrap();
    stage.update(&[files.join("tree")]);
    assert_eq!(stage.names(), ["alone"]);
    fs::rename(files.join("moved"), files.join("tree")).unwrap();
    stage.update(&[files.join("tree")]);
    assert_eq!(stage.names(), ["alone", "t/a", "t/sub/b", "t/sub/c2"]);
}

#[test]
fn a_share_table_of_another_program_is_refused_and_left_alone() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("shares.db"), "not a database at all, but long enough to be looked at").unwrap();
    let error = ShareTable::open(folder.path(), 1).unwrap_err();
    assert!(matches!(error, ShareError::Foreign { .. }), "{error}");
    assert!(fs::read_to_string(folder.path().join("shares.db")).unwrap().starts_with("not a database"));
}

#[test]
fn many_small_files_are_hashed_and_progress_is_told() {
    let stage = Stage::new();
    for number in 0..2000 {
        stage.file(&format!("many/{}/{number}", number % 20), &[1, 2, 3]);
    }
    let last = std::sync::Mutex::new(HashProgress::default());
    let path = stage.folder.path().join("files/many");
    let outcome = stage
        .table
        .add(&[path], None, &ShareOptions::default(), &|now| *last.lock().unwrap() = now, &AtomicBool::new(false))
        .unwrap();
    assert_eq!(outcome.entries.len(), 2000);
    let all = HashProgress { done_bytes: 6000, total_bytes: 6000, done_files: 2000, total_files: 2000 };
    assert_eq!(*last.lock().unwrap(), all);
}

#[test]
fn two_spellings_of_one_name_are_one_file_and_a_reason() {
    let stage = Stage::new();
    let folder = stage.file("folder/e\u{301}", b"two letters").parent().unwrap().to_owned();
    stage.file("folder/\u{e9}", b"one letter");
    let outcome = stage.add(&folder, None).unwrap();
    assert_eq!((stage.names(), outcome.skipped.len()), (vec!["\u{e9}".to_owned()], 1));
    let mut generation = stage.table.generation();
    generation.mark_unchanged();
    assert_eq!(rescan(&stage.table).skipped.len(), 1);
    assert!(!generation.has_changed().unwrap(), "nothing changed");
}

#[test]
fn what_is_below_a_path_is_replaced_and_nothing_beside_it() {
    let stage = Stage::new();
    // Names that stand between a folder and what is in it when they are compared letter by letter.
    for name in ["folder/a-b/file", "folder/a/file", "folder/a/g/file", "folder/a.txt", "folder/b", "other/a/file"] {
        stage.file(name, name.as_bytes());
    }
    let files = stage.folder.path().join("files");
    stage.add(&files.join("folder"), Some("folder")).unwrap();
    stage.add(&files.join("other"), Some("other")).unwrap();
    fs::remove_dir_all(files.join("folder/a")).unwrap();
    fs::write(files.join("folder/b"), b"new").unwrap();
    let old = ContentId::of(b"folder/b");
    assert!(stage.table.has(&old));
    stage.update(&[files.join("folder/a"), files.join("folder/b")]);
    assert_eq!(stage.names(), ["folder/a-b/file", "folder/a.txt", "folder/b", "other/a/file"]);
    assert_eq!([old, ContentId::of(b"new")].map(|content| stage.table.has(&content)), [false, true]);
    assert!(!stage.table.has(&ContentId::of(b"folder/a/g/file")));
}
