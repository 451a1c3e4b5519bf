//! The house rules that no compiler checks: imports only point down, no unbounded channel, no file that has grown past
//! one room. One file names the CBOR library, and on one floor a type has its name for itself. Rooms need each other one
//! way, and files of `node` and `net` do not reach up into their `mod.rs`.

use std::collections::{BTreeMap, BTreeSet};
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

/// What the code of one file imports or names of the crate, as paths from the root, groups taken apart.
fn named(module: &str, code: &str) -> Vec<String> {
    let plain: String =
        code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in plain.match_indices(start) {
            let part_of_another =
                plain[..at].chars().next_back().is_some_and(|before| before == ':' || before.is_alphanumeric());
            if !part_of_another {
                take_apart(&plain[at..], String::new(), &mut found);
            }
        }
    }
    found.into_iter().map(|path| resolve(module, &path)).collect()
}

/// One path with groups in braces, as many paths without; what is left behind it.
fn take_apart<'a>(mut text: &'a str, mut before: String, found: &mut Vec<String>) -> &'a str {
    loop {
        text = text.trim_start();
        let length = text.find(|char: char| !(char.is_alphanumeric() || char == '_')).unwrap_or(text.len());
        before.push_str(&text[..length]);
        text = &text[length..];
        let Some(rest) = text.strip_prefix("::") else {
            found.push(before);
            return text;
        };
        before.push_str("::");
        text = rest.trim_start();
        if let Some(mut group) = text.strip_prefix('{') {
            loop {
                group = group.trim_start();
                if let Some(rest) = group.strip_prefix('}') {
                    return rest;
                }
                if group.is_empty() {
                    return group;
                }
                let rest = take_apart(group, before.clone(), found);
                // A name that it is imported by, and what separates it from the next.
                let end = rest.find([',', '}']).unwrap_or(rest.len());
                group = rest[end..].trim_start_matches(',');
            }
        }
    }
}

fn resolve(module: &str, path: &str) -> String {
    let mut from: Vec<&str> = module.split("::").collect();
    let mut parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
    if parts.first() == Some(&"crate") {
        from.clear();
        parts.remove(0);
    }
    while parts.first() == Some(&"super") {
        from.pop();
        parts.remove(0);
    }
    [from, parts].concat().join("::")
}

/// Rooms of each floor (`net::gate`), and which others of the floor each needs.
fn needs(sources: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let room = |module: &str| module.splitn(3, "::").take(2).collect::<Vec<_>>().join("::");
    let rooms: BTreeSet<String> =
        sources.keys().filter(|module| module.contains("::")).map(|module| room(module)).collect();
    let mut needs = BTreeMap::<String, BTreeSet<String>>::new();
    for (module, code) in sources.iter().filter(|(module, _)| module.contains("::")) {
        let own = room(module);
        let floor = own.split("::").next().unwrap_or_default();
        for other in named(module, code).iter().map(|path| room(path)) {
            if other != own && other.starts_with(&format!("{floor}::")) && rooms.contains(&other) {
                needs.entry(own.clone()).or_default().insert(other);
            }
        }
    }
    needs
}

/// A way from a room back to itself, if there is one.
fn circle(needs: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        room: &str,
        needs: &BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(begin) = way.iter().position(|before| before == room) {
            return Some(way[begin..].to_vec());
        }
        if !done.contains(room) {
            way.push(room.to_owned());
            for next in needs.get(room).into_iter().flatten() {
                if let Some(found) = walk(next, needs, way, done) {
                    return Some(found);
                }
            }
            way.pop();
            done.insert(room.to_owned());
        }
        None
    }
    let mut done = BTreeSet::new();
    needs.keys().find_map(|room| walk(room, needs, &mut Vec::new(), &mut done))
}

/// Code of a file without its tests, by the path of its module.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = BTreeMap::new();
    for path in files(&root) {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        // Simulations and tests may look anywhere.
        if !name.contains("test") && !name.contains("sim") {
            let module = name.trim_end_matches("/mod").replace('/', "::");
            let text = std::fs::read_to_string(&path).unwrap();
            sources.insert(module, text.split("\n#[cfg(test)]\nmod").next().unwrap().to_owned());
        }
    }
    sources
}

#[test]
fn rooms_of_a_floor_need_each_other_one_way() {
    assert_eq!(circle(&needs(&sources())), None);
}

#[test]
fn a_circle_of_rooms_is_found() {
    let of = |files: &[(&str, &str)]| {
        let sources = files.iter().map(|(module, code)| ((*module).to_owned(), (*code).to_owned())).collect();
        circle(&needs(&sources))
    };
    let a = ("net::a", "use super::b::{self, One as Two};");
    let b = ("net::b", "use crate::{config, net::{c::Three, error::{Four}}};");
    let line = of(&[a, b, ("net::c", "// use super::a;"), ("net::error", "")]);
    assert_eq!(line, None);
    let found =
        of(&[a, b, ("net::c::deep", "fn four() { crate::net::a::call() }"), ("net::c", ""), ("net::error", "")]);
    assert_eq!(found, Some(["net::a", "net::b", "net::c"].map(str::to_owned).to_vec()));
    // Inside one room, and from one floor to another, it is nothing.
    assert_eq!(
        of(&[("net::a", "use super::a::x;"), ("net::a::x", "use super::y; use crate::state::b::c;"), ("state::b", "")]),
        None
    );
}

/// Types that a file defines, but for those of its tests.
fn types(code: &str) -> Vec<&str> {
    let code = code.split("\n#[cfg(test)]\n").next().unwrap_or_default();
    let of_line = |line: &'_ str| -> Option<(usize, usize)> {
        let mut rest = line;
        if let Some(public) = rest.strip_prefix("pub") {
            rest = public.strip_prefix('(').and_then(|inside| inside.split_once(')')).map_or(public, |(_, rest)| rest);
            rest = rest.trim_start();
        }
        let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
        let name = kinds.iter().find_map(|kind| rest.strip_prefix(kind))?;
        let end = name.find(|char: char| !(char.is_alphanumeric() || char == '_')).unwrap_or(name.len());
        Some((line.len() - name.len(), end))
    };
    code.lines().filter_map(|line| of_line(line).map(|(from, length)| &line[from..from + length])).collect()
}

/// Names of types that two files of one floor define, with the files. Simulations are tests.
fn named_twice(sources: &BTreeMap<String, String>) -> BTreeMap<String, Vec<String>> {
    let mut places = BTreeMap::<(String, &str), Vec<String>>::new();
    for (file, code) in sources {
        let is_test = ["test", "sim", "conformance", "/crash.rs"].iter().any(|word| file.contains(word));
        // What stands in for a room that is left out of a build.
        if is_test || file.ends_with("_off.rs") {
            continue;
        }
        let floor = match file.split('/').collect::<Vec<_>>().as_slice() {
            ["src", floor, _, ..] => format!("src/{floor}"),
            [floor, "src", ..] => (*floor).to_owned(),
            _ => "src".to_owned(),
        };
        for name in types(code) {
            places.entry((floor.clone(), name)).or_default().push(file.clone());
        }
    }
    let twice = places.into_iter().filter(|(_, files)| files.len() > 1);
    twice.map(|((floor, name), files)| (format!("{floor}: {name}"), files)).collect()
}

#[test]
fn a_type_has_its_name_for_itself_on_its_floor() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = BTreeMap::new();
    for path in ["src", "protocols/src"].iter().flat_map(|folder| files(&root.join(folder))) {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        sources.insert(name, std::fs::read_to_string(&path).unwrap());
    }
    assert_eq!(named_twice(&sources), BTreeMap::new());
}

#[test]
fn a_name_that_stands_twice_is_found() {
    let code =
        "pub struct A<T>;\npub(in crate::x) enum B {\n    C,\n}\ntype D = A;\n#[cfg(test)]\nmod tests {}\nstruct E;";
    assert_eq!(types(code), ["A", "B", "D"]);
    let of = |files: &[(&str, &str)]| {
        named_twice(&files.iter().map(|(file, code)| ((*file).to_owned(), (*code).to_owned())).collect())
    };
    let one = ("src/net/a.rs", "pub trait A {}\n    type A = u8;");
    let found = of(&[one, ("src/net/b/c.rs", "struct A {"), ("src/node/d.rs", "struct A;")]);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["src/net: A"]);
    assert!(of(&[one, ("src/net/a_off.rs", "struct A;"), ("src/net/a/tests.rs", "struct A;")]).is_empty());
}

/// What the files of a floor may name of its `mod.rs`. `Node` is what most of them add a method to, and `Inner` what it holds. `Error`
/// is what each of them ends in, and `ErrorKind` what is asked of one. `net` keeps its handle and its errors in files of their own.
const HANDLES: [(&str, &[&str]); 2] = [("node", &["Node", "Inner", "Error", "ErrorKind"]), ("net", &[])];

/// Where files of a floor name something of its `mod.rs`, which imports them. What it exports again has a file of its own.
fn reaches_up(sources: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    for (floor, handles) in HANDLES {
        let below = format!("{floor}::");
        let below: Vec<_> = sources.iter().filter(|(module, _)| module.starts_with(&below)).collect();
        let rooms: BTreeSet<&str> = below.iter().filter_map(|(module, _)| module.split("::").nth(1)).collect();
        for (module, code) in below {
            let mut names: BTreeSet<String> = named(module, code).into_iter().collect();
            // Taken apart, a star is nothing.
            if code.lines().any(|line| line.starts_with("use super::*")) && module.matches("::").count() == 1 {
                names.insert(format!("{floor}::*"));
            }
            for name in &names {
                let mut parts = name.split("::");
                if let (Some(first), Some(item)) = (parts.next(), parts.next())
                    && first == floor
                    && !rooms.contains(item)
                    && !handles.contains(&item)
                {
                    found.push(format!("{module} names {name}, which is in mod.rs or has a file of its own"));
                }
            }
        }
    }
    found
}

#[test]
fn files_of_a_floor_name_nothing_of_its_mod_but_the_handle() {
    let found = reaches_up(&sources());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_file_that_reaches_up_is_found() {
    let of = |module: &str, code: &str| {
        let files = [("node", "mod a;"), ("node::a", ""), ("net", "mod b;"), ("net::b", ""), (module, code)];
        reaches_up(&files.map(|(module, code)| (module.to_owned(), code.to_owned())).into()).len()
    };
    for (module, code) in [
        ("node::a", "use super::Phase;"),
        ("node::a::deep", "use super::super::{Error, shorten as cut};"),
        ("node::a", "use crate::node::{\n    Error, Phase,\n};"),
        ("node::a", "fn f() { super::start() }"),
        ("node::a", "use super::*;"),
        ("net::b", "use crate::net::Net;"),
    ] {
        assert_eq!(of(module, code), 1, "{module}: {code}");
    }
    for (module, code) in [
        ("node::a", "use super::a::{self, B};\nuse super::{Error, ErrorKind, Inner, Node};"),
        ("node::a::deep", "use super::*;\nuse super::Local;\npub(in crate::node) fn f() {}"),
        ("node::a", "use crate::net::Net; // not super::Phase"),
        ("net::b", "use super::b::Net;"),
        ("node", "use super::net::Net;\nuse crate::node::Phase;"),
        ("cli::c", "use crate::node::Status;"),
    ] {
        assert_eq!(of(module, code), 0, "{module}: {code}");
    }
}
