"""From filters to SQL. Pure: values are always bound, never part of the text.

A column name in the SQL comes from the tables in this module only.
"""
# ruff: noqa: S608

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kube_audit_proxy.index.filters import Choice, Filters, Range, ResourcePattern
from kube_audit_proxy.index.rows import first_id

Parameter = str | int


@dataclass(frozen=True, slots=True)
class Query:
    """SQL and the values for its question marks."""

    sql: str
    parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True)
class Narrow:
    """Search these values of this column by its index: together they are rare."""

    column: str
    values: tuple[Parameter, ...]


def newest_calls(filters: Filters, limit: int, before: int | None = None, narrow: Narrow | None = None) -> Query:
    """Ask for the newest calls that pass, newest first: `id, record`. A page goes on `before` the last one's id."""
    where = _joined((condition(filters), Query("id < ?", (before,)) if before is not None else None, _by_index(narrow)))
    return _with_records(
        f"SELECT id FROM {_source(filters, narrow)} WHERE {where.sql} ORDER BY id DESC LIMIT ?", "id DESC", where, limit
    )


def oldest_calls(filters: Filters, limit: int, after: int, last: int, narrow: Narrow | None = None) -> Query:
    """Ask for the calls that pass, oldest first, with ids above `after` and up to `last`: `id, record`."""
    where = _joined((condition(filters), Query("id > ? AND id <= ?", (after, last)), _by_index(narrow)))
    return _with_records(
        f"SELECT id FROM {_source(filters, narrow)} WHERE {where.sql} ORDER BY id LIMIT ?", "id", where, limit
    )


def changed_calls(filters: Filters, limit: int, change: int) -> Query:
    """Ask for the calls that came or went on after this change, in that order: `change, record`."""
    where = _joined((condition(filters), Query("change > ?", (change,))))
    return Query(
        "SELECT change, record FROM calls INDEXED BY calls_change CROSS JOIN texts USING (id) JOIN records USING (id)"
        f" WHERE {where.sql} ORDER BY change LIMIT ?",
        (*where.parameters, limit),
    )


def commands_of_newest_calls(
    filters: Filters, limit: int, before: int | None = None, narrow: Narrow | None = None
) -> Query:
    """Ask for the command of each call that passes, newest call first: `id, command_id`, with repetitions."""
    page = Query("id < ?", (before,)) if before is not None else None
    where = _joined((condition(filters), Query("command_id IS NOT NULL"), page, _by_index(narrow)))
    return Query(
        f"SELECT id, command_id FROM {_source(filters, narrow)} WHERE {where.sql} ORDER BY id DESC LIMIT ?",
        (*where.parameters, limit),
    )


def number_of_calls(filters: Filters, narrow: Narrow | None = None) -> Query:
    """Ask how many calls pass."""
    where = _joined((condition(filters), _by_index(narrow)))
    return Query(f"SELECT count(*) FROM {_source(filters, narrow)} WHERE {where.sql}", where.parameters)


def calls_of(command_id: str, filters: Filters) -> Query:
    """Ask for the calls of a command that pass, oldest first: `id, record`."""
    where = _joined((Query("command_id = ?", (command_id,)), condition(filters)))
    return Query(
        "SELECT id, record FROM calls INDEXED BY calls_command_id CROSS JOIN texts USING (id) JOIN records USING (id)"
        f" WHERE {where.sql} ORDER BY id",
        where.parameters,
    )


def condition(filters: Filters) -> Query:
    """Return what a row of `calls` has to fulfil to pass."""
    return _joined((*_choices(filters), *_times(filters), _text(filters.text)))


def narrowest(
    filters: Filters, facets: Mapping[str, Mapping[str | int, int]], indexed: Collection[str], enough: int
) -> Narrow | None:
    """Choose the column by whose index the fewest calls have to be looked at; None where no index helps.

    `facets` counts the calls of each value of a column; where none of its values is wanted, nothing can be found.
    Command ids are not counted: few calls have the same. Where the values wanted have more than `enough` calls, going
    through all calls from the newest finds a page sooner.
    """
    command_ids = filters.command_id.wanted
    if command_ids and not any("*" in item for item in command_ids):
        return Narrow("command_id", command_ids)
    best, fewest = None, enough + 1
    for column, counts in facets.items():
        wanted = getattr(filters, column).wanted
        if not wanted:
            continue
        values = tuple(value for value in counts if any(_WIDE_MATCH[column](item, value) for item in wanted))
        calls = sum(counts[value] for value in values)
        if not values or (column in indexed and calls < fewest and len(values) <= _MOST_VALUES):
            best, fewest = Narrow(column, values), calls
    return best


def glob(pattern: str) -> str:
    """Return what SQLite's GLOB has to be given so that only `*` is special."""
    return re.sub(r"[\[?]", r"[\g<0>]", re.sub(r"\*+", "*", pattern))


def matches(pattern: str, text: str) -> bool:
    """Tell whether a text matches a pattern, as the SQL would."""
    return pattern == text or ("*" in pattern and _compiled(pattern).fullmatch(text) is not None)


_MOST_VALUES = 500


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, re.split(r"\*+", pattern))), re.DOTALL)


def _patterns(column: str, items: Iterable[str]) -> Query:
    plain = tuple(item for item in items if "*" not in item)
    globs = tuple(glob(item) for item in items if "*" in item)
    alternatives = [f"{column} GLOB ?"] * len(globs)
    if plain:
        alternatives.insert(0, f"{column} IN ({', '.join('?' * len(plain))})")
    return Query(" OR ".join(alternatives), (*plain, *globs))


def _statuses(column: str, items: Iterable[Range]) -> Query:
    ranges = tuple(items)
    return Query(
        " OR ".join([f"{column} BETWEEN ? AND ?"] * len(ranges)),
        tuple(bound for item in ranges for bound in (item.low, item.high)),
    )


def _resources(_column: str, items: Iterable[ResourcePattern]) -> Query:
    alternatives = [_joined(_resource(item)) for item in items]
    return Query(
        " OR ".join(f"({alternative.sql})" for alternative in alternatives),
        tuple(parameter for alternative in alternatives for parameter in alternative.parameters),
    )


def _resource(item: ResourcePattern) -> Iterable[Query]:
    yield _patterns("resource", (item.resource,))
    if item.group is not None:
        # The core group has no name: `pods.` asks for it.
        yield _patterns("coalesce(api_group, '')", (item.group,))
    if item.subresource is not None:
        yield _patterns("subresource", (item.subresource,)) if item.subresource else Query("subresource IS NULL")


_CONDITIONS: dict[str, Callable[[str, Iterable[Any]], Query]] = {
    "command_id": _patterns,
    "user": _patterns,
    "cluster": _patterns,
    "namespace": _patterns,
    "resource": _resources,
    "verb": _patterns,
    "method": _patterns,
    "access_method": _patterns,
    "status": _statuses,
    "decision": _patterns,
}

# What a value of a column must be for its calls to be looked at; `condition` then decides on each call.
_WIDE_MATCH: dict[str, Callable[[Any, Any], bool]] = {
    "user": matches,
    "cluster": matches,
    "namespace": matches,
    "resource": lambda item, value: matches(item.resource, value),
    "verb": matches,
    "method": matches,
    "access_method": matches,
    "status": lambda item, value: item.low <= value <= item.high,
    "decision": matches,
}


def _choices(filters: Filters) -> Iterable[Query]:
    for column, build in _CONDITIONS.items():
        choice: Choice[Any] = getattr(filters, column)
        if choice.wanted:
            found = build(column, choice.wanted)
            yield Query(f"({found.sql})", found.parameters)
        if choice.unwanted:
            found = build(column, choice.unwanted)
            # IS NOT TRUE rather than NOT, which drops rows whose column is NULL.
            yield Query(f"({found.sql}) IS NOT TRUE", found.parameters)


def _times(filters: Filters) -> Iterable[Query]:
    if filters.since is not None:
        yield Query("id >= ?", (first_id(filters.since),))
    if filters.until is not None:
        yield Query("id < ?", (first_id(filters.until),))


def _text(text: str) -> Query | None:
    if not text:
        return None
    return Query("instr(text, ?) > 0", (text.casefold(),))


def _source(filters: Filters, narrow: Narrow | None) -> str:
    # In a CROSS JOIN, SQLite goes through the left table and looks up the right one.
    calls = f"calls INDEXED BY calls_{narrow.column}" if narrow and narrow.values else "calls NOT INDEXED"
    if not filters.text:
        return calls
    return f"{calls} CROSS JOIN texts USING (id)" if narrow else f"texts CROSS JOIN {calls} USING (id)"


def _by_index(narrow: Narrow | None) -> Query | None:
    if narrow is None:
        return None
    if not narrow.values:
        return Query("FALSE")
    return Query(f"{narrow.column} IN ({', '.join('?' * len(narrow.values))})", narrow.values)


def _joined(parts: Iterable[Query | None]) -> Query:
    present = [part for part in parts if part is not None and part.sql]
    return Query(
        " AND ".join(part.sql for part in present) or "TRUE",
        tuple(parameter for part in present for parameter in part.parameters),
    )


def _with_records(ids: str, order: str, where: Query, limit: int) -> Query:
    # The inner question sorts ids only; records are fetched for the page that is left.
    return Query(
        f"SELECT id, record FROM records WHERE id IN ({ids}) ORDER BY {order}",
        (*where.parameters, limit),
    )
