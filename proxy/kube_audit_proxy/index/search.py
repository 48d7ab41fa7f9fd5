"""Finds the calls that pass: by the way on which the fewest have to be looked at."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from heapq import heappop, heappush, merge
from operator import attrgetter
from typing import NamedTuple

import orjson

from kube_audit_proxy.index import queries
from kube_audit_proxy.index.filters import Choice, Filters
from kube_audit_proxy.index.queries import Narrow, Place, Query, Span, span
from kube_audit_proxy.index.schema import FACETED, INDEXED
from kube_audit_proxy.index.trigrams import MOST_TERMS, SAMPLE, TERMS, expression, terms_expression

_RARE = 10
"""Kinds are found by an index where it leaves one call in so many."""

_COMMON = 10
"""All calls are gone through for an export where one in so many can pass."""

_FIRST, _MOST = 250, 4000
"""Calls, kinds or words that are gone through at once, newest first: to begin with, and at most."""

_PAYS, _PAYS_AT_MOST = 40, 200
"""Going through calls pays while at least one in so many passes: in more where there are many kinds to look through."""

_PAGE_COSTS = 170
"""Kinds that are looked at in an index in the time that it takes to go through as many calls as a page has."""

_ODD = 64_000
"""Calls that are gone through where commands are asked for in a way for which there is no better one."""

_RECENT = 16_000
"""Kinds that are gone through, at most, by how new their calls are, before all are."""

_FEW_COMMANDS = 2000
_FEW_CALLS = 20_000
"""Calls that are looked at one by one sooner than all words that match, or than what kinds had before a time."""

_FEWEST_CALLS = 2000
"""Calls that are looked at one by one sooner than the newest words that match."""

_MOST_WORDS = 64_000
"""Words that are gone through at once, at most: to find where to go on takes as long as to look at thousands."""

_MANY_WORDS = 16_000
"""Words after which it pays to ask how many calls there are to look at instead."""

_TELLING, _SPARE = 8, 130
"""Calls that have to pass to tell how many words are needed, and how many hundredths of those are gone through."""

_CALL_COSTS = 6
"""Words that are looked at in the time that a call of a kind takes."""

_KIND_COSTS = 10
"""Kinds that are looked at in an index in the time that one takes among those that had a call last."""

_LAST = 2**62
"""More than any id or number."""


class Found(NamedTuple):
    """A call that passes, and the number of the command it is part of."""

    id: int
    command: int | None


class Search:
    """A question to an index, of one connection. No method keeps a transaction open between two things it yields.

    With `commands`, what is found says of which command it is; without, it may not. `wanted` is how many calls are
    asked for, 0 where that is not known: for those no more is looked at than seems needed.
    """

    def __init__(self, db: sqlite3.Connection, filters: Filters, *, commands: bool = False, wanted: int = 0) -> None:
        self._db = db
        self._filters = filters
        self._wanted = wanted
        self._with_commands = commands
        asked = [column for column in FACETED if getattr(filters, column).wanted]
        facets = {column: _facets(db, column) for column in asked}
        self._calls = _single(db, Query("SELECT coalesce(sum(calls), 0) FROM facets WHERE field = 'verb'"))
        self._narrow = queries.narrowest(filters, facets, INDEXED, self._calls // _RARE)
        self._most = self._calls if self._narrow is None else _number(facets, self._narrow)
        self._pays = self._paying() if len(asked) == 1 and not filters.text else _PAYS
        self._is_rare = self._pays * self._most < self._calls
        # To look for others among the ids of all commands takes long, where there are many.
        self._commands = self._named() if queries.knows_beginnings(filters) else None
        self._nowhere = self._commands == [] or (self._narrow is not None and not self._narrow.values)
        self._said = queries.kinds(filters, self._narrow, said=True)
        self._unsaid = queries.kinds(filters, self._narrow, said=False)
        searched = filters.text and not self._nowhere
        self._match = self._expression() if searched else ""
        self._is_said = not searched or bool(self._rows(queries.clients_that_say(filters)))

    def newest(self, before: int | None = None) -> Iterator[Found]:
        """Yield the calls that pass, newest first; with `before`, those before the call with this id."""
        within = span(self._filters, before)
        if self._nowhere:
            return
        if self._commands is not None:
            yield from self._found(queries.of_commands(self._filters, self._commands, within))
            return
        rest: Span | None = within
        if not (self._is_rare or self._is_rarely_said()):
            for found, rest in self._scanned(within):  # noqa: B007 - the last one counts
                yield from found
        if rest is None:
            return
        if (numbers := self._named()) is not None:
            yield from self._found(queries.of_commands(self._filters, numbers, rest))
        else:
            yield from self._by_kinds(rest)

    def number(self) -> int:
        """Return how many calls pass."""
        if self._nowhere:
            return 0
        if self._filters == replace(self._filters, command_id=Choice(), text="", since=None, until=None):
            return _single(self._db, queries.number_of_calls_of(self._said))
        counts = (Query(f"SELECT count(*) FROM ({part.sql})", part.parameters) for part in self._parts())  # noqa: S608
        return sum(_single(self._db, count) for count in counts)

    def is_common(self) -> bool:
        """Tell whether it is best to go through all calls to find all that pass."""
        if self._nowhere or self._commands is not None or self._filters.text:
            return False
        return _COMMON * _single(self._db, queries.number_of_calls_of(self._said)) >= self._calls

    @contextmanager
    def gathered(self) -> Iterator[str]:
        """Give the name of a table with the ids of all calls that pass, as long as the block lasts."""
        tables = _single(self._db, Query("SELECT count(*) FROM temp.sqlite_schema"))
        name = f"found_{tables}"
        self._db.execute(f'CREATE TEMP TABLE "{name}" (id INTEGER PRIMARY KEY)')
        try:
            for part in self._parts():
                self._db.execute(f'INSERT INTO temp."{name}" {part.sql}', part.parameters)
            yield name
        finally:
            # Where the connection was closed first, there is no such table any more.
            with suppress(sqlite3.ProgrammingError):
                self._db.execute(f'DROP TABLE temp."{name}"')

    def _named(self) -> list[int] | None:
        """Return the commands that are asked for by their ids; None where none are, or many."""
        query = queries.commands_named(self._filters, _FEW_COMMANDS + 1)
        if query is None:
            return None
        numbers = [number for (number,) in self._rows(query)]
        return numbers if len(numbers) <= _FEW_COMMANDS else None

    def _expression(self) -> str | None:
        """Return what words with the text match, "" where there are none; None where there is no telling."""
        text = self._filters.text.casefold()
        if (found := expression(text, self._sample())) is not None:
            return found
        terms = [term for (term,) in self._db.execute(TERMS, (text, f"{text}\U0010ffff"))]
        return terms_expression(terms) if len(terms) < MOST_TERMS else None

    def _sample(self) -> list[str]:
        step = 1 + _single(self._db, Query("SELECT coalesce(max(words), 0) FROM words")) // SAMPLE
        numbers = orjson.dumps([*range(1, step * SAMPLE, step)]).decode()
        return [text for (text,) in self._db.execute(_TEXTS, (numbers,))]

    def _parts(self) -> Iterator[Query]:
        """Yield questions for the ids of the calls that pass, each call in one of them."""
        filters, within = self._filters, span(self._filters)
        if self._nowhere:
            return
        commands = self._named() if self._commands is None else self._commands
        if commands is not None:
            yield queries.ids(queries.of_commands(filters, commands, within))
            return
        if self._is_said:
            yield queries.ids(queries.calls_of_kinds(filters, self._said, within, said=True, commands=False))
        if filters.text and self._match != "":
            if self._match is None or self._has_few(self._unsaid, _FEW_CALLS):
                yield queries.ids(queries.calls_of_kinds(filters, self._unsaid, within, said=False, commands=False))
            else:
                yield queries.ids(queries.calls_with_words_that_match(filters, self._match))

    def _has_few(self, kinds: Query, few: int) -> bool:
        """Tell whether these kinds have so few calls that they are best looked at one by one."""
        if queries.are_all(self._filters):
            return False
        return self._most <= few or _single(self._db, queries.number_of_calls_of(kinds)) <= few

    def _scanned(self, within: Span) -> Iterator[tuple[list[Found], Span | None]]:
        """Go through calls, newest first, while that pays: yield those that pass, and the span that is left."""
        size, seen, passed = _FIRST, 0, 0
        rest = within
        most = _ODD if queries.names_commands(self._filters) else _MOST
        while not seen or self._match is None or passed * self._pays >= seen or seen < most:
            edge = self._db.execute(_EDGE, (rest.low, rest.high, size - 1)).fetchone()
            low = edge[0] if edge else rest.low
            found = self._found(queries.scan(self._filters, Span(low, rest.high)))
            if edge is None:
                yield found, None
                return
            rest = Span(rest.low, low)
            yield found, rest
            seen, passed, size = seen + size, passed + len(found), min(2 * size, _MOST)

    def _by_kinds(self, within: Span) -> Iterator[Found]:
        said = self._of_kinds(self._said, within, said=True) if self._is_said else iter(())
        if not self._filters.text or self._match == "":
            return said
        return merge(said, self._by_words(within), key=_id, reverse=True)

    def _by_words(self, within: Span) -> Iterator[Found]:
        """Yield the calls that have the text in their words, and not said of their client, newest first."""
        words = self._words(_LAST, _FIRST)
        if self._match is None or (len(words) == _FIRST and self._most <= _FEWEST_CALLS):
            yield from self._all_of_kinds(self._unsaid, within, said=False)
            return
        held: list[tuple[int, Found]] = []
        size, seen, passed = _FIRST, 0, 0
        while words:
            narrow = None if self._has_more_kinds(len(words)) else self._narrow
            query = queries.calls_with_words(self._filters, orjson.dumps(words).decode(), within, narrow)
            found = self._found(query)
            for call in found:
                heappush(held, (-call.id, call))
            last, seen, passed = words[-1], seen + len(words), passed + len(found)
            size = self._more(size, seen, passed)
            # What has older words is no newer than this.
            bound = _single(self._db, Query(_NEWEST_BEFORE, (last,)))
            while held and held[0][1].id > bound:
                yield heappop(held)[1]
            if seen >= _MANY_WORDS and _CALL_COSTS * self._unsaid_calls <= seen:
                rest = Span(within.low, min(within.high, bound + 1))
                yield from self._all_of_kinds(self._unsaid, rest, said=False)
                return
            words = self._words(last, size)
        while held:
            yield heappop(held)[1]

    def _more(self, size: int, seen: int, passed: int) -> int:
        """Return how many words to go through next: what it seems to take to find all wanted, or twice as many."""
        missing = self._wanted - passed
        if passed < _TELLING or missing <= 0:
            return min(2 * size, _MOST_WORDS)
        return max(_FIRST, min(seen * missing * _SPARE // (100 * passed), _MOST_WORDS))

    @cached_property
    def _unsaid_calls(self) -> int:
        return _single(self._db, queries.number_of_calls_of(self._unsaid))

    def _paying(self) -> int:
        """Return of how many calls one has to pass, that it pays to go through them, where nothing else is asked."""
        if self._narrow is None or not _PAYS * self._most < self._calls <= _PAYS_AT_MOST * self._most:
            return _PAYS
        kinds = _single(self._db, queries.number_of_kinds(self._narrow, _PAYS_AT_MOST * _PAGE_COSTS))
        return max(_PAYS, kinds // _PAGE_COSTS)

    def _has_more_kinds(self, number: int) -> bool:
        """Tell whether there are more kinds than so many to look for those in whose calls can pass."""
        return _single(self._db, queries.number_of_kinds(self._narrow, number + 1)) > number

    def _is_rarely_said(self) -> bool:
        if not self._filters.text or self._is_said or self._match is None:
            return False
        return len(self._words(_LAST, _FIRST)) < _FIRST

    def _words(self, before: int, limit: int) -> list[int]:
        """Return the newest words that may have the text, newest first."""
        if not self._match:
            return []
        return [number for (number,) in self._rows(queries.words_with(self._match, before, limit))]

    def _of_kinds(self, kinds: Query, within: Span, *, said: bool) -> Iterator[Found]:
        """Yield the calls of kinds, newest first: of each kind only as many as are needed."""
        if self._filters.until is not None and self._most <= _FEW_CALLS:
            yield from self._all_of_kinds(kinds, within, said=said)
            return
        held: list[tuple[int, int, Found | None, Iterator[Found]]] = []
        of_kind = queries.calls_of_kind(self._filters, said=said)
        for newest, bound in self._kinds(kinds, within, said=said):
            for place, kind in newest:
                heappush(held, (-place, -kind, None, self._of_kind(of_kind, kind, within)))
            # Kinds that come later have nothing newer than the bound.
            while held and -held[0][0] >= bound:
                _, kind, last, calls = heappop(held)
                if last is not None:
                    yield last
                if (following := next(calls, None)) is not None:
                    heappush(held, (-following.id, kind, following, calls))

    def _kinds(self, kinds: Query, within: Span, *, said: bool) -> Iterator[tuple[list[Place], int]]:
        """Yield kinds, each with how new a call of it in the span can be, and how new those of the next can be."""
        before: Place = (_LAST, 0)
        size, seen = _FIRST, 0
        is_past = self._filters.until is not None
        most = 0 if self._is_rare or is_past else self._recent_kinds()
        while seen < most:
            newest = self._rows(queries.lately(self._filters, within, before, size, said=said))
            end = self._rows(queries.end_of_lately(within, before, size))
            if not end:
                yield newest, 0
                return
            before, seen = end[0], seen + size
            size = min(4 * size, most - seen)
            yield newest, min(before[0], within.high)
        after: Place = (_LAST, 0)
        size = _FIRST
        while True:
            if is_past:
                newest = self._rows(queries.newest_kinds_until(kinds, within, after, size))
            else:
                newest = self._rows(queries.newest_kinds(kinds, within, before, after, size))
            if len(newest) < size:
                yield newest, 0
                return
            after, size = newest[-1], 40 * size
            yield newest, after[0]

    def _recent_kinds(self) -> int:
        kinds = _single(self._db, queries.number_of_kinds(self._narrow, _RECENT * _KIND_COSTS))
        return kinds // _KIND_COSTS

    def _of_kind(self, of_kind: Callable[[int, Span, int], Query], kind: int, within: Span) -> Iterator[Found]:
        size = 8
        while page := self._found(of_kind(kind, within, size)):
            yield from page
            if len(page) < size:
                return
            within, size = Span(within.low, page[-1].id), min(4 * size, _MOST)

    def _all_of_kinds(self, kinds: Query, within: Span, *, said: bool) -> Iterator[Found]:
        commands = self._with_commands
        query = queries.calls_of_kinds(self._filters, kinds, within, said=said, commands=commands)
        return iter(sorted(self._found(query), key=_id, reverse=True))

    def _found(self, query: Query) -> list[Found]:
        return [*map(Found._make, self._rows(query))]

    def _rows(self, query: Query) -> list[tuple[int, ...]]:
        return self._db.execute(query.sql, query.parameters).fetchall()


def _facets(db: sqlite3.Connection, column: str) -> dict[str | int, int]:
    rows = db.execute("SELECT value, calls FROM facets WHERE field = ? AND calls > 0", (column,))
    return dict(rows.fetchall())


def _number(facets: Mapping[str, Mapping[str | int, int]], narrow: Narrow) -> int:
    return sum(facets[narrow.column][value] for value in narrow.values)


def _single(db: sqlite3.Connection, query: Query) -> int:
    found: int = db.execute(query.sql, query.parameters).fetchone()[0]
    return found


_id: Callable[[Found], int] = attrgetter("id")
_EDGE = "SELECT id FROM log NOT INDEXED WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT 1 OFFSET ?"
_TEXTS = "SELECT text FROM words WHERE words IN (SELECT value FROM json_each(?))"
_NEWEST_BEFORE = "SELECT coalesce(max(newest), 0) FROM word_blocks WHERE first <= ?"
