"""The proxies that are compared: how each is found, configured, started and stopped."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import machine, manifests

PEERS = Path(__file__).resolve().parent.parent / "peers"
READY_WITHIN = 120.0  # seconds; Traefik and Caddy take long for 5,000 hosts


def find_program(name, folders):
    """A program in the given folders, in PATH, beside this Python, or where Debian keeps daemons."""
    path = os.pathsep.join([*folders, os.environ.get("PATH", ""), os.path.dirname(sys.executable), "/usr/sbin"])
    return shutil.which(name, path=path)


def fill_in(template, values, hosts):
    """A template of peers/: @NAME@ is replaced, and what stands between `# each host` and `# end` is repeated."""
    lines, block = [], None
    for line in (PEERS / template).read_text().splitlines():
        if line.strip() == "# each host":
            block = []
        elif line.strip() == "# end" and block is not None:
            lines.extend(part.replace("@HOST@", host) for host in hosts for part in block)
            block = None
        elif block is not None:
            block.append(line)
        else:
            lines.append(line)
    text = "\n".join(lines) + "\n"
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


class Process:
    """A server in the foreground with its own log file."""

    def __init__(self, command, log, core, nice, environment=None):
        self.log = Path(log)
        self.handle = subprocess.Popen(
            command,
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            preexec_fn=machine.run_on(core, nice),
            env={**os.environ, **(environment or {})},
        )

    def pids(self):
        """The process and its workers."""
        return machine.tree(self.handle.pid)

    def complaint(self):
        """Why it is not there: its exit and the end of its log."""
        state = "still running" if self.handle.poll() is None else f"exit code {self.handle.returncode}"
        return f"{state}: {self.log.read_text(errors='replace')[-600:].strip()}"

    def wait_until(self, ready, within):
        """Waits for a condition; False if the process ended or time ran out."""
        limit = time.monotonic() + within
        while time.monotonic() < limit:
            if self.handle.poll() is not None:
                return False
            if ready():
                return True
            time.sleep(0.02)
        return False

    def stop(self):
        """Ends it and all that it started."""
        for one, patience in ((signal.SIGTERM, 0.5), (signal.SIGKILL, 5)):
            try:
                os.killpg(self.handle.pid, one)
                self.handle.wait(patience)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self.handle.wait()


class Contestant:
    """One proxy. Subclasses say how it is configured and run."""

    name = ""
    program = ""
    version_flags = ["-v"]
    environment = {}
    own = False

    def __init__(self, program, http, https):
        self.path, self.http, self.https = program, http, https
        self.process = self.folder = None

    def version(self):
        """As the program itself says."""
        return machine.version([self.path, *self.version_flags])

    def configure(self, folder, values, hosts):
        """Writes the configuration into a folder of its own."""
        raise NotImplementedError

    def command(self, folder):
        """How it is run in the foreground."""
        raise NotImplementedError

    def values(self, folder, values):
        """What templates are filled in with."""
        return {**values, "HTTP": self.http, "HTTPS": self.https, "DIR": folder}

    def start(self, folder, values, hosts, core, nice):
        """Configures and starts it, without waiting until it serves."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tls.crt", "tls.key", "tls.pem"):
            shutil.copy(Path(values["TLS"]) / name, folder / name)
        self.configure(folder, self.values(folder, values), hosts)
        self.folder = folder
        self.process = Process(self.command(folder), folder / "log", core, nice, self.environment)

    def restart(self, core, nice):
        """The same again, in a new process."""
        self.stop()
        self.process = Process(self.command(self.folder), self.folder / "log", core, nice, self.environment)

    def stop(self):
        """Ends it, if it was started."""
        if self.process is not None:
            self.process.stop()
            self.process = None


class Sluicegate(Contestant):
    """The gateway itself: its release binary on a folder of manifests."""

    name = "Sluicegate"
    program = "sluicegate"
    version_flags = ["--version"]
    own = True

    def configure(self, folder, values, hosts):
        manifests.compared_routes(folder / "manifests", hosts, values["UPSTREAM"], folder / "tls.crt", folder / "tls.key")

    def command(self, folder):
        return [
            self.path, "run", "--manifests", str(folder / "manifests"), "--workers", "1", "--log-level", "error",
            # As with the others.
            "--access-log", "off",
            "--http", f"127.0.0.1:{self.http}", "--https", f"127.0.0.1:{self.https}",
            "--metrics", f"127.0.0.1:{self.http + 2}", "--admin", f"127.0.0.1:{self.http + 3}",
            # A handshake without SNI gets the same certificate from every contestant.
            "--default-ssl-certificate", f"{manifests.NAMESPACE}/tls",
        ]  # fmt: skip


class Nginx(Contestant):
    """nginx."""

    name = "nginx"
    program = "nginx"

    def configure(self, folder, values, hosts):
        values = {**values, "CHANGING": values["UPSTREAM"]} if "CHANGING" not in values else values
        (folder / "nginx-temp").mkdir(exist_ok=True)
        (folder / "nginx.conf").write_text(fill_in("nginx.conf", values, hosts))

    def command(self, folder):
        return [self.path, "-e", "stderr", "-c", str(folder / "nginx.conf")]


class Haproxy(Contestant):
    """HAProxy."""

    name = "HAProxy"
    program = "haproxy"

    def configure(self, folder, values, hosts):
        (folder / "haproxy.cfg").write_text(fill_in("haproxy.cfg", values, hosts))
        # Comments are not for the map: its first word is the key.
        (folder / "haproxy.map").write_text(fill_in("haproxy.map", values, hosts))

    def command(self, folder):
        return [self.path, "-db", "-f", str(folder / "haproxy.cfg")]


class Envoy(Contestant):
    """Envoy."""

    name = "Envoy"
    program = "envoy"
    version_flags = ["--version"]

    def configure(self, folder, values, hosts):
        (folder / "envoy.yaml").write_text(fill_in("envoy.yaml", values, hosts))

    def command(self, folder):
        return [self.path, "-c", str(folder / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]


class Traefik(Contestant):
    """Traefik."""

    name = "Traefik"
    program = "traefik"
    version_flags = ["version"]
    environment = {"GOMAXPROCS": "1"}

    def configure(self, folder, values, hosts):
        for template in ("traefik.yaml", "traefik-routes.yaml"):
            (folder / template).write_text(fill_in(template, values, hosts))

    def command(self, folder):
        return [self.path, f"--configFile={folder / 'traefik.yaml'}"]


class Caddy(Contestant):
    """Caddy."""

    name = "Caddy"
    program = "caddy"
    version_flags = ["version"]
    environment = {"GOMAXPROCS": "1"}

    def configure(self, folder, values, hosts):
        (folder / "Caddyfile").write_text(fill_in("Caddyfile", values, hosts))

    def command(self, folder):
        return [self.path, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


ALL = [Sluicegate, Nginx, Haproxy, Envoy, Traefik, Caddy]


def start_upstream(program, folder, ports, core, nice):
    """The backend of all: `ports` are (the common answer, the answer A, the answer B). Files are made that it serves."""
    folder = Path(folder)
    (folder / "static").mkdir(parents=True, exist_ok=True)
    for name, size in (("64k", 64 << 10), ("1m", 1 << 20)):
        (folder / "static" / name).write_bytes(b"0123456789abcdef" * (size // 16))
    body = "hello from the backend of the bench, in one hundred and twenty-eight bytes of text that nobody has to read to the end..........\\n"
    values = {"DIR": folder, "UPSTREAM": ports[0], "UPSTREAM_A": ports[1], "UPSTREAM_B": ports[2], "BODY": body}
    (folder / "upstream.conf").write_text(fill_in("upstream.conf", values, []))
    return Process([program, "-e", "stderr", "-c", str(folder / "upstream.conf")], folder / "log", core, nice)


def make_certificate(folder):
    """One ECDSA P-256 certificate for all, as today's public ones are: tls.crt, tls.key, and both in tls.pem."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
            "-subj", "/CN=bench.test", "-addext", "subjectAltName=DNS:bench.test,DNS:*.bench.test",
            "-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt"),
        ],  # fmt: skip
        check=True,
        capture_output=True,
    )
    (folder / "tls.pem").write_bytes((folder / "tls.crt").read_bytes() + (folder / "tls.key").read_bytes())
