"""Hosts on one bridge, each a network namespace behind a link of its own; as root, on Linux with iproute2."""
import collections, fcntl, json, os, random, select, shutil, struct, subprocess, tempfile, threading, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SWARMDEX = os.environ.get("SWARMDEX", os.path.join(ROOT, "target/release/swarmdex"))


def build():
    """Builds the program, unless SWARMDEX names one."""
    if "SWARMDEX" not in os.environ:
        run("cargo", "build", "--release", "--locked", "--quiet", cwd=ROOT)


def run(*command, **options):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)


class Hosts:
    """What a lab does with its hosts."""
    def __init__(self, count):
        self.prefix, self.count, self.processes = f"sdxlab{os.getpid()}-", count, []

    def address(self, number):
        return f"10.78.0.{number + 1}"

    def start(self, number, *command, **options):
        process = subprocess.Popen(["ip", "netns", "exec", f"{self.prefix}{number}", *command], **options)
        self.processes.append(process)
        return process

    def node(self, number, folder, role, *arguments, listen=("tcp/4747",)):
        """A swarmdex node, when it is ready: its process and the first of its addresses."""
        addresses = [f"/ip4/{self.address(number)}/{port}" for port in listen]
        arguments = [*arguments, *(word for address in addresses for word in ("--listen", address))]
        process = self.start(number, SWARMDEX, "run", "--role", role, "--no-mdns", "--data-dir", f"{folder}/node{number}",
                             *arguments, stdout=subprocess.PIPE, stderr=open(f"{folder}/log{number}", "w"))
        peer = json.loads(process.stdout.readline())["peer_id"]
        return process, f"{addresses[0]}/p2p/{peer}"

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()
        for number in [*range(self.count), "sw"]:
            subprocess.run(["ip", "netns", "del", f"{self.prefix}{number}"], stderr=subprocess.DEVNULL)


class Lab(Hosts):
    """`limits` has the Mbit/s each way of each host's link, or None for one without a limit."""
    def __init__(self, limits):
        super().__init__(len(limits))
        switch = self.prefix + "sw"
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "br0", "up")
        # Where the kernel's firewall looks into bridges, this one is left out: it has no rules, and takes processor time.
        for kind in ("iptables", "ip6tables", "arptables"):
            subprocess.run(["ip", "netns", "exec", switch, "sysctl", "-qw", f"net.bridge.bridge-nf-call-{kind}=0"],
                           stderr=subprocess.DEVNULL)
        for number, limit in enumerate(limits):
            name, port = f"{self.prefix}{number}", f"port{number}"
            run("ip", "netns", "add", name)
            run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "-n", switch, "link", "set", port, "master", "br0", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "addr", "add", self.address(number) + "/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            for namespace, device in ((name, "eth0"), (switch, port)) if limit else ():
                tbf = ["rate", f"{limit}mbit", "burst", "128kb", "latency", "50ms"]
                run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf", *tbf)


class Distant(Hosts):
    """Hosts between which every packet takes so many seconds each way; `loss` is the share of packets that get lost.

    With `mbit` each host sends at that rate, through a queue of two ways, or of 100 ms if that is more. `congestion` names the
    congestion control of the routes. `links` has seconds and Mbit/s (None for any) of each host instead: a packet takes the
    sum of both hosts' seconds, and comes in at the rate of the one as it leaves at that of the other. Packets are carried from
    tun to tun by a program in C, or by this process where there is no compiler and hosts are alike.
    """
    def __init__(self, count, seconds=0.0, loss=0.0, mbit=None, congestion=None, seed=1, links=None):
        super().__init__(count)
        self.delay, self.loss, self.rate, self.queue = seconds, loss, (mbit or 0) * 1e6, max(0.1, 2 * seconds)
        # Seconds, and bits a second out and in, of each host: as many as there are, or all alike.
        self.links = [(at, (rate or 0) * 1e6, (rate or 0) * 1e6) for at, rate in links or ()] or [(seconds / 2, self.rate, 0)] * count
        self.random, self.tuns, self.carrier = random.Random(seed), [], None
        try:
            self.make(congestion)
            if not self.carry_in_c(seed):
                assert not links, "apt-get install gcc: hosts that differ need it"
                self.counted = [0, 0, 0, 0.0, 0.0]
                threading.Thread(target=self.carry, daemon=True).start()
        except BaseException:
            self.stop()
            raise

    def make(self, congestion):
        for number in range(self.count):
            name, device = f"{self.prefix}{number}", f"sdx{os.getpid()}x{number}"
            tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            # TUNSETIFF; IFF_TUN and IFF_NO_PI.
            fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH", device.encode(), 0x1001))
            run("ip", "netns", "add", name)
            run("ip", "link", "set", device, "netns", name, "name", "eth0")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "addr", "add", self.address(number) + "/24", "dev", "eth0")
            # Packets are dropped by the rules above, and not by the device.
            run("ip", "-n", name, "link", "set", "eth0", "up", "mtu", "1500", "txqueuelen", "20000")
            if congestion:
                link = ["dev", "eth0", "proto", "kernel", "scope", "link", "src", self.address(number)]
                run("ip", "-n", name, "route", "replace", "10.78.0.0/24", *link, "congctl", congestion)
            # What a connection learnt of the path is not for the next one.
            run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv4.tcp_no_metrics_save=1")
            self.tuns.append(tun)

    def carry_in_c(self, seed):
        """Whether the program could be built."""
        if not shutil.which("cc"):
            return False
        with tempfile.TemporaryDirectory(prefix="swarmdex-carry.") as folder:
            run("cc", "-O2", "-o", f"{folder}/carry", os.path.join(ROOT, "benches/carry.c"))
            links = [f"{tun},{delay},{up},{down}" for tun, (delay, up, down) in zip(self.tuns, self.links)]
            words = [self.loss, self.queue, seed, *links]
            self.carrier = subprocess.Popen([f"{folder}/carry", *map(str, words)], pass_fds=self.tuns, stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, text=True)
            # It is the wire, and waits for nobody.
            os.setpriority(os.PRIO_PROCESS, self.carrier.pid, -20)
            self.counts()
        return True

    def counts(self):
        """Since the last call: packets sent, lost, and not taken by a full queue; by how many microseconds the others came late,
        in the mean and at most."""
        if not self.carrier:
            sent, lost, full, late, latest = self.counted
            self.counted = [0, 0, 0, 0.0, 0.0]
            return sent, lost, full, late / max(sent - lost - full, 1) * 1e6, latest * 1e6
        self.carrier.stdin.write("\n")
        self.carrier.stdin.flush()
        return tuple(map(float, self.carrier.stdout.readline().split()))

    def carry(self):
        """What carry.c does, until the hosts are gone."""
        try:
            self.carry_on()
        except OSError:
            pass

    def carry_on(self):
        under_way, leaves = [collections.deque() for _ in self.tuns], [0.0] * self.count
        while True:
            now = time.monotonic()
            wait = min((queue[0][0] for queue in under_way if queue), default=now + 1) - now
            for tun in select.select(self.tuns, [], [], max(0, wait))[0]:
                packet, host, now = os.read(tun, 65536), self.tuns.index(tun), time.monotonic()
                # IPv4, to one of the hosts: the last byte of the destination tells which.
                if packet[0] >> 4 != 4 or not 0 < packet[19] <= self.count:
                    continue
                begin = max(leaves[host], now)
                full = self.rate and begin - now > self.queue
                if not full:
                    leaves[host] = begin + len(packet) * 8 / self.rate if self.rate else now
                lost = not full and self.random.random() < self.loss
                if not full and not lost:
                    under_way[host].append((leaves[host] + self.delay, packet))
                self.counted[:3] = [self.counted[0] + 1, self.counted[1] + lost, self.counted[2] + bool(full)]
            for queue in under_way:
                while queue and queue[0][0] <= time.monotonic():
                    due, packet = queue.popleft()
                    os.write(self.tuns[packet[19] - 1], packet)
                    late = time.monotonic() - due
                    self.counted[3:] = [self.counted[3] + late, max(self.counted[4], late)]

    def stop(self):
        super().stop()
        if self.carrier:
            self.carrier.kill()
            self.carrier.wait()
            for tun in self.tuns:
                os.close(tun)


def command(folder, number, *arguments):
    """A command to a node of a lab."""
    return [SWARMDEX, *arguments, "--json", "--data-dir", f"{folder}/node{number}"]


def ask(folder, number, *arguments):
    """Its answer, or nothing if it failed."""
    done = subprocess.run(command(folder, number, *arguments), capture_output=True)
    return json.loads(done.stdout) if done.returncode == 0 else {}
