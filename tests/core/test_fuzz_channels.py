"""Streams of any bytes: the same is read however they are cut, and what is held of them is bounded."""

from __future__ import annotations

import gc
import sys
import zlib
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kube_audit_proxy.kube.channels import StreamObserver, observer
from kube_audit_proxy.kube.channels.spdy_dictionary import HEADER_DICTIONARY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STATUS = b'{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}'
_KINDS = (
    ("websocket", "v5.channel.k8s.io", "exec"),
    ("websocket", "v4.base64.channel.k8s.io", "exec"),
    ("websocket", "channel.k8s.io", "attach"),
    ("SPDY/3.1", "v4.channel.k8s.io", "exec"),
    ("SPDY/3.1", "", "attach"),
    ("SPDY/3.1", "portforward.k8s.io", "portforward"),
    ("websocket", "SPDY/3.1+portforward.k8s.io", "portforward"),
)
_KIB = 1 << 10
_MIB = 1 << 20


def _opened(kind: tuple[str, str, str]) -> StreamObserver:
    found = observer(*kind, "")
    assert found is not None
    return found


def _frame(first: int, payload: bytes, mask: bytes = b"") -> bytes:
    size = len(payload)
    masked = 0x80 if mask else 0
    head = bytes([first, masked | size]) if size < 126 else bytes([first, masked | 126]) + size.to_bytes(2, "big")
    return head + mask + (bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)) if mask else payload)


def _control(frame_type: int, payload: bytes, flags: int = 0) -> bytes:
    return (0x80030000 | frame_type).to_bytes(4, "big") + bytes([flags]) + len(payload).to_bytes(3, "big") + payload


class _Deflater:
    """Makes the header blocks of one direction of a SPDY connection."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=HEADER_DICTIONARY)

    def block(self, plain: bytes) -> bytes:
        """Compress a block as it is."""
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def opened(self, stream: int, **headers: str) -> bytes:
        """Give a frame that opens a stream with these headers."""
        texts = [text.encode() for pair in headers.items() for text in pair]
        plain = len(headers).to_bytes(4, "big") + b"".join(len(text).to_bytes(4, "big") + text for text in texts)
        return _control(1, stream.to_bytes(4, "big") + bytes(6) + self.block(plain))


def _data(stream: int, payload: bytes, flags: int = 0) -> bytes:
    return stream.to_bytes(4, "big") + bytes([flags]) + len(payload).to_bytes(3, "big") + payload


_ERROR_STREAM = _Deflater().opened(1, streamtype="error")
_FORWARDER = _Deflater()
_PORTS = _FORWARDER.opened(1, streamtype="data", port="80") + _FORWARDER.opened(3, streamtype="data", port="81")
_PARTS = st.sampled_from((
    _frame(0x82, b"\x03" + _STATUS), _frame(0x02, b"\x03" + _STATUS[:40]), _frame(0x80, _STATUS[40:]), _frame(0x82,
    b""),
    _frame(0x81, b"3eyJzdGF0dXMiOiJTdWNjZXNzIn0="), _frame(0x82, b"\x01" + b"out" * 60), _frame(0x89, b"ping"),
    _frame(0x88, b"\x03\xe8"), _frame(0x82, _PORTS, b"\1\2\3\4"), _frame(0x82, _PORTS[:9], b"\1\2\3\4"), _ERROR_STREAM,
    _frame(0x82, _PORTS[9:], b"\5\6\7\x08"), _PORTS, _data(1, _STATUS), _data(1, _STATUS[:30]), _data(1,
    _STATUS[30:], 1),
    _data(1, b"", 1), _data(3, b"out" * 40), _control(3, b"\0\0\0\1\0\0\0\5"), _control(6, b"\0\0\0\1"), _control(7,
    bytes(8)),
)) | st.binary(max_size=12)  # fmt: skip


@st.composite
def _streams(draw: st.DrawFn) -> bytes:
    stream = bytearray(b"".join(draw(st.lists(_PARTS, min_size=1, max_size=6))))
    if stream and draw(st.sampled_from((False, False, True))):
        stream[draw(st.integers(0, len(stream) - 1))] ^= draw(st.integers(1, 255))
    return bytes(stream)


def _in_pieces(stream: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = turn = 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        yield stream[at : at + size]
        at, turn = at + size, turn + 1


def _read(kind: tuple[str, str, str], client: Iterator[bytes], server: Iterator[bytes]) -> tuple[object, ...]:
    watching = _opened(kind)
    for piece in client:
        watching.client_data(piece)
    for piece in server:
        watching.server_data(piece)
    told = (watching.exit_code, watching.reason, watching.message, watching.ports)
    return (*told, watching.fault, watching.wants_client, watching.wants_server)


@settings(max_examples=400)
@given(st.sampled_from(_KINDS), _streams(), _streams(), st.lists(st.integers(1, 60), min_size=1, max_size=5))
@example(_KINDS[0], b"", _frame(0x82, b"\x03" + _STATUS) + _frame(0x80, b"after the end"), [1])
@example(_KINDS[0], b"", _frame(0x88, b"") + _frame(0x80, b"after the end"), [1])
@example(_KINDS[6], _frame(0x82, b"\x80\1" + bytes(6)) + _frame(0x80, b"after a fault"), b"", [1])
@example(_KINDS[3], _ERROR_STREAM, _data(1, _STATUS, 1) + _control(99, b"after the end", 1), [1])
def test_cuts_never_matter(kind: tuple[str, str, str], client: bytes, server: bytes, sizes: list[int]) -> None:
    """Sound or damaged, a stream tells the same in one piece and in many, its faults included."""
    whole = _read(kind, iter([client]), iter([server]))
    assert _read(kind, _in_pieces(client, sizes), _in_pieces(server, sizes[::-1])) == whole


def _endless(begin: bytes, more: bytes) -> Callable[[int], Iterator[bytes]]:
    def stream(size: int) -> Iterator[bytes]:
        yield begin
        for _ in range(size // len(more)):
            yield more

    return stream


def _many_ports(size: int) -> Iterator[bytes]:
    made = _Deflater()
    for stream in range(1, size // 200, 2):
        yield made.opened(stream, streamtype="data", port=str(stream % 65536 + 1), requestid="7" * 100)


_ENDLESS = {
    "endless data": _endless(_ERROR_STREAM + b"\0\0\0\1\0\xff\xff\xff", b"x" * 64 * _KIB),
    "endless error": _endless(_ERROR_STREAM, _data(1, b"{" * 16 * _KIB)),
    "control frames": _endless(b"", _control(6, b"\0\0\0\1") * 64 + _control(1, bytes(60_000))),
    "a header bomb": _endless(b"", _control(1, bytes(10) + _Deflater().block(b"\xff" * 4 + bytes(300 * _KIB)))),
    "ports": _many_ports,
    "endless message": _endless(b"\x82\xff" + b"\x7f" + b"\xff" * 7 + b"\1\2\3\4", b"\3" * 64 * _KIB),
    "fragments": _endless(b"\x02\x01\x03", _frame(0x00, b"{" * 16 * _KIB)),
    "fragments in base64": _endless(b"\x01\x01\x33", _frame(0x00, b"e" * 16 * _KIB)),
    "messages": _endless(b"", _frame(0x89, b"p" * 125) + _frame(0x82, b"\3" + b"y" * 16 * _KIB, b"\1\2\3\4")),
}


@pytest.mark.parametrize("kind", _KINDS, ids=" ".join)
@pytest.mark.parametrize("stream", _ENDLESS.values(), ids=list(_ENDLESS))
def test_what_is_held_is_bounded(kind: tuple[str, str, str], stream: Callable[[int], Iterator[bytes]]) -> None:
    """However much either side sends of whatever sort, an observer holds little of it."""
    watching = _opened(kind)
    for piece in stream(2 * _MIB):
        watching.client_data(piece)
        watching.server_data(piece)
    assert _size(watching) < 512 * _KIB
    assert len(watching.message) <= 64 * _KIB


def _size(root: object) -> int:
    """Add up the bytes of everything that an observer holds on to."""
    seen: set[int] = set()
    left, total = [root], 0
    while left:
        each = left.pop()
        if id(each) not in seen and not isinstance(each, type | ModuleType | FunctionType):
            seen.add(id(each))
            total += sys.getsizeof(each)
            left += gc.get_referents(each)
    return total
