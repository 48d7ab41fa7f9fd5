"""What the shipper sees in a line of the journal. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from kube_audit_proxy.audit.fields import Stage
from kube_audit_proxy.export.names import Kind
from kube_audit_proxy.telemetry.times import nanoseconds

_START = b'"stage":"RequestReceived"'
_TIME = b'"stageTimestamp":"'
_COMMAND = b'"command_id":"'
_SEQ = b'"seq":'

_ASKED, _CLIENT = b',"cluster":', b',"userAgent":'
_AFTER_CLIENT = (b',"command_id":"', b',"trace_id":"')
"""Where in a line begins what is asked for, who asks by which client, and what is the call's own again."""

_MOST_COMMON = 8192

_KINDS = {
    Stage.RESPONSE_STARTED.value: Kind.CALL_STARTED,
    Stage.RESPONSE_COMPLETE.value: Kind.CALL,
    Stage.PANIC.value: Kind.CALL,
}
_OWN_KINDS = frozenset((Kind.HEARTBEAT, Kind.LOST, Kind.COMMAND))


class UnreadableError(ValueError):
    """The line is no record of ours."""


class Common:
    """A part that many lines have in common. Encoders keep in `line` and `span` what they make of it."""

    __slots__ = ("line", "record", "span")

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record
        self.line: bytes | None = None
        self.span: bytes | None = None


class Entry(NamedTuple):
    """A line: its number, its time in nanoseconds, and what is to be done about it.

    Of what is not shipped, `record` and `kind` are None; `command_id` is then that of a call that starts, if it is part
    of a command. A field of the record is in `record` or in one of `common`: what is asked for, and who asks.
    """

    seq: int
    time: int
    line: bytes
    kind: Kind | None = None
    record: Mapping[str, Any] | None = None
    command_id: str | None = None
    common: tuple[Common, ...] = ()


class Commons:
    """Knows the parts again that lines have in common, by their bytes, so that each is parsed once."""

    def __init__(self) -> None:
        self._known: dict[bytes, Common] = {}

    def split(self, line: bytes) -> tuple[tuple[Common, ...], bytes]:
        """Return what a line has in common with others, and the rest of it, which is a record as well.

        A quote within a text would be escaped, so the bytes that are looked for are the members that they look like.
        """
        asked = line.find(_ASKED)
        client = line.find(_CLIENT, asked)
        own = max(line.find(_AFTER_CLIENT[0], client), 0) or line.find(_AFTER_CLIENT[1], client)
        if not 0 < asked < client < own:
            return (), line
        return (self._common(line[asked:client]), self._common(line[client:own])), line[:asked] + line[own:]

    def _common(self, part: bytes) -> Common:
        known = self._known.get(part)
        if known is None:
            if len(self._known) >= _MOST_COMMON:
                self._known.clear()
            known = self._known[part] = Common(orjson.loads(b"{%b}" % part[1:]))
        return known


def kind_of(record: Mapping[str, Any]) -> Kind | None:
    """Return as what a record is shipped; None for what is not: starts of calls, which their ends repeat."""
    stage = record.get("stage")
    if stage is not None:
        return _KINDS.get(stage)
    own = record.get("kind")
    return Kind(own) if own in _OWN_KINDS else None


def entry(line: bytes, commons: Commons | None = None) -> Entry:
    """Read a line; with `commons`, only the part that is its own. Raises UnreadableError."""
    # Half of the lines are starts, of which little is of interest.
    try:
        if _START in line:
            command = _after(line, _COMMAND, 36)
            return Entry(_seq(line), nanoseconds(_after(line, _TIME, 27) or ""), line, None, None, command)
        common, own = commons.split(line) if commons else ((), line)
        record = orjson.loads(own)
        kind = kind_of(record)
        # Whatever its kind, one of these says when a line was written.
        time = nanoseconds(record.get("stageTimestamp") or record.get("since") or record["opened"])
        return Entry(record["seq"], time, line, kind, record if kind else None, None, common)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableError(f"not a record: {error}") from error


def _after(line: bytes, name: bytes, length: int) -> str | None:
    at = line.find(name)
    return line[at + len(name) : at + len(name) + length].decode() if at >= 0 else None


def _seq(line: bytes) -> int:
    at = line.index(_SEQ) + len(_SEQ)
    return int(line[at : line.index(b",", at)])
