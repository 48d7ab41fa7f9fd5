"""Observers of streams: exit codes and ports, from frames built by hand, fed whole, bytewise and in random pieces."""

import base64
import json
import zlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_audit_proxy.kube.channels import StreamObserver, observer
from kube_audit_proxy.kube.channels.payload import Payload
from kube_audit_proxy.kube.channels.spdy import SpdyReader, StreamData, StreamEnded, StreamOpened
from kube_audit_proxy.kube.channels.spdy_dictionary import HEADER_DICTIONARY
from kube_audit_proxy.kube.channels.websocket import Opcode, WebSocketReader

CONTINUATION, TEXT, BINARY, CLOSE, PING = 0, 1, 2, 8, 9
MASK = b"\x12\x34\x56\x78"
SUCCESS = b'{"metadata":{},"status":"Success"}'
V4, V5, TUNNEL = "v4.channel.k8s.io", "v5.channel.k8s.io", "SPDY/3.1+portforward.k8s.io"


def exited(code: str, reason: str = "NonZeroExitCode", cause: str = "ExitCode") -> bytes:
    """Return the Status of a command that exited with a code other than zero."""
    status = {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": reason,
        "details": {"causes": [{"reason": "Other", "message": "1"}, {"reason": cause, "message": code}]},
    }
    return json.dumps(status).encode()


def frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes = b"", reserved: int = 0) -> bytes:
    """Build a websocket frame."""
    first, masked = opcode | (0x80 if fin else 0) | reserved, 0x80 if mask else 0
    if len(payload) < 126:
        head = bytes([first, masked | len(payload)])
    elif len(payload) < 1 << 16:
        head = bytes([first, masked | 126]) + len(payload).to_bytes(2, "big")
    else:
        head = bytes([first, masked | 127]) + len(payload).to_bytes(8, "big")
    if mask:
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return head + mask + payload


class SpdyWriter:
    """Builds the frames of one direction of a SPDY connection, as Kubernetes does: with one compression context."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=HEADER_DICTIONARY)

    def headers(self, headers: dict[str, str], missing: int = 0) -> bytes:
        """Compress a header block, in which as many headers as said are missing."""
        block = (len(headers) + missing).to_bytes(4, "big")
        for text in (text for pair in headers.items() for text in pair):
            block += len(text).to_bytes(4, "big") + text.encode()
        return self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def opened(self, stream_id: int, headers: dict[str, str], flags: int = 0) -> bytes:
        """Build a SYN_STREAM."""
        return control(1, stream_id.to_bytes(4, "big") + bytes(6) + self.headers(headers), flags)

    def reply(self, stream_id: int, flags: int = 0) -> bytes:
        """Build a SYN_REPLY."""
        return control(2, stream_id.to_bytes(4, "big") + self.headers({}), flags)


def control(frame_type: int, payload: bytes, flags: int = 0, version: int = 3) -> bytes:
    """Build a SPDY control frame."""
    head = (0x80000000 | version << 16 | frame_type).to_bytes(4, "big")
    return head + bytes([flags]) + len(payload).to_bytes(3, "big") + payload


def data(stream_id: int, payload: bytes, *, fin: bool = False) -> bytes:
    """Build a SPDY data frame."""
    return stream_id.to_bytes(4, "big") + bytes([fin]) + len(payload).to_bytes(3, "big") + payload


PING_FRAME, GOAWAY_FRAME, WINDOW_UPDATE = control(6, b"\0\0\0\1"), control(7, bytes(8)), control(9, bytes(8))


def in_pieces(stream: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Cut a stream into pieces of the given sizes, over and over."""
    position, index = 0, 0
    while position < len(stream):
        size = sizes[index % len(sizes)]
        yield stream[position : position + size]
        position, index = position + size, index + 1


WAYS_TO_CUT = pytest.mark.parametrize("sizes", [[1 << 30], [1], [2, 7, 1], [3], [1000, 1]], ids=str)


def opened(upgrade: str, subprotocol: str, subresource: str, query: str = "") -> StreamObserver:
    """Return an observer that has to exist."""
    found = observer(upgrade, subprotocol, subresource, query)
    assert found is not None
    return found


# The websocket reader.


def messages(reader: WebSocketReader, pieces: Iterator[bytes]) -> list[tuple[Opcode, bytes]]:
    """Put the pieces of messages together again."""
    found: list[tuple[Opcode, bytes]] = []
    collected = {False: b"", True: b""}
    for piece in (piece for part in pieces for piece in reader.receive(part)):
        is_control = piece.opcode >= Opcode.CLOSE
        if piece.starts:
            assert not collected[is_control]
        collected[is_control] += piece.payload.read(0, len(piece.payload))
        if piece.ends:
            found.append((piece.opcode, collected[is_control]))
            collected[is_control] = b""
    return found


@WAYS_TO_CUT
@pytest.mark.parametrize("mask", [b"", MASK], ids=["plain", "masked"])
def test_websocket_messages(sizes: list[int], mask: bytes) -> None:
    """Frames of all lengths, fragments and control frames between them are put together, however they are cut."""
    stream = b"".join(
        [
            frame(BINARY, b"", mask=mask),
            frame(TEXT, b"a", mask=mask),
            frame(BINARY, b"b" * 125, mask=mask),
            frame(BINARY, b"c" * 126, mask=mask),
            frame(BINARY, bytes(range(256)) * 256, mask=mask),
            frame(BINARY, b"de", fin=False, mask=mask),
            frame(PING, b"p" * 125, mask=mask),
            frame(CLOSE, b"c", mask=mask),
            frame(CONTINUATION, b"", fin=False, mask=mask),
            frame(CONTINUATION, b"fgh", mask=mask),
            frame(CLOSE, b"\x03\xe8", mask=mask),
        ]
    )
    reader = WebSocketReader()
    assert messages(reader, in_pieces(stream, sizes)) == [
        (Opcode.BINARY, b""),
        (Opcode.TEXT, b"a"),
        (Opcode.BINARY, b"b" * 125),
        (Opcode.BINARY, b"c" * 126),
        (Opcode.BINARY, bytes(range(256)) * 256),
        (Opcode.PING, b"p" * 125),
        (Opcode.CLOSE, b"c"),
        (Opcode.BINARY, b"defgh"),
        (Opcode.CLOSE, b"\x03\xe8"),
    ]
    assert not reader.fault


@pytest.mark.parametrize(
    ("stream", "named"),
    [
        (frame(BINARY, b"a", reserved=0x40), "reserved bit"),
        (frame(BINARY, b"a", reserved=0x10), "reserved bit"),
        (frame(3, b"a"), "opcode"),
        (frame(11, b"a"), "opcode"),
        (frame(PING, b"a", fin=False), "control frame"),
        (frame(PING, b"a" * 126), "control frame"),
        (frame(CLOSE, b"a", fin=False), "control frame"),
        (frame(BINARY, b"a", fin=False) + frame(CLOSE, b"") + frame(BINARY, b"a"), "before the last one ended"),
        (frame(CONTINUATION, b"a"), "not begun"),
        (frame(BINARY, b"a") + frame(CONTINUATION, b"a"), "not begun"),
        (frame(BINARY, b"a", fin=False) + frame(BINARY, b"a"), "before the last one ended"),
        (b"\x82\x7f" + b"\xff" * 8, "longer"),
        (b"HTTP/1.1 400 Bad Request\r\n", "reserved bit"),
    ],
)
@WAYS_TO_CUT
def test_websocket_faults(stream: bytes, named: str, sizes: list[int]) -> None:
    """What RFC 6455 forbids is a fault that is named, after which nothing is read any more."""
    reader = WebSocketReader()
    messages(reader, in_pieces(stream, sizes))
    assert named in reader.fault
    assert list(reader.receive(frame(TEXT, b"a"))) == []


def test_websocket_payloads_are_not_copied() -> None:
    """Pieces are windows into what was fed, so that bulk data costs nothing."""
    stream = frame(BINARY, b"a" * 1000)
    (piece,) = WebSocketReader().receive(stream)
    assert piece.payload.data.obj is stream


def test_payload_is_unmasked_in_parts() -> None:
    """Any part of a masked payload can be read alone."""
    plain = bytes(range(100))
    masked = frame(BINARY, plain, mask=MASK)[6:]
    for start in range(0, 100, 7):
        for stop in range(start, 100, 13):
            assert Payload(memoryview(masked), MASK).read(start, stop) == plain[start:stop]
            assert Payload(memoryview(masked)[3:], MASK, 3).read(start, stop) == plain[3:][start:stop]


# Exec and attach over a websocket.


def base64_message(channel: int, payload: bytes) -> bytes:
    """Return a message of a base64 subprotocol."""
    return str(channel).encode() + base64.b64encode(payload)


@WAYS_TO_CUT
@pytest.mark.parametrize(
    ("subprotocol", "status", "exit_code", "reason"),
    [
        (V5, SUCCESS, 0, ""),
        (V4, SUCCESS, 0, ""),
        (V5, exited("3"), 3, "NonZeroExitCode"),
        (V5, exited("137"), 137, "NonZeroExitCode"),
        (V5, exited("x"), None, "NonZeroExitCode"),
        (V5, exited("2147483647"), 2147483647, "NonZeroExitCode"),
        (V5, exited("1" * 11), None, "NonZeroExitCode"),
        (V5, exited("3", cause="Other"), None, "NonZeroExitCode"),
        (V5, exited("3", reason="InternalError"), None, "InternalError"),
        (V5, b'{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[3,{}]}}', None, "NonZeroExitCode"),
        (V5, b'{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":3}}', None, "NonZeroExitCode"),
        (V5, b'{"status":"Failure","reason":"NonZeroExitCode"}', None, "NonZeroExitCode"),
        (V5, b'{"status":"Failure","reason":7}', None, ""),
        (V5, b"oops", None, ""),
        (V5, b"[1]", None, ""),
        (V5, b"", None, ""),
    ],
)
def test_websocket_exec(subprotocol: str, status: bytes, exit_code: int | None, reason: str, sizes: list[int]) -> None:
    """The exit code is what the Status on the error channel says, whatever else passes and however it is cut."""
    observed = opened("WebSocket", subprotocol, "exec")
    stream = b"".join(
        [
            frame(BINARY, b"\x01"),
            frame(BINARY, b"\x01" + b"\x03 output " * 40),
            frame(PING, b"\x03"),
            frame(BINARY, b"\x02" + SUCCESS),
            frame(BINARY, b"\x03" + status[:5], fin=False),
            frame(PING, b""),
            frame(CONTINUATION, status[5:]),
            frame(CLOSE, b"\x03\xe8"),
        ]
    )
    for piece in in_pieces(stream, sizes):
        observed.server_data(piece)
    assert (observed.exit_code, observed.reason, observed.broken) == (exit_code, reason, False)
    assert observed.ports == ()


def test_websocket_exec_message() -> None:
    """A failure that is no exit code has its message."""
    observed = opened("websocket", V5, "exec")
    status = b'{"status":"Failure","reason":"InternalError","message":"container not found","code":500}'
    observed.server_data(frame(BINARY, b"\x03" + status))
    assert (observed.exit_code, observed.reason, observed.message) == (None, "InternalError", "container not found")


@WAYS_TO_CUT
def test_websocket_exec_in_base64(sizes: list[int]) -> None:
    """With base64 the channel is a digit, and each message is decoded for itself."""
    observed = opened("websocket", "v4.base64.channel.k8s.io", "exec")
    stream = b"".join(
        [
            frame(TEXT, base64_message(1, b"output")),
            frame(TEXT, b""),
            frame(TEXT, base64_message(3, exited("5")[:40])[:9], fin=False),
            frame(CONTINUATION, base64_message(3, exited("5")[:40])[9:]),
            frame(TEXT, base64_message(3, exited("5")[40:])),
        ]
    )
    for piece in in_pieces(stream, sizes):
        observed.server_data(piece)
    assert observed.exit_code == 5
    assert not observed.wants_server


def test_wrong_base64_is_ignored() -> None:
    """A message on the error channel that is no base64 tells nothing."""
    observed = opened("websocket", "v4.base64.channel.k8s.io", "exec")
    observed.server_data(frame(TEXT, b"3a") + frame(TEXT, base64_message(3, SUCCESS)))
    assert observed.exit_code == 0


@pytest.mark.parametrize("subprotocol", ["", "channel.k8s.io", "base64.channel.k8s.io"])
def test_websocket_exec_before_version_4(subprotocol: str) -> None:
    """Before version 4 the error channel is text: a message, and no exit code whatever it says."""
    observed = opened("websocket", subprotocol, "exec")
    text = base64_message(3, SUCCESS) if "base64" in subprotocol else b"\x03" + SUCCESS
    observed.server_data(frame(BINARY, text))
    assert (observed.exit_code, observed.reason, observed.message) == (None, "", SUCCESS.decode())
    assert observed.wants_server


def test_websocket_exec_wants() -> None:
    """The client's side is never wanted, and the server's only until the Status is whole."""
    observed = opened("websocket", V5, "exec")
    assert (observed.wants_client, observed.wants_server) == (False, True)
    observed.client_data(b"\xff" * 10)
    observed.server_data(frame(BINARY, b"\x03" + SUCCESS, fin=False))
    assert (observed.wants_client, observed.wants_server) == (False, True)
    observed.server_data(frame(CONTINUATION, b"") + frame(BINARY, b"\x03" + exited("3")))
    assert (observed.wants_client, observed.wants_server) == (False, False)
    observed.server_data(b"\xff" * 10)
    assert (observed.exit_code, observed.broken) == (0, False)


def test_websocket_exec_is_bounded() -> None:
    """No more than 64 KiB of the error channel are held; what is beyond ends the reading."""
    text = b'{"reason":"' + b"a" * 1_000_000
    for size in (10_000, 1 << 20):
        observed = opened("websocket", V5, "exec")
        for piece in in_pieces(text, [size]):
            observed.server_data(frame(BINARY, b"\x03" + piece))
        assert len(observed.reason) == (64 << 10) - len('{"reason":"')
        assert not observed.wants_server
    for sizes in ([1 << 30], [1000]):
        coded = opened("websocket", "v4.base64.channel.k8s.io", "exec")
        for piece in in_pieces(frame(TEXT, base64_message(3, text)), sizes):
            coded.server_data(piece)
        assert len(coded.reason) == (64 << 10) - len('{"reason":"')


def test_status_in_several_messages() -> None:
    """A Status that takes more than one message is read as a whole, even if the first could be the end of one."""
    observed = opened("websocket", V5, "exec")
    observed.server_data(frame(BINARY, b'\x03{"status":"Failure","details":{}'))
    observed.server_data(frame(BINARY, b'\x03,"reason":"Late"}'))
    assert (observed.reason, observed.wants_server) == ("Late", False)


def test_close_frame_is_no_message() -> None:
    """A normal close, whose code begins with the number of the error channel, is not taken for a message on it."""
    observed = opened("websocket", "channel.k8s.io", "exec")
    observed.server_data(frame(CLOSE, (1000).to_bytes(2, "big")))
    assert observed.message == ""


def test_attach_has_no_exit_code() -> None:
    """Success of an attach is its own and not the command's, so it gives no exit code; a failure has its reason."""
    observed = opened("websocket", V5, "attach")
    observed.server_data(frame(BINARY, b"\x03" + SUCCESS))
    assert (observed.exit_code, observed.reason, observed.wants_server) == (None, "", False)
    failed = opened("websocket", V5, "attach")
    failed.server_data(frame(BINARY, b"\x03" + exited("1", reason="InternalError")))
    assert failed.reason == "InternalError"


def test_broken_websocket_exec() -> None:
    """A stream that cannot be read is broken, says why and wants no more."""
    observed = opened("websocket", V5, "exec")
    observed.server_data(b"\xff" * 14)
    assert (observed.broken, observed.wants_server, observed.exit_code) == (True, False, None)
    assert "reserved bit" in observed.fault
    observed.server_data(frame(BINARY, b"\x03" + SUCCESS))
    assert observed.exit_code is None


# SPDY.


def test_spdy_dictionary() -> None:
    """The dictionary is that of the specification, by length and checksum."""
    assert len(HEADER_DICTIONARY) == 1423
    assert zlib.adler32(HEADER_DICTIONARY) == 0xE3C6A7C2


@WAYS_TO_CUT
def test_spdy_events(sizes: list[int]) -> None:
    """Streams that open are told with their headers; bytes, ends and resets only of streams that are followed."""
    writer = SpdyWriter()
    parts = [
        (writer.opened(1, {"streamtype": "error"}), [StreamOpened(1, {"streamtype": "error"})]),
        (PING_FRAME + GOAWAY_FRAME + WINDOW_UPDATE + control(4, bytes(12)), []),
        (writer.reply(2), []),
        (data(1, b"abc") + data(3, b"xyz") + data(1, b""), [StreamData(1, b"abc")]),
        (data(3, b"", fin=True), []),
        (writer.opened(5, {"a": "b\0c", "port": "80"}), [StreamOpened(5, {"a": "b\0c", "port": "80"})]),
        (data(1, b"d", fin=True), [StreamData(1, b"d"), StreamEnded(1)]),
        (data(1, b"", fin=True), [StreamEnded(1)]),
        (control(3, (1).to_bytes(4, "big") + b"\0\0\0\5"), [StreamEnded(1)]),
        (control(3, (3).to_bytes(4, "big") + b"\0\0\0\5"), []),
        (writer.reply(1, flags=1), [StreamEnded(1)]),
        (writer.opened(1, {}, flags=1), [StreamOpened(1, {}), StreamEnded(1)]),
        (control(8, (1).to_bytes(4, "big") + writer.headers({"x": "y"})), []),
    ]
    reader = SpdyReader()
    reader.follow(1)
    for stream, expected in parts:
        found = [event for piece in in_pieces(stream, sizes) for event in reader.receive(Payload(memoryview(piece)))]
        assert joined(found) == expected
    assert not reader.fault


def joined(events: list[StreamOpened | StreamData | StreamEnded]) -> list[StreamOpened | StreamData | StreamEnded]:
    """Put data events of one stream that follow each other together."""
    found: list[StreamOpened | StreamData | StreamEnded] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, StreamData) and isinstance(last, StreamData) and event.stream_id == last.stream_id:
            found[-1] = StreamData(event.stream_id, last.data + event.data)
        else:
            found.append(event)
    return found


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda _: control(1, bytes(10), version=2), "version 3"),
        (lambda _: control(5, bytes(8)), "unknown type"),
        (lambda _: control(1, bytes(70_000)), "too long"),
        (lambda _: control(1, bytes(4)), "too short"),
        (lambda _: control(1, bytes(10) + b"\xff" * 20), "header block"),
        (lambda writer: control(1, bytes(10) + writer.headers({"a": "b"})[:-8]), "ends too early"),
        (lambda writer: control(1, bytes(10) + writer.headers({"a": "b" * (1 << 20)})), "it is too long"),
        (lambda writer: control(2, bytes(4) + writer.headers({"a": "b"}, missing=1)), "ends too early"),
        (lambda _: b"\x81\x05hello" * 3, "version 3"),
    ],
)
def test_spdy_faults(make: Callable[[SpdyWriter], bytes], named: str) -> None:
    """What Kubernetes' reader would not take is a fault that is named, after which nothing is read any more."""
    reader = SpdyReader()
    writer = SpdyWriter()
    assert list(reader.receive(Payload(memoryview(make(writer))))) == []
    assert named in reader.fault
    assert list(reader.receive(Payload(memoryview(SpdyWriter().opened(1, {}))))) == []


# Exec and attach over SPDY.


def spdy_exec(status: bytes) -> tuple[bytes, bytes]:
    """Return what both sides of `kubectl exec -i` send."""
    client, server = SpdyWriter(), SpdyWriter()
    kinds = {1: "error", 3: "stdin", 5: "stdout", 7: "stderr"}
    asked = b"".join(client.opened(stream_id, {"streamtype": kind}) for stream_id, kind in kinds.items())
    asked += data(3, b"input" * 1000) + data(3, b"", fin=True) + PING_FRAME
    answered = b"".join(server.reply(stream_id) for stream_id in kinds)
    answered += data(5, SUCCESS * 1000) + data(7, b"e") + PING_FRAME
    answered += data(1, status[:9]) + data(5, b"o", fin=True) + data(1, status[9:]) + data(1, b"", fin=True)
    return asked, answered + GOAWAY_FRAME


@WAYS_TO_CUT
@pytest.mark.parametrize(
    ("version", "status", "exit_code", "reason"),
    [
        (V4, SUCCESS, 0, ""),
        (V4, exited("42"), 42, "NonZeroExitCode"),
        (V4, exited("1", reason="InternalError"), None, "InternalError"),
        ("v3.channel.k8s.io", SUCCESS, None, ""),
        ("", b"error executing command", None, ""),
    ],
)
def test_spdy_exec(version: str, status: bytes, exit_code: int | None, reason: str, sizes: list[int]) -> None:
    """The exit code is what the error stream says, which is known by its header; before version 4 there is none."""
    observed = opened("SPDY/3.1", version, "exec")
    asked, answered = spdy_exec(status)
    for piece in in_pieces(asked, sizes):
        observed.client_data(piece)
    assert not observed.wants_client
    for piece in in_pieces(answered, sizes):
        observed.server_data(piece)
    assert (observed.exit_code, observed.reason, observed.broken) == (exit_code, reason, False)
    assert observed.wants_server is False
    if version != V4:
        assert observed.message == status.decode()


def test_spdy_exec_wants() -> None:
    """The client's side is wanted until the error stream is open, the server's until that stream ends."""
    observed = opened("spdy/3.1", V4, "exec")
    client, server = SpdyWriter(), SpdyWriter()
    observed.client_data(client.opened(1, {"streamtype": "stdin"}))
    assert (observed.wants_client, observed.wants_server) == (True, True)
    observed.client_data(client.opened(3, {"streamtype": "error"}))
    observed.client_data(b"\xff" * 100)
    observed.server_data(server.reply(3) + data(3, SUCCESS))
    assert (observed.wants_client, observed.wants_server, observed.exit_code) == (False, True, 0)
    observed.server_data(data(3, b"", fin=True))
    observed.server_data(b"\xff" * 100)
    assert (observed.wants_server, observed.broken) == (False, False)


@pytest.mark.parametrize("side", ["client_data", "server_data"])
def test_broken_spdy_exec(side: str) -> None:
    """Bytes that are no SPDY break the observer, from whichever side they come."""
    observed = opened("SPDY/3.1", V4, "exec")
    getattr(observed, side)(b"\xff" * 100)
    assert (observed.broken, observed.wants_client, observed.wants_server) == (True, False, False)


# Port-forward.


def spdy_ports(*ports: str) -> bytes:
    """Return what kubectl sends for one connection to each port, with some data."""
    writer = SpdyWriter()
    stream = b""
    for index, port in enumerate(ports):
        headers = {"port": port, "requestid": str(index)}
        first = 4 * index + 1
        stream += writer.opened(first, {**headers, "streamtype": "error"}, flags=1)
        stream += writer.opened(first + 2, {**headers, "streamtype": "data"})
        stream += data(first + 2, b"GET / HTTP/1.1\r\n\r\n" * 50) + PING_FRAME
    return stream


@WAYS_TO_CUT
def test_spdy_portforward(sizes: list[int]) -> None:
    """Ports are those of the data streams, each once, in the order of their first connection."""
    observed = opened("SPDY/3.1", "portforward.k8s.io", "portforward")
    for piece in in_pieces(spdy_ports("8080", "80", "8080", "x", "443"), sizes):
        assert observed.wants_client
        observed.client_data(piece)
    assert observed.ports == (8080, 80, 443)
    assert (observed.wants_client, observed.wants_server, observed.broken) == (True, False, False)
    assert observed.exit_code is None
    assert (observed.reason, observed.message) == ("", "")


def test_error_streams_are_no_connections() -> None:
    """A port that only an error stream was opened for was not connected to."""
    observed = opened("SPDY/3.1", "portforward.k8s.io", "portforward")
    observed.client_data(SpdyWriter().opened(1, {"streamtype": "error", "port": "80"}))
    assert observed.ports == ()


def tunnelled(stream: bytes, sizes: list[int]) -> bytes:
    """Cut a SPDY stream into masked websocket messages as kubectl does: anywhere, with empty ones and pings between."""
    return b"".join(
        frame(BINARY, piece, mask=MASK) + frame(BINARY, b"", mask=MASK) + frame(PING, b"\x80\x03\0\1", mask=MASK)
        for piece in in_pieces(stream, sizes)
    )


@WAYS_TO_CUT
@pytest.mark.parametrize("messages", [[2, 2, 4, 4, 4, 1, 1], [1 << 20], [1]], ids=str)
def test_tunnelled_portforward(messages: list[int], sizes: list[int]) -> None:
    """SPDY within a websocket is one stream, wherever the messages cut it."""
    observed = opened("websocket", TUNNEL, "portforward")
    for piece in in_pieces(tunnelled(spdy_ports("8080", "80"), messages), sizes):
        observed.client_data(piece)
    assert observed.ports == (8080, 80)
    assert (observed.wants_client, observed.wants_server, observed.broken) == (True, False, False)


@pytest.mark.parametrize("stream", [b"\xff" * 10, frame(BINARY, b"\xff" * 10, mask=MASK)], ids=["websocket", "spdy"])
def test_broken_tunnel(stream: bytes) -> None:
    """A tunnel is broken if its websocket or the SPDY in it is, and keeps the ports that it knew."""
    observed = opened("websocket", TUNNEL, "portforward")
    observed.client_data(frame(BINARY, spdy_ports("80"), mask=MASK))
    observed.client_data(stream)
    observed.client_data(frame(BINARY, spdy_ports("81"), mask=MASK))
    assert (observed.broken, observed.wants_client, observed.ports) == (True, False, (80,))


def test_query_portforward() -> None:
    """The older port-forward names its ports in the query and needs none of the stream."""
    observed = opened("websocket", V4, "portforward", "ports=80&ports=81")
    observed.client_data(b"\xff")
    observed.server_data(b"\xff")
    assert observed.ports == (80, 81)
    assert (observed.wants_client, observed.wants_server, observed.broken) == (False, False, False)
    assert (observed.exit_code, observed.reason, observed.message) == (None, "", "")


@pytest.mark.parametrize(
    ("upgrade", "subprotocol", "subresource"),
    [
        ("websocket", "v9.channel.k8s.io", "exec"),
        ("websocket", "binary.k8s.io", "log"),
        ("websocket", "", ""),
        ("websocket", "", "proxy"),
        ("h2c", "", "exec"),
        ("h2c", "", "portforward"),
    ],
)
def test_unknown_streams(upgrade: str, subprotocol: str, subresource: str) -> None:
    """A stream that nothing is known of has no observer."""
    assert observer(upgrade, subprotocol, subresource, "") is None


# All of them.

KINDS: list[tuple[str, str, str]] = [
    ("websocket", V5, "exec"),
    ("websocket", "v4.base64.channel.k8s.io", "exec"),
    ("websocket", "channel.k8s.io", "attach"),
    ("SPDY/3.1", V4, "exec"),
    ("SPDY/3.1", "", "attach"),
    ("SPDY/3.1", "portforward.k8s.io", "portforward"),
    ("websocket", TUNNEL, "portforward"),
    ("websocket", V4, "portforward"),
]
REAL: list[bytes] = [
    frame(BINARY, b"\x03" + exited("3")),
    frame(TEXT, base64_message(3, exited("3"))),
    *spdy_exec(exited("3")),
    spdy_ports("80", "81"),
    tunnelled(spdy_ports("80", "81"), [5]),
]


@settings(derandomize=True, max_examples=400, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(REAL)), min_size=1, max_size=4),
    st.lists(st.integers(1, 300), min_size=1, max_size=6),
    st.integers(0, 400),
)
def test_garbage_never_raises(kind: tuple[str, str, str], parts: list[bytes], sizes: list[int], wrong: int) -> None:
    """No bytes from either side raise anything, and what was learnt before a fault can be read after it."""
    observed = opened(*kind)
    stream = bytearray(b"".join(parts))
    if wrong < len(stream):
        stream[wrong] ^= 0x55
    for piece in in_pieces(bytes(stream), sizes):
        observed.client_data(piece)
        observed.server_data(piece)
    assert observed.exit_code in {None, 0, 3}
    assert not observed.exit_code or observed.reason == "NonZeroExitCode"
    assert all(0 < port < 1 << 16 for port in observed.ports)
    if observed.broken:
        assert not observed.wants_client
        assert not observed.wants_server


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=8))
def test_cuts_do_not_matter(sizes: list[int]) -> None:
    """However streams are cut, the same is read from them."""
    asked, answered = spdy_exec(exited("42"))
    command = opened("SPDY/3.1", V4, "exec")
    tunnel = opened("websocket", TUNNEL, "portforward")
    for piece in in_pieces(asked, sizes):
        command.client_data(piece)
    for piece in in_pieces(answered, sizes):
        command.server_data(piece)
    for piece in in_pieces(tunnelled(spdy_ports("80", "81"), sizes), sizes[::-1]):
        tunnel.client_data(piece)
    assert (command.exit_code, tunnel.ports) == (42, (80, 81))
