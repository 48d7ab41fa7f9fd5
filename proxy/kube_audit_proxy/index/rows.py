"""From a line of the journal to what the index keeps of a call. Pure."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from kube_audit_proxy.audit.fields import Stage

CALLS_PER_MICROSECOND = 1024


class MalformedError(ValueError):
    """A line that is no record; the message says what is wrong with it."""


class Row(NamedTuple):
    """What filters look at in a call: the columns of the view `calls`, in their order, save `id` and `change`."""

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
    status: int | None
    decision: str | None
    outcome: str | None
    command_id: str | None


class CallLine(NamedTuple):
    """One line about a call. Times are microseconds since 1970: of the call's beginning, and of this stage.

    What `--text` searches is in two parts, both folded so that case does not matter: `client` is what many calls of a
    user have in common, `words` is about this call.
    """

    row: Row
    received: int
    reached: int
    exit_code: int | None
    command: str | None
    command_source: str | None
    client: str
    words: str
    record: str

    @property
    def text(self) -> str:
        """All the text that `--text` searches."""
        return f"{self.client}{SEPARATOR}{self.words}"


def parse(line: bytes) -> CallLine | None:
    """Read a line; None where it is about something else than a call. Raises MalformedError."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise MalformedError("not a JSON object")
    kind = record.get("kind")
    if kind != "call":
        if kind in _ABOUT_NO_CALL:
            return None
        raise MalformedError(f"unknown kind {kind!r}")
    values = [*map(record.get, _FIELDS)]
    types = (*map(type, values),)
    if types not in _SOUND:
        _check(values)
        if len(_SOUND) < _MOST_SOUND:
            _SOUND.add(types)
    row = Row._make(values[: len(Row._fields)])
    if row.stage not in RANKS:
        raise MalformedError(f"unknown stage {row.stage!r}")
    command, source, exit_code = values[len(Row._fields) :]
    return CallLine(
        row,
        _time(record, "requestReceivedTimestamp"),
        _time(record, "stageTimestamp"),
        exit_code,
        command,
        source,
        _client(row.user, command, record.get("userAgent")),
        _words(record),
        line.decode(),
    )


@lru_cache(maxsize=4096)
def _client(*texts: object) -> str:
    return SEPARATOR.join(text for text in texts if isinstance(text, str)).casefold()


def _words(record: dict[str, Any]) -> str:
    get = record.get
    uri, name, message, argv = get("requestURI"), get("name"), get("message"), get("exec_argv")
    found = [uri] if isinstance(uri, str) else []
    # Most names stand in the URI as they are; what is found there need not be kept twice.
    if isinstance(name, str) and not (found and name in found[0]):
        found.append(name)
    if isinstance(message, str):
        found.append(message)
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
_TYPES: dict[str, type | tuple[type, ...]] = {"seq": int, "status": int, "exit_code": int}
_NEEDED = {"audit_id", "stage", "writer", "seq"}
_COLUMNS = tuple(
    (_FIELD_OF.get(name, name), _TYPES.get(name, str), name in _NEEDED)
    for name in (*Row._fields, "command", "command_source", "exit_code")
)
_FIELDS = tuple(field for field, _, _ in _COLUMNS)

_SOUND: set[tuple[type, ...]] = set()
"""Types that were found to be those of a record: lines do not differ much in that."""
_MOST_SOUND = 10_000


def _check(values: list[Any]) -> None:
    for value, (field, expected, needed) in zip(values, _COLUMNS, strict=True):
        if (needed or value is not None) and not isinstance(value, expected):
            raise MalformedError(f"{field} is missing or of a wrong type")


def _time(record: dict[str, Any], field: str) -> int:
    try:
        moment: int = (datetime.fromisoformat(record[field]) - _EPOCH) // _MICROSECOND
    except (KeyError, TypeError, ValueError):
        raise MalformedError(f"{field} is missing or no time with a zone") from None
    if not 0 <= moment <= _LAST_MOMENT:
        raise MalformedError(f"{field} is out of range")
    return moment
