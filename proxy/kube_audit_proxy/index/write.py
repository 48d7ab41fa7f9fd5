"""Writes what the lines of a batch say of calls into the index; the caller's transaction makes it whole."""
# ruff: noqa: S608 - the names are those of the tables

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from hashlib import blake2b
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

from kube_audit_proxy.index import commands
from kube_audit_proxy.index.rows import CALLS_PER_MICROSECOND, CallLine, Row, first_id, newer
from kube_audit_proxy.index.schema import FACETED, KIND
from kube_audit_proxy.index.trigrams import searchable

Kind = tuple[str | int | None, ...]
"""The columns `schema.KIND` of a call, and what is said of its client."""

BLOCK = 4096
"""Words, at least, that a row of `word_blocks` stands for."""


class Stored(NamedTuple):
    """What the index had of a call before."""

    row: Row
    kind: int
    words: int | None
    text: str | None


class Calls:
    """What the index knows of the calls and commands of a batch, and what the batch adds to it."""

    def __init__(self, db: sqlite3.Connection, lines: Collection[CallLine]) -> None:
        self._db = db
        # Most calls are newer than all that are known.
        newest = _single(db, "SELECT coalesce(max(id), -1) FROM log")
        moments = [moment for line in lines if (moment := first_id(line.received)) <= newest]
        self._stored = dict(self._read(moments)) if moments else {}
        self._rows = {id_: stored.row for id_, stored in self._stored.items()}
        self._latest: dict[int, CallLine] = {}
        self._runs: dict[str, int] = {}
        self._totals: dict[str, commands.Totals] = {}
        self._touched: set[str] = set()
        ids = {command_id for line in lines if (command_id := line.row.command_id) is not None}
        for number, command_id, *totals in _among(db, "SELECT * FROM runs WHERE command_id", ids):
            self._runs[command_id] = number
            self._totals[command_id] = commands.Totals._make(totals)

    def take(self, line: CallLine) -> bool:
        """Note a line; return False where there are too many calls in its microsecond."""
        row, id_ = line.row, first_id(line.received)
        before = self._rows.get(id_)
        if before is not None and before.audit_id != row.audit_id:
            if (free := self._id_of(row, id_)) is None:
                return False
            id_, before = free, self._rows.get(free)
        if before is not None:
            if not newer(row, before):
                return True
            self._latest.pop(id_, None)  # so that the order is that of the latest lines
        self._rows[id_] = row
        self._latest[id_] = line
        if (command_id := row.command_id) is not None:
            self._touched.add(command_id)
            self._totals[command_id] = commands.add(self._totals.get(command_id), line, before)
        return True

    def write(self) -> None:
        """Write the latest line of each call; they get the numbers of the changes that come next."""
        if not self._latest:
            return
        self._write_runs()
        kinds, words = self._write_kinds(), self._write_words()
        change = _single(self._db, "SELECT coalesce(max(change), 0) FROM log")
        new: list[tuple[object, ...]] = []
        known: list[tuple[object, ...]] = []
        for (id_, line), kind in zip(self._latest.items(), kinds, strict=True):
            change += 1
            row = line.row
            if (stored := self._stored.get(id_)) is None:
                run = None if row.command_id is None else self._runs[row.command_id]
                new.append((id_, change, kind.number, run, words.get(line.words), row.audit_id, row.writer, row.seq))
            else:
                about = stored.words if _keeps_words(line, stored) else words.get(line.words)
                known.append((change, kind.number, about, row.writer, row.seq, id_))
        self._db.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?)", new)
        records = ((id_, line.record) for id_, line in self._latest.items())
        self._db.executemany("INSERT OR REPLACE INTO records VALUES (?, ?)", records)
        if known:
            self._db.executemany(_UPDATE, known)
            forget_words(self._db, {self._stored[row[-1]].words for row in known})  # type: ignore[index] # an id

    def _read(self, moments: list[int]) -> Iterator[tuple[int, Stored]]:
        for id_, kind, words, text, *row in self._db.execute(_STORED, (orjson.dumps(moments).decode(),)):
            yield id_, Stored(Row._make(row), kind, words, text)

    def _id_of(self, new: Row, first: int) -> int | None:
        """Return the id of a call, a free one if it is new; None where its microsecond is full."""
        for id_ in range(first, first + CALLS_PER_MICROSECOND):
            row = self._rows.get(id_)
            if row is None or row.audit_id == new.audit_id:
                return id_
        return None

    def _write_runs(self) -> None:
        new = [command_id for command_id in self._touched if command_id not in self._runs]
        known = [command_id for command_id in self._touched if command_id in self._runs]
        first = 1 + _single(self._db, "SELECT coalesce(max(command), 0) FROM runs")
        self._runs.update(zip(new, range(first, first + len(new)), strict=True))
        rows = ((self._runs[command_id], command_id, *self._totals[command_id]) for command_id in new)
        self._db.executemany(f"INSERT INTO runs VALUES (?, ?{', ?' * len(commands.Totals._fields)})", rows)
        put_totals(self._db, ((self._runs[command_id], self._totals[command_id]) for command_id in known))

    def _write_kinds(self) -> list["_Tally"]:
        """Return the kind of each of the calls; count the calls of each."""
        tallies: dict[Kind, _Tally] = {}
        of_calls: list[_Tally] = []
        for id_, line in self._latest.items():
            kind = (*_common(line.row), line.client)
            if (tally := tallies.get(kind)) is None:
                tally = tallies[kind] = _Tally()
            tally.calls += 1
            tally.newest = max(tally.newest, id_)
            of_calls.append(tally)
        before = [stored for id_, stored in self._stored.items() if id_ in self._latest]
        facets: Counter[tuple[str, Any]] = Counter()
        for stored in before:
            facets.subtract(_facets(_common(stored.row)))
        for kind, tally in tallies.items():
            for facet in _facets(kind):
                facets[facet] += tally.calls
        self._number(tallies)
        self._db.executemany(_TALLY, ((tally.number, tally.calls, tally.newest) for tally in tallies.values()))
        count_off(self._db, Counter(stored.kind for stored in before))
        put_facets(self._db, facets)
        return of_calls

    def _number(self, tallies: Mapping[Kind, "_Tally"]) -> None:
        """Give each kind its number, a new one where there was no such kind."""
        new = {blake2b(orjson.dumps(kind), digest_size=16).hexdigest(): kind for kind in tallies}
        for digest, number in _among(self._db, _KINDS, new).fetchall():
            tallies[new.pop(digest)].number = number
        if not new:
            return
        clients = self._clients({str(kind[-1]) for kind in new.values()})
        first = 1 + _single(self._db, "SELECT coalesce(max(kind), 0) FROM kinds")
        rows = []
        for number, (digest, kind) in enumerate(new.items(), first):
            tallies[kind].number = number
            rows.append((number, clients[str(kind[-1])], *kind[:-1], digest))
        self._db.executemany(f"INSERT INTO kinds VALUES (?, ?{', ?' * len(KIND)}, ?)", rows)

    def _clients(self, texts: Collection[str]) -> Mapping[str, int]:
        self._db.executemany("INSERT OR IGNORE INTO clients (text) VALUES (?)", ((text,) for text in texts))
        return dict(_among(self._db, "SELECT text, client FROM clients WHERE text", texts))

    def _write_words(self) -> Mapping[str, int]:
        """Return the number of each text that calls did not have before."""
        newest: dict[str, int] = {}
        for id_, line in self._latest.items():
            if line.words and not _keeps_words(line, self._stored.get(id_)):
                newest[line.words] = max(id_, newest.get(line.words, 0))
        if not newest:
            return {}
        first = 1 + _single(self._db, "SELECT coalesce(max(words), 0) FROM words")
        numbers = dict(zip(newest, range(first, first + len(newest)), strict=True))
        self._db.executemany("INSERT INTO words (text, words) VALUES (?, ?)", numbers.items())
        searched = ((number, searchable(text)) for text, number in numbers.items())
        self._db.executemany("INSERT INTO trigrams (rowid, text) VALUES (?, ?)", searched)
        begun = _single(self._db, "SELECT coalesce(max(first), 0) FROM word_blocks")
        block = begun if begun and first - begun < BLOCK else first
        self._db.execute(_BLOCK, (block, max(newest.values())))
        return numbers


def put_totals(db: sqlite3.Connection, totals: Iterable[tuple[int, commands.Totals]]) -> None:
    """Write what commands add up to now."""
    db.executemany(_TOTALS, ((*each, number) for number, each in totals))


def count_off(db: sqlite3.Connection, calls: Mapping[int, int]) -> None:
    """Note that there are fewer calls of these kinds."""
    db.executemany("UPDATE tallies SET calls = calls - ? WHERE kind = ?", ((n, kind) for kind, n in calls.items()))


def put_facets(db: sqlite3.Connection, facets: Mapping[tuple[str, Any], int]) -> None:
    """Add to how many calls there are of values of columns."""
    db.executemany(_FACETS, ((field, value, calls) for (field, value), calls in facets.items() if calls))


def forget_words(db: sqlite3.Connection, numbers: Collection[int | None]) -> None:
    """Take out of these words those that no call has any more."""
    unused = _among(db, _UNUSED_WORDS, [number for number in numbers if number is not None]).fetchall()
    db.executemany(
        "INSERT INTO trigrams (trigrams, rowid, text) VALUES ('delete', ?, ?)",
        ((number, searchable(text)) for number, text in unused),
    )
    db.executemany("DELETE FROM words WHERE words = ?", ((number,) for number, _ in unused))


_common: Callable[[Row], Kind] = itemgetter(*(Row._fields.index(column) for column in KIND))
_FACET_POSITIONS = tuple((column, KIND.index(column)) for column in FACETED)


class _Tally:
    """The calls of a kind that a batch has."""

    __slots__ = ("calls", "newest", "number")

    def __init__(self) -> None:
        self.number = self.calls = self.newest = 0


def _facets(kind: Kind) -> Iterator[tuple[str, Any]]:
    return ((column, value) for column, position in _FACET_POSITIONS if (value := kind[position]) is not None)


def _keeps_words(line: CallLine, stored: Stored | None) -> bool:
    return stored is not None and stored.words is not None and line.words == stored.text


def _among(db: sqlite3.Connection, sql: str, values: Collection[str | int]) -> sqlite3.Cursor:
    # Not by json_each, for which a text ends at a NUL.
    return db.execute(f"{sql} IN ({', '.join('?' * len(values))})", (*values,))


def _single(db: sqlite3.Connection, sql: str) -> int:
    found: int = db.execute(sql).fetchone()[0]
    return found


_OF = {"user": "kinds.user", "access_method": "kinds.access_method"}
_STORED = (
    f"SELECT log.id, log.kind, log.words, words.text, {', '.join(_OF.get(field, field) for field in Row._fields)}"
    f" FROM json_each(?) CROSS JOIN log ON log.id BETWEEN value AND value + {CALLS_PER_MICROSECOND - 1}"
    " CROSS JOIN kinds USING (kind) LEFT JOIN runs USING (command) LEFT JOIN words USING (words)"
)
_KINDS = "SELECT digest, kind FROM kinds WHERE digest"
_UPDATE = "UPDATE log SET change = ?, kind = ?, words = ?, writer = ?, seq = ? WHERE id = ?"
_TALLY = (
    "INSERT INTO tallies VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
    " SET calls = calls + excluded.calls, newest = max(newest, excluded.newest)"
)
_BLOCK = "INSERT INTO word_blocks VALUES (?, ?) ON CONFLICT DO UPDATE SET newest = max(newest, excluded.newest)"
_FACETS = "INSERT INTO facets VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET calls = calls + excluded.calls"
_UNUSED_WORDS = (
    "SELECT words, text FROM words WHERE NOT EXISTS (SELECT * FROM log WHERE log.words = words.words) AND words"
)
_TOTALS = (
    "UPDATE runs SET user = ?, access_method = ?, command_name = ?, command_source = ?, clusters = ?, first = ?,"
    " last = ?, calls = ?, running = ?, denied = ?, worst_status = ?, exit_code = ? WHERE command = ?"
)
