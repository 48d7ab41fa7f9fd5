"""A websocket client of Kubernetes streams: messages of channels, plain or in base64."""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import websocket
from websocket import ABNF

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from support.ways import Way

_DEADLINE = 60.0


class RefusedError(Exception):
    """There was no switch to a websocket: `code` and `body` say why."""

    def __init__(self, code: int, body: bytes) -> None:
        super().__init__(f"{code}: {body.decode(errors='replace')}")
        self.code = code
        self.body = body


@dataclass(slots=True)
class Heard:
    """What a server has sent: all of each channel, and how it closed."""

    channels: dict[int, bytes] = field(default_factory=dict)
    opcodes: set[int] = field(default_factory=set)
    pongs: list[bytes] = field(default_factory=list)
    closed: bytes | None = None
    """The close frame's content; None if the connection ended without one."""


class Stream:
    """A connection; a context manager that closes it."""

    def __init__(
        self,
        way: Way,
        path: str,
        protocols: Sequence[str] = (),
        origin: str = "",
        *,
        token: str | None = None,
    ) -> None:
        token = way.token if token is None else token
        credential = [f"Authorization: Bearer {token}"] if token else []
        try:
            self.socket = websocket.create_connection(
                f"{way.url}{path}".replace("https://", "wss://", 1),
                timeout=_DEADLINE,
                subprotocols=[*protocols] or None,
                header=credential,
                sslopt={"ca_certs": str(way.authority), "cert_reqs": ssl.CERT_REQUIRED},
                http_no_proxy=["*"],
                suppress_origin=not origin,
                origin=origin,
            )
        except websocket.WebSocketBadStatusException as error:
            raise RefusedError(error.status_code, error.resp_body or b"") from error
        self.protocol: str = self.socket.subprotocol or ""
        self.heard = Heard()

    def __enter__(self) -> Self:
        """Give the connection."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.socket.close()
        self.drop()

    def drop(self) -> None:
        """End the connection without a word."""
        if self.socket.sock is not None:
            self.socket.sock.close()

    @property
    def _is_base64(self) -> bool:
        return "base64" in self.protocol

    def send(self, channel: int, data: bytes) -> None:
        """Send a message on a channel."""
        if self._is_base64:
            self.socket.send(chr(ord("0") + channel).encode() + base64.b64encode(data), ABNF.OPCODE_TEXT)
        else:
            self.socket.send(bytes([channel]) + data, ABNF.OPCODE_BINARY)

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """Give channel and content of each message, up to the end; what was heard is kept."""
        while True:
            try:
                opcode, data = self.socket.recv_data(control_frame=True)
            except websocket.WebSocketConnectionClosedException:
                return
            if opcode == ABNF.OPCODE_CLOSE:
                self.heard.closed = bytes(data)
                return
            if opcode == ABNF.OPCODE_PONG:
                self.heard.pongs.append(bytes(data))
            if opcode in {ABNF.OPCODE_PING, ABNF.OPCODE_PONG} or not data:
                continue
            channel, content = data[0], bytes(data[1:])
            if self._is_base64:
                channel, content = channel - ord("0"), base64.b64decode(content)
            self.heard.opcodes.add(opcode)
            self.heard.channels[channel] = self.heard.channels.get(channel, b"") + content
            yield channel, content

    def to_the_end(self) -> Heard:
        """Take in all that comes."""
        for _ in self.messages():
            pass
        return self.heard

    def until(self, channel: int, wanted: bytes) -> bytes:
        """Take in what comes until a channel has brought what is wanted, and give all of that channel."""
        messages = self.messages()
        while wanted not in self.heard.channels.get(channel, b""):
            assert next(messages, None), f"{wanted!r} did not come: {self.heard}"
        return self.heard.channels[channel]
