"""The protobuf wire format, as far as Kubernetes' own messages need it: varints and length-delimited fields."""

from collections.abc import Iterator

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_LONGEST_VARINT = 10


def delimited_fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of each length-delimited field of a message; other fields are passed over.

    A message may be cut off: the last content then is what is there. At anything malformed the fields end.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, position = _varint(message, position)
        elif wire_type == _DELIMITED:
            length, position = _varint(message, position)
            yield tag >> 3, message[position : position + length]
            position += length
        elif wire_type in _FIXED_SIZES:
            position += _FIXED_SIZES[wire_type]
        else:
            return


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """Return a varint and the position after it; one that is cut off or too long ends the message."""
    value = 0
    for shift, byte in enumerate(message[position : position + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position + shift + 1
    return 0, len(message)
