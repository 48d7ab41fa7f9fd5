"""Reads the frames of one direction of a SPDY/3.1 connection, as Kubernetes uses it (moby/spdystream, spdy/read.go)."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from kube_audit_proxy.kube.channels.payload import Payload
from kube_audit_proxy.kube.channels.spdy_dictionary import HEADER_DICTIONARY

_HEAD_SIZE = 8
_VERSION = 3
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _HEADERS, _WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
_SKIPPED = frozenset({_SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE})
_BEFORE_HEADERS = {_SYN_STREAM: 10, _SYN_REPLY: 4, _HEADERS: 4}
"""Bytes of a control frame that stand in front of its header block."""
_FIN = 1
_STREAM_ID = 0x7FFFFFFF
_LONGEST_CONTROL = 64 << 10
"""Bytes of the longest control frame that is read; those of Kubernetes have some hundred."""
_LONGEST_HEADERS = 256 << 10
"""Bytes of the longest header block after decompression."""


@dataclass(frozen=True)
class StreamOpened:
    """A stream was opened. Several values of one header are joined by NUL, as in the frame."""

    stream_id: int
    headers: dict[str, str]


@dataclass(frozen=True)
class StreamData:
    """Bytes on a stream that is followed."""

    stream_id: int
    data: bytes


@dataclass(frozen=True)
class StreamEnded:
    """No more bytes come on a stream that is followed: it was finished or reset."""

    stream_id: int


class SpdyReader:
    """Reads one direction of a SPDY/3.1 connection from its first byte.

    Tells of every stream that is opened, and of the bytes on those streams that are followed; all other bytes are
    passed over unread. Header blocks share one compression context, so all of them are decompressed. A frame that
    Kubernetes would not take is a fault, after which all input is ignored. At most one control frame is held.
    """

    def __init__(self) -> None:
        self.fault = ""
        self._followed: set[int] = set()
        self._inflate = zlib.decompressobj(zdict=HEADER_DICTIONARY)
        self._head = bytearray()
        self._control = bytearray()
        self._frame_type = 0
        self._stream_id = 0
        self._fin = False
        self._left = 0

    def follow(self, stream_id: int) -> None:
        """Tell from now on of the bytes on a stream."""
        self._followed.add(stream_id)

    def receive(self, payload: Payload) -> Iterator[StreamOpened | StreamData | StreamEnded]:
        """Yield what happens in `payload`, which continues what came before; read it to its end."""
        position, size = 0, len(payload)
        while position < size and not self.fault:
            if not self._left:
                taken = min(_HEAD_SIZE - len(self._head), size - position)
                self._head += payload.read(position, position + taken)
                position += taken
                if len(self._head) < _HEAD_SIZE or not self._read_head():
                    continue
            start = position
            position += min(self._left, size - position)
            self._left -= position - start
            if self._frame_type:
                self._control += payload.read(start, position)
                if not self._left:
                    yield from self._read_control()
            elif self._stream_id in self._followed:
                if position > start:
                    yield StreamData(self._stream_id, payload.read(start, position))
                if self._fin and not self._left:
                    yield StreamEnded(self._stream_id)

    def _read_head(self) -> bool:
        """Take a whole head; tell whether it was a good one. `_frame_type` is 0 for a data frame."""
        word, self._left = int.from_bytes(self._head[:4]), int.from_bytes(self._head[5:])
        self._fin = bool(self._head[4] & _FIN)
        self._head.clear()
        if not word >> 31:
            self._frame_type, self._stream_id = 0, word
            return True
        self._frame_type = word & 0xFFFF
        if word >> 16 & 0x7FFF != _VERSION:
            self.fault = "a SPDY frame is not of version 3"
        elif self._frame_type not in _BEFORE_HEADERS and self._frame_type not in _SKIPPED | {_RST_STREAM}:
            self.fault = "a SPDY frame is of an unknown type"
        elif self._left > _LONGEST_CONTROL:
            self.fault = "a SPDY control frame is too long"
        return not self.fault

    def _read_control(self) -> Iterator[StreamOpened | StreamEnded]:
        frame = bytes(self._control)
        self._control.clear()
        stream_id = int.from_bytes(frame[:4]) & _STREAM_ID
        if self._frame_type == _RST_STREAM:
            if stream_id in self._followed:
                yield StreamEnded(stream_id)
            return
        if self._frame_type in _SKIPPED:
            return
        before_headers = _BEFORE_HEADERS[self._frame_type]
        try:
            headers = _header_block(self._inflated(frame[before_headers:]))
        except (ValueError, zlib.error) as error:
            self.fault = f"a SPDY header block cannot be read: {error}"
            return
        if len(frame) < before_headers:
            self.fault = "a SPDY control frame is too short"
        elif self._frame_type == _SYN_STREAM:
            yield StreamOpened(stream_id, headers)
        if self._fin and not self.fault and stream_id in self._followed:
            yield StreamEnded(stream_id)

    def _inflated(self, block: bytes) -> bytes:
        plain = self._inflate.decompress(block, _LONGEST_HEADERS)
        if self._inflate.unconsumed_tail:
            raise ValueError("it is too long")
        return plain


def _header_block(block: bytes) -> dict[str, str]:
    """Read names and values, each after its length in four bytes, after their number in four bytes."""
    headers: dict[str, str] = {}
    position = 4
    for _ in range(int.from_bytes(block[:4])):
        name, position = _counted(block, position)
        headers[name], position = _counted(block, position)
    return headers


def _counted(block: bytes, position: int) -> tuple[str, int]:
    start = position + 4
    end = start + int.from_bytes(block[position:start])
    if end > len(block) or start > len(block):
        raise ValueError("it ends too early")
    return block[start:end].decode("latin-1"), end
