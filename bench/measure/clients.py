"""Clients that watch a change become true: one that asks again and again, and upgraded connections that must live on."""

import base64
import hashlib
import os
import selectors
import socket
import threading
import time

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Asker:
    """Asks on a kept connection until the answer is another one. A connection that the server closed is opened again."""

    def __init__(self, port, host):
        self.port = port
        self.request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self.connection = None
        self.failures = 0

    def ask(self):
        """The body of the answer, or None where there was none, or one that is not 200."""
        fresh = self.connection is None
        try:
            if fresh:
                self.connection = socket.create_connection(("127.0.0.1", self.port), timeout=5)
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connection.sendall(self.request)
            return self._answer()
        except OSError:
            self.close()
        self.failures += 1
        return None

    def _answer(self):
        received = b""
        while b"\r\n\r\n" not in received:
            part = self.connection.recv(4096)
            if not part:
                raise ConnectionResetError("closed in place of an answer")
            received += part
        head, body = received.split(b"\r\n\r\n", 1)
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        while len(body) < length:
            part = self.connection.recv(4096)
            if not part:
                raise ConnectionResetError("closed within an answer")
            body += part
        if b"connection: close" in lines:
            self.close()
        if lines[0].split(b" ")[1] != b"200":
            self.failures += 1
            return None
        return body.decode()

    def until(self, wanted, since, within):
        """Seconds from `since` to the end of the first answer that is the wanted one; None if there is none in time."""
        while time.perf_counter() - since < within:
            if self.ask() == wanted:
                return time.perf_counter() - since
        return None

    def close(self):
        """Lets the connection go."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class UpgradeBackend(threading.Thread):
    """Takes WebSocket handshakes and sends back whatever follows."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]

    def run(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ, None)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self.listener:
                        connection, _ = self.listener.accept()
                        selector.register(connection, selectors.EVENT_READ, bytearray())
                    elif not self._serve(key.fileobj, key.data):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()

    @staticmethod
    def _serve(connection, head):
        """False once it is over. `head` gathers the request, and says `up` ever after."""
        try:
            received = connection.recv(4096)
            if not received:
                return False
            if head == b"up":
                connection.sendall(received)
                return True
            head += received
            if b"\r\n\r\n" in head:
                key = next(line[18:].strip() for line in bytes(head).split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
                accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
                connection.sendall(
                    f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
                )
                head[:] = b"up"
            return True
        except (OSError, StopIteration):
            return False


class Upgraded:
    """WebSocket connections through the gateway that say something now and then and want it back."""

    def __init__(self, port, host, count):
        self.open = [self._upgrade(port, host) for _ in range(count)]
        self.count = count
        self.rounds = 0
        self.broken = 0

    @staticmethod
    def _upgrade(port, host):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        key = base64.b64encode(os.urandom(16)).decode()
        connection.sendall(
            f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            part = connection.recv(4096)
            if not part:
                raise RuntimeError("a WebSocket was refused: the connection was closed")
            head += part
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError(f"a WebSocket was refused: {head.splitlines()[0].decode()}")
        return connection

    def talk(self):
        """One small frame there and back on each; those that fail are broken for good."""
        self.rounds += 1
        # A masked text frame of four bytes, mask of zeros (RFC 6455 section 5.2).
        frame = b"\x81\x84\x00\x00\x00\x00" + f"{self.rounds % 10000:04}".encode()
        alive = []
        for connection in self.open:
            try:
                connection.sendall(frame)
                back = b""
                while len(back) < len(frame):
                    part = connection.recv(len(frame) - len(back))
                    if not part:
                        raise ConnectionResetError
                    back += part
                if back != frame:
                    raise ConnectionResetError
                alive.append(connection)
            except OSError:
                self.broken += 1
                connection.close()
        self.open = alive

    def close(self):
        """Ends them."""
        for connection in self.open:
            connection.close()
