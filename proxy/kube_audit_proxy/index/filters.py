"""The one filter language: for `log`, `commands` and `export`, and for whatever else asks the index.

Pure: strings in, `Filters` out; the time of day and the time zone are passed in.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import Enum, auto
from typing import Any, Generic, TypeVar

from kube_audit_proxy.audit.fields import AccessMethod, Decision

Item = TypeVar("Item")


class FilterError(ValueError):
    """A filter that makes no sense. `option` is its name; the message says what to write instead."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(f"--{option}: {message}")
        self.option = option


class Exact(str):
    """A text in the place of a pattern that stands for itself: no asterisk in it is a wildcard.

    Whoever asks `"*" in pattern`, as one has to before taking it for one, is told so.
    """

    __slots__ = ()

    def __contains__(self, part: object) -> bool:
        """Tell whether a part is in the text; an asterisk never is."""
        return isinstance(part, str) and part != "*" and super().__contains__(part)


class Kind(Enum):
    """How the values of an option are read."""

    PATTERN = auto()
    METHOD = auto()
    VERB = auto()
    WORD = auto()
    STATUS = auto()
    RESOURCE = auto()
    TEXT = auto()
    TIME = auto()


@dataclass(frozen=True, slots=True)
class Option:
    """One filter: its name, how it is read, and what a person is told about it."""

    name: str
    kind: Kind
    metavar: str
    help: str
    words: tuple[str, ...] = ()


_ACCESS_METHODS = tuple(method.value for method in AccessMethod)
_DECISIONS = tuple(decision.value for decision in Decision)

OPTIONS: tuple[Option, ...] = (
    Option("user", Kind.PATTERN, "NAME", "Who made the call."),
    Option("cluster", Kind.PATTERN, "NAME", "The cluster it went to."),
    Option("namespace", Kind.PATTERN, "NAME", "The namespace it was about."),
    Option("resource", Kind.RESOURCE, "RESOURCE", "pods, pods/exec, pods/* (any subresource), deployments.apps."),
    Option("verb", Kind.VERB, "VERB", "get, list, watch, create, update, patch, delete, deletecollection."),
    Option("method", Kind.METHOD, "METHOD", "GET, POST, PUT, PATCH, DELETE."),
    Option("access-method", Kind.WORD, "|".join(_ACCESS_METHODS), "How the user got in.", _ACCESS_METHODS),
    Option("status", Kind.STATUS, "STATUS", "404, 4xx, '>=400'."),
    Option("decision", Kind.WORD, "|".join(_DECISIONS), "Whether the call was let through.", _DECISIONS),
    Option("command-id", Kind.PATTERN, "UUID", "The command it was part of."),
    Option("text", Kind.TEXT, "TEXT", "Text in user, name, URI, command, message, user agent or exec command line."),
    Option("since", Kind.TIME, "TIME", "Received at this time or later: 15m, 2h, 3d, today, 2026-11-23."),
    Option("until", Kind.TIME, "TIME", "Received before this time."),
)


@dataclass(frozen=True, slots=True)
class Range:
    """HTTP statuses from `low` to `high`, both included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class ResourcePattern:
    """Patterns of a resource. A group of None is any group; a subresource of "" is none, of None any or none."""

    resource: str
    group: str | None = None
    subresource: str | None = ""


@dataclass(frozen=True, slots=True)
class Choice(Generic[Item]):
    """Passes what matches at least one of `wanted` (or anything, if that is empty) and none of `unwanted`."""

    wanted: tuple[Item, ...] = ()
    unwanted: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class Filters:
    """All the filters of a question. A call has to pass every one of them.

    In patterns `*` stands for any characters, all others for themselves; in an `Exact` it does too. A call that lacks a
    field matches no pattern of it, so it passes `!x` and `!*`. Times are microseconds since 1970: `since` included,
    `until` not.
    """

    user: Choice[str] = Choice()
    cluster: Choice[str] = Choice()
    namespace: Choice[str] = Choice()
    resource: Choice[ResourcePattern] = Choice()
    verb: Choice[str] = Choice()
    method: Choice[str] = Choice()
    access_method: Choice[str] = Choice()
    status: Choice[Range] = Choice()
    decision: Choice[str] = Choice()
    command_id: Choice[str] = Choice()
    text: str = ""
    since: int | None = None
    until: int | None = None


def parse(raw: Mapping[str, Sequence[str]], *, now: datetime, zone: tzinfo | None = None) -> Filters:
    """Read the filters that people typed: for each option's name the values given, separated by commas or repeated.

    `now` has a time zone. Times without one are in `zone`; None is the zone of this machine. Raises FilterError.
    """
    values: dict[str, Any] = {}
    for name, given in raw.items():
        option = _BY_NAME.get(name)
        if option is None:
            raise FilterError(name, f"there is no such filter. Filters are {', '.join(_BY_NAME)}.")
        if not given:
            continue
        attribute = name.replace("-", "_")
        if option.kind is Kind.TEXT:
            values[attribute] = _single(name, given)
        elif option.kind is Kind.TIME:
            values[attribute] = parse_time(name, _single(name, given), now=now, zone=zone)
        else:
            values[attribute] = _choice(option, given)
    filters = Filters(**values)
    if filters.since is not None and filters.until is not None and filters.since > filters.until:
        raise FilterError(
            "since", f"{raw['since'][0]} is later than --until {raw['until'][0]}. Exchange them, or leave one out."
        )
    return filters


def in_words(raw: Mapping[str, Sequence[str]]) -> str:
    """Tell the filters as they were typed: `user alice, status 4xx`; "" where there are none."""
    return ", ".join(f"{name.replace('-', ' ')} {','.join(given)}" for name, given in raw.items() if given)


def parse_time(option: str, text: str, *, now: datetime, zone: tzinfo | None = None) -> int:
    """Return the time in microseconds since 1970 that `15m`, `yesterday`, `2026-11-23` or an RFC 3339 time means."""
    word = text.strip().lower()
    if word == "now":
        return microseconds(now)
    if word in _DAYS:
        day = now.astimezone(zone).date() - timedelta(days=_DAYS[word])
        return microseconds(_in_zone(datetime.combine(day, time.min), zone))
    try:
        if ago := _AGO.fullmatch(word):
            return microseconds(now - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]]))
        if _DATE_OR_TIME.fullmatch(text.strip()):
            moment = datetime.fromisoformat(text.strip().upper())
            return microseconds(moment if moment.tzinfo else _in_zone(moment, zone))
    except (ValueError, OverflowError):
        pass  # such as February 30
    raise FilterError(
        option,
        f"{text!r} is no time. Give how long ago (15m, 2h, 3d), now, today, yesterday, a date (2026-11-23)"
        " or a time (2026-11-23T14:30:00Z).",
    )


def microseconds(moment: datetime) -> int:
    """Return a time that has a time zone as microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


_BY_NAME = {option.name: option for option in OPTIONS}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DAYS = {"today": 0, "yesterday": 1}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGO = re.compile(r"([0-9]+)([smhdw])")
_DATE_OR_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?([Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)
_STATUS_CLASS = re.compile(r"([1-5])xx", re.IGNORECASE)
_STATUS_COMPARED = re.compile(r"(>=|<=|>|<|)([1-9][0-9]{2})")
_COMPARISONS = {
    "": lambda number: Range(number, number),
    ">=": lambda number: Range(number, 999),
    "<=": lambda number: Range(0, number),
    ">": lambda number: Range(number + 1, 999),
    "<": lambda number: Range(0, number - 1),
}


def _in_zone(moment: datetime, zone: tzinfo | None) -> datetime:
    return moment.astimezone() if zone is None else moment.replace(tzinfo=zone)


def _single(option: str, given: Sequence[str]) -> str:
    if len(given) > 1:
        raise FilterError(option, "give it only once.")
    if not given[0].strip():
        raise FilterError(option, "has an empty value. Leave the option out to see everything.")
    return given[0]


def _choice(option: Option, given: Iterable[str]) -> Choice[Any]:
    wanted: list[str | Range | ResourcePattern] = []
    unwanted: list[str | Range | ResourcePattern] = []
    for text in (part.strip() for value in given for part in value.split(",")):
        bare = text.removeprefix("!").strip()
        if not bare:
            raise FilterError(option.name, "has an empty value. Leave the option out to see everything.")
        (unwanted if text.startswith("!") else wanted).append(_item(option, bare))
    return Choice(tuple(wanted), tuple(unwanted))


def _item(option: Option, text: str) -> str | Range | ResourcePattern:
    match option.kind:
        case Kind.METHOD:
            return text.upper()
        case Kind.VERB:
            return text.lower()
        case Kind.WORD:
            return _word(option, text.lower())
        case Kind.STATUS:
            return _status(option.name, text)
        case Kind.RESOURCE:
            return _resource(text)
        case _:
            return text


def _word(option: Option, word: str) -> str:
    if word not in option.words:
        raise FilterError(option.name, f"{word!r} is none of {', '.join(option.words)}.")
    return word


def _status(option: str, text: str) -> Range:
    if found := _STATUS_CLASS.fullmatch(text):
        return Range(int(found[1]) * 100, int(found[1]) * 100 + 99)
    if found := _STATUS_COMPARED.fullmatch(text.replace(" ", "")):
        return _COMPARISONS[found[1]](int(found[2]))
    raise FilterError(option, f"{text!r} is no status. Give a number (404), a class (4xx) or a comparison ('>=400').")


def _resource(text: str) -> ResourcePattern:
    """Read a resource as audit policies do: `*` is all of them with all their subresources, `pods` only pods."""
    if text == "*":
        return ResourcePattern("*", subresource=None)
    name, _, subresource = text.lower().partition("/")
    resource, dot, group = name.partition(".")
    return ResourcePattern(resource or "*", group if dot else None, subresource)
