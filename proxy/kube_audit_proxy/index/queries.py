"""From filters to SQL. Pure: values are always bound, never part of the text.

A column name in the SQL comes from the tables in this module only. What is asked of `log` is asked beside what `_CALL`
joins to it: the call's kind, and the text that is searched.
"""
# ruff: noqa: S608

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kube_audit_proxy.index.filters import Choice, Filters, Range, ResourcePattern
from kube_audit_proxy.index.rows import first_id

Parameter = str | int

Place = tuple[int, ...]
"""How new the newest call of a kind can be, and the kind's number: by that, kinds are in an order."""


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


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the calls by their ids: from `low`, included, to `high`, excluded."""

    low: int
    high: int


def span(filters: Filters, before: int | None = None) -> Span:
    """Return between which ids calls can be that pass, and that come `before` one."""
    high = _AFTER_ALL if filters.until is None else first_id(filters.until)
    low = 0 if filters.since is None else first_id(filters.since)
    return Span(low, high if before is None else min(high, before))


def scan(filters: Filters, within: Span) -> Query:
    """Ask for all calls of a span that pass, newest first: `id, command`. All of the span is read."""
    where = _joined((condition(filters), _within(within)))
    return Query(
        f"SELECT id, command FROM log NOT INDEXED {_call(filters)} WHERE {where.sql} ORDER BY id DESC", where.parameters
    )


def of_commands(filters: Filters, commands: Collection[int], within: Span) -> Query:
    """Ask for the calls of these commands that pass, newest first: `id, command`."""
    numbers = Query(f"command IN ({', '.join('?' * len(commands))})", tuple(commands))
    where = _joined((numbers, condition(filters), _within(within)))
    return Query(
        f"SELECT id, command FROM log INDEXED BY log_command {_call(filters)} WHERE {where.sql} ORDER BY id DESC",
        where.parameters,
    )


def kinds(filters: Filters, narrow: Narrow | None, *, said: bool) -> Query:
    """Return the tables and the condition of a question about the kinds whose calls can pass.

    `said` are those of whose client the text is said, so that all of their calls have it; the others if not.
    """
    source = f"kinds INDEXED BY kinds_{narrow.column}" if narrow and narrow.values else "kinds NOT INDEXED"
    where = _joined((_kind_condition(filters), _by_index(narrow), *_of_client(filters, said=said), Query("calls > 0")))
    return Query(f"FROM {source} CROSS JOIN tallies USING (kind) WHERE {where.sql}", where.parameters)


def number_of_kinds(narrow: Narrow | None, most: int) -> Query:
    """Ask among how many kinds `kinds` looks for those whose calls can pass; it counts up to `most`."""
    if narrow is None:
        return Query("SELECT min(coalesce(max(kind), 0), ?) FROM kinds", (most,))
    where = _joined([_by_index(narrow)])
    return Query(
        f"SELECT count(*) FROM (SELECT 1 FROM kinds INDEXED BY kinds_{narrow.column} WHERE {where.sql} LIMIT ?)",
        (*where.parameters, most),
    )


def number_of_calls_of(kinds_: Query) -> Query:
    """Ask how many calls the kinds have."""
    return Query(f"SELECT coalesce(sum(calls), 0) {kinds_.sql}", kinds_.parameters)


def lately(filters: Filters, within: Span, after: Place, limit: int, *, said: bool) -> Query:
    """Ask for the kinds that can pass among so many of those that had a call last, `after` one: `newest, kind`.

    `newest` is how new a call of theirs in the span can be.
    """
    where = _joined((_kind_condition(filters), *_of_client(filters, said=said)))
    return Query(
        f"SELECT min(newest, ?), kind FROM ({_LATELY}) CROSS JOIN kinds USING (kind) WHERE calls > 0 AND {where.sql}",
        (within.high - 1, within.low, *after, limit, *where.parameters),
    )


def end_of_lately(within: Span, after: Place, limit: int) -> Query:
    """Ask for the last kind that `lately` looks at: `newest, kind`; for none if it is the last of all."""
    return Query(f"SELECT newest, kind FROM ({_LATELY}) LIMIT 1 OFFSET ?", (within.low, *after, limit, limit - 1))


def newest_kinds(kinds_: Query, within: Span, before: Place, after: Place, limit: int) -> Query:
    """Ask for kinds by how new a call of theirs in the span can be: `newest, kind`; those `after` such a pair.

    Those that had a call later than the kind `before` are left out.
    """
    return Query(
        f"SELECT min(newest, ?) AS place, kind {kinds_.sql} AND newest >= ? AND (newest, kind) < (?, ?)"
        " AND (place, kind) < (?, ?) ORDER BY place DESC, kind DESC LIMIT ?",
        (within.high - 1, *kinds_.parameters, within.low, *before, *after, limit),
    )


def newest_kinds_until(kinds_: Query, within: Span, after: Place, limit: int) -> Query:
    """Ask the same where all of the span is long ago: of kinds that had calls since, the newest before is looked up.

    Many kinds have one call only: where that came since, there is none before.
    """
    before = "SELECT id FROM log INDEXED BY log_kind WHERE log.kind = tallies.kind AND id < ? ORDER BY id DESC LIMIT 1"
    place = f"CASE WHEN newest < ? THEN newest WHEN calls > 1 THEN ({before}) END AS place"
    return Query(
        f"WITH places AS MATERIALIZED (SELECT {place}, kind {kinds_.sql} AND newest >= ?)"
        " SELECT place, kind FROM places WHERE place >= ? AND (place, kind) < (?, ?)"
        " ORDER BY place DESC, kind DESC LIMIT ?",
        (within.high, within.high, *kinds_.parameters, within.low, within.low, *after, limit),
    )


def calls_of_kind(filters: Filters, *, said: bool) -> Callable[[int, Span, int], Query]:
    """Return what asks for the newest calls that pass of a kind, in a span, up to a number: `id, command`."""
    where = _joined((Query("kind = ? AND id >= ? AND id < ?"), *_of_call(filters, said=said)))
    words = "" if said else _WORDS
    sql = f"SELECT id, command FROM log INDEXED BY log_kind {words} WHERE {where.sql} ORDER BY id DESC LIMIT ?"
    return lambda kind, within, limit: Query(sql, (kind, within.low, within.high, *where.parameters, limit))


def calls_of_kinds(filters: Filters, kinds_: Query, within: Span, *, said: bool, commands: bool) -> Query:
    """Ask for all calls of kinds, in a span, that pass, in no order: `id, command`; the latter only if `commands`."""
    where = _joined((_within(within), *_of_call(filters, said=said)))
    words = "" if said else _WORDS
    return Query(
        f"SELECT id, {'command' if commands else 'NULL'} FROM (SELECT kind {kinds_.sql})"
        f" CROSS JOIN log INDEXED BY log_kind USING (kind) {words} WHERE {where.sql}",
        (*kinds_.parameters, *where.parameters),
    )


def clients_that_say(filters: Filters) -> Query:
    """Ask for a client that the text is said of: `client`."""
    return Query(f"SELECT client FROM {_SAID} LIMIT 1", (filters.text.casefold(),))


def are_all(filters: Filters) -> bool:
    """Tell whether calls of all kinds can pass."""
    return _kind_condition(filters) == _TRUE


def words_with(match: str, before: int, limit: int) -> Query:
    """Ask for the newest words, newest first, that match an expression about trigrams: `rowid`."""
    return Query(
        "SELECT rowid FROM trigrams WHERE trigrams MATCH ? AND rowid < ? ORDER BY rowid DESC LIMIT ?",
        (match, before, limit),
    )


def calls_with_words(filters: Filters, words: str, within: Span, narrow: Narrow | None = None) -> Query:
    """Ask for the calls that have these words (JSON), if the text is in them, and that pass: `id, command`.

    With `narrow`, the kinds that can pass are found first, by its index; that pays where there are more words than such
    kinds. Else the kind of each call is looked up.
    """
    kind = _joined((_not_said(filters), _kind_condition(filters)))
    call = _joined((*_of_call(filters, said=False), _within(within)))
    found = "SELECT id, command FROM (SELECT value AS found FROM json_each(?))"
    if narrow is None:
        return Query(
            f"{found} {_LOG_OF_WORDS} WHERE {kind.sql} AND {call.sql}", (words, *kind.parameters, *call.parameters)
        )
    kind = _joined((kind, _by_index(narrow)))
    kinds_ = f"SELECT kind FROM kinds INDEXED BY kinds_{narrow.column} WHERE {kind.sql}"
    return Query(
        f"{found} CROSS JOIN log INDEXED BY log_words ON log.words = found AND +log.kind IN ({kinds_})"
        f" CROSS JOIN words ON words.words = found WHERE {call.sql}",
        (words, *kind.parameters, *call.parameters),
    )


def calls_with_words_that_match(filters: Filters, match: str) -> Query:
    """Ask for all calls with words that match and that pass, in no order: `id, command`."""
    where = _joined(
        (_not_said(filters), _kind_condition(filters), *_of_call(filters, said=False), _within(span(filters)))
    )
    return Query(
        f"SELECT id, command FROM (SELECT rowid AS found FROM trigrams WHERE trigrams MATCH ?) {_LOG_OF_WORDS}"
        f" WHERE {where.sql}",
        (match, *where.parameters),
    )


def ids(of: Query) -> Query:
    """Ask for the ids only."""
    return Query(f"SELECT id FROM ({of.sql})", of.parameters)


def changed_calls(filters: Filters, limit: int, change: int) -> Query:
    """Ask for the calls that came or went on after this change, in that order: `change, record`."""
    where = _joined((condition(filters), _within(span(filters)), Query("change > ?", (change,))))
    return Query(
        f"SELECT change, record FROM log INDEXED BY log_change {_call(filters)} CROSS JOIN records USING (id)"
        f" WHERE {where.sql} ORDER BY change LIMIT ?",
        (*where.parameters, limit),
    )


def calls_of(command_id: str, filters: Filters) -> Query:
    """Ask for the calls of a command that pass, oldest first: `id, record`."""
    command = Query("command = (SELECT command FROM runs WHERE command_id = ?)", (command_id,))
    where = _joined((command, condition(filters), _within(span(filters))))
    return Query(
        f"SELECT id, record FROM log INDEXED BY log_command {_call(filters)} CROSS JOIN records USING (id)"
        f" WHERE {where.sql} ORDER BY id",
        where.parameters,
    )


def oldest_calls(filters: Filters, within: Span, limit: int, found: str = "") -> Query:
    """Ask for the calls of a span that pass, oldest first: `id, record`; only those `found`, a table of ids."""
    passing = condition(filters)
    where = _joined((passing, _within(within)))
    tables = [f'"{found}"'] if found else []
    if passing != _TRUE:
        tables.append(f"log {'USING (id)' if found else 'NOT INDEXED'} {_call(filters)}")
    tables.append("records USING (id)" if tables else "records")
    source = " CROSS JOIN ".join(tables)
    return Query(f"SELECT id, record FROM {source} WHERE {where.sql} ORDER BY id LIMIT ?", (*where.parameters, limit))


def commands_named(filters: Filters, most: int) -> Query | None:
    """Ask for the commands that are asked for by their ids, or `most` of them: `command`; None where none are."""
    if not names_commands(filters):
        return None
    found = _patterns("command_id", filters.command_id.wanted)
    return Query(f"SELECT command FROM runs WHERE {found.sql} LIMIT ?", (*found.parameters, most))


def names_commands(filters: Filters) -> bool:
    """Tell whether commands are asked for by their ids."""
    wanted = filters.command_id.wanted
    return bool(wanted) and not any(map(_is_any, wanted))


def knows_beginnings(filters: Filters) -> bool:
    """Tell whether it is known how the ids of the commands begin that are asked for, so that an index finds them."""
    return not any("*" in pattern and pattern.startswith("*") for pattern in filters.command_id.wanted)


def condition(filters: Filters) -> Query:
    """Return what a call has to fulfil to pass, but for the span of its id."""
    return _joined((_kind_condition(filters), *_command_condition(filters), _text(filters)))


def narrowest(
    filters: Filters, facets: Mapping[str, Mapping[str | int, int]], indexed: Collection[str], enough: int
) -> Narrow | None:
    """Choose the column by whose index the fewest calls have to be looked at; None where no index helps.

    `facets` counts the calls of each value of a column; where none of its values is wanted, nothing can be found.
    Where the values wanted have more than `enough` calls, going through all of them finds what is wanted sooner.
    """
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


def _kind_condition(filters: Filters) -> Query:
    return _joined(_choices(filters))


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


def _command_condition(filters: Filters) -> Iterable[Query]:
    choice = filters.command_id
    if choice.wanted:
        yield _has_command(choice.wanted)
    if choice.unwanted:
        found = _has_command(choice.unwanted)
        yield Query(f"NOT ({found.sql})", found.parameters)


def _has_command(patterns: tuple[str, ...]) -> Query:
    if any(map(_is_any, patterns)):
        return Query("command IS NOT NULL")
    found = _patterns("command_id", patterns)
    return Query(f"EXISTS (SELECT * FROM runs WHERE runs.command = log.command AND ({found.sql}))", found.parameters)


def _is_any(pattern: str) -> bool:
    return "*" in pattern and not pattern.strip("*")


def _of_call(filters: Filters, *, said: bool) -> Iterable[Query]:
    """Yield what a call has to fulfil beside its kind, where it is known whether its client says the text."""
    yield from _command_condition(filters)
    if not said:
        yield Query("instr(words.text, ?)", (filters.text.casefold(),))


def _of_client(filters: Filters, *, said: bool) -> Iterable[Query]:
    if filters.text:
        yield Query(f"client {'' if said else 'NOT '}IN {_SAID}", (filters.text.casefold(),))


def _not_said(filters: Filters) -> Query:
    return Query(f"client NOT IN {_SAID}", (filters.text.casefold(),))


def _text(filters: Filters) -> Query | None:
    if not filters.text:
        return None
    text = filters.text.casefold()
    return Query("(instr(clients.text, ?) OR instr(words.text, ?))", (text, text))


def _call(filters: Filters) -> str:
    # In a CROSS JOIN, SQLite goes through the left table and looks up the right one.
    return f"{_KIND} {_TEXTS}" if filters.text else _KIND


_AFTER_ALL = 2**63 - 1
_TRUE = Query("TRUE")
_LATELY = (
    "SELECT kind, calls, newest FROM tallies INDEXED BY tallies_newest WHERE newest >= ? AND (newest, kind) < (?, ?)"
    " ORDER BY newest DESC, kind DESC LIMIT ?"
)
_SAID = "(SELECT client FROM clients WHERE instr(text, ?))"
_KIND = "CROSS JOIN kinds USING (kind)"
_WORDS = "CROSS JOIN words USING (words)"
_TEXTS = "CROSS JOIN clients USING (client) LEFT JOIN words USING (words)"
# The index knows the kind: only what is of a kind that can pass is looked up, and its text read.
_LOG_OF_WORDS = (
    f"CROSS JOIN log INDEXED BY log_words ON log.words = found {_KIND} CROSS JOIN words ON words.words = found"
)


def _within(within: Span) -> Query:
    return Query("id >= ? AND id < ?", (within.low, within.high))


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
