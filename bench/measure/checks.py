"""That a contestant does the same work as the others, before it is measured."""

import http.client
import socket
import ssl

from . import scenarios


class Wrong(Exception):
    """A contestant does not serve what it is measured on."""


def answers(port, host, path="/", timeout=5):
    """(status, body) of a plain request, or None where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Host": host})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def serves(port, host):
    """True once a host is served."""
    answer = answers(port, host)
    return answer is not None and answer[0] == 200


def tls(port, host, protocol):
    """(TLS version, protocol that was negotiated)."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, context.wrap_socket(plain, server_hostname=host) as secure:
        return secure.version(), secure.selected_alpn_protocol()


def same_work(contestant, hosts):
    """Status, length, routing by host, TLS version and ALPN; raises Wrong."""

    def expect(what, got, wanted):
        if got != wanted:
            raise Wrong(f"{contestant.name}: {what}: {got!r} instead of {wanted!r}")

    for host in (hosts[0], hosts[-1]):
        for path, length in (("/", 128), ("/api/x", 128), ("/static/64k", 64 << 10), ("/static/1m", 1 << 20)):
            answer = answers(contestant.http, host, path)
            expect(f"{host}{path}", answer and (answer[0], len(answer[1])), (200, length))
    unknown = answers(contestant.http, "unknown.bench.test")
    expect("a host that is not routed", unknown and unknown[0], 404)
    expect("TLS with HTTP/1.1", tls(contestant.https, scenarios.HOST, "http/1.1"), ("TLSv1.3", "http/1.1"))
    expect("TLS with HTTP/2", tls(contestant.https, scenarios.HOST, "h2"), ("TLSv1.3", "h2"))
