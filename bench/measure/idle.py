"""Memory of kept connections on which nothing happens."""

import socket
import ssl
import time

from . import machine

COUNT = 4000
SETTLE = 3.0  # seconds in which a proxy may give buffers back


def bytes_per_connection(process, port, host, secure, count=COUNT):
    """Resident bytes that a proxy keeps for each connection that was used once; None where it did not keep them all."""
    before = machine.memory(process.pids()).now
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    kept = []
    try:
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", port), timeout=10)
            if secure:
                one = context.wrap_socket(one, server_hostname=host)
            kept.append(one)
            one.sendall(request)
            if not one.recv(4096).startswith(b"HTTP/1.1 200"):
                return None
        time.sleep(SETTLE)
        if not all(_is_open(one) for one in kept):
            return None
        return (machine.memory(process.pids()).now - before) / count
    except OSError:
        return None
    finally:
        for one in kept:
            one.close()


def _is_open(connection):
    """The rest of the answer may still wait to be read; the end may not."""
    raw = socket.socket(fileno=connection.fileno())
    try:
        return raw.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    finally:
        raw.detach()
