"""From a line of the journal to what the index keeps of a call. Pure."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

import orjson

from kube_audit_proxy.audit.fields import Stage

CALLS_PER_MICROSECOND = 1024


class MalformedError(ValueError):
    """A line that is no record; the message says what is wrong with it."""


class Kind(NamedTuple):
    """What many calls have in common: the columns `schema.KIND`, and `client`, what `--text` searches of who calls.

    `digest` is the same for the same kind, in all processes and files.
    """

    stage: str
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
    client: str
    digest: str


class Known(Protocol):
    """What is known of a call, by its latest line."""

    @property
    def kind(self) -> Kind:
        """What it has in common with others."""

    @property
    def audit_id(self) -> str:
        """Its id."""

    @property
    def writer(self) -> str:
        """Who wrote the line."""

    @property
    def seq(self) -> int:
        """The line's number among its writer's."""


class CallLine(NamedTuple):
    """One line about a call. Times are microseconds since 1970: of the call's beginning, and of this stage.

    `words` is what `--text` searches of the call itself. Texts that are searched are folded, so that case does not
    matter.
    """

    kind: Kind
    writer: str
    command_id: str | None
    command: str | None
    command_source: str | None
    audit_id: str
    seq: int
    received: int
    reached: int
    exit_code: int | None
    words: str
    record: str

    @property
    def text(self) -> str:
        """All the text that `--text` searches."""
        return f"{self.kind.client}{SEPARATOR}{self.words}"


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
    values: list[Any] = [*map(record.get, _FIELDS)]
    types = (*map(type, values),)
    if types not in _SOUND:
        _check(values)
        if len(_SOUND) < _MOST_SOUND:
            _SOUND.add(types)
    audit_id, writer, seq, command_id, exit_code, command, source, *of_kind = values
    if of_kind[_STAGE] not in RANKS:
        raise MalformedError(f"unknown stage {of_kind[_STAGE]!r}")
    return CallLine(
        _kind(*of_kind, _client(of_kind[_USER], command, record.get("userAgent"))),
        writer,
        command_id,
        command,
        source,
        audit_id,
        seq,
        _time(record, "requestReceivedTimestamp"),
        _time(record, "stageTimestamp"),
        exit_code,
        _words(record),
        line.decode(),
    )


@lru_cache(maxsize=4096)
def _kind(*values: Any) -> Kind:
    return Kind._make((*values, blake2b(orjson.dumps(values), digest_size=16).hexdigest()))


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


def newer(line: Known, known: Known) -> bool:
    """Tell whether a line says more about its call than the one that is known."""
    new, old = RANKS[line.kind.stage], RANKS[known.kind.stage]
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
_OF_CALL = ("audit_id", "writer", "seq", "command_id", "exit_code", "command", "command_source")
_OF_KIND = Kind._fields[:-2]
_STAGE, _USER = _OF_KIND.index("stage"), _OF_KIND.index("user")
_COLUMNS = tuple((_FIELD_OF.get(name, name), _TYPES.get(name, str), name in _NEEDED) for name in (*_OF_CALL, *_OF_KIND))
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
