#!/usr/bin/env python3
"""A load generator with a fixed rate: requests begin when a schedule says, whether or not earlier ones are answered.

Latency counts from the scheduled moment, so that a pause of the proxy is charged with all requests that it delayed.
Arrivals follow a Poisson process with a fixed seed: every contestant gets the same ones. HTTP/1.1, small responses.
It is run as a program of its own, on the load core, and prints one line of JSON.
"""

import gc
import json
import random
import select
import socket
import sys
import time
from collections import deque

GRACE = 2.0  # seconds after the last scheduled request, for those that are late


def main():
    port, host, rate, seconds, connections = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
    print(json.dumps(run(port, host, rate, seconds, connections)))


def schedule(rate, seconds):
    """Moments in seconds from the start."""
    source, moments, at = random.Random(7), [], 0.0
    while at < seconds:
        moments.append(at)
        at += source.expovariate(rate)
    return moments


def run(port, host, rate, seconds, connections):
    """One measurement: requests, failures, and latencies in ms."""
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    sockets, poll = {}, select.epoll()
    for _ in range(connections):
        one = socket.create_connection(("127.0.0.1", port), timeout=5)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.sendall(request)
        if not complete(one.recv(65536)):
            raise SystemExit("the first answer is not a whole 200 with its length")
        one.setblocking(False)
        sockets[one.fileno()] = one
        poll.register(one.fileno(), select.EPOLLIN)
    moments = schedule(rate, seconds)
    gc.disable()
    latencies, lags = drive(sockets, poll, request, moments, seconds)
    latencies.sort()
    lags.sort()

    def share(values, part):
        return values[min(len(values) - 1, int(len(values) * part))] * 1000 if values else None

    return {
        "asked": len(moments),
        "done": len(latencies),
        "failed": len(moments) - len(latencies),
        "p50_ms": share(latencies, 0.50),
        "p99_ms": share(latencies, 0.99),
        "p999_ms": share(latencies, 0.999),
        "lag_p99_ms": share(lags, 0.99),
    }


def complete(received):
    """Whether this is a whole answer 200."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator or not head.startswith(b"HTTP/1.1 200"):
        return False
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
    return length == len(body)


def drive(sockets, poll, request, moments, seconds):
    """Sends and receives; (latencies of whole answers, how late requests were begun)."""
    free, started = deque(sockets), {}
    latencies, lags, at, count = [], [], 0, len(moments)
    clock, begun = time.perf_counter, time.perf_counter()
    while (at < count or started) and sockets:
        now = clock() - begun
        if now > seconds + GRACE:
            break
        while at < count and moments[at] <= now and free:
            descriptor = free.popleft()
            started[descriptor] = moments[at]
            lags.append(now - moments[at])
            at += 1
            sockets[descriptor].send(request)
        events = poll.poll(0)
        if not events:
            pause = moments[at] - (clock() - begun) if at < count and free else 0.01
            if pause > 0:
                # epoll counts in milliseconds, select in microseconds.
                select.select([poll], [], [], pause)
            continue
        for descriptor, _ in events:
            try:
                received = sockets[descriptor].recv(65536)
            except OSError:
                received = b""
            since = started.pop(descriptor, None)
            if since is not None and complete(received):
                latencies.append(clock() - begun - since)
                free.append(descriptor)
            else:
                poll.unregister(descriptor)
                sockets.pop(descriptor).close()
    return latencies, lags


if __name__ == "__main__":
    main()
