"""What the shipper sees in a line of the journal. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from kube_audit_proxy.export.names import Kind
from kube_audit_proxy.telemetry.lines import kind_of
from kube_audit_proxy.telemetry.times import nanoseconds

_START = b'"stage":"RequestReceived"'
_TIME = b'"stageTimestamp":"'
_COMMAND = b'"command_id":"'
_SEQ = b'"seq":'
_TIMES = ("stageTimestamp", "since", "opened")
"""The fields of which one says when a line was written, whatever its kind."""


class UnreadableError(ValueError):
    """The line is no record of ours."""


class Entry(NamedTuple):
    """A line: its number, its time in nanoseconds, and what is to be done about it.

    Of what is not shipped, `record` and `kind` are None; `command_id` is then that of a call that starts, if it is part
    of a command.
    """

    seq: int
    time: int
    line: bytes
    kind: Kind | None = None
    record: Mapping[str, Any] | None = None
    command_id: str | None = None


def entry(line: bytes) -> Entry:
    """Read a line. Raises UnreadableError."""
    # Half of the lines are starts, of which little is of interest: a quote within a text would be escaped, so these
    # bytes are the members they look like.
    try:
        if _START in line:
            command = _after(line, _COMMAND, 36)
            return Entry(_seq(line), nanoseconds(_after(line, _TIME, 27) or ""), line, None, None, command)
        record = orjson.loads(line)
        kind = kind_of(record)
        text = next(record[field] for field in _TIMES if field in record)
        return Entry(record["seq"], nanoseconds(text), line, kind, record if kind else None)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise UnreadableError(f"not a record: {error}") from error


def _after(line: bytes, name: bytes, length: int) -> str | None:
    at = line.find(name)
    return line[at + len(name) : at + len(name) + length].decode() if at >= 0 else None


def _seq(line: bytes) -> int:
    at = line.index(_SEQ) + len(_SEQ)
    return int(line[at : line.index(b",", at)])
