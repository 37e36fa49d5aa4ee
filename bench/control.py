#!/usr/bin/env python3
"""Measures how fast changes of manifests become true, what they cost, and whether anything fails meanwhile.

In a folder of 20,000 Ingresses, 20,000 Services and 100,000 endpoints: time to the first full state (many small files,
few large ones), memory, 200 single changes one after the other, and 1,000 changes under load with WebSockets open.
Beside it what an operator does without a table that is swapped: nginx with 5,000 virtual hosts and a reload for a change.

  cargo build --release && bench/control.py             # about 4 minutes
  bench/control.py --quick                              # a tenth of everything, below 1 minute
  bench/control.py --write                              # and puts the table into bench/RESULTS.md
"""

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from measure import checks, clients, cluster, contestants, control_report, machine, report, scenarios

HERE = Path(__file__).resolve().parent
EFFECT_WITHIN = 30.0  # seconds after which a change counts as lost
EVERY_CORE = sorted(os.sched_getaffinity(0))


def main():
    options = arguments()
    missing = [tool for tool in ("wrk", "openssl", "nginx") if not contestants.find_program(tool, [])]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)} (Debian: apt-get install wrk openssl nginx)")
    if not Path(options.sluicegate).exists():
        raise SystemExit(f"{options.sluicegate}: there is no such file; cargo build --release, or --sluicegate PATH")
    folder = Path(tempfile.mkdtemp(prefix="sluicegate-control-"))
    folder.chmod(0o755)  # nginx's workers are not root.
    machine.raise_file_limit()
    machine.take_priority(options.nice)
    random.seed(7)
    bench = Control(options, folder)
    try:
        bench.run()
    finally:
        bench.stop()
        if options.keep:
            print(f"manifests, configurations and logs: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    text = control_report.control(bench.result)
    print(text)
    if options.json:
        Path(options.json).write_text(json.dumps(bench.result, indent=1) + "\n")
    if options.write:
        report.replace_section(HERE / "RESULTS.md", "control", text)


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--ingresses", type=int, help="as many Ingresses and Services, and five times as many endpoints [20000]")
    parser.add_argument("--changes", type=int, help="single changes, one after the other [200]")
    parser.add_argument("--under-load", type=int, help="changes under load [1000]")
    parser.add_argument("--reloads", type=int, help="reloads of nginx, without and with load [10]")
    parser.add_argument("--websockets", type=int, default=50, help="WebSockets that are open during the changes under load [50]")
    parser.add_argument("--sluicegate", default=HERE.parent / "target/release/sluicegate", help="the binary [target/release/sluicegate]")
    parser.add_argument("--port", type=int, default=22000, help="first of the ports that are used [22000]")
    parser.add_argument("--nice", type=int, default=0, help="priority of everything measured, e.g. -19 on a machine in use [0]")
    parser.add_argument("--skip-nginx", action="store_true", help="without the reloads")
    parser.add_argument("--keep", action="store_true", help="leave manifests, configurations and logs behind")
    parser.add_argument("--json", help="write everything measured to this file")
    parser.add_argument("--write", action="store_true", help="put the table into bench/RESULTS.md")
    options = parser.parse_args()
    for name, full, quick in (("ingresses", 20000, 2000), ("changes", 200, 40), ("under_load", 1000, 100), ("reloads", 10, 2)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    return options


class Control:
    """One run."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.http = options.port + 10
        self.running = []
        self.ports = (options.port, options.port + 1, options.port + 2)
        self.certificate = folder / "tls"
        sluicegate = contestants.Sluicegate(str(options.sluicegate), 0, 0)
        nginx = contestants.find_program("nginx", [])
        self.result = {
            "date": time.strftime("%Y-%m-%d %H:%M"),
            "build": report.build(HERE.parent, options.sluicegate),
            "machine": machine.description(),
            "command": "bench/control.py " + shlex.join(sys.argv[1:]),
            "versions": {"Sluicegate": sluicegate.version(), "nginx": contestants.Nginx(nginx, 0, 0).version()} | scenarios.tool_versions(),
            "ingresses": options.ingresses,
        }

    def run(self):
        """Everything, in turn; progress on standard error."""
        contestants.make_certificate(self.certificate)
        self.upgrades = clients.UpgradeBackend()
        self.upgrades.start()
        nginx = contestants.find_program("nginx", [])
        upstream = contestants.start_upstream(nginx, self.folder / "upstream", self.ports, EVERY_CORE, self.options.nice)
        self.running.append(upstream)
        if not upstream.wait_until(lambda: checks.serves(self.ports[0], "any"), 10):
            raise SystemExit(f"the backend does not come up: {upstream.complaint()}")
        self.result["idle core"] = self._idle()
        self.result["empty"] = self._first_state("empty", lambda folder, _count: cluster.size(folder))
        self._stop_last()
        self.result["large files"] = self._first_state("large", cluster.write_large_files)
        self._stop_last()
        self.result["many files"] = self._first_state("many", cluster.write_many_files)
        self.result["changes"] = self._changes()
        self.result["under load"] = self._under_load()
        self._stop_last()
        if not self.options.skip_nginx:
            self.result["nginx"] = self._nginx(nginx)

    def stop(self):
        """Ends everything that was started."""
        while self.running:
            self._stop_last()

    def _stop_last(self):
        self.running.pop().stop()

    def _idle(self):
        """The share of both cores that nobody uses before anything is measured."""
        before, seconds = sum(machine.core_busy_seconds(core) for core in EVERY_CORE), 2.0
        time.sleep(seconds)
        return 1 - (sum(machine.core_busy_seconds(core) for core in EVERY_CORE) - before) / seconds / len(EVERY_CORE)

    def _say(self, text):
        print(text, file=sys.stderr, flush=True)

    # The first state

    def _first_state(self, name, write):
        folder = self.folder / name
        self._say(f"{name}: writing manifests")
        files, size = write(folder / "cluster", self.options.ingresses)
        self.watched = cluster.Watched(folder, self.certificate, self.ports, self.upgrades.port)
        command = [
            str(self.options.sluicegate), "run", "--manifests", str(folder), "--log-level", "error", "--access-log", "off",
            "--http", f"127.0.0.1:{self.http}", "--https", f"127.0.0.1:{self.http + 1}",
            "--metrics", f"127.0.0.1:{self.http + 2}", "--admin", f"127.0.0.1:{self.http + 3}",
            "--lame-duck", "0s", "--drain", "1s",
        ]  # fmt: skip
        begun = time.perf_counter()
        gateway = contestants.Process(command, folder / "log", EVERY_CORE, self.options.nice)
        self.running.append(gateway)
        if not gateway.wait_until(self._is_ready, 300):
            raise SystemExit(f"the gateway does not become ready: {gateway.complaint()}")
        took = time.perf_counter() - begun
        cpu = machine.process_seconds(gateway.pids())
        asked = clients.Asker(self.http, cluster.CHANGE_HOST).ask()
        if asked != "B":
            raise SystemExit(f"the gateway is ready, but {cluster.CHANGE_HOST} answers {asked!r} instead of 'B'")
        time.sleep(2)  # What was needed for reading alone is given back by then, or kept for good.
        memory = machine.memory(gateway.pids())
        self._say(f"{name}: {files} files, ready after {took:.2f} s, {memory.now / 1048576:.0f} MiB")
        return {"files": files, "bytes": size, "seconds": took, "cpu": cpu, "resident": memory.now, "peak": memory.peak}

    def _is_ready(self):
        answer = checks.answers(self.http + 2, "localhost", "/readyz", timeout=30)
        return answer is not None and answer[0] == 200

    # Single changes

    def _changes(self):
        """One after the other, EndpointSlices and Ingresses in turn, at moments that follow no rhythm."""
        moved = clients.Asker(self.http, "moving." + cluster.CHANGE_HOST)
        routed = clients.Asker(self.http, cluster.CHANGE_HOST)
        result = {"EndpointSlice": [], "Ingress": []}
        for at in range(self.options.changes):
            answer = "B" if at // 2 % 2 == 0 else "A"
            time.sleep(random.uniform(0.02, 0.08))
            if at % 2 == 0:
                since = self.watched.endpoints("moving", answer)
                result["EndpointSlice"].append(moved.until(answer, since, EFFECT_WITHIN))
            else:
                answer = {"A": "B", "B": "A"}[answer]  # It begins with B.
                result["Ingress"].append(routed.until(answer, self.watched.route(answer), EFFECT_WITHIN))
        result["failed"] = moved.failures + routed.failures
        return result

    def _under_load(self):
        """Changes of every kind, of the loaded host too, while wrk asks as fast as it is answered and WebSockets talk."""
        count = self.options.under_load
        calm = self._wrk(self.http, cluster.LOAD_HOST, 4, lambda: None)
        upgraded = clients.Upgraded(self.http, cluster.UPGRADE_HOST, self.options.websockets)
        asker = clients.Asker(self.http, "moving." + cluster.CHANGE_HOST)
        watched, effects = self.watched, []

        def change():
            begun = time.monotonic()
            for at in range(count):
                answer = "A" if at // 5 % 2 else "B"
                if at % 5 == 0:
                    effects.append(asker.until(answer, watched.endpoints("moving", answer), EFFECT_WITHIN))
                elif at % 5 == 1:
                    watched.endpoints("load", answer)
                elif at % 5 == 2:
                    watched.load_route("load" if answer == "A" else "b")
                elif at % 5 == 3:
                    watched.upgrade_endpoints(answer == "B")
                else:
                    watched.route(answer)
                if at % 25 == 0:
                    upgraded.talk()
                # 50 a second, however long one took.
                time.sleep(max(0.0, begun + (at + 1) * 0.02 - time.monotonic()))

        load = self._wrk(self.http, cluster.LOAD_HOST, max(4, int(count * 0.02 * 1.2) + 2), change)
        upgraded.talk()
        upgraded.close()
        load |= {
            "effects": effects, "asker failed": asker.failures, "changes": count, "calm": calm,
            "websockets": upgraded.count, "broken": upgraded.broken, "talks": upgraded.rounds,
        }  # fmt: skip
        self._say(f"under load: {load['errors']} of {load['done']} requests failed, {upgraded.broken} of {upgraded.count} WebSockets broke")
        return load

    def _wrk(self, port, host, seconds, meanwhile):
        """wrk in the background while something is done. The work must end before wrk does, or it was not under load."""
        command = ["wrk", "-t1", "-c64", f"-d{seconds}s", "--latency", "--timeout", "10s", "-H", f"Host: {host}", f"http://127.0.0.1:{port}/"]
        wrk = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            time.sleep(1)
            begun = time.monotonic()
            meanwhile()
            took = time.monotonic() - begun
            load = scenarios.read_wrk(wrk.communicate(timeout=seconds + 60)[0])
        finally:
            wrk.kill()
        return {**vars(load), "changing_seconds": took, "inside": took < seconds - 1}

    # nginx

    def _nginx(self, program):
        """The same change by rewriting the configuration and reloading it."""
        self._say("nginx: 5,000 virtual hosts")
        nginx = contestants.Nginx(program, self.http + 10, self.http + 11)
        folder = self.folder / "nginx"
        hosts = [scenarios.HOST] + [f"h{number}.bench.test" for number in range(scenarios.VHOSTS)]
        values = {"TLS": self.certificate, "UPSTREAM": self.ports[0]}
        texts = {}
        for answer, port in (("B", self.ports[2]), ("A", self.ports[1])):
            values["CHANGING"] = port
            texts[answer] = contestants.fill_in("nginx.conf", nginx.values(folder, values), hosts)
        nginx.start(folder, values, hosts, EVERY_CORE, self.options.nice)
        self.running.append(nginx)
        if not nginx.process.wait_until(lambda: checks.serves(nginx.http, cluster.CHANGE_HOST), 60):
            raise SystemExit(f"nginx does not serve: {nginx.process.complaint()}")
        asker = clients.Asker(nginx.http, cluster.CHANGE_HOST)
        resident = machine.memory(nginx.process.pids()).now
        watch = MemoryWatch(nginx.process)
        watch.start()
        effects, loaded = [], []
        for at in range(self.options.reloads):
            effects.append(self._reload(nginx, folder, texts, "BA"[at % 2], asker))
            time.sleep(0.5)

        def change():
            for at in range(self.options.reloads):
                loaded.append(self._reload(nginx, folder, texts, "BA"[at % 2], asker))
                time.sleep(1)

        asker.failures = 0
        # A reload takes longer under load, and the load must outlast all of them.
        each = max((effect or EFFECT_WITHIN) for effect in effects)
        load = self._wrk(nginx.http, scenarios.HOST, int(self.options.reloads * (2 * each + 1)) + 3, change)
        watch.stopping.set()
        watch.join()
        self._say(f"nginx: {load['errors']} of {load['done']} requests failed in {self.options.reloads} reloads")
        return load | {"effects": effects, "effects under load": loaded, "asker failed": asker.failures, "reloads": self.options.reloads,
                       "resident": resident, "peak": watch.most}  # fmt: skip

    @staticmethod
    def _reload(nginx, folder, texts, answer, asker):
        beside = folder / "nginx.conf.new"
        beside.write_text(texts[answer])
        since = time.perf_counter()
        beside.rename(folder / "nginx.conf")
        nginx.process.handle.send_signal(signal.SIGHUP)
        return asker.until(answer, since, EFFECT_WITHIN)


class MemoryWatch(threading.Thread):
    """The most resident memory of all processes of a server together: old workers live on beside new ones."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.most, self.stopping = process, 0, threading.Event()

    def run(self):
        while not self.stopping.wait(0.1):
            self.most = max(self.most, machine.memory(self.process.pids()).now)


if __name__ == "__main__":
    main()
