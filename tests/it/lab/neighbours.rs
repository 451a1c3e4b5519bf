//! Nodes that find each other on their link: by mDNS, over IPv4 and IPv6, on every interface.

use std::path::Path;

use tempfile::TempDir;

use super::{Host, Lab, ip};
use crate::harness::{Process, code, file, noise, process_joined as joined, stderr};

fn get(node: &Process, name: &str, folder: &Path) {
    let out = folder.join(format!("{name}-{}", node.pid()));
    let got = node.command(&["get", name, "-o", out.to_str().unwrap()]);
    assert_eq!(code(&got), 0, "{name}: {}", stderr(&got));
}

/// A master, and two peers that are told nothing of it.
fn three(hosts: &[Host; 3], folder: &Path) -> [Process; 3] {
    let shared = file(folder, "name", &noise(1, 600_000));
    let nodes = [
        hosts[0].start("master", folder, &[]),
        hosts[1].start("peer", folder, &["--share", &shared]),
        hosts[2].start("peer", folder, &[]),
    ];
    nodes[1..].iter().for_each(joined);
    nodes[2].until(&["lookup", "name"], |found| found["certified"] == true);
    nodes
}

#[test]
fn a_lan_with_ipv6_alone_is_found_by_mdns() {
    let Some(mut lab) = Lab::new("six") else { return };
    let network = lab.network("");
    let hosts = [1, 2, 3].map(|number| lab.host_with_six(&network, Some(number)));
    let folder = TempDir::new().unwrap();
    let nodes = three(&hosts, folder.path());
    get(&nodes[2], "name", folder.path());
    let status = nodes[2].json(&["status"]);
    assert_eq!(status["mdns"], serde_json::json!(["eth0 (IPv6)"]));
}

/// Without any address but the link-local ones, which mean something together with the interface alone.
#[test]
fn a_link_without_any_address_will_do() {
    let Some(mut lab) = Lab::new("link") else { return };
    let network = lab.network("");
    let hosts = [(); 3].map(|()| lab.host_with_six(&network, None));
    let folder = TempDir::new().unwrap();
    let nodes = three(&hosts, folder.path());
    get(&nodes[2], "name", folder.path());
    // And by hand.
    let output = hosts[0].run("ip", &["-6", "-o", "addr", "show", "dev", "eth0"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let link = text.split_whitespace().find(|word| word.starts_with("fe80")).unwrap().split('/').next().unwrap();
    let at = format!("/ip6zone/eth0/ip6/{link}/tcp/4747");
    let carl = hosts[2].start("peer", &folder.path().join("carl"), &["--no-mdns", "--master", &at]);
    joined(&carl);
}

/// A node has two interfaces, one of them plugged in later, and is found on both.
#[test]
fn an_interface_that_comes_later_is_looked_on() {
    let Some(mut lab) = Lab::new("later") else { return };
    let (first, second) = (lab.network(""), lab.network(""));
    let hosts =
        [lab.host_with_six(&first, Some(1)), lab.host_with_six(&first, Some(2)), lab.host_with_six(&second, Some(3))];
    let folder = TempDir::new().unwrap();
    let master = hosts[0].start("master", folder.path(), &[]);
    let anna = hosts[1].start("peer", folder.path(), &[]);
    let ben = hosts[2].start("peer", folder.path(), &[]);
    joined(&anna);
    assert_ne!(ben.json(&["status"])["master"]["state"], "joined");
    lab.plug(&hosts[0].namespace, "eth1", &second);
    ip(&["-n", &hosts[0].namespace, "addr", "add", "fd00:88::1/64", "dev", "eth1", "nodad"]).unwrap();
    ip(&["-n", &hosts[0].namespace, "link", "set", "eth1", "up"]).unwrap();
    hosts[2].ip(&["addr", "add", "fd00:88::3/64", "dev", "eth0", "nodad"]);
    joined(&ben);
    master.until(&["status"], |status| status["mdns"] == serde_json::json!(["eth0 (IPv6)", "eth1 (IPv6)"]));
}
