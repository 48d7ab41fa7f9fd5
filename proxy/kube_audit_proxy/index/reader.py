"""Asks the index. Nothing can be written through it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from kube_audit_proxy.index import queries
from kube_audit_proxy.index.commands import Totals
from kube_audit_proxy.index.filters import Filters
from kube_audit_proxy.index.schema import FACETED, INDEXED, open_for_reading

_PAGE = 1000

# An index is worth using where it leaves one call in so many: reading a call by an index costs that much more than
# reading it in passing.
_RARE = 10


@dataclass(frozen=True, slots=True)
class Call:
    """A call: its `id` (its place in time), the line of the journal, and that line parsed."""

    id: int
    line: str
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """A command and what its calls add up to. `place` is the id of its newest call that passed the filters."""

    command_id: str
    totals: Totals
    place: int


@dataclass(frozen=True, slots=True)
class Change:
    """A call that came or went on; `number` grows with every change."""

    number: int
    line: str
    record: dict[str, Any]


class Index:
    """The index file, opened read-only. A context manager. Raises NoIndex where there is none.

    One object serves one thread. No method keeps a transaction open between two pages, so a slow reader does not hold
    up the indexer.
    """

    def __init__(self, path: Path) -> None:
        self._db = open_for_reading(path)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def calls(self, filters: Filters, limit: int, before: int | None = None) -> list[Call]:
        """Return the newest calls that pass, newest first; with `before`, those before the call with this id."""
        return self._calls(queries.newest_calls(filters, limit, before, self._narrow(filters)))

    def calls_of(self, command_id: str, filters: Filters = Filters()) -> list[Call]:  # noqa: B008 - it is frozen
        """Return the calls of a command that pass, oldest first."""
        return self._calls(queries.calls_of(command_id, filters))

    def iterate(self, filters: Filters) -> Iterator[Call]:
        """Yield all calls that pass, oldest first, in constant memory: those there are when it begins."""
        narrow = self._narrow(filters)
        last = self._single("SELECT coalesce(max(id), 0) FROM calls")
        after = -1
        while page := self._calls(queries.oldest_calls(filters, _PAGE, after, last, narrow)):
            yield from page
            after = page[-1].id

    def count(self, filters: Filters) -> int:
        """Return how many calls pass."""
        query = queries.number_of_calls(filters, self._narrow(filters))
        return self._single(query.sql, query.parameters)

    def commands(self, filters: Filters, limit: int, before: int | None = None) -> list[Command]:
        """Return the commands with the newest calls that pass, newest first; `before` is the last one's place.

        A limit of 0 is none.
        """
        places: dict[str, int] = {}
        for place, command_id in self._commands_of_newest_calls(filters, before, limit):
            if limit and len(places) == limit and command_id not in places:
                break
            places.setdefault(command_id, place)
        return [command for command_id, place in places.items() if (command := self._command(command_id, place))]

    def command(self, command_id: str) -> Command | None:
        """Return a command; None if it is unknown."""
        return self._command(command_id, 0)

    def last_change(self) -> int:
        """Return the number of the latest change, from where `changes` tells what comes next."""
        return self._single("SELECT coalesce(max(change), 0) FROM calls")

    def changes(self, filters: Filters, after: int) -> Iterator[Change]:
        """Yield the calls that pass and that came or went on after a change, in that order."""
        while True:
            query = queries.changed_calls(filters, _PAGE, after)
            page = self._db.execute(query.sql, query.parameters).fetchall()
            for number, line in page:
                yield Change(number, line, orjson.loads(line))
            if len(page) < _PAGE:
                return
            after = page[-1][0]

    def facets(self, field: str) -> dict[str | int, int]:
        """Return the values of one of the columns `schema.FACETED`, and how many calls each has."""
        rows = self._db.execute("SELECT value, calls FROM facets WHERE field = ? AND calls > 0", (field,))
        return dict(rows.fetchall())

    def problems(self) -> int:
        """Return how many lines of the journal were no records."""
        return self._single("SELECT count(*) FROM problems")

    def _narrow(self, filters: Filters) -> queries.Narrow | None:
        asked = [column for column in FACETED if getattr(filters, column).wanted]
        facets = {column: self.facets(column) for column in asked}
        calls = sum(self.facets("verb").values()) if asked else 0
        return queries.narrowest(filters, facets, INDEXED, calls // _RARE)

    def _commands_of_newest_calls(self, filters: Filters, before: int | None, limit: int) -> Iterator[tuple[int, str]]:
        narrow = self._narrow(filters)
        # Where calls are hard to find, not many more than needed.
        size = min(2 * limit or _PAGE, _PAGE)
        while True:
            query = queries.commands_of_newest_calls(filters, size, before, narrow)
            page = self._db.execute(query.sql, query.parameters).fetchall()
            yield from page
            if len(page) < size:
                return
            before = page[-1][0]

    def _calls(self, query: queries.Query) -> list[Call]:
        rows = self._db.execute(query.sql, query.parameters).fetchall()
        return [Call(id_, line, orjson.loads(line)) for id_, line in rows]

    def _command(self, command_id: str, place: int) -> Command | None:
        row = self._db.execute("SELECT * FROM commands WHERE command_id = ?", (command_id,)).fetchone()
        return Command(command_id, Totals._make(row[1:]), place) if row else None

    def _single(self, sql: str, parameters: tuple[str | int, ...] = ()) -> int:
        found: int = self._db.execute(sql, parameters).fetchone()[0]
        return found
