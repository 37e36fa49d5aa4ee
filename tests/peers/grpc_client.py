#!/usr/bin/env python3
"""Drives the gRPC echo service with grpcio, an implementation that is not ours.

It is not a load generator. It needs only `pip install grpcio`: the messages of
echo/proto/echo.proto are encoded by hand below, so there is nothing to generate.

    grpc_client.py 127.0.0.1:8080 --authority grpc.example --bidi 20
    grpc_client.py 127.0.0.1:8443 --authority grpc.example --tls-insecure-ca ca.pem

Prints one line of JSON per check and exits 0 where all passed, 1 where one failed,
2 on wrong usage.
"""

import argparse
import json
import sys

import grpc

SERVICE = "/sluicegate.echo.v1.Echo/"


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode(request):
    """EchoRequest: message = 1, repeat = 2, fail_with = 3, delay_ms = 4."""
    text = request.get("message", "").encode()
    out = b"\x0a" + varint(len(text)) + text if text else b""
    for tag, name in ((2, "repeat"), (3, "fail_with"), (4, "delay_ms")):
        if request.get(name):
            out += bytes([tag << 3]) + varint(request[name])
    return out


def fields(data):
    """The (number, value) pairs of one message; values are ints or bytes."""
    at = 0

    def read_varint():
        nonlocal at
        number = shift = 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(data):
        key = read_varint()
        if key & 7 == 0:
            yield key >> 3, read_varint()
        elif key & 7 == 2:
            length = read_varint()
            if at + length > len(data):
                raise ValueError("a field runs past the end of its message")
            yield key >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {key & 7} does not occur in echo.proto")


def decode(data):
    """EchoReply: message = 1, service = 2, pod = 3, map metadata = 4."""
    reply = {"message": "", "service": "", "pod": "", "metadata": {}}
    for number, value in fields(data):
        if number == 4:
            entry = dict(fields(value))
            reply["metadata"][entry.get(1, b"").decode()] = entry.get(2, b"").decode()
        else:
            reply[("", "message", "service", "pod")[number]] = value.decode()
    return reply


def connect(arguments):
    options = [("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)]
    if arguments.authority:
        options.append(("grpc.default_authority", arguments.authority))
    if not arguments.tls_insecure_ca:
        return grpc.insecure_channel(arguments.target, options=options)
    with open(arguments.tls_insecure_ca, "rb") as file:
        credentials = grpc.ssl_channel_credentials(root_certificates=file.read())
    if arguments.authority:
        # The certificate is checked against the authority, whatever address was dialled.
        host = arguments.authority.rsplit(":", 1)[0]
        options.append(("grpc.ssl_target_name_override", host))
    return grpc.secure_channel(arguments.target, credentials, options=options)


class Checks:
    def __init__(self, channel, arguments):
        self.deadline = arguments.timeout
        self.bidi_count = arguments.bidi
        self.service = arguments.service
        self.authority = arguments.authority
        codec = {"request_serializer": encode, "response_deserializer": decode}
        self.unary_call = channel.unary_unary(SERVICE + "Unary", **codec)
        self.client_call = channel.stream_unary(SERVICE + "ClientStream", **codec)
        self.server_call = channel.unary_stream(SERVICE + "ServerStream", **codec)
        self.bidi_call = channel.stream_stream(SERVICE + "Bidi", **codec)
        self.unknown_call = channel.unary_unary(SERVICE + "Sing", **codec)
        self.health_call = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=lambda name: b"\x0a" + varint(len(name)) + name.encode(),
            response_deserializer=lambda data: dict(fields(data)).get(1, 0),
        )

    def unary(self):
        metadata = (("x-peer", "grpcio"), ("x-peer-bin", b"\x00\xff"))
        reply, call = self.unary_call.with_call(
            {"message": "hällo", "repeat": 2}, timeout=self.deadline, metadata=metadata
        )
        equal(reply["message"], "hällohällo")
        equal(reply["metadata"].get("x-peer"), "grpcio")
        equal(reply["metadata"].get("x-peer-bin", "").rstrip("="), "AP8")
        if self.service:
            equal(reply["service"], self.service)
        equal(call.code(), grpc.StatusCode.OK)
        return {"service": reply["service"], "pod": reply["pod"]}

    def large(self):
        text = "x" * 1_000_000
        equal(self.unary_call({"message": text}, timeout=self.deadline)["message"], text)

    def failures(self):
        for code in grpc.StatusCode:
            number = code.value[0]
            if number == 0:
                continue
            try:
                self.unary_call({"message": "ü %", "fail_with": number}, timeout=self.deadline)
            except grpc.RpcError as error:
                equal(error.code(), code)
                equal(error.details(), "asked to fail: ü %")
            else:
                raise AssertionError(f"fail_with={number} did not fail")

    def unimplemented(self):
        try:
            self.unknown_call({"message": "la"}, timeout=self.deadline)
        except grpc.RpcError as error:
            equal(error.code(), grpc.StatusCode.UNIMPLEMENTED)
        else:
            raise AssertionError("a method that does not exist answered")

    def deadline_exceeded(self):
        try:
            self.unary_call({"message": "late", "delay_ms": 5_000}, timeout=0.3)
        except grpc.RpcError as error:
            equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        else:
            raise AssertionError("the deadline passed unnoticed")

    def client_stream(self):
        requests = ({"message": str(number)} for number in range(50))
        reply = self.client_call(requests, timeout=self.deadline)
        equal(reply["message"], ",".join(str(number) for number in range(50)))

    def server_stream(self):
        replies = self.server_call({"message": "tick", "repeat": 500}, timeout=self.deadline)
        equal([reply["message"] for reply in replies], ["tick"] * 500)
        replies = self.server_call(
            {"message": "tock", "repeat": 3, "fail_with": 14}, timeout=self.deadline
        )
        seen = 0
        try:
            for _ in replies:
                seen += 1
        except grpc.RpcError as error:
            equal(error.code(), grpc.StatusCode.UNAVAILABLE)
        else:
            raise AssertionError("the failure after three replies is missing")
        equal(seen, 3)

    def bidi(self):
        """Each request waits for the reply to the one before: buffering anywhere would hang."""
        from queue import Queue

        feed = Queue()
        replies = self.bidi_call(iter(feed.get, None), timeout=self.deadline)
        for number in range(self.bidi_count):
            feed.put({"message": f"turn {number}"})
            equal(next(replies)["message"], f"turn {number}")
        feed.put(None)
        equal(list(replies), [])
        return {"turns": self.bidi_count}

    def health(self):
        equal(self.health_call("sluicegate.echo.v1.Echo", timeout=self.deadline), 1)


def equal(found, expected):
    if found != expected:
        raise AssertionError(f"expected {expected!r:.200}, found {found!r:.200}")


def parse():
    parser = argparse.ArgumentParser(description="gRPC checks with grpcio; exits 0 or 1.")
    parser.add_argument("target", help="host:port to connect to")
    parser.add_argument("--authority", help=":authority of the calls (and the TLS name)")
    parser.add_argument(
        "--tls-insecure-ca",
        metavar="FILE",
        help="speak TLS and trust these PEM certificates, a self-signed one included",
    )
    parser.add_argument("--bidi", type=int, default=10, metavar="N", help="turns of the bidi call")
    parser.add_argument("--service", help="the Service name that must answer")
    parser.add_argument("--only", action="append", help="run this check alone (repeatable)")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds that a call may take")
    return parser.parse_args()


NAMES = (
    "unary",
    "large",
    "failures",
    "unimplemented",
    "deadline_exceeded",
    "client_stream",
    "server_stream",
    "bidi",
    "health",
)


def main():
    arguments = parse()
    unknown = set(arguments.only or ()) - set(NAMES)
    if unknown:
        print(f"--only: no such check: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    failed = 0
    with connect(arguments) as channel:
        checks = Checks(channel, arguments)
        for name in arguments.only or NAMES:
            line = {"check": name, "ok": True}
            try:
                line.update(getattr(checks, name)() or {})
            except grpc.RpcError as error:
                line.update(ok=False, error=f"{error.code()}: {error.details()}")
            except (AssertionError, ValueError, StopIteration) as error:
                line.update(ok=False, error=repr(error))
            failed += not line["ok"]
            print(json.dumps(line, ensure_ascii=False), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
