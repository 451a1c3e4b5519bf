"""The tools that the benchmarks put beside each other: each shares a file or a folder and fetches it over loopback.

A tool that is not installed raises ImportError with the way to install it.
"""
import http.server, json, os, shutil, socket, statistics, subprocess, sys, threading, time
from urllib.parse import parse_qs, quote, urlparse

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SWARMDEX = os.environ.get("SWARMDEX", os.path.join(ROOT, "target/release/swarmdex"))
BEFORE = os.environ.get("BEFORE")
TICK = os.sysconf("SC_CLK_TCK")


def build():
    """Builds the program, unless SWARMDEX names one."""
    if "SWARMDEX" not in os.environ:
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=ROOT, check=True)


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def cpu(pids):
    """Processor seconds of processes so far."""
    total = 0
    for pid in pids:
        fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def peak(pids):
    """Peak resident MiB of the largest of some processes."""
    lines = [line for pid in pids for line in open(f"/proc/{pid}/status") if line.startswith("VmHWM")]
    return max(int(line.split()[1]) for line in lines) / 1024


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def files_of(path):
    """Paths below a folder, relative to it."""
    found = [os.path.relpath(os.path.join(top, name), path) for top, _, names in os.walk(path) for name in names]
    return sorted(found)


def run_all(kinds, folder, path, rounds):
    """Each tool in turn, as often as there are rounds; the results of those that are installed.

    Memory is warmed before each transfer by writing and removing a file, and nothing of that or of an earlier transfer waits
    to be written to disk. Outputs go to folders of their own: large files are emptied once they were compared, small ones stay
    until the end, since removing thousands slows the file system down for a while.
    """
    tools, results = [], {}
    files = [os.path.join(path, name) for name in files_of(path)] if os.path.isdir(path) else [path]
    # Freed memory does not come back in the order in which it went.
    warm = min(3 * sum(os.path.getsize(file) for file in files), 4 << 30)
    try:
        for kind in kinds:
            tool = kind(f"{folder}/{kind.__name__}", path)
            tools.append(tool)
            try:
                tool.start()
                results[tool] = []
            except ImportError as missing:
                print(f"{kind.name} is left out: {missing}")
        for number in range(rounds):
            for tool in results:
                out = f"{folder}/out-{type(tool).__name__}-{number}"
                os.mkdir(out)
                subprocess.run(["sh", "-c", f"head -c {warm} /dev/zero > {folder}/warm && rm {folder}/warm"], check=True)
                os.sync()
                results[tool].append(tool.get(out))
                check(path, out)
        return {tool.name: runs for tool, runs in results.items()}
    finally:
        for tool in tools:
            tool.stop()


def check(path, out):
    """What came is what was shared; a single file is emptied then."""
    if os.path.isdir(path):
        got = os.path.join(out, os.path.basename(path))
        got = got if os.path.isdir(got) else out
        subprocess.run(["diff", "-rq", path, got], check=True)
    else:
        got = os.path.join(out, os.path.basename(path))
        subprocess.run(["cmp", path, got], check=True)
        os.truncate(got, 0)


class Tool:
    """A server that is there from the start, and a receiver for each round."""
    def __init__(self, folder, path):
        self.folder, self.path, self.processes = folder, path, []
        self.base, self.is_folder = os.path.basename(path), os.path.isdir(path)
        os.makedirs(folder)

    def spawn(self, *command, **options):
        options.setdefault("stdout", subprocess.DEVNULL)
        process = subprocess.Popen(command, cwd=self.folder, stderr=open(f"{self.folder}/log", "a"), **options)
        self.processes.append(process)
        return process

    def stop(self):
        # Asked first: nginx takes its workers with it only if it may.
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def timed(self, command, cwd=None):
        """Runs a receiver that ends by itself: seconds, processor seconds, peak MiB."""
        begin = time.time()
        process = subprocess.Popen(command, cwd=cwd or self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"{command[0]} failed"
        return time.time() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


class Swarmdex(Tool):
    name, binary = "swarmdex", SWARMDEX

    def node(self, name, *arguments):
        process = self.spawn(self.binary, "run", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir",
                             f"{self.folder}/{name}", *arguments, stdout=subprocess.PIPE)
        ready = json.loads(process.stdout.readline())
        return process, next(address for address in ready["listen"] if "/tcp/" in address)

    def start(self):
        _, master = self.node("master", "--role", "master")
        self.owner, _ = self.node("owner", "--role", "peer", "--master", master)
        self.getter, _ = self.node("getter", "--role", "peer", "--master", master, "--no-reshare")
        subprocess.run([self.binary, "share", self.path, "--as", self.base, "--data-dir", f"{self.folder}/owner"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Others check what they seed; here 10,000 names are mirrored, which takes some seconds.
        before, rest = None, 0
        while rest < 4:
            time.sleep(1)
            now = [self.status(name)["dht"] for name in ("master", "owner", "getter")]
            rest = rest + 1 if now == before else 0
            before = now

    def status(self, name):
        command = [self.binary, "status", "--json", "--data-dir", f"{self.folder}/{name}"]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    def get(self, out):
        sides = [self.owner.pid, self.getter.pid]
        before = cpu(sides)
        command = [self.binary, "get", self.base, "-o", out + "/", "--data-dir", f"{self.folder}/getter", "--json"]
        command += ["--recursive"] if self.is_folder else []
        seconds, own, _ = self.timed(command)
        return seconds, own + cpu(sides) - before, peak(sides[:1]), peak(sides[1:])


class Before(Swarmdex):
    """An earlier build, which BEFORE names, in a network of its own."""
    name, binary = "build before", BEFORE

    def start(self):
        if not self.binary:
            raise ImportError("BEFORE names no earlier build")
        super().start()


def https(folder, address, root):
    """The command of an nginx that serves what is below a folder, at an address and over TLS."""
    if not (shutil.which("nginx") and shutil.which("curl") and shutil.which("openssl")):
        raise ImportError("apt-get install nginx-light curl openssl")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "key",
                    "-out", "cert", "-subj", "/CN=localhost", "-days", "2"], cwd=folder, check=True, stderr=subprocess.DEVNULL)
    with open(f"{folder}/conf", "w") as conf:
        conf.write(f"daemon off; pid {folder}/pid; error_log {folder}/error; worker_processes 1; user root;\n"
                   f"events {{}}\nhttp {{ access_log off; sendfile on; server {{ listen {address} ssl; ssl_protocols TLSv1.3;\n"
                   f"ssl_certificate {folder}/cert; ssl_certificate_key {folder}/key;\nroot {root}; }} }}\n")
    return ["nginx", "-p", folder, "-c", f"{folder}/conf"]


class Curl(Tool):
    name = "curl, nginx (HTTPS)"

    def start(self):
        self.port = port()
        self.server = self.spawn(*https(self.folder, f"127.0.0.1:{self.port}", os.path.dirname(self.path)))
        time.sleep(0.5)

    def get(self, out):
        children = open(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read().split()
        before = cpu(children)
        paths = [f"{self.base}/{name}" for name in files_of(self.path)] if self.is_folder else [self.base]
        with open(f"{self.folder}/list", "w") as urls:
            for path in paths:
                urls.write(f'url = "https://127.0.0.1:{self.port}/{quote(path)}"\noutput = "{out}/{path}"\n')
        # One connection after the other would be slower: one for all.
        seconds, own, memory = self.timed(["curl", "-sk", "--create-dirs", "-K", f"{self.folder}/list"])
        return seconds, own + cpu(children) - before, peak(children), memory


class Tracker(http.server.BaseHTTPRequestHandler):
    """Tells every peer of every other."""
    peers = set()

    def do_GET(self):
        query = parse_qs(urlparse(self.path).query)
        self.peers.add(int(query["port"][0]))
        compact = b"".join(socket.inet_aton("127.0.0.1") + port.to_bytes(2, "big") for port in self.peers)
        body = b"d8:intervali1e5:peers%d:%be" % (len(compact), compact)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def torrent(file, path, announce=None):
    import libtorrent as lt
    storage = lt.file_storage()
    lt.add_files(storage, file)
    made = lt.create_torrent(storage, 1 << 20, lt.create_torrent.v1_only)
    if announce:
        made.add_tracker(announce)
    lt.set_piece_hashes(made, os.path.dirname(file))
    with open(path, "wb") as out:
        out.write(lt.bencode(made.generate()))


LIBTORRENT = """
import libtorrent as lt, sys, time
torrent, folder, own, seed = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == 'seed'
session = lt.session({'listen_interfaces': own, 'enable_dht': False, 'enable_lsd': False, 'enable_upnp': False,
                      'enable_natpmp': False, 'enable_outgoing_utp': False, 'enable_incoming_utp': False,
                      'alert_mask': lt.alert.category_t.storage_notification,
                      'allow_multiple_connections_per_ip': True})
params = lt.add_torrent_params()
params.ti, params.save_path = lt.torrent_info(torrent), folder
if seed:
    params.flags |= lt.torrent_flags.seed_mode
handle = session.add_torrent(params)
print('ready', flush=True)
if not seed:
    sys.stdin.readline()
    address, port = sys.argv[5].split(':')
    handle.connect_peer((address, int(port)))
    while not handle.status().is_seeding:
        time.sleep(0.002)
    # What was verified is not all written yet; the others end when it is.
    handle.flush_cache()
    while not any(isinstance(alert, lt.cache_flushed_alert) for alert in session.pop_alerts()):
        time.sleep(0.002)
    print('done', flush=True)
time.sleep(100000)
"""


class Libtorrent(Tool):
    name = "libtorrent"

    def start(self):
        import libtorrent  # noqa: F401, or it is not installed
        torrent(self.path, f"{self.folder}/torrent")
        self.address = f"127.0.0.1:{port()}"
        command = [sys.executable, "-c", LIBTORRENT, "torrent", os.path.dirname(self.path), self.address, "seed"]
        self.server = self.spawn(*command, stdout=subprocess.PIPE, text=True)
        self.server.stdout.readline()

    def get(self, out):
        getter = self.spawn(sys.executable, "-c", LIBTORRENT, "torrent", out, f"127.0.0.1:{port()}", "get", self.address,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        getter.stdout.readline()
        sides = [self.server.pid, getter.pid]
        before, begin = cpu(sides), time.time()
        getter.stdin.write("go\n")
        getter.stdin.flush()
        assert getter.stdout.readline() == "done\n"
        result = time.time() - begin, cpu(sides) - before, peak(sides[:1]), peak(sides[1:])
        getter.kill()
        return result


class Aria2(Tool):
    name = "aria2"

    def start(self):
        if not shutil.which("aria2c"):
            raise ImportError("apt-get install aria2")
        Tracker.peers.clear()
        tracker = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tracker)
        threading.Thread(target=tracker.serve_forever, daemon=True).start()
        torrent(self.path, f"{self.folder}/torrent", f"http://127.0.0.1:{tracker.server_port}/announce")
        self.server = self.aria(os.path.dirname(self.path), "--seed-ratio=0.0", "--bt-seed-unverified=true")
        deadline = time.time() + 10
        while not Tracker.peers:
            assert time.time() < deadline, "aria2 does not seed"
            time.sleep(0.1)
        self.seeds = set(Tracker.peers)

    def aria(self, folder, *arguments):
        return self.spawn(*self.command(folder, *arguments), stdout=subprocess.DEVNULL)

    def command(self, folder, *arguments):
        return ["aria2c", "-q", "-d", folder, "--enable-dht=false", "--bt-enable-lpd=false", f"--listen-port={port()}",
                "--check-integrity=false", "--allow-overwrite=true", "--file-allocation=none", *arguments, "torrent"]

    def get(self, out):
        # The seeder alone is known.
        Tracker.peers.intersection_update(self.seeds)
        before = cpu([self.server.pid])
        seconds, own, memory = self.timed(self.command(out, "--seed-time=0"))
        return seconds, own + cpu([self.server.pid]) - before, peak([self.server.pid]), memory


class Sendme(Tool):
    name = "sendme"

    def start(self):
        if not shutil.which("sendme"):
            raise ImportError("cargo install --locked sendme")
        self.server = self.spawn("sendme", "send", "--relay", "disabled", "--ticket-type", "addresses", "--no-progress", self.path,
                                 stdout=subprocess.PIPE, text=True)
        for line in self.server.stdout:
            if line.startswith("sendme receive "):
                self.ticket = line.split()[2]
                return
        raise RuntimeError("sendme gave no ticket")

    def get(self, out):
        before = cpu([self.server.pid])
        command = ["sendme", "receive", "--relay", "disabled", "--no-progress", self.ticket]
        seconds, own, memory = self.timed(command, cwd=out)
        return seconds, own + cpu([self.server.pid]) - before, peak([self.server.pid]), memory


class Rqbit(Tool):
    name = "rqbit"

    def start(self):
        if not shutil.which("rqbit"):
            raise ImportError("cargo install --locked rqbit")
        torrent(self.path, f"{self.folder}/torrent")
        self.port = port()
        self.server = self.spawn(*self.command(os.path.dirname(self.path), self.port), stdout=subprocess.DEVNULL)
        deadline = time.time() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            assert time.time() < deadline, "rqbit does not seed"
            time.sleep(0.1)
        # It checks what it seeds first.
        time.sleep(5)

    def command(self, folder, listen, *arguments):
        return ["rqbit", "-v", "error", "--disable-dht", "--disable-lsd", "--disable-trackers", "--disable-upnp-port-forward",
                "--http-api-listen-addr", f"127.0.0.1:{port()}", "--listen-port", str(listen), "download", "--overwrite",
                "-o", folder, *arguments, f"{self.folder}/torrent"]

    def get(self, out):
        before = cpu([self.server.pid])
        command = self.command(out, port(), "--exit-on-finish", "--initial-peers", f"127.0.0.1:{self.port}")
        seconds, own, memory = self.timed(command)
        return seconds, own + cpu([self.server.pid]) - before, peak([self.server.pid]), memory


ALL = (Swarmdex, Before, Curl, Libtorrent, Aria2, Sendme, Rqbit)
