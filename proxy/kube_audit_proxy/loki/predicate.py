"""Whether a call passes the filters: what the SQL of the index says, said of one line. Pure."""

from collections.abc import Callable, Iterable
from typing import Any

from kube_audit_proxy.index.filters import Choice, Filters, ResourcePattern
from kube_audit_proxy.index.queries import matches
from kube_audit_proxy.index.rows import CallLine, Row

Predicate = Callable[[CallLine], bool]


def passes(filters: Filters) -> Predicate:
    """Return what tells of the latest line of a call whether the call passes."""
    wanted = [(_TESTS[name], choice) for name in _TESTS if (choice := getattr(filters, name)) != Choice()]
    text, since, until = filters.text.casefold(), filters.since, filters.until

    def does(line: CallLine) -> bool:
        return (
            (since is None or line.received >= since)
            and (until is None or line.received < until)
            and all(_chosen(test, choice, line.row) for test, choice in wanted)
            and text in line.text
        )

    return does


def _chosen(test: Callable[[Any, Row], bool], choice: Choice[Any], row: Row) -> bool:
    return (not choice.wanted or _any(test, choice.wanted, row)) and not _any(test, choice.unwanted, row)


def _any(test: Callable[[Any, Row], bool], items: Iterable[Any], row: Row) -> bool:
    return any(test(item, row) for item in items)


def _pattern(field: str) -> Callable[[str, Row], bool]:
    position = Row._fields.index(field)

    def test(pattern: str, row: Row) -> bool:
        value = row[position]
        return isinstance(value, str) and matches(pattern, value)

    return test


def _resource(item: ResourcePattern, row: Row) -> bool:
    return (
        row.resource is not None
        and matches(item.resource, row.resource)
        and (item.group is None or matches(item.group, row.api_group or ""))
        and _subresource(item.subresource, row.subresource)
    )


def _subresource(pattern: str | None, value: str | None) -> bool:
    if pattern is None:
        return True
    return value is None if pattern == "" else value is not None and matches(pattern, value)


_TESTS: dict[str, Callable[[Any, Row], bool]] = {
    "status": lambda item, row: row.status is not None and item.low <= row.status <= item.high,
    "decision": _pattern("decision"),
    "user": _pattern("user"),
    "cluster": _pattern("cluster"),
    "namespace": _pattern("namespace"),
    "resource": _resource,
    "verb": _pattern("verb"),
    "method": _pattern("method"),
    "access_method": _pattern("access_method"),
    "command_id": _pattern("command_id"),
}
