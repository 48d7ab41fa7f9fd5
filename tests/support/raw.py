"""Speaks to the proxy byte for byte, over a TLS socket of its own."""

from __future__ import annotations

import json
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from support.proxies import Proxy

_DEADLINE = 60.0
_NO_BODY = frozenset({204, 304})


class CutError(Exception):
    """The connection ended where more had to come; `got` is what there was."""

    def __init__(self, got: bytes) -> None:
        super().__init__(f"the connection was cut after {len(got)} bytes: {got[-200:]!r}")
        self.got = got


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, interim ones (1xx but 101) included."""

    code: int
    version: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """The values of a header, by its lower-case name, joined by commas; empty if it is not there."""
        return ", ".join(value for known, value in self.headers if known == name)

    @property
    def audit_id(self) -> str:
        """The call's Audit-Id."""
        return self.header("audit-id")

    @property
    def closes(self) -> bool:
        """Whether it says that the connection ends with it."""
        return self.header("connection").lower() == "close"

    def json(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)

    def message(self) -> str:
        """The message of the failure: that of a Status whose code is the answer's, or plain text of a 403."""
        if self.header("content-type").startswith("text/plain"):
            assert self.code == 403
            return self.body.decode()
        status = self.json()
        assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure")
        assert status["code"] == self.code
        text: str = status["message"]
        return text


class Raw:
    """A connection to the proxy; a context manager that closes it."""

    def __init__(self, proxy: Proxy, *, receive_buffer: int = 0, version: ssl.TLSVersion | None = None) -> None:
        address = urlsplit(proxy.url)
        self.host = address.netloc
        context = ssl.create_default_context(cafile=str(proxy.authority))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # which Python sets up to 3.11.2
        plain = socket.socket()
        if receive_buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is sent is to be a packet of its own
        plain.settimeout(_DEADLINE)
        # Before it is connected: what is reset at once would be left open by `wrap_socket`.
        self.socket = context.wrap_socket(plain, server_hostname=address.hostname, suppress_ragged_eofs=False)
        try:
            self.socket.connect((address.hostname, address.port))
        except BaseException:
            self.socket.close()
            raise
        self.token = proxy.token
        self.was_closed_in_order = False
        self._held = b""

    def __enter__(self) -> Self:
        """Give the connection."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.socket.close()

    def head(self, line: str, *headers: str, token: str | None = None) -> bytes:
        """A head with Host and Authorization; `line` is method and target."""
        credential = f"Authorization: Bearer {self.token if token is None else token}"
        return "\r\n".join([f"{line} HTTP/1.1", f"Host: {self.host}", credential, *headers, "", ""]).encode("latin-1")

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def ask(self, line: str, *headers: str, body: bytes = b"") -> Answer:
        """Send a request and give its answer."""
        length = (f"Content-Length: {len(body)}",) if body else ()
        self.send(self.head(line, *headers, *length) + body)
        return self.answer(line.partition(" ")[0])

    def answer(self, method: str = "GET") -> Answer:
        """Read one answer to a request of that method. Raises CutError."""
        code, version, headers = self.answer_head()
        return Answer(code, version, headers, self._body(method, code, dict(headers)))

    def answer_head(self) -> tuple[int, str, tuple[tuple[str, str], ...]]:
        """Read the head of an answer: its code, version and headers. Raises CutError."""
        head = self.until(b"\r\n\r\n").decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        version, code, _ = f"{first} ".split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        return int(code), version, tuple((name.lower(), value.strip()) for name, _, value in pairs)

    def _body(self, method: str, code: int, headers: dict[str, str]) -> bytes:
        if method == "HEAD" or code < 200 or code in _NO_BODY:
            return b""
        if headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers
            return b"".join(iter(self.chunk, b""))
        if "content-length" in headers:
            return self.exactly(int(headers["content-length"]))
        return self.rest()

    def chunk(self) -> bytes:
        """Read a chunk; empty at the end, after which no trailer may come. Raises CutError."""
        size = int(self.until(b"\r\n"), 16)
        data = self.exactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    def until(self, end: bytes) -> bytes:
        """Read up to `end`, which is given too. Raises CutError."""
        looked = 0
        while (at := self._held.find(end, looked)) < 0:
            looked = max(0, len(self._held) - len(end))
            self._more()
        return self._take(at + len(end))

    def exactly(self, size: int) -> bytes:
        """Read that many bytes. Raises CutError."""
        parts = [self._take(size)]
        missing = size - len(parts[0])
        while missing:
            self._more()
            parts.append(self._take(missing))
            missing -= len(parts[-1])
        return b"".join(parts)

    def rest(self) -> bytes:
        """Read to the end of the connection, which has to be one that was meant. Raises CutError."""
        parts = [self._take(len(self._held))]
        while data := self._receive():
            parts.append(data)
        return b"".join(parts)

    def ended(self) -> bool:
        """Wait for the end of the connection, meant or not; true if nothing came before it."""
        try:
            return self.rest() == b""
        except CutError as cut:
            return cut.got == b""

    def _more(self) -> None:
        data = self._receive()
        if not data:
            raise CutError(self._held)
        self._held += data

    def _receive(self) -> bytes:
        try:
            data = self.socket.recv(1 << 20)
        except (ssl.SSLError, ConnectionError) as error:
            raise CutError(self._held) from error
        self.was_closed_in_order = self.was_closed_in_order or not data
        return data

    def _take(self, size: int) -> bytes:
        taken, self._held = self._held[:size], self._held[size:]
        return taken
