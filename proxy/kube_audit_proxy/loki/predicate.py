"""Whether a call passes the filters: what the SQL of the index says, said of one line. Pure."""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

from kube_audit_proxy.index.filters import Choice, Filters, Range, ResourcePattern
from kube_audit_proxy.index.queries import matches
from kube_audit_proxy.index.rows import CallLine

Predicate = Callable[[CallLine], bool]


def passes(filters: Filters) -> Predicate:
    """Return what tells of the latest line of a call whether the call passes."""
    wanted = [(_TESTS[name], choice) for name in _TESTS if (choice := getattr(filters, name)) != Choice()]
    text, since, until = filters.text.casefold(), filters.since, filters.until

    def does(line: CallLine) -> bool:
        return (
            (since is None or line.received >= since)
            and (until is None or line.received < until)
            and all(_chosen(test, choice, line) for test, choice in wanted)
            and text in line.text
        )

    return does


def _chosen(test: Callable[[Any, CallLine], bool], choice: Choice[Any], line: CallLine) -> bool:
    return (not choice.wanted or _any(test, choice.wanted, line)) and not _any(test, choice.unwanted, line)


def _any(test: Callable[[Any, CallLine], bool], items: Iterable[Any], line: CallLine) -> bool:
    return any(test(item, line) for item in items)


def _pattern(of: Callable[[CallLine], str | None]) -> Callable[[str, CallLine], bool]:
    def test(pattern: str, line: CallLine) -> bool:
        value = of(line)
        return isinstance(value, str) and matches(pattern, value)

    return test


def _resource(item: ResourcePattern, line: CallLine) -> bool:
    kind = line.kind
    return (
        kind.resource is not None
        and matches(item.resource, kind.resource)
        and (item.group is None or matches(item.group, kind.api_group or ""))
        and _subresource(item.subresource, kind.subresource)
    )


def _subresource(pattern: str | None, value: str | None) -> bool:
    if pattern is None:
        return True
    return value is None if pattern == "" else value is not None and matches(pattern, value)


def _status(item: Range, line: CallLine) -> bool:
    status = line.kind.status
    return status is not None and item.low <= status <= item.high


_TESTS: dict[str, Callable[[Any, CallLine], bool]] = {
    "status": _status,
    "decision": _pattern(attrgetter("kind.decision")),
    "user": _pattern(attrgetter("kind.user")),
    "cluster": _pattern(attrgetter("kind.cluster")),
    "namespace": _pattern(attrgetter("kind.namespace")),
    "resource": _resource,
    "verb": _pattern(attrgetter("kind.verb")),
    "method": _pattern(attrgetter("kind.method")),
    "access_method": _pattern(attrgetter("kind.access_method")),
    "command_id": _pattern(attrgetter("command_id")),
}
