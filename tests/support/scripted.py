"""A small real server in the place of an API server: it reads a request's head, then does what its script says."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_DEADLINE = 60.0
_START_CHECK = "kube-audit-proxy"
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """The head of a request that has arrived, as it stood on the wire."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str:
        """The first value of a header, by its lower-case name; empty if it is not there."""
        return next((value for known, value in self.headers if known == name), "")


class Connection:
    """One accepted connection."""

    def __init__(self, accepted: socket.socket, number: int) -> None:
        self._socket = accepted
        self._held = b""
        self.number = number
        """Which connection of its server it is, from 1."""
        self.requests = 0
        """How many requests have come over it."""

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._socket.sendall(data)

    def answer(self, body: bytes = b"{}", *headers: str, code: int = 200) -> bool:
        """Send a whole answer and keep the connection."""
        lines = [f"HTTP/1.1 {code} Scripted", f"Content-Length: {len(body)}", *headers]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)
        return True

    def send_until_stalled(self, data: bytes, stalled: threading.Event) -> None:
        """Send bytes; set `stalled` once the other side has taken none for a while, then go on."""
        view = memoryview(data)
        self._socket.settimeout(1.0)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except TimeoutError:
                if not stalled.is_set():
                    stalled.set()
                    self._socket.settimeout(_DEADLINE)

    def head(self) -> Asked | None:
        """Read the head of a request; None if the connection ends before it."""
        head = self.until(b"\r\n\r\n")
        if not head:
            return None
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        pairs = (line.partition(": ") for line in lines)
        self.requests += 1
        return Asked(method, path, tuple((name.lower(), value) for name, _, value in pairs))

    def until(self, end: bytes) -> bytes:
        """Read up to `end`, which is given too; empty if the connection ends before it."""
        while end not in self._held:
            data = self._socket.recv(1 << 16)
            if not data:
                return b""
            self._held += data
        taken, _, self._held = self._held.partition(end)
        return taken + end

    def exactly(self, size: int) -> bytes:
        """Read that many bytes, fewer if the connection ends before."""
        parts, self._held = [self._held[:size]], self._held[size:]
        missing = size - len(parts[0])
        while missing and (data := self._socket.recv(min(missing, 1 << 20))):
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def count_rest(self) -> int:
        """Read until the other side has ended the connection, in whatever way, and give how many bytes came."""
        count, self._held = len(self._held), b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := self._socket.recv(1 << 20):
                count += len(data)
        return count

    def finish_sending(self) -> None:
        """Send no more, but go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def send_beneath(self, data: bytes) -> None:
        """Send bytes past TLS, as they are."""
        os.write(self._socket.fileno(), data)

    def reset(self) -> None:
        """End the connection with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


if TYPE_CHECKING:
    Script = Callable[[Connection, Asked], bool | None]


class Scripted:
    """The server: plain, or with TLS by a given context, at an address of ours. A context manager that stops it.

    A script is found by the path of a request. It returns true to have the connection kept for a next request. What
    the proxy asks at its start is answered 404.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._tls = tls
        self._host = host
        self._scripts: dict[str, Script] = {}
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((host, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0

    @property
    def url(self) -> str:
        """What a kubeconfig says of it."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    def on(self, path: str, script: Script) -> None:
        """From now on do this for requests of that path."""
        self._scripts[path] = script

    def __enter__(self) -> Self:
        """Begin to accept."""
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        """End every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in tuple(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_DEADLINE)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._serve(accepted, self.connections)

    def _serve(self, accepted: socket.socket, number: int) -> None:
        accepted.settimeout(_DEADLINE)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._start(lambda: self._run(accepted, number))

    def _run(self, accepted: socket.socket, number: int) -> None:
        used = accepted
        self._open.add(accepted)
        try:
            if self._tls is not None:
                used = self._tls.wrap_socket(accepted, server_side=True)
                self._open.add(used)
            connection = Connection(used, number)
            while (asked := connection.head()) is not None:
                if asked.header("user-agent") == _START_CHECK:
                    connection.send(_NOT_FOUND)
                    break
                if not self._scripts[asked.path.partition("?")[0]](connection, asked):
                    break
        except OSError:
            pass  # the proxy ends connections as it likes; what it did to them is for the tests to say
        finally:
            self._open -= {accepted, used}
            used.close()
            accepted.close()
