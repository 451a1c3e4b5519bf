//! Many roots, many names: with an error in the middle of the list.

use super::*;

/// Makes it impossible to keep the hashes of a content.
fn obstruct(stage: &Stage, bytes: &[u8]) -> PathBuf {
    let path = stage.folder.path().join("data/outboards").join(ContentId::of(bytes).to_string());
    fs::create_dir_all(path.join("in the way")).unwrap();
    path
}

#[test]
fn a_file_that_cannot_be_kept_takes_no_other_with_it() {
    let stage = Stage::new();
    let files = stage.folder.path().join("files");
    for name in ["one/a", "one/c", "two/d", "three/e", "three/f"] {
        stage.file(name, name.as_bytes());
    }
    for root in ["one", "two", "three"] {
        stage.add(&files.join(root), None).unwrap();
    }
    let bytes = noise(2 * CHUNK);
    let way = obstruct(&stage, &bytes);
    stage.file("one/b", &bytes);
    stage.file("three/g", b"g");
    // While the node runs, and after a restart.
    let outcome = stage.update(&["one", "two", "three"].map(|root| files.join(root)));
    assert!(outcome.unfinished);
    assert_eq!(outcome.skipped.len(), 1, "{:?}", outcome.skipped);
    assert_eq!(stage.names(), ["a", "c", "d", "e", "f", "g"]);
    let stage = stage.again();
    assert_eq!(stage.names(), ["a", "c", "d", "e", "f", "g"]);
    // One that was shared before keeps its name.
    stage.file("two/d", &bytes);
    assert!(stage.update(&[files.join("two")]).unfinished);
    assert_eq!(stage.names(), ["a", "c", "d", "e", "f", "g"]);
    // Who shares it and waits for that is told, and nothing of it is shared.
    assert!(matches!(stage.add(&files.join("one"), Some("again")), Err(ShareError::Outboard { .. })));
    assert_eq!(stage.names(), ["a", "c", "d", "e", "f", "g"]);
    fs::remove_dir_all(way).unwrap();
    assert!(!rescan(&stage.table).unfinished);
    assert!(stage.names().ends_with(&["g".to_owned()]) && stage.names().len() == 7, "{:?}", stage.names());
}

#[test]
fn names_are_given_up_all_together_or_none() {
    let stage = Stage::new();
    for number in 0..3500 {
        stage.file(&format!("tree/{number}"), b"x");
    }
    let single = stage.file("single", b"1");
    let tree = stage.folder.path().join("files/tree");
    stage.add(&tree, None).unwrap();
    stage.add(&single, None).unwrap();
    let names: Vec<_> = (0..3400).map(|number| Name::parse(&number.to_string()).unwrap()).collect();
    let all: Vec<_> = names.iter().cloned().chain([Name::parse("single").unwrap()]).collect();
    // Something fails at the last of them.
    let database = rusqlite::Connection::open(stage.folder.path().join("data/shares.db")).unwrap();
    let fail =
        "CREATE TRIGGER fail BEFORE INSERT ON excluded WHEN NEW.name = '3399' BEGIN SELECT RAISE(ABORT, 'no'); END";
    database.execute_batch(fail).unwrap();
    assert!(stage.table.remove(&all).is_err());
    assert_eq!(stage.names().len(), 3501);
    let stage = stage.again();
    assert_eq!(stage.names().len(), 3501, "nor after a restart");
    database.execute_batch("DROP TRIGGER fail").unwrap();
    assert_eq!(stage.table.remove(&all).unwrap().len(), 3401);
    let stage = stage.again();
    assert_eq!(stage.names().len(), 100);
    stage.add(&tree, None).unwrap();
    assert_eq!(stage.again().names().len(), 3500);
}
