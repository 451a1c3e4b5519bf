"""Hosts on one bridge, each a network namespace behind a link of its own; as root, on Linux with iproute2."""
import json, os, subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SWARMDEX = os.path.join(ROOT, "target/release/swarmdex")


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Lab:
    """`limits` has the Mbit/s each way of each host's link, or None for one without a limit."""
    def __init__(self, limits):
        self.prefix, self.count, self.processes = f"sdxlab{os.getpid()}-", len(limits), []
        switch = self.prefix + "sw"
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "br0", "up")
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


def command(folder, number, *arguments):
    """A command to a node of a lab."""
    return [SWARMDEX, *arguments, "--json", "--data-dir", f"{folder}/node{number}"]


def ask(folder, number, *arguments):
    """Its answer, or nothing if it failed."""
    done = subprocess.run(command(folder, number, *arguments), capture_output=True)
    return json.loads(done.stdout) if done.returncode == 0 else {}
