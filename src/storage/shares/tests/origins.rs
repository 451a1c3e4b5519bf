//! Who said that something is shared, and until when.

use rusqlite::Connection;

use super::*;
use crate::config::Origin;

impl Stage {
    /// A restart with these paths in flags.
    fn restarted(self, flags: &[&str]) -> (Self, DeclareOutcome) {
        self.restarted_by(flags, Origin::Flag)
    }

    fn restarted_by(self, paths: &[&str], origin: Origin) -> (Self, DeclareOutcome) {
        let again = self.reopened();
        let paths: Vec<_> = paths.iter().map(|path| again.path(path)).collect();
        let outcome = again.table.declare(&paths, origin, &Selection::default()).unwrap();
        rescan(&again.table);
        (again, outcome)
    }

    fn origins(&self) -> Vec<(String, Vec<Origin>, RootStanding)> {
        let name = |state: &RootState| state.path.file_name().unwrap().to_string_lossy().into_owned();
        let states = self.table.root_states(10).unwrap();
        states.into_iter().map(|state| (name(&state), state.origins, state.standing)).collect()
    }
}

#[test]
fn what_flags_named_ends_with_them_and_what_was_shared_by_hand_stays() {
    let stage = Stage::new();
    for name in ["a/a.txt", "b/b.txt", "c/c.txt"] {
        stage.file(name, name.as_bytes());
    }
    let (stage, outcome) = stage.restarted(&["a", "b"]);
    assert!(outcome.ended.is_empty() && outcome.missing.is_empty());
    assert_eq!(stage.names(), ["a.txt", "b.txt"]);
    stage.add(&stage.path("b"), Some("mine")).unwrap();
    assert_eq!(stage.names(), ["a.txt", "mine/b.txt"]);
    // A restart with the same flags changes nothing of what was said by hand.
    let (stage, _) = stage.restarted(&["a", "b"]);
    assert_eq!(stage.names(), ["a.txt", "mine/b.txt"]);
    let both = vec![Origin::Command, Origin::Flag];
    let shared = |name: &str, origins| (name.to_owned(), origins, RootStanding::Shared);
    assert_eq!(stage.origins(), [shared("a", vec![Origin::Flag]), shared("b", both)]);
    let (stage, outcome) = stage.restarted_by(&["c"], Origin::Configuration);
    assert_eq!(outcome.ended, [stage.path("a")]);
    assert_eq!(stage.kept(), ["c.txt", "mine/b.txt"]);
    assert_eq!(stage.origins(), [shared("b", vec![Origin::Command]), shared("c", vec![Origin::Configuration])]);
    // Nor does what comes into it later.
    stage.file("a/later", b"later");
    stage.update(&[stage.path("a"), stage.path("a/later")]);
    assert_eq!(stage.kept(), ["c.txt", "mine/b.txt"]);
}

#[test]
fn a_revocation_stands_whoever_names_the_folder_until_it_is_shared_anew_by_hand() {
    let stage = Stage::new();
    for name in ["d/private", "d/public", "alone"] {
        stage.file(name, name.as_bytes());
    }
    let (mut stage, _) = stage.restarted(&["d", "alone"]);
    assert_eq!(stage.names(), ["alone", "private", "public"]);
    stage.revoke("private");
    stage.revoke("alone");
    // At the next start, and by flags that name the file itself, or a folder above it.
    for flags in [&["d", "alone"][..], &["d/private", "d", "alone"], &[""], &["d", "alone"]] {
        let (again, _) = stage.restarted(flags);
        let names = again.kept();
        assert!(!names.iter().any(|name| name.ends_with("private") || name.ends_with("alone")), "{flags:?}: {names:?}");
        assert_eq!(names.len(), 1, "{names:?}");
        again.file("d/private", b"changed");
        again.update(&[again.path("d/private"), again.path("d")]);
        assert_eq!(again.kept().len(), 1);
        stage = again;
    }
    stage.add(&stage.path("d"), None).unwrap();
    assert_eq!(stage.names(), ["private", "public"]);
    stage.add(&stage.path("alone"), None).unwrap();
    let (stage, _) = stage.restarted(&[]);
    assert_eq!(stage.names(), ["alone", "private", "public"]);
}

#[test]
fn of_two_names_of_a_file_one_is_given_up() {
    let stage = Stage::new();
    stage.file("d/sub/f", b"f");
    stage.file("e/f", b"another");
    stage.add(&stage.path("d"), None).unwrap();
    stage.add(&stage.path("d/sub"), None).unwrap();
    assert_eq!(stage.names(), ["f", "sub/f"]);
    stage.revoke("f");
    rescan(&stage.table);
    assert_eq!(stage.names(), ["sub/f"]);
    // Another file may have the name, and the first does not come back with it.
    stage.add(&stage.path("e"), None).unwrap();
    assert_eq!(stage.names(), ["f", "sub/f"]);
    stage.table.unshare(&[stage.path("e")]).unwrap();
    let stage = stage.again();
    assert_eq!(stage.names(), ["sub/f"]);
    stage.revoke("sub/f");
    assert!(stage.again().names().is_empty());
}

#[test]
fn unshare_ends_a_share_for_good_even_if_flags_go_on_naming_it() {
    let stage = Stage::new();
    for name in ["a/1", "a/2", "b/3", "single"] {
        stage.file(name, name.as_bytes());
    }
    stage.add(&stage.path("a"), None).unwrap();
    stage.add(&stage.path("single"), None).unwrap();
    let (stage, _) = stage.restarted(&["b"]);
    assert_eq!(stage.names(), ["1", "2", "3", "single"]);
    // All or none.
    let unshare = |stage: &Stage, names: &[&str]| {
        let paths: Vec<_> = names.iter().map(|name| stage.path(name)).collect();
        stage.table.unshare(&paths).map(|ended| ended.into_iter().map(|(_, names)| names.len()).collect::<Vec<_>>())
    };
    for wrong in ["a/1", "none", ""] {
        let error = unshare(&stage, &["single", wrong]).unwrap_err();
        let ShareError::NotRoot { above, .. } = error else { panic!("{error}") };
        assert_eq!(above, (wrong == "a/1").then(|| stage.path("a")));
    }
    assert_eq!(stage.kept().len(), 4);
    assert_eq!(unshare(&stage, &["a", "single"]).unwrap(), [2, 1]);
    assert_eq!(stage.kept(), ["3"]);
    assert!(unshare(&stage, &["a"]).is_err(), "it has ended");
    assert_eq!(unshare(&stage, &["b"]).unwrap(), [1]);
    let (stage, outcome) = stage.restarted(&["b"]);
    assert_eq!(outcome.unshared, [stage.path("b")]);
    assert!(stage.kept().is_empty());
    assert_eq!(stage.origins(), [("b".to_owned(), vec![Origin::Flag], RootStanding::Unshared)]);
    assert!(stage.table.take_up().unwrap().is_empty());
    // By hand it begins again; so it does once flags named it anew.
    stage.add(&stage.path("b"), None).unwrap();
    assert_eq!(unshare(&stage, &["b"]).unwrap(), [1]);
    let (stage, _) = stage.restarted(&[]);
    assert!(stage.kept().is_empty() && stage.origins().is_empty());
    let (stage, _) = stage.restarted(&["b"]);
    assert_eq!(stage.kept(), ["3"]);
}

#[test]
fn what_is_missing_at_the_start_is_taken_up_when_it_comes() {
    let stage = Stage::new();
    let links = stage.file("links/x", b"x").parent().unwrap().to_owned();
    let (stage, outcome) = stage.restarted(&["late", "late/deeper", "links/current", "file.txt"]);
    assert_eq!(outcome.missing.len(), 4);
    assert!(stage.table.take_up().unwrap().is_empty());
    assert!(stage.origins().iter().all(|(.., standing)| *standing == RootStanding::Waiting));
    stage.file("late/one", b"1");
    stage.file("file.txt", b"2");
    stage.file("releases/1/app", b"3");
    symlink(stage.path("releases/1"), links.join("current")).unwrap();
    let mut came = stage.table.take_up().unwrap();
    came.sort();
    assert_eq!(came, ["file.txt", "late", "releases/1"].map(|name| stage.path(name)));
    stage.update(&came);
    assert_eq!(stage.names(), ["app", "file.txt", "one"]);
    assert!(stage.table.take_up().unwrap().is_empty(), "once");
    // A link that leads elsewhere.
    stage.file("releases/2/app", b"4");
    stage.file("releases/2/new", b"5");
    fs::remove_file(links.join("current")).unwrap();
    symlink(stage.path("releases/2"), links.join("current")).unwrap();
    let came = stage.table.take_up().unwrap();
    assert_eq!(came, [stage.path("releases/2")]);
    stage.update(&came);
    assert_eq!(stage.kept(), ["app", "file.txt", "new", "one"]);
    assert!(stage.table.has(&ContentId::of(b"4")) && !stage.table.has(&ContentId::of(b"3")));
    // One that waits is ended by hand as well.
    assert_eq!(stage.table.unshare(&[stage.path("late/deeper")]).unwrap(), [(stage.path("late/deeper"), Vec::new())]);
    fs::create_dir(stage.path("late/deeper")).unwrap();
    assert!(stage.table.take_up().unwrap().is_empty());
    assert_eq!(
        stage.table.unshare(&[links.join("current")]).unwrap(),
        [(stage.path("releases/2"), ["app", "new"].map(|name| Name::parse(name).unwrap()).to_vec())]
    );
}

/// The tables of builds that did not note who shared what, with a share in them.
#[test]
fn a_share_table_of_an_earlier_build_opens_with_everything_in_it() {
    let stage = Stage::new();
    for name in ["old/kept", "old/given up", "old/.hidden", "old/.env", "named/n"] {
        stage.file(name, name.as_bytes());
    }
    let roots = ["old", "named"].map(|name| stage.path(name));
    let stage = {
        let Stage { folder, table } = stage;
        drop(table);
        let data = folder.path().join("data");
        fs::remove_dir_all(&data).unwrap();
        fs::create_dir(&data).unwrap();
        let database = Connection::open(data.join("shares.db")).unwrap();
        let tables = "CREATE TABLE roots (path BLOB PRIMARY KEY, name TEXT) STRICT, WITHOUT ROWID;
            CREATE TABLE excluded (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
            CREATE TABLE files (path BLOB PRIMARY KEY, len INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,
                inode INTEGER NOT NULL, device INTEGER NOT NULL, content BLOB NOT NULL) STRICT, WITHOUT ROWID;
            PRAGMA application_id = 0x73776473; PRAGMA user_version = 1;
            INSERT INTO excluded VALUES ('p/given up');";
        database.execute_batch(tables).unwrap();
        let bytes = |path: &Path| path.to_str().unwrap().as_bytes().to_vec();
        let sql = "INSERT INTO roots VALUES (?1, ?2)";
        database.execute(sql, rusqlite::params![bytes(&roots[0]), "p"]).unwrap();
        database.execute(sql, rusqlite::params![bytes(&roots[1]), None::<String>]).unwrap();
        // Hashed on a device of another number: it is not read again. The content tells.
        let file = roots[0].join("kept");
        let FileStamp { len, mtime_ns, ctime_ns, inode, .. } = FileStamp::of(&fs::metadata(&file).unwrap());
        let hash = ContentId::of(b"what the cache says");
        let values =
            rusqlite::params![bytes(&file), len as i64, mtime_ns, ctime_ns, inode as i64, 4711, &hash.as_bytes()[..]];
        database.execute("INSERT INTO files VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)", values).unwrap();
        Stage { table: ShareTable::open(&data, 2).unwrap(), folder }
    };
    let (stage, _) = stage.restarted(&["named"]);
    assert_eq!(stage.names(), ["n", "p/.hidden", "p/kept"]);
    let kept = stage.table.entries().iter().find(|entry| entry.name.as_str() == "p/kept").unwrap().content;
    assert_eq!(kept, ContentId::of(b"what the cache says"));
    let shared = |name: &str, origin| (name.to_owned(), vec![origin], RootStanding::Shared);
    assert_eq!(stage.origins(), [shared("named", Origin::Flag), shared("old", Origin::Earlier)]);
    // What flags named then ends with them, the other when somebody says so.
    let (stage, outcome) = stage.restarted(&[]);
    assert_eq!(outcome.ended, [stage.path("named")]);
    assert_eq!(stage.names(), ["p/.hidden", "p/kept"]);
    stage.table.unshare(&[stage.path("old")]).unwrap();
    assert!(stage.again().kept().is_empty());
}
