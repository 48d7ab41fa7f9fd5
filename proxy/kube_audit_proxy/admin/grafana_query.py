"""The arguments of an export: those of a link on a Grafana dashboard, and plain ones. Pure.

A dashboard's link has `from`, `to`, `timezone`, and `var-<name>` for each value chosen, as it is: it stands for itself,
commas and asterisks included. Only boxes that take a list (namespace, resource, command_id) have it separated by
commas, and `pods/*` in the one for resources is pods with any subresource or none, as on the dashboard. Plain arguments
(`user`, `since`, ...) have the filter language of the command line.

Times are about when a call was received. The dashboards' are about when it ended, as lines in Loki have to be, so a
call that was running at an end of the range may be in the one and not in the other. Calls that have not ended are
exported too; `Stage` tells.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from typing import Any
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kube_audit_proxy.admin import grafana_time
from kube_audit_proxy.index import filters as language
from kube_audit_proxy.index.filters import OPTIONS, Choice, Exact, FilterError, Filters, Range, ResourcePattern
from kube_audit_proxy.telemetry.lines import OTHER

Arguments = Sequence[tuple[str, str]]

TOKEN = "token"  # noqa: S105 - the name of the argument
MATCH, CONTAINS = "match", "contains"
"""With `match=contains`, a dashboard's `user` is text that the name has to contain, in any case."""


class QueryError(ValueError):
    """Arguments that make no sense; the message is a sentence for the one who sent them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be exported. `arguments` are those it was asked by, without the token."""

    filters: Filters
    arguments: dict[str, list[str]] = field(default_factory=dict)
    user_contains: tuple[str, ...] = ()

    def filters_for(self, users: Iterable[str]) -> Filters:
        """Return the filters, given all the users there are."""
        if not self.user_contains:
            return self.filters
        found = [Exact(user) for user in users if any(text.lower() in user.lower() for text in self.user_contains)]
        return replace(self.filters, user=Choice(tuple(found) or (_NOBODY,)))


def arguments(query: str) -> Arguments:
    """Return the arguments of an address, decoded; only `&` separates them. Raises QueryError."""
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MOST_ARGUMENTS)
    except UnicodeDecodeError:
        raise QueryError("The address is not UTF-8.") from None
    except ValueError:
        raise QueryError(f"There are more than {_MOST_ARGUMENTS} arguments.") from None


def parse(given: Arguments, *, now: datetime, known: Mapping[str, Collection[str]]) -> Asked:
    """Return what arguments ask for. Raises QueryError.

    `known` has the clusters and verbs that have a label of their own in Loki; what is none of them is `other` there.
    """
    values: dict[str, list[str]] = {}
    for name, value in given:
        if name != TOKEN:
            values.setdefault(name, []).append(value)
    unknown = [name for name in values if not _is_known(name, values[name])]
    if unknown:
        raise QueryError(f"There is no argument {unknown[0]!r}. {_NAMES}")
    plain = {_plain_name(name): each for name, each in values.items() if _plain_name(name) in _OPTION_NAMES}
    variables = {name.removeprefix(_VARIABLE): each for name, each in values.items() if name.startswith(_VARIABLE)}
    filters = _plain_filters(plain, now)
    filters = _with_range(filters, values, now)
    contains = _single(values, MATCH)
    if contains not in {"", CONTAINS}:
        raise QueryError(f"match: {contains!r} is not {CONTAINS!r}, the only way there is beside the exact one.")
    user_contains: tuple[str, ...] = ()
    for name, chosen in variables.items():
        wanted = _chosen(chosen)
        if name in _IGNORED_VARIABLES or not wanted:
            continue
        attribute = _ATTRIBUTES[name]
        if getattr(filters, attribute) not in {Choice(), ""}:
            raise QueryError(f"Give either {attribute.replace('_', '-')} or {_VARIABLE}{name}.")
        if attribute == "user" and contains:
            user_contains = wanted
        else:
            filters = replace(filters, **{attribute: _condition(attribute, wanted, known, now)})
    return Asked(filters, values, user_contains)


def in_utc(moment: int | None) -> str:
    """Return a time of the filters in words that can stand in a file's name; "" for None."""
    if moment is None:
        return ""
    try:
        return datetime.fromtimestamp(moment // 1_000_000, _UTC).strftime("%Y%m%dT%H%M%SZ")
    except (ValueError, OverflowError):
        return ""


_UTC = ZoneInfo("UTC")
_MOST_ARGUMENTS = 1000
_VARIABLE = "var-"
_ALL = frozenset({"", "$__all", ".*"})
_ANY = ".+"
_NOBODY = Exact("")

_OPTION_NAMES = {option.name: option for option in OPTIONS}
_ATTRIBUTES = {
    "user": "user",
    "cluster": "cluster",
    "namespace": "namespace",
    "resource": "resource",
    "method": "method",
    "verb": "verb",
    "access_method": "access_method",
    "status": "status",
    "decision": "decision",
    "command_id": "command_id",
    "text": "text",
    "q": "text",
}
_LISTS = frozenset({"namespace", "command_id"})
_IGNORED = frozenset({"timezone", "orgId", "refresh", "theme", "kiosk"})
_IGNORED_VARIABLES = frozenset({"export_url"})
_OWN = frozenset({"from", "to", MATCH})
_NAMES = f"There are from, to, {', '.join(_OPTION_NAMES)}, and {', '.join(map(_VARIABLE.__add__, _ATTRIBUTES))}."
_DISPLAYED_STATUS = re.compile(r"[1-9](?:[0-9]{2}|[0-9]\.|\.\.)")


def _is_known(name: str, values: Sequence[str]) -> bool:
    """A variable of a dashboard that is not one of ours is harmless as long as it narrows nothing."""
    if name.startswith(_VARIABLE):
        variable = name.removeprefix(_VARIABLE)
        return variable in _ATTRIBUTES or variable in _IGNORED_VARIABLES or not _chosen(values)
    return name in _IGNORED or name in _OWN or _plain_name(name) in _OPTION_NAMES


def _plain_name(name: str) -> str:
    return name.replace("_", "-")


def _single(values: Mapping[str, Sequence[str]], name: str) -> str:
    given = values.get(name, [""])
    if len(given) > 1:
        raise QueryError(f"{name}: give it only once.")
    return given[0]


def _chosen(values: Sequence[str]) -> tuple[str, ...]:
    """What was chosen of a variable; nothing where that is all."""
    return () if _ALL & set(values) - {""} else tuple(dict.fromkeys(value for value in values if value))


def _plain_filters(plain: Mapping[str, Sequence[str]], now: datetime) -> Filters:
    try:
        return language.parse({name: [each for each in given if each] for name, given in plain.items()}, now=now)
    except FilterError as error:
        raise QueryError(_sentence(error)) from None


def _sentence(error: FilterError) -> str:
    """What the command line says, without its dashes."""
    return f"{error.option}: {str(error).removeprefix(f'--{error.option}: ').replace(' --until ', ' until ')}"


def _with_range(filters: Filters, values: Mapping[str, Sequence[str]], now: datetime) -> Filters:
    zone = _zone(_single(values, "timezone"))
    for name, attribute, is_end in (("from", "since", False), ("to", "until", True)):
        text = _single(values, name)
        if not text.strip():
            continue
        if getattr(filters, attribute) is not None:
            raise QueryError(f"Give either {name} or {attribute}.")
        try:
            moment = grafana_time.parse(text, now=now, zone=zone, is_end=is_end)
        except grafana_time.TimeError as error:
            raise QueryError(f"{name}: {error}") from None
        filters = replace(filters, until=moment) if is_end else replace(filters, since=moment)
    if filters.since is not None and filters.until is not None and filters.since > filters.until:
        raise QueryError("The range ends before it begins.")
    return filters


def _zone(name: str) -> tzinfo | None:
    """A browser's time zone is known to the browser only: this machine's stands for it."""
    if name in {"", "browser"}:
        return None
    try:
        return ZoneInfo("UTC" if name == "utc" else name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise QueryError(
            f"timezone: {name!r} is not known. Give a name such as Europe/Berlin, utc or browser."
        ) from None


def _condition(attribute: str, wanted: tuple[str, ...], known: Mapping[str, Collection[str]], now: datetime) -> Any:
    if attribute == "text":
        if len(wanted) > 1:
            raise QueryError(f"{_VARIABLE}text: give it only once.")
        return wanted[0]
    if attribute == "status":
        return Choice(tuple(each for text in wanted for part in text.split("|") for each in _statuses(part, now)))
    if attribute == "resource":
        return Choice(tuple(pattern for text in wanted for each in _listed(text) for pattern in _resources(each)))
    if attribute in _LISTS:
        return Choice(tuple(Exact(each) for text in wanted for each in _listed(text)))
    option = _OPTION_NAMES[_plain_name(attribute)]
    wrong = [each for each in wanted if option.words and each not in {*option.words, _ANY}]
    if wrong:
        raise QueryError(f"{_VARIABLE}{attribute}: {wrong[0]!r} is none of {', '.join(option.words)}.")
    if OTHER in wanted and attribute in known:
        # What is none of those that are known: any but those known ones that are not wanted too.
        return Choice(("*",), tuple(Exact(each) for each in sorted(known[attribute]) if each not in wanted))
    return Choice(tuple(map(_pattern, wanted)))


def _listed(text: str) -> Iterable[str]:
    """What a box says: the text itself, and what it lists."""
    return dict.fromkeys((text, *filter(None, text.replace(" ", "").split(","))))


def _resources(text: str) -> Iterable[ResourcePattern]:
    """Read `pods`, `pods/exec`, `pods/*` and `deployments.apps`; what is before a dot may also be all of the name."""
    name, _, subresource = text.partition("/")
    wanted = None if subresource == "*" else Exact(subresource)
    yield ResourcePattern(Exact(name), None, wanted)
    resource, dot, group = name.partition(".")
    if dot:
        yield ResourcePattern(Exact(resource), Exact(group), wanted)


def _pattern(value: str) -> str:
    return "*" if value == _ANY else Exact(value)


def _statuses(text: str, now: datetime) -> Iterable[Range]:
    if text == _ANY:
        return (Range(0, 999),)
    if _DISPLAYED_STATUS.fullmatch(text):
        return (Range(int(text.replace(".", "0")), int(text.replace(".", "9"))),)
    try:
        return language.parse({"status": [text]}, now=now).status.wanted
    except FilterError as error:
        raise QueryError(f"{_VARIABLE}{_sentence(error)}") from None
