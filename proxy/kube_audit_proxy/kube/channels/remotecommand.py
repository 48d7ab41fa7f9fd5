"""Observes exec and attach: how the command ended, as the server tells it on the error channel."""

import binascii
from dataclasses import dataclass

from kube_audit_proxy.kube.channels.base import StreamObserver
from kube_audit_proxy.kube.channels.exitstatus import ErrorChannel, ExitStatus
from kube_audit_proxy.kube.channels.payload import Payload
from kube_audit_proxy.kube.channels.spdy import SpdyReader, StreamData, StreamEnded, StreamOpened
from kube_audit_proxy.kube.channels.websocket import Opcode, WebSocketReader

_ERROR_CHANNEL = 3
_LONGEST_BASE64 = 96 << 10
"""Characters of a base64 message on the error channel that are kept."""


@dataclass(frozen=True)
class Subprotocol:
    """How a subprotocol carries channels: whether in base64, and whether the error channel speaks JSON."""

    is_base64: bool
    is_json: bool


WEBSOCKET_SUBPROTOCOLS = {
    "v5.channel.k8s.io": Subprotocol(is_base64=False, is_json=True),
    "v4.channel.k8s.io": Subprotocol(is_base64=False, is_json=True),
    "v4.base64.channel.k8s.io": Subprotocol(is_base64=True, is_json=True),
    "base64.channel.k8s.io": Subprotocol(is_base64=True, is_json=False),
    "channel.k8s.io": Subprotocol(is_base64=False, is_json=False),
    "": Subprotocol(is_base64=False, is_json=False),
}
"""By name, what the kubelet and the API server speak (kubelet, pkg/cri/streaming/remotecommand/websocket.go)."""

SPDY_JSON_VERSIONS = frozenset({"v5.channel.k8s.io", "v4.channel.k8s.io"})
"""Values of X-Stream-Protocol-Version with which the error stream speaks JSON."""


class RemoteCommandObserver(StreamObserver):
    """What observers of exec and attach have in common, whatever carries the channels.

    `is_exec` is false for attach, where success says nothing about the command's exit code.
    """

    def __init__(self, *, is_json: bool, is_exec: bool) -> None:
        self._errors = ErrorChannel(is_json=is_json)
        self._is_exec = is_exec
        self._done = False

    def _status(self) -> ExitStatus:
        return self._errors.status()

    @property
    def ended(self) -> bool:
        """Whether the error channel has told all it can, or the server has closed."""
        return self._done or self._errors.complete

    @property
    def exit_code(self) -> int | None:
        """The exit code of the command, if the server told it."""
        return self._status().exit_code if self._is_exec else None

    @property
    def reason(self) -> str:
        """The reason of a failure, such as `NonZeroExitCode` or `InternalError`."""
        return self._status().reason

    @property
    def message(self) -> str:
        """The message of a failure."""
        return self._status().message


class WebSocketCommandObserver(RemoteCommandObserver):
    """Observes exec or attach over a websocket, of which only the server's side matters.

    Each message is of one channel, which its first byte names (apimachinery, pkg/util/httpstream/wsstream): a number,
    or with base64 a digit. Of all channels but the error channel only that byte is read.
    """

    def __init__(self, subprotocol: Subprotocol, *, is_exec: bool) -> None:
        super().__init__(is_json=subprotocol.is_json, is_exec=is_exec)
        self._reader = WebSocketReader()
        self._is_base64 = subprotocol.is_base64
        self._channel: int | None = None
        self._base64 = bytearray()

    @property
    def wants_server(self) -> bool:
        """Whether the end of the command is still to be told."""
        return not self._done and not self.fault

    @property
    def fault(self) -> str:
        """What is wrong with the server's bytes, or the empty string."""
        return self._reader.fault

    def server_data(self, data: bytes) -> None:
        """Take bytes that the server sent after its 101."""
        if not self.wants_server:
            return
        for piece in self._reader.receive(data):
            if piece.opcode is Opcode.CLOSE:
                self._done = True  # a server that closes has said all it will
                return
            if piece.opcode > Opcode.CLOSE:
                continue
            if piece.starts:
                self._channel = None
            start = 0
            if self._channel is None and len(piece.payload):
                first = piece.payload.read(0, 1)[0]
                self._channel = first - ord("0") if self._is_base64 else first
                start = 1
            if self._channel == _ERROR_CHANNEL:
                self._done = self._add(piece.payload.read(start, len(piece.payload)), ends=piece.ends)
                if self._done:
                    return  # what comes after the end is nobody's to judge, in this read as in the next

    def _add(self, data: bytes, *, ends: bool) -> bool:
        """Add to the error channel; tell whether it has told all it can."""
        if self._is_base64:
            self._base64 += data[: _LONGEST_BASE64 - len(self._base64)]
            if not ends:
                return False
            data = _decoded(bytes(self._base64))
            self._base64.clear()
        self._errors.add(data)
        return ends and self._errors.complete


class SpdyCommandObserver(RemoteCommandObserver):
    """Observes exec or attach over SPDY/3.1 (client-go, tools/remotecommand/v2.go and later).

    The client opens a stream per channel and says which in the header `streamtype`. From then on only the server's
    bytes on the stream `error` matter.
    """

    def __init__(self, *, is_json: bool, is_exec: bool) -> None:
        super().__init__(is_json=is_json, is_exec=is_exec)
        self._client = SpdyReader()
        self._server = SpdyReader()
        self._error_stream: int | None = None

    @property
    def wants_client(self) -> bool:
        """Whether the error stream is still to be opened."""
        return self._error_stream is None and not self.fault

    @property
    def wants_server(self) -> bool:
        """Whether the end of the command is still to be told."""
        return not self._done and not self.fault

    @property
    def fault(self) -> str:
        """What is wrong with the bytes of either side, or the empty string."""
        return self._client.fault or self._server.fault

    def client_data(self, data: bytes) -> None:
        """Take bytes that the client sent after its request, before the server can have answered them."""
        if not self.wants_client:
            return
        for event in self._client.receive(Payload(memoryview(data))):
            if isinstance(event, StreamOpened) and event.headers.get("streamtype") == "error":
                self._error_stream = event.stream_id
                self._server.follow(event.stream_id)
                return

    def server_data(self, data: bytes) -> None:
        """Take bytes that the server sent after its 101."""
        if not self.wants_server:
            return
        for event in self._server.receive(Payload(memoryview(data))):
            if isinstance(event, StreamData):
                self._errors.add(event.data)
            elif isinstance(event, StreamEnded):
                self._done = True
                return


def _decoded(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text)
    except binascii.Error:
        return b""
