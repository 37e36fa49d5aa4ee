"""Tables of what was measured, and where they stand in RESULTS.md."""

import hashlib
import statistics
import subprocess
from pathlib import Path


def median(values):
    """The median, or None of nothing."""
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def number(value, digits=1):
    """For a table; a dash for nothing."""
    if value is None:
        return "-"
    return f"{value:,.{digits}f}"


def figure(value):
    """Three digits that mean something."""
    if value is None:
        return "-"
    return number(value, 0 if value >= 100 else 1 if value >= 10 else 2)


def table(head, rows):
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def build(root, binary):
    """What was measured: the commit for the tree's own build, the file's digest for another."""
    root, binary = Path(root).resolve(), Path(binary).resolve()
    if not binary.exists():
        return "no build"
    if not binary.is_relative_to(root):
        return f"build sha256:{hashlib.sha256(binary.read_bytes()).hexdigest()[:16]}"
    sources = ["Cargo.toml", "Cargo.lock", "src", "config", "controller", "dataplane"]
    try:
        name, changed = (
            subprocess.run(["git", "-C", root, *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", *sources])
        )
    except (OSError, subprocess.CalledProcessError):
        return "commit unknown"
    return f"commit {name}" + (" with changes" if changed else "")


def progress(scenario, name, sample):
    """One turn, while the bench runs."""
    disturbed = f", disturbed: others took {sample['other']:.0%} of the core" if sample["disturbed"] else ""
    errors = f", {sample['errors']} ERRORS" if sample["errors"] else ""
    return (
        f"{scenario.key} {name:10} {figure(sample['us']):>7} µs/{scenario.unit} {sample['rate']:>9,.0f}/s"
        f"  p99 {figure(sample['p99_ms'])} ms  core {sample['busy']:.0%}{errors}{disturbed}"
    )


def summary(row):
    """Medians and spread of a row's samples."""
    samples = row["samples"]
    costs = [sample["us"] for sample in samples]
    return {
        "us": median(costs),
        "least": min(costs),
        "most": max(costs),
        "rate": median([sample["rate"] for sample in samples]),
        "p50": median([sample["p50_ms"] for sample in samples]),
        "p99": median([sample["p99_ms"] for sample in samples]),
        "busy": median([sample["busy"] for sample in samples]),
        "errors": sum(sample["errors"] for sample in samples),
        "noisy": sum(1 for sample in samples if sample["disturbed"]),
        "thrown": len(row["thrown"]),
    }


def comparison(result):
    """The report of compare.py as Markdown."""
    measured = {(row["scenario"], row["contestant"]): summary(row) for row in result["rows"] if row["samples"]}
    names = list(dict.fromkeys(row["contestant"] for row in result["rows"]))
    own = next((row["contestant"] for row in result["rows"] if row["own"]), None)
    peers = [name for name in names if name != own]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = [
        f"{result['date']}, {result['build']}. {result['machine']}. `{result['command'].strip()}`: "
        f"{result['rounds']} rounds of {result['seconds']} s, interleaved.\n\n{versions}",
        "**CPU of the proxy per request, µs, median** (a handshake in s3). In brackets: Sluicegate's as a share of that peer's; "
        "below 1 is less CPU.",
        _costs(result, measured, names, own, peers),
        "**Everything**: median and least to most of the rounds; requests/s and latency with the load generator's and the "
        "backend's core as the other limit (`core` is how busy the proxy's was).",
        _details(result, measured, names),
        _paced(result["paced"]),
        _idle(result),
    ]
    parts += [f"Note: {note}." for note in result["notes"]]
    parts.append(_noise(result, measured))
    return "\n\n".join(part for part in parts if part)


def _costs(result, measured, names, own, peers):
    rows = []
    for scenario in result["scenarios"]:
        of = {name: measured.get((scenario["key"], name)) for name in names}
        ours = of.get(own)
        others = [of[name]["us"] for name in peers if of[name]]
        verdict = "-"
        if ours and others:
            best = ours["us"] / min(others)
            verdict = f"**{best:.3f}**, {'reached' if best <= scenario['target'] else 'missed'} (≤ {scenario['target']:.2f})"
        rows.append([f"{scenario['key']} {scenario['title']}", *(_cost(of[name], ours, name == own) for name in names), verdict])
    return table(["", *names, "against the best peer"], rows) + _vhost_cost(measured, own)


def _cost(row, ours, own):
    if not row:
        return "-"
    ratio = "" if own or not ours else f" ({ours['us'] / row['us']:.2f})"
    return figure(row["us"]) + ratio


def _vhost_cost(measured, own):
    one, many = measured.get(("s1", own)), measured.get(("s7", own))
    if not one or not many:
        return ""
    more = many["us"] / one["us"] - 1
    return f"\n\n5,000 virtual hosts against one, Sluicegate: {more:+.1%} CPU per request ({'reached' if more <= 0.03 else 'missed'}: ≤ +3 %)."


def _details(result, measured, names):
    rows = []
    for scenario in result["scenarios"]:
        for name in names:
            of = measured.get((scenario["key"], name))
            if of:
                spread = f"{figure(of['us'])} ({figure(of['least'])} to {figure(of['most'])})"
                marks = f"{of['thrown']}" + (f", {of['noisy']} disturbed ones kept" if of["noisy"] else "")
                rows.append(
                    [scenario["key"], name, spread, number(of["rate"], 0), figure(of["p50"]), figure(of["p99"]), f"{of['busy']:.0%}", of["errors"], marks]
                )
    return table(["", "", "µs CPU", "per second", "p50 ms", "p99 ms", "core", "errors", "turns taken again"], rows)


def paced_progress(name, rate, sample):
    """One turn at the fixed rate."""
    return f"{rate:,.0f}/s {name:10} p50 {figure(sample['p50_ms'])} p99 {figure(sample['p99_ms'])} p99.9 {figure(sample['p999_ms'])} ms, failed {sample['failed']}"


def _paced(paced):
    if not paced:
        return ""
    every = {"(backend without a proxy)": paced["alone"]} | {name: row["samples"] for name, row in paced["rows"].items()}
    rows, tails = [], {}
    for name, samples in every.items():
        of = {key: median([sample.get(key) for sample in samples]) for key in ("p50_ms", "p99_ms", "p999_ms", "us", "lag_p99_ms")}
        tails[name] = of["p99_ms"]
        spread = [sample["p99_ms"] for sample in samples if sample["p99_ms"] is not None]
        tail = f"{figure(of['p99_ms'])} ({figure(min(spread, default=None))} to {figure(max(spread, default=None))})"
        failed = sum(sample["failed"] for sample in samples)
        rows.append([name, figure(of["p50_ms"]), tail, figure(of["p999_ms"]), figure(of["us"]), figure(of["lag_p99_ms"]), failed])
    text = (
        f"**At a fixed rate**, {paced['rate']:,.0f} requests/s (half of what the best peer took in s1), Poisson arrivals, latency from the scheduled "
        "moment. `late`: how late requests began, for want of a free connection or of the generator's core.\n\n"
        + table(["", "p50 ms", "p99 ms", "p99.9 ms", "µs CPU", "late p99 ms", "failed"], rows)
    )
    peers = [tails[name] for name in paced["rows"] if name not in paced["own"] and tails[name] is not None]
    if paced["own"] and peers:
        ours = tails[paced["own"][0]]
        text += f"\n\np99 against the best peer's: {ours / min(peers):.2f}, {'reached' if ours <= min(peers) else 'missed'} (≤ 1.00)."
    noisy = sum(sample["disturbed"] for row in paced["rows"].values() for sample in row["samples"])
    if noisy:
        text += f"\n\n**Too noisy:** in {noisy} of these turns others disturbed one of the two cores; latency is not to be compared."
    if paced["unable"]:
        text += f"\n\nNot able to take this rate: {', '.join(paced['unable'])}."
    return text


def _idle(result):
    if not result["idle"]:
        return ""
    rows = []
    for of in result["idle"]:
        cells = []
        for kind, most in (("plain", 2), ("tls", 8)):
            cell = figure(of[kind] / 1024) if of[kind] is not None else "-"
            if of["own"] and of[kind] is not None:
                cell += f", {'reached' if of[kind] <= most * 1024 else 'missed'} (≤ {most})"
            cells.append(cell)
        rows.append([of["contestant"], *cells])
    return f"**Idle connections**, KiB of resident memory for each of {result['idle_count']:,} that were used once:\n\n" + table(["", "plain", "TLS"], rows)


def _noise(result, measured):
    samples = [sample for row in result["rows"] for sample in row["samples"]]
    if not samples:
        return "Nothing was measured."
    noisy = sum(sample["disturbed"] for sample in samples)
    loaded = sum(sample["other_load"] * 100 > result["noise"] for sample in samples)
    thrown = sum(of["thrown"] for of in measured.values())
    parts = []
    if any(sample["errors"] for sample in samples):
        parts.append("**Errors:** rows with errors did other work than the rest and are not comparable.")
    if noisy:
        parts.append(
            f"**Too noisy:** in {noisy} of {len(samples)} turns other processes took more than {result['noise']:.0f} % of the proxy's "
            f"core, and repeats ran out ({thrown} turns were thrown away). The figures are a direction; repeat them on a quiet machine."
        )
    else:
        parts.append(
            f"Quiet enough: in no turn that counts did others take more than {result['noise']:.0f} % of the proxy's core "
            f"({thrown} turns were taken again)."
        )
    if loaded:
        parts.append(f"In {loaded} turns others took as much of the load generator's core: rates and latencies suffer from that, CPU per request hardly.")
    return " ".join(parts)


def replace_section(path, name, text):
    """Puts text between the markers of a section; everything else in the file is somebody's prose and stays."""
    path = Path(path)
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    whole = path.read_text()
    if begin not in whole or end not in whole:
        raise SystemExit(f"{path}: the markers {begin} and {end} are missing; add them where the tables are to stand")
    before, after = whole.split(begin, 1)[0], whole.split(end, 1)[1]
    path.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}")
