"""From filters to LogQL. Pure: what is typed is always a quoted string, never part of the query's own text.

A query finds every call that passes, and may find more: `predicate.passes` decides on each. More is found where LogQL
cannot say it: values of clusters and verbs that Loki holds as `other`, long values that Loki holds cut, folded text.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from kube_audit_proxy.export.names import SERVICE, Kind
from kube_audit_proxy.index.filters import Choice, Filters, Range, ResourcePattern
from kube_audit_proxy.index.queries import matches
from kube_audit_proxy.telemetry.lines import OTHER

# A call is late where it need not have ended within this time of its beginning.
LATE_MS = 10_000


@dataclass(frozen=True, slots=True)
class LogQL:
    """A log query in parts; `str` is the query as Loki is asked it."""

    matchers: tuple[str, ...]
    stages: tuple[str, ...] = ()

    def and_(self, *stages: str) -> "LogQL":
        """Return the query with further stages."""
        return replace(self, stages=(*self.stages, *stages))

    def __str__(self) -> str:
        """Return the text of the query."""
        # Without `keep`, Loki tells all labels of every line, which the line itself has as well.
        return " ".join((f"{{{', '.join(self.matchers)}}}", *self.stages, "| keep kind"))


def calls(filters: Filters, *kinds: Kind) -> LogQL:
    """Ask for the lines of these kinds (ended and begun answers, if none is named) about the calls that may pass."""
    asked = "|".join(kinds or (Kind.CALL, Kind.CALL_STARTED))
    matchers = (f'service_name="{SERVICE}"', f'kind=~"{asked}"')
    found = LogQL((*matchers, *_short(_matchers(filters))))
    return found.and_(*_short((*_line_filters(filters.text), *_label_filters(filters))))


def calls_with(field: str, values: Iterable[str], *kinds: Kind) -> LogQL:
    """Ask for the lines of these kinds about the calls that have one of these values, none of which is long."""
    return calls(Filters(), *kinds).and_(f"| {_one_of(field, tuple(values))}")


def late() -> str:
    """Return the stage that passes calls that may have ended long after they began, and those that run."""
    return f'| duration_ms="" or duration_ms>={LATE_MS} or outcome="interrupted"'


def prompt() -> str:
    """Return the stage that passes the calls that are not late."""
    return f'| duration_ms<{LATE_MS} and outcome!="interrupted"'


def beginning(field: str, prefix: str) -> str:
    """Return the stage that passes what has a field that begins with this."""
    return f"| {field}=~{quoted(_DOT_IS_ALL + _escaped(prefix) + '.*')}"


def not_beginning(field: str, characters: str, *, after: str) -> str:
    """Return the stage that passes what has no field in which one of these characters follows what it begins with.

    No character may have a meaning among others, so a hyphen has to be the last.
    """
    return f"| {field}!~{quoted(f'{_DOT_IS_ALL}{_escaped(after)}[{characters}].*')}"


def quoted(text: str) -> str:
    """Return a text as a string of LogQL, which reads strings as Go does. The text has no lone surrogates."""
    return f'"{"".join(_quoted(character) for character in text)}"'


_LABELS = ("cluster", "access_method", "verb")
_FORGEABLE = ("cluster", "verb")
_METADATA = ("user", "namespace", "method", "decision", "command_id")

# Of a text as long as this, Loki may hold a part (`attributes.LONGEST_TEXT`). RE2 repeats at most 1,000 times.
_LONG = 1000
_LONG_ONE = f".{{{_LONG}}}.*"
_DOT_IS_ALL = "(?s)"

# What is longer is left to the predicate: the query travels in a URL.
_LONGEST_STAGE, _LONGEST_QUERY = 2000, 6000

# What becomes ASCII letters when case is folded: a line that has one of these may hold a text that has such a letter.
FOLDS_TO_ASCII = (
    "\u00df\u0130\u0149\u017f\u01f0\u1e96\u1e97\u1e98\u1e99\u1e9a\u1e9e\u212a\ufb00\ufb01\ufb02\ufb03\ufb04\ufb05\ufb06"
)
# The argv of an exec is searched with spaces, and stands as a list in the line; JSON escapes quotes and backslashes.
_PLAIN_RUN = re.compile(r"[!#-\[\]-~]+")

_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _quoted(character: str) -> str:
    if escape := _ESCAPES.get(character):
        return escape
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", text)


def _short(parts: Iterable[str]) -> Iterator[str]:
    """Yield the parts that are short enough, as many of them as a query can have."""
    left = _LONGEST_QUERY
    for part in parts:
        if len(part) <= min(left, _LONGEST_STAGE):
            left -= len(part)
            yield part


def _possible(item: str) -> bool:
    """Tell whether a record can hold the text at all."""
    return not any("\ud800" <= character <= "\udfff" for character in item)


def _anything(pattern: str) -> bool:
    return "*" in pattern and not pattern.strip("*")


def _expression(pattern: str) -> str:
    """Return the regular expression of a pattern; no field is empty, so that `*` is at least one character."""
    if "*" not in pattern:
        return _escaped(pattern)
    return ".+" if _anything(pattern) else ".*".join(map(_escaped, re.split(r"\*+", pattern)))


def _may_be_cut(pattern: str) -> bool:
    """Tell whether the beginning of a value does not tell whether the whole of it matches."""
    return len(pattern) >= _LONG or ("*" in pattern and "*" in pattern.rstrip("*"))


def _one_of(field: str, patterns: tuple[str, ...], *also: str) -> str:
    """Return what passes a field that matches one of the patterns, or is one of the values in `also`."""
    possible = [item for item in patterns if _possible(item)]
    if len(possible) == 1 and not also and "*" not in possible[0] and len(possible[0]) < _LONG:
        return f"{field}={quoted(possible[0])}"
    expressions = [_expression(item) for item in possible if len(item) < _LONG]
    if any(map(_may_be_cut, possible)):
        expressions.append(_LONG_ONE)
    expressions += map(_escaped, also)
    return f"{field}=~{quoted(_DOT_IS_ALL + '|'.join(expressions or ['.+']))}"


def _not(field: str, pattern: str) -> str:
    """Return what passes a field that is absent or does not match a pattern, or may do so where it is cut."""
    if not _possible(pattern) or len(pattern) >= _LONG:
        return ""
    if _anything(pattern):
        return f'{field}=""'
    if "*" not in pattern:
        return f"{field}!={quoted(pattern)}"
    unlike = f"{field}!~{quoted(_DOT_IS_ALL + _expression(pattern))}"
    return f"({unlike} or {field}=~{quoted(_DOT_IS_ALL + _LONG_ONE)})" if _may_be_cut(pattern) else unlike


def _matchers(filters: Filters) -> Iterator[str]:
    for label in _LABELS:
        choice: Choice[str] = getattr(filters, label)
        hidden = (OTHER,) if label in _FORGEABLE else ()
        if choice.wanted:
            yield _one_of(label, choice.wanted, *hidden)
        for pattern in choice.unwanted:
            if _anything(pattern):
                yield f'{label}=""'
            elif _possible(pattern) and not any(matches(pattern, value) for value in hidden):
                yield f"{label}!~{quoted(_DOT_IS_ALL + _expression(pattern))}"


def _line_filters(text: str) -> Iterator[str]:
    """Yield what lets pass all lines in which the text may be: each plain run of it, by letters of either case."""
    for run in dict.fromkeys(_PLAIN_RUN.findall(text.lower())):
        # Loki compares literals quickly, and takes far longer for one expression of them all.
        folded = (letter for letter in FOLDS_TO_ASCII if set(run) & set(letter.casefold()))
        yield f"|~ {' or '.join(map(quoted, (f'(?i){_escaped(run)}', *folded)))}"


def _label_filters(filters: Filters) -> Iterator[str]:
    for field in _METADATA:
        choice: Choice[str] = getattr(filters, field)
        yield from _stages(choice, partial(_one_of, field), partial(_not, field))
    yield from _stages(filters.status, _statuses, _not_status)
    yield from _stages(filters.resource, _resources, _not_resource)


def _stages(choice: Choice[Any], one_of: Callable[[Any], str], not_: Callable[[Any], str]) -> Iterator[str]:
    if choice.wanted:
        yield f"| {one_of(choice.wanted)}"
    for item in choice.unwanted:
        if condition := not_(item):
            yield f"| {condition}"


def _statuses(items: Iterable[Range]) -> str:
    return " or ".join(f"(status>={item.low} and status<={item.high})" for item in items)


def _not_status(item: Range) -> str:
    return f'(status="" or status<{item.low} or status>{item.high})'


def _resources(items: Iterable[ResourcePattern]) -> str:
    return " or ".join(f"({' and '.join(_resource(item))})" for item in items)


def _resource(item: ResourcePattern) -> Iterator[str]:
    yield _one_of("resource", (item.resource,))
    # The core group has no name: `pods.` asks for it, and any group is that one too.
    if item.group == "":
        yield 'group=""'
    elif item.group is not None and not _anything(item.group):
        yield _one_of("group", (item.group,))
    if item.subresource == "":
        yield 'subresource=""'
    elif item.subresource is not None:
        yield _one_of("subresource", (item.subresource,))


def _not_resource(item: ResourcePattern) -> str:
    """Return what passes whatever lacks one of the parts; "" where LogQL cannot tell."""
    parts = [_not("resource", item.resource)]
    if item.group == "":
        parts.append('group!=""')
    elif item.group is not None and not _anything(item.group):
        parts.append(_not("group", item.group))
    if item.subresource == "":
        parts.append('subresource!=""')
    elif item.subresource is not None:
        parts.append(_not("subresource", item.subresource))
    return f"({' or '.join(parts)})" if all(parts) else ""
