"""The fields of records as OTLP attributes, serialized once for each value that comes again. Pure."""

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kube_audit_proxy.telemetry.protobuf import key_value, keyed

Writer = Callable[[Any], bytes]
"""Makes of a field's value the attributes for it: none, one or several."""

_MOST_REMEMBERED = 4096
"""Values of one field that are kept serialized; then all are forgotten."""

LONGEST_TEXT = 1024
"""Characters of a text that stand in an attribute: backends cut or refuse what is much longer. The body has it all."""


def remembered(write: Writer) -> Writer:
    """Return a writer for a field whose values come again."""
    known: dict[Any, bytes] = {}

    def once(value: Any) -> bytes:
        part = known.get(value)
        if part is None:
            if len(known) >= _MOST_REMEMBERED:
                known.clear()
            part = known[value] = write(value)
        return part

    return once


def plain(field: int, key: str) -> Writer:
    """Return a writer of numbers, truth values and texts; `field` is the attributes' number in their message."""
    attribute = keyed(field, key)

    def write(value: Any) -> bytes:
        return attribute(value[:LONGEST_TEXT] if isinstance(value, str) and len(value) > LONGEST_TEXT else value)

    return write


def measured(field: int, key: str) -> Writer:
    """Return a writer of numbers with a fraction: they differ from record to record, and all are of one length."""
    prefix = key_value(field, key, 0.0)[:-8]
    pack = struct.Struct("<d").pack
    return lambda value: prefix + pack(value)


def joined(field: int, key: str, join: Callable[[Iterable[str]], str] = ",".join) -> Writer:
    """Return a writer of lists as one text."""
    write = plain(field, key)
    return lambda values: write(join(map(str, values)))


def listed(field: int, key: str) -> Writer:
    """Return a writer of lists."""
    return lambda values: key_value(field, key, tuple(str(value)[:LONGEST_TEXT] for value in values))


def nothing(_value: Any) -> bytes:
    """Leave a field out."""
    return b""


class Attributes:
    """Writes the fields of a record, save `left_out`: by `writers`, or by what `other` makes for one that has none yet.

    Fields that tend to come again together (`TOGETHER`) are looked up together.
    """

    def __init__(
        self, writers: Mapping[str, Writer], other: Callable[[str], Writer], left_out: Iterable[str] = ()
    ) -> None:
        self._writers = {**writers, **dict.fromkeys(left_out, nothing)}
        self._other = other
        self._done = frozenset((*TOGETHER, *left_out))
        self._known: dict[tuple[Any, ...], bytes] = {}

    def __call__(self, record: Mapping[str, Any]) -> bytes:
        """Return the attributes of a record; of the same one always the same."""
        writers, done = self._writers, self._done
        values = tuple(map(record.get, TOGETHER))
        together = self._known.get(values)
        parts = [self._together(values) if together is None else together]
        for field in record:
            if field not in done:
                write = writers.get(field) or self._new(field)
                parts.append(write(record[field]))
        return b"".join(parts)

    def _new(self, field: str) -> Writer:
        write = self._writers[field] = self._other(field)
        return write

    def _together(self, values: tuple[Any, ...]) -> bytes:
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        told = ((field, value) for field, value in zip(TOGETHER, values, strict=True) if value is not None)
        said = b"".join((self._writers.get(field) or self._new(field))(value) for field, value in told)
        self._known[values] = said
        return said


TOGETHER = ("writer", "kind", "stage", "impersonated", "upstream_user", "status", "decision", "decided_by", "outcome",
            "reason", "request_bytes")  # fmt: skip
"""What is the same for all calls that end alike, beside what they have in common (`entries.Common`)."""
