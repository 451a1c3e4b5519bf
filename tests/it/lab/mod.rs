//! A laboratory of networks on one machine: hosts, switches, routers with NAT or a firewall, each a network namespace.
//!
//! Made of iproute2 and, where packets are to be changed or dropped, nftables; as root. A lab is torn down with its value, after a
//! panic as well, and what a test process left behind that was killed is removed by the next one. Where namespaces cannot be made a
//! test says that it is skipped, and why.

mod moves;
mod neighbours;
mod partition;
mod routers;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;

use crate::harness::{Process, made, stderr};

/// What names of namespaces begin with; the id of the process follows.
const PREFIX: &str = "sdx";

/// All of one test.
pub struct Lab {
    prefix: String,
    made: Vec<String>,
}

/// A host with one interface, `eth0`, in one network.
#[derive(Debug, Clone)]
pub struct Host {
    pub namespace: String,
    /// The network that it is in, and its port there.
    network: Network,
    port: String,
}

/// Hosts on one switch: a namespace with a bridge, and the first three parts of the addresses there.
#[derive(Debug, Clone)]
pub struct Network {
    switch: String,
    pub prefix: String,
}

/// What a router does between an inner network and an outer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Router {
    /// It passes everything on.
    Plain,
    /// Nobody outside begins anything.
    Firewall,
    /// The same, and all inside look like the router from outside.
    Nat,
}

impl Lab {
    /// `None`, loudly, where namespaces cannot be made.
    pub fn new(name: &str) -> Option<Self> {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let mut lab = Self { prefix: format!("{PREFIX}-{}-{name}-", std::process::id()), made: Vec::new() };
        match lab.namespace("test") {
            Ok(_) => Some(lab),
            Err(reason) => {
                println!("SKIPPED: no network namespaces on this machine: {reason}");
                None
            }
        }
    }

    /// The same, where packets are to be filtered as well.
    pub fn with_filters(name: &str) -> Option<Self> {
        let lab = Self::new(name)?;
        if let Err(reason) = filter(&lab.made[0], "table inet test { chain none { } }") {
            println!("SKIPPED: no packet filter on this machine: {reason}");
            return None;
        }
        Some(lab)
    }

    fn namespace(&mut self, name: &str) -> Result<String, String> {
        let name = format!("{}{name}", self.prefix);
        ip(&["netns", "add", &name])?;
        self.made.push(name.clone());
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        Ok(name)
    }

    /// A network without hosts; its addresses begin with `prefix`, such as `10.77.0`.
    pub fn network(&mut self, prefix: &str) -> Network {
        let switch = self.namespace(&format!("sw{}", self.made.len())).unwrap();
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"]).unwrap();
        ip(&["-n", &switch, "link", "set", "br0", "up"]).unwrap();
        Network { switch, prefix: prefix.to_owned() }
    }

    /// A cable from a namespace to a network; `device` is its end in the namespace.
    fn plug(&self, namespace: &str, device: &str, network: &Network) -> String {
        let port = format!("p{}{device}", self.made.len());
        let switch = network.switch.as_str();
        ip(&["-n", switch, "link", "add", &port, "type", "veth", "peer", "name", device, "netns", namespace]).unwrap();
        ip(&["-n", switch, "link", "set", &port, "master", "br0", "up"]).unwrap();
        port
    }

    /// A host whose address ends with `number`; it takes all others to be on its link.
    pub fn host(&mut self, network: &Network, number: u8) -> Host {
        let namespace = self.namespace(&format!("h{}", self.made.len())).unwrap();
        let port = self.plug(&namespace, "eth0", network);
        let host = Host { namespace, network: network.clone(), port };
        host.ip(&["addr", "add", &format!("{}.{number}/24", network.prefix), "dev", "eth0"]);
        host.ip(&["link", "set", "eth0", "up"]);
        host.ip(&["route", "add", "default", "dev", "eth0"]);
        host
    }

    /// A host with IPv6 alone: with the address `fd00:77::NUMBER` if one is given, or with nothing but what each interface gives itself.
    pub fn host_with_six(&mut self, network: &Network, number: Option<u8>) -> Host {
        let namespace = self.namespace(&format!("h{}", self.made.len())).unwrap();
        let port = self.plug(&namespace, "eth0", network);
        let host = Host { namespace, network: network.clone(), port };
        // An address can be used at once.
        ip(&["netns", "exec", &host.namespace, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0"]).unwrap();
        if let Some(number) = number {
            host.ip(&["addr", "add", &format!("fd00:77::{number}/64"), "dev", "eth0", "nodad"]);
        }
        host.ip(&["link", "set", "eth0", "up"]);
        host
    }

    /// A router between two networks: the last address of each is its own. Hosts inside use it as their gateway from now on.
    pub fn router(&mut self, inner: &Network, outer: &Network, kind: Router, inside: &[&Host]) {
        self.router_at(inner, outer, 254, kind, inside);
    }

    /// The same, with the address outside that ends with `number`.
    pub fn router_at(&mut self, inner: &Network, outer: &Network, number: u8, kind: Router, inside: &[&Host]) {
        let namespace = self.namespace(&format!("r{}", self.made.len())).unwrap();
        for (device, network, number) in [("lan", inner, 254), ("wan", outer, number)] {
            self.plug(&namespace, device, network);
            ip(&["-n", &namespace, "addr", "add", &format!("{}.{number}/24", network.prefix), "dev", device]).unwrap();
            ip(&["-n", &namespace, "link", "set", device, "up"]).unwrap();
        }
        // Hosts outside take all others to be on their link: the router answers for those inside, as far as they are to be seen.
        for setting in ["net.ipv4.ip_forward=1", "net.ipv4.conf.wan.proxy_arp=1"] {
            ip(&["netns", "exec", &namespace, "sysctl", "-qw", setting]).unwrap();
        }
        let closed = "table inet firewall { chain forwarding { type filter hook forward priority 0; policy drop; \
                      ct state established,related accept; iifname lan accept; } }";
        let masked =
            "table ip nat { chain outgoing { type nat hook postrouting priority 100; oifname wan masquerade; } }";
        if kind != Router::Plain {
            filter(&namespace, closed).unwrap();
        }
        if kind == Router::Nat {
            filter(&namespace, masked).unwrap();
        }
        for host in inside {
            host.ip(&["route", "replace", "default", "via", &format!("{}.254", inner.prefix)]);
        }
    }
}

impl Network {
    /// Takes hosts out of the network, to one of their own, or puts them back.
    pub fn split(&self, hosts: &[Host], apart: bool) {
        let bridge = if apart { "br1" } else { "br0" };
        // It may be there from the last time.
        if ip(&["-n", &self.switch, "link", "add", "br1", "type", "bridge"]).is_ok() {
            ip(&["-n", &self.switch, "link", "set", "br1", "up"]).unwrap();
        }
        for host in hosts {
            ip(&["-n", &self.switch, "link", "set", &host.port, "master", bridge]).unwrap();
        }
    }

    /// Bytes that hosts sent into the network so far.
    pub fn bytes(&self) -> u64 {
        let output = Command::new("ip").args(["netns", "exec", &self.switch, "cat", "/proc/net/dev"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let ports = text.lines().filter(|line| line.trim_start().starts_with('p'));
        ports.filter_map(|line| line.split_once(':')?.1.split_whitespace().next()?.parse::<u64>().ok()).sum()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        remove(&self.made);
    }
}

impl Host {
    /// Runs a command of iproute2 for the host.
    pub fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.namespace][..], arguments].concat()).unwrap();
    }

    /// Another address in place of one: what DHCP or another network does. Packets to the old one lead nowhere.
    pub fn change_address(&self, from: u8, to: u8) {
        let [from, to] = [from, to].map(|number| format!("{}.{number}/24", self.network.prefix));
        self.ip(&["addr", "del", &from, "dev", "eth0"]);
        self.ip(&["addr", "add", &to, "dev", "eth0"]);
        self.ip(&["link", "set", "eth0", "up"]);
        self.ip(&["route", "replace", "default", "dev", "eth0"]);
    }

    /// Pulls the cable, or plugs it in again: no packet passes, and the host is not told.
    pub fn cable(&self, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        ip(&["-n", &self.network.switch, "link", "set", &self.port, state]).unwrap();
    }

    /// No packet leaves the host any more, or all do again: what is sent to it is taken in, and nothing comes back.
    pub fn mute(&self, muted: bool) {
        self.ip(&["rule", if muted { "add" } else { "del" }, "prio", "1", "blackhole"]);
    }

    /// It sends so many megabits a second at most.
    pub fn rate(&self, mbit: u32) {
        let rate = format!("{mbit}mbit");
        let limit =
            ["qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", &rate, "burst", "64kb", "latency", "50ms"];
        run(Command::new("tc").args(["-n", &self.namespace]).args(limit), "").unwrap();
    }

    /// Packets take one of two lanes in turn, each with its rate in megabits a second: they come in another order than they left in.
    pub fn lanes(&self, mbit: [u32; 2]) {
        let tc =
            |arguments: &[&str]| run(Command::new("tc").args(["-n", &self.namespace]).args(arguments), "").unwrap();
        tc(&["qdisc", "replace", "dev", "eth0", "root", "handle", "1:", "htb", "default", "1"]);
        for (class, mbit) in ["1:1", "1:2"].into_iter().zip(mbit) {
            let rate = format!("{mbit}mbit");
            tc(&[
                "class", "add", "dev", "eth0", "parent", "1:", "classid", class, "htb", "rate", &rate, "quantum",
                "3000",
            ]);
        }
        self.filter(
            "table inet lanes {\n chain out {\n type filter hook output priority 0\n \
             meta priority set numgen inc mod 2 map { 0 : 1:1, 1 : 1:2 }\n }\n}\n",
        );
    }

    /// Filters what passes; rules in the language of nftables.
    pub fn filter(&self, rules: &str) {
        filter(&self.namespace, rules).unwrap();
    }

    /// Where its nodes have their files, below the folder of the test.
    fn folder(&self, folder: &Path) -> PathBuf {
        made(folder, self.namespace.rsplit('-').next().unwrap())
    }

    /// What its nodes are to have in their configuration.
    pub fn settings(&self, folder: &Path, text: &str) {
        std::fs::write(self.folder(folder).join("extra.toml"), text).unwrap();
    }

    /// Starts a node and waits until it is ready.
    pub fn start(&self, role: &str, folder: &Path, arguments: &[&str]) -> Process {
        Process::start_in(&self.namespace, role, &self.folder(folder), arguments)
    }

    /// Runs another program there.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new("ip").args(["netns", "exec", &self.namespace, program]).args(arguments).output().unwrap()
    }
}

/// Runs a command of iproute2.
fn ip(arguments: &[&str]) -> Result<(), String> {
    run(Command::new("ip").args(arguments), "")
}

/// Loads rules of nftables in a namespace. Statements end with semicolons there: nft wants lines.
fn filter(namespace: &str, rules: &str) -> Result<(), String> {
    let lines = rules.replace("; ", ";\n").replace("{ ", "{\n").replace(" }", "\n}\n");
    run(Command::new("ip").args(["netns", "exec", namespace, "nft", "-f", "-"]), &lines)
}

fn run(command: &mut Command, input: &str) -> Result<(), String> {
    use std::io::Write;
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = command.spawn().and_then(|mut child| {
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    });
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}: {}", stderr(&output).trim())),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

fn remove(namespaces: &[String]) {
    for namespace in namespaces {
        let _ = ip(&["netns", "del", namespace]);
    }
}

/// Removes what test processes left behind that are gone.
fn sweep() {
    let Ok(list) = Command::new("ip").args(["netns", "list"]).output() else { return };
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    let is_left = |name: &&str| {
        let process =
            name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-')).and_then(|rest| rest.split('-').next());
        process.is_some_and(|process| process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists())
    };
    remove(&names.filter(is_left).map(str::to_owned).collect::<Vec<_>>());
}
