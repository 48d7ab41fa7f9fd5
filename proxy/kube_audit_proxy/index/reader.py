"""Asks the index. Nothing can be written through it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import orjson

from kube_audit_proxy.index import queries
from kube_audit_proxy.index.commands import Totals
from kube_audit_proxy.index.filters import Filters
from kube_audit_proxy.index.queries import Query, Span, span
from kube_audit_proxy.index.schema import open_for_reading
from kube_audit_proxy.index.search import Search

_PAGE = 1000
_EXPORT_CACHE = 8192  # KiB


@dataclass(frozen=True)
class Call:
    """A call: its `id` (its place in time), and the line of the journal."""

    id: int
    line: str

    @cached_property
    def record(self) -> dict[str, Any]:
        """The line, parsed."""
        return _parsed(self.line)


@dataclass(frozen=True, slots=True)
class Command:
    """A command and what its calls add up to. `place` is the id of its newest call that passed the filters."""

    command_id: str
    totals: Totals
    place: int


@dataclass(frozen=True)
class Change:
    """A call that came or went on; `number` grows with every change."""

    number: int
    line: str

    @cached_property
    def record(self) -> dict[str, Any]:
        """The line, parsed."""
        return _parsed(self.line)


def _parsed(line: str) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(line)
    return found


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
        # What is found is as it was when it was found.
        self._db.execute("BEGIN")
        try:
            ids = [found.id for found in islice(Search(self._db, filters, wanted=limit).newest(before), limit)]
            rows = self._db.execute(_RECORDS, (orjson.dumps(ids).decode(),))
            return [Call(id_, line) for id_, line in rows]
        finally:
            self._db.execute("COMMIT")

    def calls_of(self, command_id: str, filters: Filters = Filters()) -> list[Call]:  # noqa: B008 - it is frozen
        """Return the calls of a command that pass, oldest first."""
        return self._calls(queries.calls_of(command_id, filters))

    def iterate(self, filters: Filters) -> Iterator[Call]:
        """Yield all calls that pass, oldest first, in constant memory: those there are when it begins."""
        last = self._single("SELECT coalesce(max(id), 0) FROM log")
        all_ = span(filters, last + 1)
        search = Search(self._db, filters)
        if search.is_common():
            yield from self._pages(filters, all_)
            return
        with search.gathered() as found:
            yield from self._pages(filters, all_, found)

    def count(self, filters: Filters) -> int:
        """Return how many calls pass."""
        return Search(self._db, filters).number()

    def commands(self, filters: Filters, limit: int, before: int | None = None) -> list[Command]:
        """Return the commands with the newest calls that pass, newest first; `before` is the last one's place.

        A limit of 0 is none.
        """
        places: dict[int, int] = {}
        for call in Search(self._db, filters, commands=True).newest(before):
            if call.command is not None:
                places.setdefault(call.command, call.id)
                if limit and len(places) == limit:
                    break
        found = (self._command("command", number, place) for number, place in places.items())
        return [command for command in found if command is not None]

    def command(self, command_id: str) -> Command | None:
        """Return a command; None if it is unknown."""
        return self._command("command_id", command_id, 0)

    def last_change(self) -> int:
        """Return the number of the latest change, from where `changes` tells what comes next."""
        return self._single("SELECT coalesce(max(change), 0) FROM log")

    def changes(self, filters: Filters, after: int) -> Iterator[Change]:
        """Yield the calls that pass and that came or went on after a change, in that order."""
        while True:
            query = queries.changed_calls(filters, _PAGE, after)
            page = self._db.execute(query.sql, query.parameters).fetchall()
            for number, line in page:
                yield Change(number, line)
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

    def _pages(self, filters: Filters, within: Span, found: str = "") -> Iterator[Call]:
        # Nothing that is read here is read again.
        self._db.execute(f"PRAGMA cache_size = -{_EXPORT_CACHE}")
        while page := self._calls(queries.oldest_calls(filters, within, _PAGE, found)):
            yield from page
            within = Span(page[-1].id + 1, within.high)

    def _calls(self, query: Query) -> list[Call]:
        rows = self._db.execute(query.sql, query.parameters).fetchall()
        return [Call(id_, line) for id_, line in rows]

    def _command(self, column: str, value: int | str, place: int) -> Command | None:
        row = self._db.execute(f"SELECT * FROM runs WHERE {column} = ?", (value,)).fetchone()  # noqa: S608 - a column
        return Command(row[1], Totals._make(row[2:]), place) if row else None

    def _single(self, sql: str) -> int:
        found: int = self._db.execute(sql).fetchone()[0]
        return found


_RECORDS = "SELECT id, record FROM records WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id DESC"
