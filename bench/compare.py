#!/usr/bin/env python3
"""Measures Sluicegate beside other proxies in one run: CPU per request, requests/s, latency.

The proxy runs alone on one core, load generator and backend on the other. Contestants take turns (A B C A B C …), so
that whatever changes on the machine changes for all. A turn that other processes disturbed is thrown away and taken
again. CPU per request is the figure to compare; the rate depends on the load generator's core too.

  cargo build --release && bench/compare.py             # about 9 minutes with nginx and HAProxy, 20 with all
  bench/compare.py --quick                              # below 3 minutes
  bench/compare.py --write                              # and puts the tables into bench/RESULTS.md
  bench/compare.py --only nginx,haproxy --scenarios s1,s3 --rounds 2 --seconds 2
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import checks, contestants, idle, machine, report, scenarios

HERE = Path(__file__).resolve().parent


def main():
    options = arguments()
    missing = scenarios.missing_tools(options.scenarios)
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)} (Debian: apt-get install nginx haproxy wrk nghttp2-client openssl)")
    folder = Path(tempfile.mkdtemp(prefix="sluicegate-bench-"))
    folder.chmod(0o755)  # nginx's workers are not root.
    machine.raise_file_limit()
    bench = Bench(options, folder)
    complete = False
    try:
        bench.run()
        complete = not any(" failed in " in note for note in bench.notes)
    except KeyboardInterrupt:
        print("interrupted; what follows is what was measured until then, and is not written", file=sys.stderr)
    finally:
        bench.stop()
        if options.keep:
            print(f"configurations and logs: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    result = bench.result()
    text = report.comparison(result)
    print(text)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    if not complete or not result["rows"]:
        raise SystemExit("not everything was measured; see above")
    if options.write:
        report.replace_section(HERE / "RESULTS.md", "compare", text)


def arguments():
    """The command line; lists are checked here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 2 s against nginx and HAProxy, without the fixed rate: below 3 minutes")
    parser.add_argument("--rounds", type=int, help="turns of each contestant in each scenario [5]")
    parser.add_argument("--seconds", type=int, help="length of a turn [5]")
    parser.add_argument("--scenarios", help=f"comma list of s1 to s7, or `all` [{','.join(scenarios.USUAL)}]")
    parser.add_argument("--only", help="comma list of contestants [all that are installed]")
    parser.add_argument("--sluicegate", default=HERE.parent / "target/release/sluicegate", help="the binary [target/release/sluicegate]")
    parser.add_argument("--programs", action="append", default=[], metavar="DIR", help="where else contestants are, e.g. a venv's bin")
    parser.add_argument("--proxy-core", type=int, default=1, help="core of the proxy [1]")
    parser.add_argument("--load-core", type=int, default=0, help="core of load generator and backend [0]")
    parser.add_argument("--port", type=int, default=21000, help="first of the ports that are used [21000]")
    parser.add_argument("--nice", type=int, default=0, help="priority of everything measured, e.g. -19 on a machine in use [0]")
    parser.add_argument("--noise", type=float, default=6, help="most CPU of others on the proxy's core in a turn, in per cent [6]")
    parser.add_argument("--repeats", type=int, help="most turns taken again, for each contestant and scenario [as many as rounds; 1 with --quick]")
    parser.add_argument("--keep", action="store_true", help="leave configurations and logs behind")
    parser.add_argument("--json", help="write every sample to this file")
    parser.add_argument("--write", action="store_true", help="put the tables into bench/RESULTS.md")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.seconds = options.seconds or (2 if options.quick else 5)
    if options.repeats is None:
        options.repeats = 1 if options.quick else options.rounds
    if options.quick and not options.only:
        options.only = "sluicegate,nginx,haproxy"
    known = [scenario.key for scenario in scenarios.SCENARIOS]
    wanted = options.scenarios.split(",") if options.scenarios else scenarios.USUAL
    options.scenarios = known if wanted == ["all"] else wanted
    names = [one.program for one in contestants.ALL]
    options.only = options.only.lower().split(",") if options.only else names
    for given, allowed, flag in ((options.scenarios, known, "--scenarios"), (options.only, names, "--only")):
        if unknown := [one for one in given if one not in allowed]:
            parser.error(f"{flag}: {', '.join(unknown)} unknown; there are {', '.join(allowed)}")
    return options


class Bench:
    """One run: who takes part, and what was measured."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.begun = time.strftime("%Y-%m-%d %H:%M")
        self.generator = scenarios.Generator(folder, options.load_core, options.nice)
        self.rows, self.notes, self.paced, self.idle = [], [], None, []
        self.contestants = self._find()
        self.upstream = None

    def _find(self):
        found = []
        for at, kind in enumerate(contestants.ALL):
            if kind.program not in self.options.only:
                continue
            path = contestants.find_program(kind.program, self.options.programs)
            if kind.own:
                path = str(self.options.sluicegate) if Path(self.options.sluicegate).exists() else None
            if path is None:
                how = "cargo build --release" if kind.own else "see bench/README.md"
                self.notes.append(f"{kind.name} is not in this run: not installed ({how})")
                continue
            port = self.options.port + 10 * (at + 1)
            found.append(kind(path, port, port + 1))
        if not found:
            raise SystemExit("; ".join(self.notes))
        return found

    def run(self):
        """All scenarios: first those with one host, then those with 5,000."""
        options = self.options
        make = self.folder / "tls"
        contestants.make_certificate(make)
        ports = (options.port, options.port + 1, options.port + 2)
        nginx = contestants.find_program("nginx", options.programs)
        self.upstream = contestants.start_upstream(nginx, self.folder / "upstream", ports, options.load_core, options.nice)
        if not self.upstream.wait_until(lambda: checks.serves(ports[0], "any"), 10):
            raise SystemExit(f"the backend does not come up: {self.upstream.complaint()}")
        values = {"TLS": make, "UPSTREAM": ports[0]}
        one = [scenarios.HOST]
        many = one + [f"h{number}.bench.test" for number in range(scenarios.VHOSTS)]
        for hosts, vhosts in ((one, False), (many, True)):
            wanted = [one for one in scenarios.SCENARIOS if one.key in options.scenarios and one.vhosts == vhosts]
            if wanted:
                ready = self._start_all(hosts, values, f"{len(hosts)}-hosts")
                for scenario in wanted:
                    self._measure(scenario, ready)
                if not vhosts and not options.quick:
                    self._measure_paced(ready, ports[0])
                    self._measure_idle(ready)
                self._stop_all()

    def _start_all(self, hosts, values, name):
        ready = []
        for contestant in self.contestants:
            folder = self.folder / name / contestant.program
            contestant.start(folder, values, hosts, self.options.proxy_core, self.options.nice)
            up = contestant.process.wait_until(lambda: checks.serves(contestant.http, hosts[-1]), contestants.READY_WITHIN)  # noqa: B023
            try:
                if not up:
                    raise checks.Wrong(f"{contestant.name} does not serve: {contestant.process.complaint()}")
                checks.same_work(contestant, hosts)
            except (checks.Wrong, OSError) as why:
                self.notes.append(f"{contestant.name} with {len(hosts)} hosts was left out: {why}")
                print(self.notes[-1], file=sys.stderr)
                contestant.stop()
                continue
            ready.append(contestant)
        return ready

    def _measure(self, scenario, ready):
        rows = {}
        try:
            self._take_turns(scenario, ready, rows)
        finally:
            for row in rows.values():
                if row and row["samples"]:
                    keep_the_quiet(row)
                    self.rows.append(row)

    def _take_turns(self, scenario, ready, rows):
        # The first turn is not counted: pools fill and caches warm outside of the measurement.
        for at in range(self.options.rounds + 1):
            for contestant in ready:
                name = contestant.name
                if at and not rows.get(name):
                    continue
                try:
                    if at == 0:
                        self.generator.run(scenario, contestant.http, contestant.https, 1)
                        rows[name] = {"scenario": scenario.key, "contestant": name, "own": contestant.own, "samples": [], "thrown": []}
                    else:
                        self._take(rows[name], lambda: self._turn(scenario, contestant))  # noqa: B023
                        print(report.progress(scenario, name, rows[name]["samples"][-1]), file=sys.stderr, flush=True)
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as why:
                    rows[name] = None
                    self.notes.append(f"{name} failed in {scenario.key}: {why}; {contestant.process.complaint()}")
                    print(self.notes[-1], file=sys.stderr)

    def _measure_paced(self, ready, backend):
        """Latency where nobody is saturated: half of what the best peer takes in s1."""
        options = self.options
        rates = {row["contestant"]: report.summary(row)["rate"] for row in self.rows if row["scenario"] == "s1" and row["samples"]}
        peers = [rates[one.name] for one in ready if not one.own and one.name in rates]
        if not peers:
            return
        rate = round(max(peers) / 2, -3) or 1000
        able = [one for one in ready if rates.get(one.name, 0) >= 1.2 * rate]
        rows = {one.name: {"samples": [], "thrown": []} for one in able}
        alone = []
        for _ in range(options.rounds):
            alone.append(self.generator.paced(backend, rate, options.seconds))
            for contestant in able:
                row = rows[contestant.name]
                self._take(row, lambda: self._paced_turn(contestant, rate))  # noqa: B023
                print(report.paced_progress(contestant.name, rate, row["samples"][-1]), file=sys.stderr, flush=True)
        for row in rows.values():
            keep_the_quiet(row)
        unable = [one.name for one in ready if one not in able]
        self.paced = {"rate": rate, "rows": rows, "alone": alone, "unable": unable, "own": [one.name for one in able if one.own]}

    def _paced_turn(self, contestant, rate):
        clock = self._clock(contestant)
        sample = self.generator.paced(contestant.http, rate, self.options.seconds)
        cpu, _, other, other_load = clock.stop()
        # Latency suffers from what disturbs either core.
        most = max(other, other_load)
        return sample | {"us": cpu / max(sample["done"], 1) * 1e6, "other": most, "disturbed": most * 100 > self.options.noise}

    def _take(self, row, turn):
        """One turn that counts; disturbed ones are put aside as long as repeats last."""
        sample = turn()
        while sample["disturbed"] and len(row["thrown"]) < self.options.repeats:
            row["thrown"].append(sample)
            sample = turn()
        row["samples"].append(sample)

    def _measure_idle(self, ready):
        """Once for each: memory does not depend on what else runs. New processes, so that nothing is left from before."""
        for contestant in ready:
            cells = []
            for secure in (False, True):
                contestant.restart(self.options.proxy_core, self.options.nice)
                if contestant.process.wait_until(lambda: checks.serves(contestant.http, scenarios.HOST), contestants.READY_WITHIN):  # noqa: B023
                    port = contestant.https if secure else contestant.http
                    # What the first connections make a proxy allocate once is no cost of a connection.
                    idle.bytes_per_connection(contestant.process, port, scenarios.HOST, secure, 100)
                    cells.append(idle.bytes_per_connection(contestant.process, port, scenarios.HOST, secure))
                else:
                    cells.append(None)
            self.idle.append({"contestant": contestant.name, "own": contestant.own, "plain": cells[0], "tls": cells[1]})

    def _clock(self, contestant):
        return machine.Clock(contestant.process.pids(), self.upstream.pids(), self.options.proxy_core, self.options.load_core)

    def _turn(self, scenario, contestant):
        options = self.options
        clock = self._clock(contestant)
        load = self.generator.run(scenario, contestant.http, contestant.https, options.seconds)
        cpu, busy, other, other_load = clock.stop()
        return {
            "us": cpu / max(load.done, 1) * 1e6,
            "rate": load.rate,
            "p50_ms": load.p50_ms,
            "p99_ms": load.p99_ms,
            "errors": load.errors,
            "done": load.done,
            "busy": busy,
            "other": other,
            "other_load": other_load,
            "disturbed": other * 100 > options.noise,
        }

    def _stop_all(self):
        for contestant in self.contestants:
            contestant.stop()

    def stop(self):
        """Ends everything that was started."""
        self._stop_all()
        if self.upstream is not None:
            self.upstream.stop()
            self.upstream = None

    def result(self):
        """Everything that the report needs."""
        return {
            "date": self.begun,
            "machine": machine.description(),
            "command": "bench/compare.py " + shlex.join(sys.argv[1:]),
            "versions": {one.name: one.version() for one in self.contestants} | scenarios.tool_versions(),
            "build": report.build(HERE.parent, self.options.sluicegate),
            "rounds": self.options.rounds,
            "seconds": self.options.seconds,
            "noise": self.options.noise,
            "notes": self.notes,
            "scenarios": [vars(one) for one in scenarios.SCENARIOS if one.key in self.options.scenarios],
            "rows": self.rows,
            "paced": self.paced,
            "idle": self.idle,
            "idle_count": idle.COUNT,
        }


def keep_the_quiet(row):
    """Where repeats ran out, disturbed turns stand in; the least disturbed of all that were taken are the better ones."""
    count = len(row["samples"])
    taken = sorted(row["samples"] + row["thrown"], key=lambda sample: (sample["disturbed"], sample["other"]))
    disturbed = [sample for sample in row["samples"] if sample["disturbed"]]
    if disturbed:
        row["samples"], row["thrown"] = taken[:count], taken[count:]


if __name__ == "__main__":
    main()
