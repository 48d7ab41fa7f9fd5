"""From a line of the journal to the rows of a call. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson

from kube_audit_proxy.audit.fields import Stage

CALLS_PER_MICROSECOND = 1024


class MalformedError(ValueError):
    """A line that is no record; the message says what is wrong with it."""


class Row(NamedTuple):
    """What filters look at in a call: the columns of `calls`, in their order, save `id` and `change`."""

    audit_id: str
    stage: str
    writer: str
    seq: int
    cluster: str | None
    user: str | None
    access_method: str | None
    method: str | None
    verb: str | None
    api_group: str | None
    resource: str | None
    subresource: str | None
    namespace: str | None
    name: str | None
    status: int | None
    decision: str | None
    outcome: str | None
    duration_ms: float | None
    command_id: str | None


@dataclass(frozen=True, slots=True)
class CallLine:
    """One line about a call. Times are microseconds since 1970: of the call's beginning, and of this stage."""

    row: Row
    received: int
    reached: int
    exit_code: int | None
    command: str | None
    command_source: str | None
    text: str
    record: str


def parse(line: bytes) -> CallLine | None:
    """Read a line; None where it is about something else than a call. Raises MalformedError."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise MalformedError("not a JSON object")
    kind = record.get("kind")
    if kind in _ABOUT_NO_CALL:
        return None
    if kind != "call":
        raise MalformedError(f"unknown kind {kind!r}")
    get = record.get
    values = [get(field) for field, _, _ in _COLUMNS]
    for value, (field, expected, needed) in zip(values, _COLUMNS, strict=True):
        if (needed or value is not None) and not isinstance(value, expected):
            raise MalformedError(f"{field} is missing or of a wrong type")
    row = Row._make(values)
    if row.stage not in RANKS:
        raise MalformedError(f"unknown stage {row.stage!r}")
    return CallLine(
        row=row,
        received=_time(record, "requestReceivedTimestamp"),
        reached=_time(record, "stageTimestamp"),
        exit_code=_optional(record, "exit_code", int),
        command=_optional(record, "command", str),
        command_source=_optional(record, "command_source", str),
        text=searchable(record),
        record=line.decode(),
    )


def searchable(record: dict[str, Any]) -> str:
    """Return the text that `--text` searches, folded so that case does not matter."""
    found = [value for field in SEARCHED if isinstance(value := record.get(field), str)]
    argv = record.get("exec_argv")
    if isinstance(argv, list):
        found.append(" ".join(map(str, argv)))
    return SEPARATOR.join(found).casefold()


def ended(stage: str) -> bool:
    """Tell whether a call at this stage has ended."""
    return RANKS[stage] == _END


def newer(line: Row, known: Row) -> bool:
    """Tell whether a line says more about its call than the one that is known."""
    new, old = RANKS[line.stage], RANKS[known.stage]
    return new > old or (new == old and line.writer == known.writer and line.seq > known.seq)


def first_id(moment: int) -> int:
    """Return the lowest id of a call that was received at this time or later."""
    # A filter may name any time; ids are 64-bit integers.
    return max(0, min(moment, _LAST_MOMENT)) * CALLS_PER_MICROSECOND


# Stands between the texts of two fields, so that nothing is found that is in neither.
SEPARATOR = "\x1f"
SEARCHED = ("user", "name", "requestURI", "command", "message", "userAgent")
RANKS: dict[str, int] = {
    Stage.REQUEST_RECEIVED: 0,
    Stage.RESPONSE_STARTED: 1,
    Stage.RESPONSE_COMPLETE: 2,
    Stage.PANIC: 2,
}
_ABOUT_NO_CALL = frozenset(("segment", "heartbeat", "lost"))
_END = 2
_LAST_MOMENT = 2**53 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_FIELD_OF = {"audit_id": "auditID", "api_group": "group"}
_TYPES: dict[str, type | tuple[type, ...]] = {"seq": int, "status": int, "duration_ms": (int, float)}
_NEEDED = {"audit_id", "stage", "writer", "seq"}
_COLUMNS = tuple((_FIELD_OF.get(name, name), _TYPES.get(name, str), name in _NEEDED) for name in Row._fields)


def _time(record: dict[str, Any], field: str) -> int:
    text = record.get(field)
    try:
        moment = (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND  # type: ignore[arg-type] # see except
    except (TypeError, ValueError):
        raise MalformedError(f"{field} is missing or no time with a zone") from None
    if not 0 <= moment <= _LAST_MOMENT:
        raise MalformedError(f"{field} is out of range")
    return moment


def _optional(record: dict[str, Any], field: str, expected: type) -> Any:
    value = record.get(field)
    if value is not None and not isinstance(value, expected):
        raise MalformedError(f"{field} is of a wrong type")
    return value
