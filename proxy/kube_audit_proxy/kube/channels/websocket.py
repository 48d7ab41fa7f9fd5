"""Reads the frames of one direction of a websocket (RFC 6455, section 5), masked or not."""

from collections.abc import Iterator
from enum import IntEnum

from kube_audit_proxy.kube.channels.payload import Payload


class Opcode(IntEnum):
    """What a frame is (RFC 6455, section 5.2)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_OPCODES = {int(opcode): opcode for opcode in Opcode}
_FIN, _RESERVED, _MASKED = 0x80, 0x70, 0x80
_EXTENDED = {126: 2, 127: 8}
"""Bytes of the extended length that follow the second byte of a frame, by its lower seven bits."""
_LONGEST_CONTROL = 125


class Piece:
    """A part of a message, as far as one read of the stream had it. No dataclass: there is one for each frame.

    `opcode` is that of the message, also in later frames of it, and is never CONTINUATION. `starts` and `ends` mark
    the first and the last piece of the message.
    """

    __slots__ = ("ends", "opcode", "payload", "starts")

    def __init__(self, opcode: Opcode, payload: Payload, *, starts: bool, ends: bool) -> None:
        self.opcode = opcode
        self.payload = payload
        self.starts = starts
        self.ends = ends


class WebSocketReader:
    """Reads one direction of a websocket, from the first byte after the upgrade.

    Extensions are not understood: a reserved bit, as of permessage-deflate, is a fault, and so is everything that
    RFC 6455 forbids in a frame's head. After a fault all input is ignored. At most a frame's head is held.
    """

    def __init__(self) -> None:
        self.fault = ""
        self._head = bytearray()
        self._head_size = 2
        self._message: Opcode | None = None
        self._frame = Opcode.CONTINUATION
        self._starts = False
        self._fin = False
        self._left = 0
        self._mask = b""
        self._phase = 0

    def receive(self, data: bytes) -> Iterator[Piece]:
        """Yield the pieces of messages in `data`, which continues what came before; read it to its end."""
        view = memoryview(data)
        position, size = 0, len(view)
        while position < size and not self.fault:
            if not self._left:
                taken = min(self._head_size - len(self._head), size - position)
                self._head += view[position : position + taken]
                position += taken
                if len(self._head) < self._head_size or not self._read_head():
                    continue
            taken = min(self._left, size - position)
            yield self._piece(view[position : position + taken])
            position += taken

    def _read_head(self) -> bool:
        """Take what the head has so far; tell whether it is whole."""
        first, second = self._head[0], self._head[1]
        extended = _EXTENDED.get(second & 0x7F, 0)
        self._head_size = 2 + extended + (4 if second & _MASKED else 0)
        if len(self._head) < self._head_size:
            return False
        length = int.from_bytes(self._head[2 : 2 + extended]) if extended else second & 0x7F
        self._mask = bytes(self._head[2 + extended :])
        self._head.clear()
        self._head_size = 2
        opcode = _OPCODES.get(first & 0x0F)
        self.fault = self._fault(first, opcode, length)
        if opcode is None or self.fault:
            return False
        self._frame, self._fin, self._left, self._phase = opcode, bool(first & _FIN), length, 0
        self._starts = opcode is not Opcode.CONTINUATION
        if opcode in {Opcode.TEXT, Opcode.BINARY}:
            self._message = opcode
        return True

    def _fault(self, first: int, opcode: Opcode | None, length: int) -> str:
        if first & _RESERVED:
            return "a websocket frame has a reserved bit set"
        if opcode is None:
            return "a websocket frame has a reserved opcode"
        if opcode >= Opcode.CLOSE:
            if not first & _FIN or length > _LONGEST_CONTROL:
                return "a websocket control frame is fragmented or too long"
        elif (opcode is Opcode.CONTINUATION) != (self._message is not None):
            return "a websocket message is continued that was not begun, or begun before the last one ended"
        if length >> 63:
            return "a websocket frame is longer than any can be"
        return ""

    def _piece(self, part: memoryview) -> Piece:
        opcode = self._frame
        if self._message is not None and opcode < Opcode.CLOSE:
            opcode = self._message
        payload = Payload(part, self._mask, self._phase) if self._mask else Payload(part)
        self._left -= len(part)
        self._phase = (self._phase + len(part)) % 4
        ends = self._fin and not self._left
        piece = Piece(opcode, payload, starts=self._starts, ends=ends)
        self._starts = False
        if ends and opcode < Opcode.CLOSE:
            self._message = None
        return piece
