"""The wire format of protocol buffers, as far as OTLP's messages need it. Pure.

Messages are put together from serialized fields: most attributes of a record say what those of the record before said,
and are not serialized twice. (https://protobuf.dev/programming-guides/encoding/)
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final

Value = str | bool | int | float

_VARINT, _FIXED64, _LENGTH = 0, 1, 2
_DOUBLE: Final = struct.Struct("<d").pack
_UINT64: Final = struct.Struct("<Q").pack
_LOW_64: Final = (1 << 64) - 1


def varint(number: int) -> bytes:
    """Return a number as a varint; a negative one as its two's complement of 64 bits."""
    if 0 <= number < 0x80:
        return _SMALL[number]
    number &= _LOW_64
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_SMALL: Final = tuple(bytes((number,)) for number in range(0x80))


@lru_cache(maxsize=256)
def tag(field: int, wire_type: int) -> bytes:
    """Return what stands before the value of a field."""
    return varint(field << 3 | wire_type)


def message(field: int, content: bytes) -> bytes:
    """Return a field that holds bytes, a text in UTF-8 or another message."""
    length = len(content)
    if length < 0x80 and field < 16:
        return SHORT[field][length] + content
    return tag(field, _LENGTH) + varint(length) + content


SHORT: Final = tuple(tuple(bytes((field << 3 | _LENGTH, length)) for length in range(0x80)) for field in range(16))
"""What stands before a short content, by field and length."""


def enclosed(fields: Sequence[int], before: bytes, contents: Sequence[bytes]) -> bytes:
    """Return contents within messages within one another; `before` stands before the innermost of these fields.

    They may be megabytes: they are copied once.
    """
    size = sum(map(len, contents))
    *outer, innermost = fields
    head = before + tag(innermost, _LENGTH) + varint(size)
    for field in reversed(outer):
        head = tag(field, _LENGTH) + varint(len(head) + size) + head
    return b"".join((head, *contents))


def number(field: int, value: int) -> bytes:
    """Return a field of one of the varint types."""
    return tag(field, _VARINT) + varint(value)


def fixed64(field: int, value: int) -> bytes:
    """Return a field of the type fixed64."""
    return tag(field, _FIXED64) + _UINT64(value)


# opentelemetry/proto/common/v1/common.proto: KeyValue {1: key, 2: AnyValue}, and AnyValue's `oneof`.
_KEY, _VALUE = 1, 2
_STRING, _BOOL, _INT, _DOUBLE_VALUE, _ARRAY = 1, 2, 3, 4, 5


def any_value(value: Value | Iterable[str]) -> bytes:
    """Return an AnyValue."""
    match value:
        case str():
            return message(_STRING, value.encode())
        case bool():
            return number(_BOOL, value)
        case int():
            return number(_INT, value)
        case float():
            return tag(_DOUBLE_VALUE, _FIXED64) + _DOUBLE(value)
        case _:
            return message(_ARRAY, b"".join(message(1, any_value(item)) for item in value))


def key_value(field: int, key: str, value: Value | Iterable[str]) -> bytes:
    """Return an attribute, as the field of this number of the message it belongs to."""
    return message(field, message(_KEY, key.encode()) + message(_VALUE, any_value(value)))


def keyed(field: int, key: str) -> Callable[[Value], bytes]:
    """Return what makes attributes with a key: as `key_value` does, and faster where the value is a short text."""
    start = message(_KEY, key.encode())
    short, inner, text = SHORT[field], SHORT[_VALUE], SHORT[_STRING]
    longest = 0x7F - len(start) - 4

    def attribute(value: Value) -> bytes:
        if isinstance(value, str):
            content = value.encode()
            length = len(content)
            if length <= longest:
                return short[len(start) + length + 4] + start + inner[length + 2] + text[length] + content
        return message(field, start + message(_VALUE, any_value(value)))

    return attribute
