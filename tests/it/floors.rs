//! The house rules that no compiler checks: imports only point down, no unbounded channel, no file
//! that has grown past one room, one file that names the CBOR library.

use std::path::{Path, PathBuf};

/// Floors of `src/`, low to high; what is not listed belongs to the ground.
const FLOORS: [&[&str]; 5] = [&["state"], &["storage"], &["net"], &["node"], &["cli", "http"]];
/// Lines that a file may have, tests at its end not counted.
const MAX_LINES: usize = 500;

fn floor_of(module: &str) -> usize {
    FLOORS.iter().position(|floor| floor.contains(&module)).map_or(0, |floor| floor + 1)
}

/// What is wrong with one file, given its path below `src/`.
fn complaints(path: &str, text: &str) -> Vec<String> {
    let module = path.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let is_test = path.contains("tests");
    let code = text.split("\n#[cfg(test)]\n").next().unwrap_or_default();
    let mut found = Vec::new();
    let own = floor_of(module);
    // `lib.rs` and `main.rs` hold the house together and belong to no floor.
    if !matches!(module, "lib" | "main") {
        for (number, line) in code.lines().enumerate() {
            for (at, _) in line.match_indices("crate::") {
                let name: String =
                    line[at + 7..].chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
                // Doc links may point anywhere; `crate::Node` and the like are re-exports of the node's floor.
                let target = if name.chars().next().is_some_and(char::is_uppercase) {
                    floor_of("node")
                } else {
                    floor_of(&name)
                };
                if target > own && !line.trim_start().starts_with("//") {
                    found.push(format!("{path}:{}: imports upward: {}", number + 1, line.trim()));
                }
            }
            if line.contains("unbounded") && !line.trim_start().starts_with("//") {
                found.push(format!("{path}:{}: an unbounded channel", number + 1));
            }
            if line.contains("tokio::spawn(") && module != "tasks" {
                found.push(format!("{path}:{}: a task without a name: crate::tasks::spawn", number + 1));
            }
            if module == "state" && (line.contains("tokio::") || line.contains("libp2p::")) {
                found.push(format!("{path}:{}: a rule that knows the network", number + 1));
            }
        }
    }
    if !is_test && code.lines().count() > MAX_LINES {
        found.push(format!("{path}: {} lines, find the seam", code.lines().count()));
    }
    if text.contains("serde_cbor") {
        found.push(format!("{path}: names the CBOR library"));
    }
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn imports_point_down_and_rooms_stay_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for path in files(&root.join("src")) {
        let name = path.strip_prefix(root.join("src")).unwrap().to_str().unwrap().to_owned();
        found.extend(complaints(&name, &std::fs::read_to_string(&path).unwrap()));
    }
    for path in files(&root.join("protocols/src")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("\n#[cfg(test)]\n").next().unwrap().lines().count();
        if code > MAX_LINES {
            found.push(format!("{}: {code} lines", path.display()));
        }
        if text.contains("serde_cbor") && !path.ends_with("codec.rs") {
            found.push(format!("{}: names the CBOR library", path.display()));
        }
        for word in ["tokio", "libp2p::", "std::fs", "std::net::"] {
            if text.contains(word) {
                found.push(format!("{}: {word} in the crate without I/O", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_checker_sees_what_it_is_for() {
    for (path, text) in [
        ("state/lease.rs", "use crate::storage::index;"),
        ("state/lease.rs", "use tokio::sync::mpsc;"),
        ("storage/mod.rs", "fn f() { crate::net::start() }"),
        ("net/mod.rs", "use crate::node::Node;"),
        ("net/mod.rs", "use crate::Node;"),
        ("net/mod.rs", "let (a, b) = mpsc::unbounded_channel();"),
        ("net/mod.rs", "tokio::spawn(driver.run())"),
        ("node/mod.rs", "use crate::cli::run;"),
        ("node/mod.rs", "use serde_cbor::Value;"),
        ("node/mod.rs", &"// line\n".repeat(501)),
    ] {
        assert_eq!(complaints(path, text).len(), 1, "{path}: {}", &text[..text.len().min(40)]);
    }
    for (path, text) in [
        ("net/mod.rs", "use crate::state::lease; // see crate::config\n/// See [`crate::Node`]."),
        ("cli/mod.rs", "use crate::http::Client; use crate::node::Node;"),
        ("node/mod.rs", "use crate::net::Net;"),
    ] {
        assert_eq!(complaints(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}
