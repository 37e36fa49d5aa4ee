"""What is asked of every contestant, with which load generator, and how its answer is read."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import contestants, machine

HOST = "bench.test"
VHOSTS = 5000
CONNECTIONS = 64
HANDSHAKERS = 4


@dataclass
class Scenario:
    """One row of the report."""

    key: str
    title: str
    tool: str
    scheme: str = "http"
    path: str = "/"
    connections: int = CONNECTIONS
    streams: int = 1
    vhosts: bool = False
    target: float = 0.85  # CPU per request, of the best peer's
    unit: str = "request"


SCENARIOS = [
    Scenario("s1", "small, HTTP/1.1 keep-alive", "wrk"),
    Scenario("s2", "small, HTTP/1.1 keep-alive over TLS 1.3", "wrk", scheme="https"),
    Scenario("s3", "full TLS 1.3 handshakes", "s_time", scheme="https", unit="handshake"),
    Scenario("s4", "small, HTTP/2 over TLS 1.3 → HTTP/1.1", "h2load", scheme="https", connections=8, streams=32),
    Scenario("s5", "64 KiB, HTTP/1.1", "wrk", path="/static/64k"),
    Scenario("s6", "1 MiB, HTTP/1.1 over TLS 1.3", "wrk", scheme="https", path="/static/1m", connections=16),
    Scenario("s7", "small, HTTP/1.1, 5,000 virtual hosts in turn", "wrk", vhosts=True),
]
# What the first table of the design needs; the rest is asked for with --scenarios.
USUAL = ["s1", "s2", "s4", "s5", "s7"]


@dataclass
class Load:
    """What a load generator reports of one run."""

    done: int
    rate: float
    p50_ms: float | None
    p99_ms: float | None
    errors: int


class Generator:
    """Runs wrk, h2load and `openssl s_time` on the load core."""

    def __init__(self, folder, core, nice):
        self.core, self.nice = core, nice
        self.folder = Path(folder)
        self.prefix = self._names()

    def _names(self):
        """wrk asks the resolver and sends what it was asked as SNI: its own /etc/hosts, for nobody else, has the name."""
        try:
            if socket.gethostbyname(HOST).startswith("127."):
                return []
        except OSError:
            pass
        hosts = self.folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {HOST}\n")
        mount = 'mount --bind "$0" /etc/hosts && exec "$@"'
        for flags in (["--mount"], ["--mount", "--map-root-user"]):
            prefix = ["unshare", *flags, "sh", "-c", mount, str(hosts)]
            try:
                if subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
                    return prefix
            except OSError:
                break
        raise SystemExit(f"{HOST} has no address here: run as root, or add `127.0.0.1 {HOST}` to /etc/hosts")

    def run(self, scenario, http, https, seconds):
        """One run of so many seconds against the given ports."""
        if scenario.tool == "s_time":
            return self._handshakes(https, seconds)
        port = https if scenario.scheme == "https" else http
        if scenario.tool == "h2load":
            return self._h2load(scenario, port, seconds)
        return self._wrk(scenario, port, seconds)

    def paced(self, port, rate, seconds):
        """One run at a fixed rate, small responses, HTTP/1.1: what paced.py prints."""
        command = [sys.executable, str(Path(__file__).with_name("paced.py")), *map(str, (port, HOST, rate, seconds, CONNECTIONS))]
        text = self._output([command], seconds)[0]
        try:
            return json.loads(text)
        except ValueError:
            raise RuntimeError(f"paced.py said: {text.strip()[-400:]}") from None

    def _output(self, commands, seconds):
        """What the commands print, run side by side."""
        running = [
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                preexec_fn=machine.run_on(self.core, self.nice),
            )
            for command in commands
        ]
        try:
            return [one.communicate(timeout=seconds + 60)[0] for one in running]
        finally:
            for one in running:
                one.kill()

    def _wrk(self, scenario, port, seconds):
        command = [
            *self.prefix, "wrk", "-t1", f"-c{scenario.connections}", f"-d{seconds}s", "--latency", "--timeout", "5s",
            "-H", f"Host: {HOST}",
        ]  # fmt: skip
        if scenario.vhosts:
            command += ["-s", str(contestants.PEERS / "vhosts.lua")]
        command.append(f"{scenario.scheme}://{HOST}:{port}{scenario.path}")
        if scenario.vhosts:
            command += ["--", str(VHOSTS)]
        return read_wrk(self._output([command], seconds)[0])

    def _h2load(self, scenario, port, seconds):
        log = Path("/dev/shm") / f"sluicegate-bench-{port}.log"
        log.unlink(missing_ok=True)
        command = [
            "h2load", "-t1", f"-c{scenario.connections}", f"-m{scenario.streams}", f"-D{seconds}",
            f"--connect-to=127.0.0.1:{port}", f"--log-file={log}", f"{scenario.scheme}://{HOST}{scenario.path}",
        ]  # fmt: skip
        try:
            load = read_h2load(self._output([command], seconds)[0], seconds)
            durations = sorted(int(line.rsplit("\t", 1)[1]) for line in log.read_text().splitlines())
        finally:
            log.unlink(missing_ok=True)
        if durations:
            load.p50_ms, load.p99_ms = (durations[int(len(durations) * share)] / 1000 for share in (0.50, 0.99))
        return load

    def _handshakes(self, port, seconds):
        command = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-new", "-tls1_3", "-time", str(int(seconds))]
        begun = time.monotonic()
        texts = self._output([command] * HANDSHAKERS, seconds)
        elapsed = time.monotonic() - begun
        counts = [re.search(r"(\d+) connections in \d+ real seconds", text) for text in texts]
        done = sum(int(count.group(1)) for count in counts if count)
        return Load(done, done / elapsed, None, None, sum(1 for count in counts if not count))


def read_wrk(text):
    """The report of `wrk --latency`."""
    done = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", text)
    if not done:
        raise RuntimeError(f"wrk said: {text.strip()[-400:]}")
    elapsed = float(done.group(2)) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[done.group(3)]
    errors = sum(int(number) for number in re.findall(r"(?:connect|read|write|timeout) (\d+)", text))
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors += int(refused.group(1)) if refused else 0
    percentiles = dict(re.findall(r"^\s+(50|99)%\s+(\S+)", text, re.MULTILINE))
    return Load(
        int(done.group(1)), int(done.group(1)) / elapsed, _milliseconds(percentiles.get("50")), _milliseconds(percentiles.get("99")), errors
    )


def read_h2load(text, seconds):
    """The report of h2load, without percentiles."""
    requests = re.search(r"requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    codes = re.search(r"status codes: (\d+) 2xx", text)
    if not requests or not codes:
        raise RuntimeError(f"h2load said: {text.strip()[-400:]}")
    succeeded, failed, _errored, _timeout = (int(number) for number in requests.groups())
    # `failed` includes those errored and timed out.
    return Load(succeeded, succeeded / seconds, None, None, failed + max(0, succeeded - int(codes.group(1))))


def _milliseconds(text):
    if text is None:
        return None
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(value) * {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}[unit]


def missing_tools(keys):
    """Load generators that the scenarios need and that are not installed."""
    needed = {scenario.tool for scenario in SCENARIOS if scenario.key in keys} | {"openssl", "nginx"}
    programs = {"s_time": "openssl"}
    return sorted(tool for tool in {programs.get(one, one) for one in needed} if not shutil.which(tool) and not contestants.find_program(tool, []))


def tool_versions():
    """Versions of what loads, and of the OpenSSL that Debian's nginx, HAProxy and wrk use."""
    commands = {"wrk": ["wrk", "-v"], "h2load": ["h2load", "--version"], "OpenSSL": ["openssl", "version"]}
    return {name: machine.version(command) for name, command in commands.items()}
