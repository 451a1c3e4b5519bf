//! What vanishes whole and comes back; what is not at rest, or large.

use std::time::Duration;

use super::*;

fn contents(stage: &Stage) -> Vec<(String, ContentId, bool)> {
    let entries = stage.table.kept();
    entries.iter().map(|entry| (entry.name.to_string(), entry.content, entry.suspended)).collect()
}

#[test]
fn a_root_that_vanishes_keeps_its_names_and_serves_nothing_until_it_is_back() {
    let stage = Stage::new();
    let bytes = noise(2 * CHUNK);
    for name in ["disk/photos/a", "disk/photos/sub/b", "other/c"] {
        stage.file(name, name.as_bytes());
    }
    stage.file("disk/photos/large", &bytes);
    stage.add(&stage.path("disk/photos"), Some("p")).unwrap();
    stage.add(&stage.path("other"), None).unwrap();
    let before = contents(&stage);
    let (disk, away) = (stage.path("disk"), stage.path("away"));
    fs::rename(&disk, &away).unwrap();
    // Whichever path of it is looked at: the root is away, not a file of it gone.
    let outcome = stage.update(&[stage.path("disk/photos/a")]);
    assert_eq!((outcome.suspended, outcome.skipped.len(), outcome.changes), (3, 1, [0; 3]), "{:?}", outcome.skipped);
    assert_eq!((stage.names(), stage.kept().len()), (vec!["c".to_owned()], 4));
    assert!(!stage.table.has(&ContentId::of(&bytes)));
    assert_eq!(stage.read(&bytes, 0, 1).header, Header::Refused(FetchRefusal::NotFound));
    let standing = |stage: &Stage| stage.table.root_states(0).unwrap()[0].standing.clone();
    assert!(matches!(standing(&stage), RootStanding::Away(_)));
    // It is said once.
    assert!(stage.update(&[stage.path("disk/photos")]).skipped.is_empty());
    // Nobody else here gets its names.
    stage.file("third/a", b"third");
    assert_eq!(stage.add(&stage.path("third"), Some("p")).unwrap().skipped.len(), 1);
    // A restart without it.
    let stage = stage.again();
    assert_eq!((stage.names(), stage.kept().len()), (vec!["c".to_owned()], 4));
    assert!(matches!(standing(&stage), RootStanding::Away(_)));
    fs::rename(&away, &disk).unwrap();
    let outcome = stage.update(&[stage.path("disk/photos")]);
    assert_eq!((outcome.resumed, outcome.hashed, outcome.changes), (3, 0, [0; 3]));
    assert_eq!(contents(&stage), before);
    assert!(matches!(stage.read(&bytes, 0, 1).header, Header::Chunks { .. }));
    assert_eq!(standing(&stage), RootStanding::Shared);
    // What changed while it was away is seen then.
    fs::rename(&disk, &away).unwrap();
    stage.update(&[stage.path("disk/photos")]);
    fs::remove_file(away.join("photos/sub/b")).unwrap();
    fs::write(away.join("photos/a"), "changed").unwrap();
    fs::write(away.join("photos/new"), "new").unwrap();
    fs::rename(&away, &disk).unwrap();
    let stage = stage.again();
    assert_eq!(stage.kept(), ["c", "p/a", "p/large", "p/new"]);
    assert!(stage.table.has(&ContentId::of(b"changed")));
    // It may be ended while it is away.
    fs::rename(&disk, &away).unwrap();
    stage.update(&[stage.path("disk/photos")]);
    stage.table.unshare(&[stage.path("disk/photos")]).unwrap();
    let stage = stage.again();
    assert_eq!(stage.kept(), ["c", "p/a"]);
    assert!(stage.table.has(&ContentId::of(b"third")), "another may have the name then");
}

#[test]
fn a_root_that_is_made_again_has_what_is_in_it_then() {
    let stage = Stage::new();
    let root = stage.file("d/one", b"1").parent().unwrap().to_owned();
    stage.add(&root, None).unwrap();
    let first = identity(&root);
    fs::remove_dir_all(&root).unwrap();
    stage.update(&[root.canonicalize().unwrap_or_else(|_| stage.path("d"))]);
    assert_eq!((stage.names().len(), stage.kept().len()), (0, 1));
    stage.file("d/two", b"2");
    assert_ne!(identity(&root), first);
    stage.update(&[stage.path("d")]);
    assert_eq!(stage.kept(), ["two"]);
    // An empty folder is one whose files were deleted.
    fs::remove_file(root.join("two")).unwrap();
    stage.update(&[stage.path("d")]);
    assert!(stage.kept().is_empty());
}

#[test]
fn a_file_that_is_gone_from_its_folder_was_deleted_and_one_that_is_gone_with_it_is_away() {
    let stage = Stage::new();
    let file = stage.file("disk/film", b"film");
    stage.add(&file, None).unwrap();
    fs::rename(stage.path("disk"), stage.path("away")).unwrap();
    stage.update(&[stage.path("disk/film")]);
    assert_eq!((stage.names().len(), stage.kept().len()), (0, 1));
    fs::rename(stage.path("away"), stage.path("disk")).unwrap();
    stage.update(&[stage.path("disk/film")]);
    assert_eq!(stage.names(), ["film"]);
    fs::remove_file(&file).unwrap();
    stage.update(&[stage.path("disk/film")]);
    assert!(stage.kept().is_empty());
    // The share stands: the file may be made again.
    fs::write(&file, "again").unwrap();
    stage.update(&[stage.path("disk/film")]);
    assert_eq!(stage.names(), ["film"]);
}

#[test]
fn what_is_not_at_rest_is_left_for_later_and_holds_nothing_up() {
    let stage = Stage::new();
    let old = stage.file("d/old", b"old");
    stage.add(&stage.path("d"), None).unwrap();
    let look = |rest: u64| {
        let look = Look { rest: Duration::from_secs(rest), ..Look::NOW };
        stage.table.look(&[stage.path("d")], look, &|_| {}, &AtomicBool::new(false)).unwrap()
    };
    fs::write(&old, "being written").unwrap();
    stage.file("d/new", b"new");
    // Far in the future or not: only what just changed counts as young.
    let outcome = look(3600);
    assert_eq!(outcome.open.busy, [stage.path("d/new"), stage.path("d/old")]);
    assert_eq!((stage.names(), outcome.changes), (vec!["old".to_owned()], [0; 3]), "the name is kept");
    assert_eq!(stage.table.entries()[0].content, ContentId::of(b"old"));
    let outcome = look(0);
    assert_eq!((outcome.changes, stage.names().len()), ([1, 1, 0], 2));
    // A large file is hashed by itself, and the others do not wait for it.
    let large = stage.file("d/large", b"");
    fs::OpenOptions::new().write(true).open(&large).unwrap().set_len(65 << 20).unwrap();
    stage.file("d/small", b"small");
    let outcome = look(0);
    assert_eq!((outcome.open.large.as_slice(), stage.names().len()), (&[stage.path("d/large")][..], 3));
    assert!(stage.table.hash_ahead(&stage.path("d/large"), &AtomicBool::new(false)).unwrap());
    let outcome = look(0);
    assert_eq!((outcome.open.large.len(), outcome.hashed, outcome.changes), (0, 0, [1, 0, 0]));
    assert_eq!(stage.names(), ["large", "new", "old", "small"]);
}
