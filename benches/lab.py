"""Hosts on one bridge, each a network namespace behind a link of its own; as root, on Linux with iproute2."""
import collections, fcntl, json, os, select, struct, subprocess, threading, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SWARMDEX = os.path.join(ROOT, "target/release/swarmdex")


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


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

    def node(self, number, folder, role, *arguments):
        """A swarmdex node, when it is ready: its process and its address."""
        process = self.start(number, SWARMDEX, "run", "--role", role, "--no-mdns", "--data-dir", f"{folder}/node{number}",
                             "--listen", f"/ip4/{self.address(number)}/tcp/4747", *arguments, stdout=subprocess.PIPE,
                             stderr=open(f"{folder}/log{number}", "w"))
        peer = json.loads(process.stdout.readline())["peer_id"]
        return process, f"/ip4/{self.address(number)}/tcp/4747/p2p/{peer}"

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
    """Hosts between which every packet takes so many seconds, each way: this process carries them from tun to tun."""
    def __init__(self, count, seconds):
        super().__init__(count)
        self.delay, self.tuns = seconds, []
        for number in range(count):
            name, device = f"{self.prefix}{number}", f"sdx{os.getpid()}x{number}"
            tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            # TUNSETIFF; IFF_TUN and IFF_NO_PI.
            fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH", device.encode(), 0x1001))
            run("ip", "netns", "add", name)
            run("ip", "link", "set", device, "netns", name, "name", "eth0")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "addr", "add", self.address(number) + "/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            self.tuns.append(tun)
        threading.Thread(target=self.carry, daemon=True).start()

    def carry(self):
        under_way = collections.deque()
        while True:
            wait = max(0, under_way[0][0] - time.monotonic()) if under_way else 1
            for tun in select.select(self.tuns, [], [], wait)[0]:
                packet = os.read(tun, 65536)
                # IPv4, to one of the hosts: the last byte of the destination tells which.
                if packet[0] >> 4 == 4 and 0 < packet[19] <= self.count:
                    under_way.append((time.monotonic() + self.delay, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                packet = under_way.popleft()[1]
                os.write(self.tuns[packet[19] - 1], packet)


def command(folder, number, *arguments):
    """A command to a node of a lab."""
    return [SWARMDEX, *arguments, "--json", "--data-dir", f"{folder}/node{number}"]


def ask(folder, number, *arguments):
    """Its answer, or nothing if it failed."""
    done = subprocess.run(command(folder, number, *arguments), capture_output=True)
    return json.loads(done.stdout) if done.returncode == 0 else {}
