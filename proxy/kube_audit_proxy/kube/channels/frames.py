"""Cuts one direction of a websocket at the ends of its frames (RFC 6455, section 5.2)."""

_EXTENDED = {126: 2, 127: 8}
"""Bytes of the extended length that follow the second byte of a frame, by its lower seven bits."""
_MASKED = 0x80


class FrameCutter:
    """Finds the ends of frames from the first byte after the upgrade; it holds no bytes and loses none.

    Some clients wait for their socket, not for their TLS: of what came in one TLS record they read the first frame and
    never learn of the next. A server writes each frame by itself; so does who passes it on.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0

    def cut(self, data: bytes) -> list[bytes]:
        """Return `data`, which continues what came before, in pieces that end where a frame does, or with `data`."""
        pieces = []
        start = position = 0
        while position < len(data):
            if not self._left:
                position = self._read_head(data, position)
            taken = min(self._left, len(data) - position)
            self._left -= taken
            position += taken
            if not self._left and not self._head:
                pieces.append(data[start:position])
                start = position
        return [*pieces, data[start:]] if start < len(data) else pieces

    def _read_head(self, data: bytes, position: int) -> int:
        """Take what there is of a frame's head; return where that ends. Once it is whole, note what is left to come."""
        while position < len(data):
            missing = self._head_size() - len(self._head)
            self._head += data[position : position + missing]
            position = min(position + missing, len(data))
            if len(self._head) >= 2 and len(self._head) == self._head_size():
                length = self._head[1] & 0x7F
                extended = _EXTENDED.get(length, 0)
                self._left = int.from_bytes(self._head[2 : 2 + extended]) if extended else length
                self._head.clear()
                break
        return position

    def _head_size(self) -> int:
        """Return the size of the head as far as it can be known."""
        if len(self._head) < 2:
            return 2
        second = self._head[1]
        return 2 + _EXTENDED.get(second & 0x7F, 0) + (4 if second & _MASKED else 0)
