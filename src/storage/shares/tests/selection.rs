//! What is left out of shared folders.

use super::*;
use crate::storage::dir::DataDir;

fn excluding(patterns: &[&str]) -> Selection {
    Selection { exclude: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(), ..Selection::default() }
}

#[test]
fn secrets_junk_and_hidden_files_are_left_out_and_counted() {
    let stage = Stage::new();
    for name in [
        "d/.git/config",
        "d/.git/HEAD",
        "d/.aws/credentials",
        "d/.env",
        "d/.netrc",
        "d/Thumbs.db",
        "d/.DS_Store",
        "d/film.mkv.part",
        "d/x.crdownload",
        "d/~$a.docx",
        "d/.hidden/deep/file",
        "d/sub/id_rsa",
        "d/sub/b.txt",
        "d/a.txt",
    ] {
        stage.file(name, name.as_bytes());
    }
    let outcome = stage.add(&stage.path("d"), None).unwrap();
    assert_eq!(stage.names(), ["a.txt", "sub/b.txt"]);
    let expected = LeftOut { secrets: 4, junk: 6, hidden: 1, ..LeftOut::default() };
    assert_eq!((outcome.left_out, outcome.left_out.total()), (expected, 11));
    let said: Vec<_> = outcome.skipped.iter().map(|skipped| skipped.path.file_name().unwrap()).collect();
    assert_eq!(said, [".aws", ".env", ".netrc", "id_rsa"], "what somebody may think is shared");
    let states = stage.table.root_states(5).unwrap();
    assert_eq!((states[0].left_out, states[0].examples.len()), (expected, 5));
    // What is changed later is held to the same.
    stage.file("d/.git/config", b"changed");
    stage.file("d/.env.local", b"secret");
    stage.update(&["d/.git/config", "d/.git", "d/.env.local"].map(|name| stage.path(name)));
    assert_eq!(stage.names(), ["a.txt", "sub/b.txt"]);
    assert_eq!(stage.table.root_states(0).unwrap()[0].left_out.secrets, 5);
    // Who names it means it.
    stage.add(&stage.path("d/.env"), None).unwrap();
    stage.add(&stage.path("d/.git"), Some("git")).unwrap();
    assert_eq!(stage.again().names(), [".env", "a.txt", "git/HEAD", "git/config", "sub/b.txt"]);
}

#[test]
fn flags_leave_out_more_or_less_and_hold_after_a_restart() {
    let stage = Stage::new();
    for name in ["d/a.log", "d/a.txt", "d/.dot", "d/server.pem", "d/.env", "d/build/x", "d/sub/build/y", "d/ignored"] {
        stage.file(name, name.as_bytes());
    }
    stage.file("d/.swarmdexignore", b"ignored\n");
    let names = |selection: &Selection| {
        stage.add_selected(&stage.path("d"), None, selection).unwrap();
        rescan(&stage.table);
        stage.names()
    };
    assert_eq!(names(&Selection::default()), ["a.log", "a.txt", "build/x", "sub/build/y"]);
    assert_eq!(names(&excluding(&["*.log", "/build/"])), ["a.txt", "sub/build/y"]);
    let hidden = Selection { hidden: true, ..excluding(&["build/", "*.log"]) };
    assert_eq!(names(&hidden), [".dot", ".swarmdexignore", "a.txt"]);
    let no_ignore = Selection { no_ignore: true, ..excluding(&["build", "a.*"]) };
    assert_eq!(names(&no_ignore), ["ignored", "server.pem"]);
    let all = Selection { hidden: true, ..no_ignore };
    assert_eq!(names(&all), [".dot", ".env", ".swarmdexignore", "ignored", "server.pem"]);
    let stage = stage.again();
    assert_eq!(stage.names(), [".dot", ".env", ".swarmdexignore", "ignored", "server.pem"]);
    let wrong = stage.add_selected(&stage.path("d"), None, &excluding(&["{a,b"]));
    assert!(matches!(wrong, Err(ShareError::Pattern { .. })));
    assert_eq!(stage.again().names().len(), 5, "nothing changed");
}

#[test]
fn an_ignore_file_counts_for_its_folder_and_from_when_it_is_written() {
    let stage = Stage::new();
    for name in ["d/a.raw", "d/sub/b.raw", "d/sub/c.txt", "d/sub/deep/d.raw"] {
        stage.file(name, name.as_bytes());
    }
    stage.add(&stage.path("d"), None).unwrap();
    assert_eq!(stage.names().len(), 4);
    stage.file("d/sub/.swarmdexignore", b"*.raw\n!/deep/\n");
    stage.update(&[stage.path("d/sub/.swarmdexignore")]);
    assert_eq!(stage.kept(), ["a.raw", "sub/c.txt"]);
    stage.file("d/sub/deep/.swarmdexignore", b"!d.raw\n");
    stage.file("d/sub/deep/e.raw", b"e");
    // What is below is held to the rules above it, though it is looked at by itself.
    stage.update(&["d/sub/deep/d.raw", "d/sub/deep/e.raw", "d/sub/deep/.swarmdexignore"].map(|name| stage.path(name)));
    assert_eq!(stage.kept(), ["a.raw", "sub/c.txt", "sub/deep/d.raw"]);
    fs::remove_file(stage.path("d/sub/.swarmdexignore")).unwrap();
    stage.update(&[stage.path("d/sub/.swarmdexignore")]);
    assert_eq!(stage.kept().len(), 5);
    // One that cannot be used leaves everything out rather than too little.
    fs::remove_file(stage.path("d/sub/deep/.swarmdexignore")).unwrap();
    fs::create_dir(stage.path("d/sub/deep/.swarmdexignore")).unwrap();
    stage.update(&[stage.path("d/sub")]);
    assert_eq!(stage.kept(), ["a.raw", "sub/b.raw", "sub/c.txt"]);
}

/// Availability and safety: a folder above the data directory of another node.
#[test]
fn data_directories_of_nodes_are_never_shared() {
    let stage = Stage::new();
    stage.file("home/notes", b"notes");
    let other = stage.path("home/.local/share/swarmdex");
    let node = DataDir::open(&other).unwrap();
    node.identity().unwrap();
    stage.file("home/.local/share/swarmdex/shares.db", b"");
    let plain = stage.path("home/visible");
    DataDir::open(&plain).unwrap().identity().unwrap();
    let everything = Selection { hidden: true, no_ignore: true, ..Selection::default() };
    let outcome = stage.add_selected(&stage.path("home"), None, &everything).unwrap();
    assert_eq!((stage.names(), outcome.left_out.nodes), (vec!["notes".to_owned()], 2));
    // Whichever file of it is looked at, and however it is named.
    stage.update(&["identity.key", "shares.db", "lock"].map(|name| other.join(name)));
    for path in [other.clone(), other.join("identity.key"), plain.join("lock"), stage.folder.path().join("data")] {
        let error = stage.add_selected(&path, None, &everything).unwrap_err();
        assert!(matches!(error, ShareError::DataDirectory { .. }), "{error}");
    }
    stage
        .table
        .declare(&[other.clone(), plain.join("identity.key")], crate::config::Origin::Flag, &everything)
        .unwrap();
    rescan(&stage.table);
    assert_eq!(stage.names(), ["notes"]);
    // One that is made later.
    let late = stage.path("home/late");
    fs::create_dir(&late).unwrap();
    fs::write(late.join("lock"), "1").unwrap();
    stage.update(std::slice::from_ref(&late));
    assert_eq!(stage.names(), ["late/lock", "notes"], "nobody can know");
    DataDir::open(&late).unwrap().identity().unwrap();
    stage.update(&[late.join("identity.key")]);
    assert_eq!(stage.names(), ["notes"]);
}

#[test]
fn of_what_is_left_out_as_much_is_remembered_as_its_bound_allows_and_the_rest_is_counted() {
    let stage = Stage::new();
    for number in 0..4200 {
        stage.file(&format!("d/{}/{number}.tmp", number % 10), b"");
    }
    stage.add(&stage.path("d"), None).unwrap();
    let states = stage.table.root_states(10_000).unwrap();
    assert_eq!((states[0].left_out.junk, states[0].examples.len()), (4200, 4096));
}
