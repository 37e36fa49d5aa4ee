#!/usr/bin/env python3
"""Runs the Autobahn WebSocket cases through a proxy and directly, and compares.

It needs `pip install kosoku`: a fuzzing client that drives the case files of the
Autobahn TestSuite (which itself runs on Python 2 only). kosoku judges each case;
this script decides what the judgements mean for a proxy, which shall add nothing and
lose nothing: every case must pass, and must be judged as it is without the proxy.

    ws_suite.py ws://127.0.0.1:8080/ws --direct ws://127.0.0.1:9400/ws
    ws_suite.py ws://127.0.0.1:9400/ws                  # one endpoint alone
    ws_suite.py ws://… --direct ws://… --cases '1.*' --cases 6.4.1

The URL's host is also the Host header, so name a virtual host of the gateway that
resolves to loopback, or give the echo backend a rule without host.

kosoku can only exercise what the echo backend offers: it has no permessage-deflate, so
the compression cases (12.*, 13.*) end as UNIMPLEMENTED and are left out unless asked for.

Prints one JSON object, and exits 0 where all agree, 1 where one does not, 2 on wrong
usage, 3 where the suite could not run.
"""

import argparse
import asyncio
import json
import os
import sys

# permessage-deflate (12, 13) is not offered by the echo backend.
LEFT_OUT = ["12.*", "13.*"]
# How a case may end without anyone having done wrong.
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}


async def judge(url, arguments):
    """Runs the cases against `url`; case id -> what came of it."""
    from kosoku import FailureError, run_fuzzingclient

    left_out = (arguments.exclude or []) + ([] if arguments.cases else LEFT_OUT)
    run = run_fuzzingclient(url, arguments.cases, left_out, concurrency=arguments.parallel)
    try:
        results = await asyncio.wait_for(run, arguments.timeout)
    except FailureError as failure:
        results = failure.results
    return {
        result.case_id: {
            "behavior": result.behavior.value,
            "close": result.behavior_close.value,
            "code": result.remote_close_code,
            "why": f"{result.result} / {result.result_close}",
        }
        for result in results
    }


def compare(proxied, direct):
    """The cases on which the two runs do not agree."""
    differences = []
    for case in sorted(set(proxied) | set(direct), key=order):
        left, right = proxied.get(case), direct.get(case)
        if left is None or right is None:
            differences.append({"case": case, "proxied": left, "direct": right})
        elif any(left[key] != right[key] for key in ("behavior", "close", "code")):
            differences.append({"case": case, "proxied": left, "direct": right})
    return differences


def order(case):
    return [int(part) for part in case.split(".")]


def failures(results):
    return [
        {"case": case, **results[case]}
        for case in sorted(results, key=order)
        if results[case]["behavior"] not in GOOD or results[case]["close"] not in GOOD
    ]


def tally(results):
    counts = {}
    for result in results.values():
        counts[result["behavior"]] = counts.get(result["behavior"], 0) + 1
    return dict(sorted(counts.items()))


async def run(arguments):
    proxied = await judge(arguments.url, arguments)
    report = {
        "url": arguments.url,
        "cases": len(proxied),
        "behavior": tally(proxied),
        "failures": failures(proxied),
    }
    if arguments.direct:
        direct = await judge(arguments.direct, arguments)
        report["direct"] = {
            "url": arguments.direct,
            "cases": len(direct),
            "behavior": tally(direct),
            "failures": failures(direct),
        }
        report["differences"] = compare(proxied, direct)
    report["ok"] = bool(proxied) and not report["failures"] and not report.get("differences")
    return report


def parse():
    parser = argparse.ArgumentParser(description="WebSocket protocol suite, through and directly.")
    parser.add_argument("url", help="ws:// URL of the proxy (or of the only endpoint)")
    parser.add_argument("--direct", metavar="URL", help="ws:// URL of the backend itself")
    parser.add_argument("--cases", action="append", help="case id or glob (repeatable)")
    parser.add_argument("--exclude", action="append", help="case id or glob to leave out too")
    parser.add_argument("--parallel", type=int, default=4, help="cases at a time")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one run")
    arguments = parser.parse_args()
    for url in filter(None, (arguments.url, arguments.direct)):
        if not url.startswith("ws://"):
            parser.error(f"{url}: write a ws:// URL; kosoku is built without TLS")
    return arguments


def main():
    arguments = parse()
    try:
        report = asyncio.run(run(arguments))
    except ImportError as error:
        print(f"ws_suite: {error}; pip install -r requirements.txt", file=sys.stderr)
        return 3
    except (OSError, RuntimeError, asyncio.TimeoutError) as error:
        print(f"ws_suite: the suite did not run: {error!r}", file=sys.stderr)
        return 3
    print(json.dumps(report, indent=2))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    code = main()
    # kosoku is a native extension whose threads now and then abort while the interpreter is
    # torn down, after the verdict: the process ends without that.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
