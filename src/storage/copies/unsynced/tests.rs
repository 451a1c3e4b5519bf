use std::time::{Duration, SystemTime};

use swarmdex_protocols::{Name, PeerId};
use tempfile::TempDir;

use super::*;
use crate::storage::copies::Copy;

/// The time of every file that is downloaded here.
const TIME: i64 = 1_500_000_000_123_456_789;

/// A folder with a record.
struct Stage {
    folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self) -> Copies {
        Copies::open(&self.path("data"), false).unwrap()
    }

    fn expect(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        let file =
            Expected { path: path.clone(), content: ContentId::of(content), len: content.len() as u64, mtime_ns: TIME };
        assert!(self.open().expect(&[file]).unwrap());
        path
    }

    /// The file is put in place.
    fn place(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.expect(name, content);
        write(&path, content);
        path
    }

    fn remember(&self, name: &str, content: &[u8]) {
        let (path, folder) = (self.path(name), self.folder.path().to_owned());
        let stamp = Some(FileStamp::of(&fs::metadata(&path).unwrap()));
        let (name, owner) = (Name::parse(name).unwrap(), PeerId::from_bytes(&[0, 1, 7]).unwrap());
        self.open().remember(&[Copy { path, folder, name, owner, content: ContentId::of(content), stamp }]).unwrap();
    }

    fn cut(&self) {
        self.open().connection.execute("UPDATE unsynced SET boot = 'before'", []).unwrap();
    }

    fn settle(&self) -> usize {
        settle(&self.path("data"), self.folder.path(), 1).unwrap();
        self.open().unsure(self.folder.path(), Path::new("")).unwrap().len()
    }
}

/// Writes a file as a download does.
fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    set_time(path, TIME);
}

fn set_time(path: &Path, time_ns: i64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(time_ns.unsigned_abs());
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn what_a_power_cut_took_is_removed_and_what_it_did_not_take_stays() {
    let stage = Stage::new();
    let [good, lost, short, mine, older] =
        ["good", "lost", "short", "mine", "older"].map(|name| stage.place(name, b"content"));
    write(&lost, &[0; 7]);
    write(&short, b"");
    // Somebody edited it, or it is another version, which was downloaded once.
    fs::write(&mine, b"edited!").unwrap();
    write(&older, b"earlier");
    stage.remember("older", b"earlier");
    stage.remember("lost", b"content");
    let never = stage.expect("never", b"content");
    assert_eq!(stage.open().unsure(stage.folder.path(), Path::new("")).unwrap().len(), 6);
    stage.cut();
    assert_eq!(stage.settle(), 0);
    let is_there = [&good, &lost, &short, &mine, &older, &never].map(|path| path.exists());
    assert_eq!(is_there, [true, false, false, true, true, false]);
    let known = stage.open().below(stage.folder.path()).unwrap();
    assert!(known.contains_key(&older) && !known.contains_key(&lost));
}

/// Whatever was there before a download that failed, and whatever its user puts there, is nobody else's.
#[test]
fn what_was_never_downloaded_is_never_removed() {
    let stage = Stage::new();
    let [before, after, longer] = ["before", "after", "longer"].map(|name| stage.path(name));
    fs::write(&before, b"notes").unwrap();
    for name in ["before", "after", "longer"] {
        stage.expect(name, b"content");
    }
    fs::write(&after, b"notes").unwrap();
    write(&longer, b"more than the content");
    assert_eq!(stage.settle(), 3, "they may still come");
    stage.cut();
    assert_eq!(stage.settle(), 0);
    assert!([before, after, longer].iter().all(|path| path.exists()));
}

#[test]
fn without_a_power_cut_nothing_is_touched_and_what_is_still_to_come_is_waited_for() {
    let stage = Stage::new();
    let changed = stage.place("changed", b"content");
    write(&changed, &[0; 7]);
    let coming = stage.path("coming");
    // An earlier copy, which is about to be replaced.
    fs::write(&coming, b"before").unwrap();
    stage.expect("coming", b"content");
    assert_eq!(stage.settle(), 1);
    assert!(changed.exists());
    write(&coming, b"content");
    assert_eq!(stage.settle(), 0);
    let other = stage.expect("other", b"content");
    settle(&stage.path("data"), &stage.path("elsewhere"), 1).unwrap();
    let expected = Expected { path: other, content: ContentId::of(b"content"), len: 7, mtime_ns: TIME };
    stage.open().unexpect(&[expected]).unwrap();
    assert_eq!(stage.settle(), 0);
}

/// Times of two seconds, as FAT has them.
#[test]
fn coarse_times_are_known_by_what_they_are() {
    let stage = Stage::new();
    let [coarse, other] = ["coarse", "other"].map(|name| stage.place(name, b"content"));
    for (path, time) in [(&coarse, TIME / 2_000_000_000 * 2_000_000_000), (&other, TIME - 5_000_000_000)] {
        fs::write(path, [0; 7]).unwrap();
        set_time(path, time);
    }
    stage.cut();
    assert_eq!(stage.settle(), 0);
    assert!(!coarse.exists() && other.exists());
}

#[test]
fn many_are_looked_at_page_by_page() {
    let stage = Stage::new();
    let names: Vec<_> = (0..3 * PAGE + 7).map(|number| format!("{number:04}")).collect();
    let one = |name: &String| Expected { path: stage.path(name), content: ContentId::of(b"x"), len: 1, mtime_ns: TIME };
    let files: Vec<_> = names.iter().map(one).collect();
    stage.open().expect(&files).unwrap();
    for (number, file) in files.iter().enumerate() {
        write(&file.path, if number % 2 == 0 { b"x" } else { b"" });
    }
    stage.cut();
    assert_eq!(stage.settle(), 0);
    assert_eq!(files.iter().filter(|file| file.path.exists()).count(), files.len().div_ceil(2));
}
