"""What one line of the journal looks like: built, parsed and hashed here, and nowhere else."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

FORMAT = 1
FIRST_PREVIOUS = "0" * 64
LARGEST_SEQ = 10**18  # far from any real journal, and it keeps names of segments at 20 digits


class LineError(ValueError):
    """These bytes are not a line of a journal; the message says why."""


@dataclass(frozen=True)
class Line:
    """A parsed line: the three fields of the chain, and the whole object (these three included)."""

    writer: str
    seq: int
    previous: str
    record: dict[str, Any]


def head(writer: str) -> bytes:
    """Return how every line of this writer begins, up to the number."""
    return b'{"writer":%b,"seq":' % orjson.dumps(writer)


def build(start: bytes, seq: int, previous: bytes, body: bytes) -> bytes:
    """Return a line without its newline; `start` comes from `head`, `body` is object content without braces."""
    return b"".join((start, str(seq).encode(), b',"prev":"', previous, b'",', body, b"}"))


def digest(line: bytes) -> str:
    """Return what the next line has to give as its `prev`: SHA-256 in hex of the line without its newline."""
    return sha256(line).hexdigest()


def parse(line: bytes) -> Line:
    """Parse a line without its newline; raise LineError for what no writer would have written."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LineError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise LineError("not a JSON object")
    writer, seq, previous = record.get("writer"), record.get("seq"), record.get("prev")
    if not isinstance(writer, str):
        raise LineError("no writer")
    if type(seq) is not int or not 0 < seq < LARGEST_SEQ:
        raise LineError("no seq")
    if not isinstance(previous, str):
        raise LineError("no prev")
    return Line(writer, seq, previous, record)


def content(record: dict[str, Any]) -> bytes:
    """Serialize a record the way `build` wants it: without the outer braces."""
    return orjson.dumps(record)[1:-1]
