//! Words of names, by the rule of this build and by that of the builds before: at the master, at owners, and by way of the
//! DHT; and lists that say that there is more.

use std::io::{Read, Write};

use libp2p::identity::Keypair;
use swarmdex::config::{Config, Role};
use swarmdex_protocols::index::{IndexRequest, IndexResponse, Owned, Search};
use swarmdex_protocols::mirror::{self, Store};
use swarmdex_protocols::statement::Version;
use swarmdex_protocols::words::first;
use swarmdex_protocols::{Claim, ContentId, Entry, Name, Network, RecordKey, Rule, Statement};
use tempfile::TempDir;

use crate::harness::{
    Process, TestNode, alone, code, file, made, process_joined, published, stderr, tcp_address, until,
};
use crate::stranger::{MIRROR, Reply, Stranger, framed};

/// Names, and what people type for them.
const FOUND: [(&str, &[&str]); 9] = [
    ("résumé.txt", &["resume", "RÉSUMÉ", "re\u{301}sume\u{301}", "resume*"]),
    ("Straße.txt", &["strasse", "STRASSE", "straße", "str*"]),
    ("Отчёт.txt", &["отчет", "ОТЧЁТ", "отчёт"]),
    ("東京の地図.pdf", &["地図", "東京", "図", "*地図.pdf", "地図.pdf"]),
    ("IMG20240131.jpg", &["20240131", "img", "IMG20240131", "img 2024", "IMG20240131.jpg", "img*"]),
    ("ΟΔΥΣΣΕΎΣ.txt", &["οδυσσευς", "Οδυσσεύς"]),
    ("İstanbul.txt", &["istanbul", "ISTANBUL", "ıstanbul"]),
    ("שָׁלוֹם.txt", &["שלום"]),
    ("サクラ 한글.png", &["さくら", "ｻｸﾗ", "한글", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}"]),
];

/// What the master publishes its owners soon repeat.
fn often(config: &mut Config) {
    config.dht.republish = std::time::Duration::from_secs(2);
}

async fn is_found(node: &TestNode, name: &str, query: &str) {
    let name = Name::from_path_text(name).unwrap();
    until(&format!("{query} finds {name}"), async || {
        let found = node.search(query, 10).await.ok()?;
        found.iter().any(|entry| entry.name == name).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_found_by_what_people_type_with_and_without_the_master() {
    let master = TestNode::start(Role::Master, often).await;
    let peers = [
        TestNode::peer_with(&master, often).await,
        TestNode::peer_with(&master, often).await,
        TestNode::peer_with(&master, often).await,
    ];
    for peer in &peers {
        until("the nodes know each other", async || (peer.status().await.unwrap().dht.nodes >= 3).then_some(())).await;
    }
    for (name, _) in FOUND {
        peers[0].share_file(name, name.as_bytes()).await;
    }
    for (name, queries) in FOUND {
        for query in queries {
            let found = peers[1].search(query, 10).await.unwrap();
            let names: Vec<_> = found.into_iter().map(|entry| entry.name).collect();
            assert!(names.contains(&Name::from_path_text(name).unwrap()), "{query} finds {names:?}");
        }
    }
    published(&peers[0]).await;
    master.abandon();
    for peer in &peers {
        alone(peer).await;
    }
    for (name, queries) in FOUND {
        for query in queries {
            is_found(&peers[1], name, query).await;
        }
    }
}

/// A node of an earlier build asks by its own rule, and gets answers by it from a master and from an owner: what it could
/// not check it would take for lies.
#[tokio::test(flavor = "multi_thread")]
async fn a_searcher_of_an_earlier_build_is_answered_by_its_rule() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    for name in ["résumé.txt", "resume.txt", "IMG20240131.jpg"] {
        anna.share_file(name, name.as_bytes()).await;
    }
    for node in [&master, &anna] {
        let (stranger, id) = Stranger::at(node).await;
        for (query, rule, expected) in [
            ("resume", Rule::First, 1),
            ("résumé", Rule::First, 1),
            ("img20240131", Rule::First, 1),
            ("20240131", Rule::First, 0),
            ("resume", Rule::Second, 2),
            ("20240131", Rule::Second, 1),
        ] {
            let search = Search { query: query.to_owned(), cursor: None, limit: 10, rule };
            let count = match stranger.ask(id, &IndexRequest::Search(search)).await {
                IndexResponse::Page(page) => page.entries.len(),
                IndexResponse::Owned(owned) => owned.statements.len(),
                other => panic!("{other:?}"),
            };
            assert_eq!(count, expected, "{query} by {rule:?}");
        }
    }
}

/// An owner of an earlier build is found under its own words alone, and knows its own rule alone.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_an_owner_of_an_earlier_build_are_found_as_far_as_words_are_the_same() {
    let master = TestNode::start(Role::Master, often).await;
    let peers = [TestNode::peer_with(&master, often).await, TestNode::peer_with(&master, often).await];
    for peer in &peers {
        until("the nodes know each other", async || (peer.status().await.unwrap().dht.nodes >= 2).then_some(())).await;
    }
    let key = Keypair::generate_ed25519();
    let owner = Stranger::with_key(key.clone()).await;
    let name = Name::parse("Überblick IMG20240131.jpg").unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let entry = Entry {
        name: name.clone(),
        content: ContentId::of(b"x"),
        size: 1,
        owner: key.public().to_peer_id(),
        version: Version::default().next(now),
        attributes: None,
    };
    let claim = Claim::sign(entry, Version(0), false, &Network::default(), &key, now).unwrap();
    let statement = Statement::Claim(claim);
    owner.answer_index(move |request| {
        let IndexRequest::Search(Search { query, .. }) = request else { return Reply::Bytes(Vec::new()) };
        let pattern = swarmdex_protocols::Pattern::parse_by(&query, Rule::First).unwrap();
        let statements = pattern.matches(statement.name()).then(|| statement.clone()).into_iter().collect();
        Reply::Bytes(framed(&IndexResponse::Owned(Owned { statements, next: None })))
    });
    let words: Vec<_> = first::words(name.as_str()).collect();
    let beginning = |word: &String| {
        // As a query for it is looked for.
        let text: String = word.chars().take(3).collect();
        RecordKey::of_search(&Network::default(), &swarmdex_protocols::Pattern::parse_by(&text, Rule::First).unwrap())
    };
    let whole = words.iter().map(|word| RecordKey::word(&Network::default(), word));
    // Under which one query alone leads to: the first rule's key is the last.
    let provide: Vec<_> = words.iter().filter_map(|word| beginning(word).pop()).chain(whole).collect();
    for node in peers.iter().chain([&master]) {
        let id = owner.connect(&tcp_address(node)).await.unwrap();
        let store = Store { provide: provide.clone(), addresses: owner.listen.clone(), ..Store::default() };
        owner.send(MIRROR, id, framed(&mirror::MirrorRequest::Store(store))).await.unwrap();
    }
    master.abandon();
    for peer in &peers {
        alone(peer).await;
    }
    for query in ["IMG20240131", "überblick", "IMG20240131.jpg", "Übe", "img2024"] {
        is_found(&peers[0], name.as_str(), query).await;
    }
}

/// `n` entries of a list on standard output, and what is said about it.
fn listed(node: &Process, arguments: &[&str]) -> (usize, String) {
    let output = node.command(&[arguments, &["--json"]].concat());
    assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
    let entries: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    (entries.as_array().unwrap().len(), stderr(&output))
}

/// The head and the body of an answer of the control interface.
fn ask(node: &Process, path: &str) -> (String, serde_json::Value) {
    let mut stream = std::os::unix::net::UnixStream::connect(node.data.join("control.sock")).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    // Short answers come in one piece, with or without its length around them.
    let begin = body.find(['[', '{']).unwrap();
    let end = body.rfind([']', '}']).unwrap();
    (head.to_lowercase(), serde_json::from_str(&body[begin..=end]).unwrap())
}

#[test]
fn a_list_that_is_cut_says_so() {
    const FILES: usize = 12;
    let folder = TempDir::new().unwrap();
    let master = Process::start("master", &made(folder.path(), "master"), &[]);
    let peer = Process::start("peer", &made(folder.path(), "peer"), &["--master", &master.address()]);
    process_joined(&peer);
    for number in 0..FILES {
        file(folder.path(), &format!("tree/img_{number:02}.txt"), number.to_string().as_bytes());
    }
    peer.json(&["share", folder.path().join("tree").to_str().unwrap()]);
    for node in [&master, &peer] {
        for (limit, expected) in [("0", 0), ("1", 1), ("11", 11), ("12", 12), ("13", 12), ("1000000", 12)] {
            let (count, said) = listed(node, &["search", "img", "--limit", limit]);
            assert_eq!((count, said.contains("there are more")), (expected, expected < FILES), "{limit}: {said}");
            assert_eq!(said.lines().count(), usize::from(expected < FILES), "{said}");
        }
        assert_eq!(listed(node, &["search", "img"]), (FILES, String::new()));
    }
    // For people as well.
    assert!(stderr(&master.command(&["search", "img", "--limit", "3"])).contains("only 3 are listed"));
    for (limit, expected) in [("5", 5), ("12", 12), ("99", 12)] {
        let (count, said) = listed(&peer, &["ls", "--limit", limit]);
        assert_eq!((count, said.contains("there are more")), (expected, expected < FILES), "{limit}: {said}");
    }
    assert_eq!(listed(&peer, &["ls"]), (FILES, String::new()));
    let (count, said) = listed(&peer, &["peers", "--limit", "1"]);
    assert!(count == 1 && said.contains("there are more"), "{said}");
    assert_eq!(listed(&peer, &["peers"]), (2, String::new()));
    assert_eq!(listed(&peer, &["peers", "--limit", "2"]), (2, String::new()));

    for (path, count, more) in [
        ("/v1/search?query=img&limit=5", 5, true),
        ("/v1/search?query=img&limit=12", 12, false),
        ("/v1/search?query=img", 12, false),
        ("/v1/shared?limit=3", 3, true),
        ("/v1/shared", 12, false),
        ("/v1/peers?limit=1", 1, true),
        ("/v1/peers", 2, false),
    ] {
        let (head, body) = ask(&peer, path);
        assert_eq!(body.as_array().map(Vec::len), Some(count), "{path}");
        assert!(head.contains(&format!("swarmdex-more: {more}")), "{path}: {head}");
    }
    for (limit, count, more) in [(5, 5, true), (12, 12, false)] {
        let (_, body) = ask(&peer, &format!("/v1/search?query=img&limit={limit}&form=object"));
        assert_eq!((body["entries"].as_array().map(Vec::len), &body["more"]), (Some(count), &more.into()));
    }
}

/// Without a master, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_by_way_of_the_dht_says_that_there_is_more() {
    let master = TestNode::start(Role::Master, often).await;
    let peers = [TestNode::peer_with(&master, often).await, TestNode::peer_with(&master, often).await];
    for peer in &peers {
        until("the nodes know each other", async || (peer.status().await.unwrap().dht.nodes >= 2).then_some(())).await;
    }
    for number in 0..8 {
        peers[number % 2].share_file(&format!("img_{number}"), &[number as u8]).await;
    }
    for peer in &peers {
        published(peer).await;
    }
    master.abandon();
    for peer in &peers {
        alone(peer).await;
    }
    for (limit, expected) in [(3, 3), (7, 7), (8, 8), (9, 8)] {
        until("all owners are found", async || {
            let found = peers[0].matching("img", limit).await.ok()?;
            (found.entries.len() == expected && found.more == (expected < 8)).then_some(())
        })
        .await;
    }
}
