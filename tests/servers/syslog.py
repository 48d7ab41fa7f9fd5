"""A syslog server over TLS on loopback that keeps what it is sent (RFC 5424, RFC 6587 octet counting)."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from typing import TYPE_CHECKING, NamedTuple, Self

from kube_audit_proxy.tls import ensure_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

_HEADER = re.compile(rb"<(\d+)>1 (\S+) (\S+) (\S+) (\S+) (\S+) - (.*)\n", re.DOTALL)


class Message(NamedTuple):
    """One message without structured data."""

    priority: int
    timestamp: str
    hostname: str
    appname: str
    process: str
    kind: str
    text: bytes


class SyslogServer:
    """A server in a directory; a context manager. It can be stopped and started again on the same port."""

    def __init__(self, directory: Path) -> None:
        certificates = ensure_certificates(directory, ["127.0.0.1"])
        self.authority = certificates.authority
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates.certificate, certificates.key)
        self._received: list[bytes] = []
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self.port = 0

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(self._listener,))
        self._thread.start()

    def stop(self) -> None:
        """Listen no more; connections are refused from now on."""
        if self._listener is None or self._thread is None:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self._listener = None

    def messages(self) -> list[Message]:
        """Return the messages of all connections that have ended, in the order they came."""
        return [message for connection in self._received for message in _parse(connection)]

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # stopped
                return
            with contextlib.suppress(OSError), self._context.wrap_socket(connection, server_side=True) as secure:
                self._received.append(b"".join(iter(lambda: secure.recv(65536), b"")))


def _parse(stream: bytes) -> Iterator[Message]:
    while stream:
        length, _, rest = stream.partition(b" ")
        frame, stream = rest[: int(length)], rest[int(length) :]
        match = _HEADER.fullmatch(frame)
        assert match is not None, frame
        priority, timestamp, hostname, appname, process, kind = (part.decode() for part in match.groups()[:-1])
        yield Message(int(priority), timestamp, hostname, appname, process, kind, match.groups()[-1])
