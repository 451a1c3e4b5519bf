//! Several hosts on one machine, in network namespaces: mDNS, cables that are cut, interfaces that go and come.
//!
//! Each test makes namespaces of its own; see `lab`.

use std::path::Path;

use tempfile::TempDir;

use crate::harness::{Process, code, file, noise, process_joined as joined, stderr};
use crate::lab::{Host, Lab};

/// Hosts on one switch with the addresses 10.77.0.1, 10.77.0.2, …
pub struct Lan {
    pub hosts: Vec<Host>,
    _lab: Lab,
}

impl Lan {
    /// `None`, loudly, where namespaces cannot be made.
    pub fn new(name: &str, hosts: u8) -> Option<Self> {
        let mut lab = Lab::new(name)?;
        let network = lab.network("10.77.0");
        Some(Self { hosts: (1..=hosts).map(|number| lab.host(&network, number)).collect(), _lab: lab })
    }

    pub fn start(&self, number: usize, role: &str, folder: &Path, arguments: &[&str]) -> Process {
        self.hosts[number].start(role, folder, arguments)
    }
}

/// The two commands of the README: peers find the master by mDNS, remember it, and refuse another one later.
#[test]
fn a_lan_in_two_commands() {
    let Some(lan) = Lan::new("two", 3) else { return };
    let folder = TempDir::new().unwrap();
    let master = lan.start(0, "master", folder.path(), &[]);
    let bytes = noise(1, 3_000_000);
    let shared = file(folder.path(), "data.bin", &bytes);
    let anna = lan.start(1, "peer", folder.path(), &["--share", &shared]);
    let mut ben = lan.start(2, "peer", folder.path(), &[]);
    joined(&anna);
    joined(&ben);
    let found = ben.until(&["lookup", "data.bin"], |found| found["certified"] == true);
    assert_eq!(found["owner"], anna.peer_id());
    let addresses = found["holders"][0]["addresses"].to_string();
    assert!(addresses.contains("10.77.0.2") && !addresses.contains("127.0.0.1"), "{addresses}");
    let out = folder.path().join("out.bin");
    let got = ben.json(&["get", "data.bin", "-o", out.to_str().unwrap()]);
    assert_eq!((&got["verified"], std::fs::read(&out).unwrap() == bytes), (&true.into(), true));

    // A master with another key takes the old one's place: whoever joined before does not follow it.
    let old = master.peer_id();
    drop(master);
    ben.signal("TERM");
    ben.wait();
    let impostor = lan.start(0, "master", &folder.path().join("new"), &[]);
    let ben = lan.start(2, "peer", folder.path(), &[]);
    ben.until_log("another master is on this network");
    assert_ne!(ben.json(&["status"])["master"]["state"], "joined");
    assert!(ben.log().contains(&old) && ben.log().contains(&impostor.peer_id()));
    assert_eq!(impostor.json(&["peers"]).as_array().unwrap().len(), 1);
}

/// Index / names: a half-open peer (blackholed, no FIN) is evicted within bound; when its cable is back, so is it.
#[test]
fn a_blackholed_peer_is_evicted_and_returns_when_the_cable_is_back() {
    let Some(lan) = Lan::new("hole", 2) else { return };
    let folder = TempDir::new().unwrap();
    let master = lan.start(0, "master", folder.path(), &[]);
    let shared = file(folder.path(), "name", b"x");
    let peer = lan.start(1, "peer", folder.path(), &["--share", &shared, "--master", "/ip4/10.77.0.1/tcp/4747"]);
    master.until(&["search", "name"], |entries| entries.as_array().is_some_and(|entries| entries.len() == 1));
    lan.hosts[1].cable(false);
    let begin = std::time::Instant::now();
    master.until(&["peers"], |peers| peers.to_string().contains("suspect"));
    master.until(&["search", "name"], |entries| entries.as_array().is_some_and(Vec::is_empty));
    assert!(begin.elapsed().as_secs() < 20, "a lease of 4 s took {:?}", begin.elapsed());
    peer.until(&["status"], |status| status["master"]["state"] == "unreachable");
    // It proves its own names by itself; of others it knows nothing, which is not to say that there are none.
    assert_eq!(code(&peer.command(&["lookup", "name"])), 0);
    assert_eq!(code(&peer.command(&["lookup", "other"])), 5);
    lan.hosts[1].cable(true);
    joined(&peer);
    master.until(&["search", "name"], |entries| entries.as_array().is_some_and(|entries| entries.len() == 1));
}

/// DHT: nodes that can reach others and be reached by nobody fill the routing tables.
#[test]
fn nodes_with_only_private_addresses_do_not_spoil_lookups() {
    const HIDDEN: usize = 8;
    let Some(lan) = Lan::new("priv", 4) else { return };
    let folder = TempDir::new().unwrap();
    let mut master = lan.start(0, "master", folder.path(), &[]);
    let shared = file(folder.path(), "name", &noise(3, 300_000));
    let at = ["--master", "/ip4/10.77.0.1/tcp/4747"];
    let anna = lan.start(1, "peer", folder.path(), &[&["--share", &shared][..], &at].concat());
    let ben = lan.start(2, "peer", folder.path(), &at);
    joined(&anna);
    joined(&ben);
    let hidden: Vec<_> = (0..HIDDEN)
        .map(|number| {
            let address = format!("10.88.{number}.1");
            lan.hosts[3].ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"]);
            let listen = format!("/ip4/{address}/tcp/4000");
            let own = folder.path().join(format!("hidden{number}"));
            lan.start(3, "peer", &own, &[&["--no-mdns", "--listen", &listen][..], &at].concat())
        })
        .collect();
    hidden.iter().for_each(joined);
    anna.until(&["status"], |status| status["dht"]["published"].as_u64() > Some(0));
    master.kill();
    ben.until(&["status"], |status| status["master"]["state"] == "unreachable");
    let begin = std::time::Instant::now();
    let out = folder.path().join("out");
    let got = ben.command(&["get", "name", "-o", out.to_str().unwrap()]);
    assert_eq!(code(&got), 0, "{}", stderr(&got));
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
}

/// Connection / LAN: the interface goes down and up, and comes back with another address.
#[test]
fn a_peer_whose_address_changes_is_found_at_its_new_one() {
    let Some(lan) = Lan::new("addr", 3) else { return };
    let folder = TempDir::new().unwrap();
    let _master = lan.start(0, "master", folder.path(), &[]);
    let shared = file(folder.path(), "name", &noise(4, 500_000));
    let master = "/ip4/10.77.0.1/tcp/4747";
    let anna = lan.start(1, "peer", folder.path(), &["--share", &shared, "--master", master]);
    let ben = lan.start(2, "peer", folder.path(), &["--master", master]);
    joined(&anna);
    ben.until(&["lookup", "name"], |found| found.to_string().contains("10.77.0.2"));
    lan.hosts[1].ip(&["link", "set", "eth0", "down"]);
    lan.hosts[1].change_address(2, 22);
    ben.until(&["lookup", "name"], |found| {
        let holders = found["holders"].to_string();
        holders.contains("10.77.0.22") && holders.contains("alive")
    });
    let out = folder.path().join("out");
    let got = ben.command(&["get", "name", "-o", out.to_str().unwrap()]);
    assert_eq!(code(&got), 0, "{}", stderr(&got));
}

/// Connection / LAN: an mDNS flood of fake peers with absurd times to live; one points at a third party.
#[test]
fn an_mdns_flood_neither_stops_nor_swells_a_node() {
    let Some(lan) = Lan::new("flood", 3) else { return };
    let folder = TempDir::new().unwrap();
    let master = lan.start(0, "master", folder.path(), &[]);
    let peer = lan.start(1, "peer", folder.path(), &[]);
    joined(&peer);
    let memory = |process: &Process| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let before = (memory(&master), memory(&peer));
    let script = file(folder.path(), "flood.py", FLOOD.as_bytes());
    let output = lan.hosts[2].run("python3", &[&script, "100000"]);
    if !output.status.success() {
        println!("SKIPPED: python3 cannot send the flood: {}", stderr(&output));
        return;
    }
    for (process, before) in [(&master, before.0), (&peer, before.1)] {
        let after = memory(process);
        assert!(after < before + 64, "{before} MiB became {after} MiB");
        assert!(process.json(&["status"])["peer_id"].is_string());
    }
    let shared = file(folder.path(), "name", b"x");
    assert_eq!(peer.json(&["share", &shared])["entries"][0]["standing"], "certified");
    joined(&peer);
}

/// Sends libp2p mDNS answers for as many random peers as its argument says, with times to live of 0, 1 and 2^32-1.
const FLOOD: &str = r#"
import os, socket, struct, sys
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
def base58(data):
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        text = ALPHABET[rest] + text
    return ALPHABET[0] * (len(data) - len(data.lstrip(b"\0"))) + text
def labels(*parts):
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
service = labels(b"_p2p", b"_udp", b"local")
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.77.0.3"))
for number in range(int(sys.argv[1])):
    peer = base58(bytes([0, 36, 8, 1, 18, 32]) + os.urandom(32))
    ttl = (0, 1, 2**32 - 1, 120)[number % 4]
    name = labels(os.urandom(16).hex().encode(), b"_p2p", b"_udp", b"local")
    text = ("dnsaddr=/ip4/10.77.0.1/tcp/%d/p2p/%s" % (1 + number % 60000, peer)).encode()
    header = struct.pack(">HHHHHH", 0, 0x8400, 0, 1, 0, 1)
    pointer = service + struct.pack(">HHIH", 12, 1, ttl, len(name)) + name
    record = name + struct.pack(">HHIH", 16, 0x8001, ttl, len(text) + 1) + bytes([len(text)]) + text
    out.sendto(header + pointer + record, ("224.0.0.251", 5353))
"#;
