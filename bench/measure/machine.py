"""What the machine says: CPU time of processes and cores, memory, and what the machine is."""

import os
import platform
import re
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def process_seconds(pids):
    """CPU seconds of processes, all threads, those that ended included (user and system; 10 ms resolution)."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def children_seconds():
    """CPU seconds of this process and of all children that it has waited for."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def core_busy_seconds(core):
    """Seconds in which a core did anything, or in which the host ran somebody else on it (steal)."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(value) for value in values[:8])
            return (user + nice + system + irq + softirq + steal) / TICK
    raise SystemExit(f"/proc/stat has no core {core}; choose others with --proxy-core and --load-core")


def tree(pid):
    """A process and its descendants."""
    found, parents = [pid], {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:  # It ended meanwhile.
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    for one in found:
        found.extend(parents.get(one, []))
    return found


def softirq_thread(core):
    """The kernel thread that takes over network work of a core when there is much of it."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "comm").read_text().strip() == f"ksoftirqd/{core}":
                    return [int(entry.name)]
            except OSError:
                continue
    return []


@dataclass
class Memory:
    """Resident memory of processes in bytes: at the moment, and the most that each had."""

    now: int
    peak: int


def memory(pids):
    """Resident memory; pages that processes share are counted in each."""
    sums = {"VmRSS": 0, "VmHWM": 0}
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(":")
            if name in sums:
                sums[name] += int(value.split()[0]) * 1024
    return Memory(sums["VmRSS"], sums["VmHWM"])


class Clock:
    """CPU time between two moments: of the measured processes, and of everybody else on the two cores."""

    def __init__(self, proxy_pids, upstream_pids, proxy_core, load_core):
        self.proxy_pids, self.upstream_pids = proxy_pids, upstream_pids
        self.cores = (proxy_core, load_core)
        self.softirq = [softirq_thread(core) for core in self.cores]
        self.start = self._read()

    def _read(self):
        # Network work that ksoftirqd does is the measured traffic's own, not a disturbance.
        softirq = [process_seconds(pids) for pids in self.softirq]
        return {
            "proxy": process_seconds(self.proxy_pids),
            "proxy core": core_busy_seconds(self.cores[0]) - softirq[0],
            "load": process_seconds(self.upstream_pids) + children_seconds(),
            "load core": core_busy_seconds(self.cores[1]) - softirq[1],
            "wall": time.monotonic(),
        }

    def stop(self):
        """(CPU seconds of the proxy, its share of its core, share of others on its core, share of others on the load core)"""
        end = self._read()
        spent = {name: end[name] - self.start[name] for name in end}
        wall = max(spent["wall"], 1e-9)
        other_proxy = max(0.0, spent["proxy core"] - spent["proxy"]) / wall
        other_load = max(0.0, spent["load core"] - spent["load"]) / wall
        return spent["proxy"], spent["proxy"] / wall, other_proxy, other_load


def run_on(core, nice):
    """What a child process does before it becomes the program: take a session, its core (or cores) and its priority."""

    def prepare():
        os.setsid()
        os.sched_setaffinity(0, {core} if isinstance(core, int) else set(core))
        if nice:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
            # Sessions are scheduled as groups; the priority of a process counts within its session alone.
            try:
                Path("/proc/self/autogroup").write_text(str(nice))
            except OSError:
                pass

    return prepare


def take_priority(nice):
    """The same priority for this process."""
    if nice:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        try:
            Path("/proc/self/autogroup").write_text(str(nice))
        except OSError:
            pass


def raise_file_limit():
    """Connections are file descriptors; children inherit the limit."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def version(command):
    """The first thing that looks like a version in what a command prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    found = re.search(r"\d+\.\d+(\.\d+)?[^\s,\]]*", done.stdout + done.stderr)
    return found.group(0) if found else "unknown"


def description():
    """Processor, cores, memory and kernel in one line."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.machine(),
    )
    memory_kib = int(Path("/proc/meminfo").read_text().split("MemTotal:", 1)[1].split()[0])
    virtual = " (virtual machine)" if "hypervisor" in Path("/proc/cpuinfo").read_text() else ""
    return f"{model}{virtual}, {os.cpu_count()} cores, {memory_kib / 1048576:.0f} GiB, {platform.system()} {platform.release()}"
