"""The table of control.py."""

from .report import figure, median, number, table

MIB = 1048576


def percentile(values, share):
    """Nearest rank; None of nothing."""
    values = sorted(value for value in values if value is not None)
    return values[min(len(values) - 1, int(len(values) * share))] if values else None


def milliseconds(values):
    """p50, p99 and most, for a cell; what never came true is named."""
    lost = sum(1 for value in values if value is None)
    times = [value for value in values if value is not None]
    if not times:
        return f"none of {len(values)} came true"
    text = f"p50 {figure(median(times) * 1000)}, p99 {figure(percentile(times, 0.99) * 1000)}, most {figure(max(times) * 1000)}"
    return text + (f"; **{lost} of {len(values)} never came true**" if lost else "")


def verdict(reached):
    """In words."""
    return "reached" if reached else "**missed**"


def control(result):
    """The report of control.py as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = [
        f"{result['date']}, {result['build']}. {result['machine']}; {result['idle core']:.0%} idle before the start. "
        f"`{result['command'].strip()}`\n\n{versions}",
        table([f"{result['ingresses']:,} Ingresses, {result['ingresses'] * 5:,} endpoints", "measured", "to reach"], _rows(result)),
    ]
    if "nginx" in result:
        parts += ["nginx with 5,000 virtual hosts, a rewritten configuration and a reload for each change:", table(["", "measured"], _nginx(result["nginx"]))]
    if not result["under load"]["inside"]:
        parts.append("**The load ended before the changes did:** some of them were without load. Repeat on a quiet machine.")
    return "\n\n".join(parts)


def _rows(result):
    rows = []
    for name in ("many files", "large files"):
        state = result[name]
        rows.append(
            [
                f"first full state, {state['files']:,} files ({state['bytes'] / MIB:.0f} MiB)",
                f"{state['seconds']:.2f} s ({state['cpu']:.2f} s of CPU)",
                f"≤ 2 s: {verdict(state['seconds'] <= 2)}",
            ]
        )
    rows += _memory(result)
    changes = result["changes"]
    for kind in ("EndpointSlice", "Ingress"):
        times = changes[kind]
        p99 = percentile(times, 0.99)
        reached = p99 is not None and p99 <= 0.010 and None not in times
        rows.append([f"change of one {kind} → socket, ms ({len(times)} changes)", milliseconds(times), f"p99 ≤ 10: {verdict(reached)}"])
    return rows + _under_load(result["under load"], changes["failed"])


def _memory(result):
    state, empty = result["many files"], result["empty"]
    each = (state["resident"] - empty["resident"]) / (result["ingresses"] / 1000)
    return [
        [
            "memory, resident",
            f"{state['resident'] / MIB:.0f} MiB ({empty['resident'] / MIB:.0f} without the cluster; {state['peak'] / MIB:.0f} at most, while reading)",
            "-",
        ],
        ["memory for each 1,000 Ingresses with Services and endpoints", f"{each / MIB:.1f} MiB", f"≤ 4 MiB: {verdict(each <= 4 * MIB)}"],
    ]


def _under_load(load, failed_before):
    failed = load["errors"] + load["asker failed"] + failed_before
    return [
        [f"under load: change of one EndpointSlice → socket, ms ({len(load['effects'])} changes)", milliseconds(load["effects"]), "-"],
        [
            f"requests failed in {load['changes']:,} changes under load ({load['done']:,} requests, {number(load['rate'], 0)}/s)",
            f"{failed}",
            f"0: {verdict(failed == 0)}",
        ],
        [
            f"WebSockets broken in these changes ({load['websockets']} open, {load['talks']} frames there and back on each)",
            f"{load['broken']}",
            f"0: {verdict(load['broken'] == 0)}",
        ],
        [
            "p99 of requests, saturated, without and with changes, ms",
            f"{figure(load['calm']['p99_ms'])} and {figure(load['p99_ms'])} ({number(load['calm']['rate'], 0)} and {number(load['rate'], 0)} requests/s)",
            "unmoved",
        ],
    ]


def _nginx(nginx):
    return [
        [f"change → socket, ms ({len(nginx['effects'])} reloads, no load)", milliseconds(nginx["effects"])],
        [f"change → socket, ms ({len(nginx['effects under load'])} reloads, under load)", milliseconds(nginx["effects under load"])],
        [f"requests failed in these reloads under load ({nginx['done']:,} requests)", f"{nginx['errors'] + nginx['asker failed']}"],
        ["memory, resident, before and at most (all processes)", f"{nginx['resident'] / MIB:.0f} and {nginx['peak'] / MIB:.0f} MiB"],
    ]
