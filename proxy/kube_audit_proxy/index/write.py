"""Writes what the lines of a batch say of calls into the index; the caller's transaction makes it whole."""
# ruff: noqa: S608 - the names are those of the tables

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from kube_audit_proxy.index import commands
from kube_audit_proxy.index.rows import CALLS_PER_MICROSECOND, CallLine, Kind, Known, first_id, newer
from kube_audit_proxy.index.schema import FACETED, KIND
from kube_audit_proxy.index.trigrams import searchable

BLOCK = 4096
"""Words, at least, that a row of `word_blocks` stands for."""


class Stored(NamedTuple):
    """What the index had of a call before; `number` is that of its kind, `text` that of its words."""

    kind: Kind
    audit_id: str
    writer: str
    seq: int
    number: int
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
        self._known: dict[int, Known] = {**self._stored}
        self._latest: dict[int, CallLine] = {}
        self._runs: dict[str, int] = {}
        self._totals: dict[str, commands.Totals] = {}
        self._touched: set[str] = set()
        ids = {command_id for line in lines if (command_id := line.command_id) is not None}
        for number, command_id, *totals in _among(db, "SELECT * FROM runs WHERE command_id", ids):
            self._runs[command_id] = number
            self._totals[command_id] = commands.Totals._make(totals)

    def take(self, line: CallLine) -> bool:
        """Note a line; return False where there are too many calls in its microsecond."""
        id_ = first_id(line.received)
        before = self._known.get(id_)
        if before is not None and before.audit_id != line.audit_id:
            if (free := self._id_of(line, id_)) is None:
                return False
            id_, before = free, self._known.get(free)
        if before is not None:
            if not newer(line, before):
                return True
            self._latest.pop(id_, None)  # so that the order is that of the latest lines
        self._known[id_] = self._latest[id_] = line
        if (command_id := line.command_id) is not None:
            self._touched.add(command_id)
            self._totals[command_id] = commands.add(self._totals.get(command_id), line, before)
        return True

    def write(self) -> None:
        """Write the latest line of each call; they get the numbers of the changes that come next."""
        if not self._latest:
            return
        self._write_runs()
        kinds, words = self._write_kinds(), self._number_words()
        change = _single(self._db, "SELECT coalesce(max(change), 0) FROM log")
        new: list[tuple[object, ...]] = []
        known: list[tuple[object, ...]] = []
        for (id_, line), kind in zip(self._latest.items(), kinds, strict=True):
            change += 1
            if (stored := self._stored.get(id_)) is None:
                run = None if line.command_id is None else self._runs[line.command_id]
                new.append((id_, change, kind.number, run, words.get(line.words), line.audit_id, line.writer, line.seq))
            else:
                about = stored.words if _keeps_words(line, stored) else words.get(line.words)
                known.append((change, kind.number, about, line.writer, line.seq, id_))
        if known:
            self._db.executemany(_UPDATE, known)
            forget_words(self._db, {self._stored[row[-1]].words for row in known})  # type: ignore[index] # an id
        self._write_words(words)
        self._db.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?)", new)
        records = ((id_, line.record) for id_, line in self._latest.items())
        self._db.executemany("INSERT OR REPLACE INTO records VALUES (?, ?)", records)

    def _read(self, moments: list[int]) -> Iterator[tuple[int, Stored]]:
        for id_, *of_kind, digest, audit_id, writer, seq, number, words, text in self._db.execute(
            _STORED, (orjson.dumps(moments).decode(),)
        ):
            yield id_, Stored(Kind._make((*of_kind, digest)), audit_id, writer, seq, number, words, text)

    def _id_of(self, new: CallLine, first: int) -> int | None:
        """Return the id of a call, a free one if it is new; None where its microsecond is full."""
        for id_ in range(first, first + CALLS_PER_MICROSECOND):
            known = self._known.get(id_)
            if known is None or known.audit_id == new.audit_id:
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
        tallies: dict[str, _Tally] = {}
        of_calls: list[_Tally] = []
        for id_, line in self._latest.items():
            if (tally := tallies.get(line.kind.digest)) is None:
                tally = tallies[line.kind.digest] = _Tally(line.kind)
            tally.calls += 1
            tally.newest = max(tally.newest, id_)
            of_calls.append(tally)
        before = [stored for id_, stored in self._stored.items() if id_ in self._latest]
        self._number(tallies)
        self._db.executemany(_TALLY, ((tally.number, tally.calls, tally.newest) for tally in tallies.values()))
        count_off(self._db, Counter(stored.number for stored in before))
        counts = [(tally.kind, tally.calls) for tally in tallies.values()]
        put_facets(self._db, _facets([*counts, *((stored.kind, -1) for stored in before)]))
        return of_calls

    def _number(self, tallies: Mapping[str, "_Tally"]) -> None:
        """Give each kind its number, a new one where there was no such kind."""
        new = dict(tallies)
        for digest, number in _among(self._db, _KINDS, new).fetchall():
            new.pop(digest).number = number
        if not new:
            return
        clients = self._clients({tally.kind.client for tally in new.values()})
        first = 1 + _single(self._db, "SELECT coalesce(max(kind), 0) FROM kinds")
        for number, tally in enumerate(new.values(), first):
            tally.number = number
        kinds = ((tally.number, tally.kind) for tally in new.values())
        rows = ((number, clients[kind.client], *kind[: len(KIND)], kind.digest) for number, kind in kinds)
        self._db.executemany(f"INSERT INTO kinds VALUES (?, ?{', ?' * len(KIND)}, ?)", rows)

    def _clients(self, texts: Collection[str]) -> Mapping[str, int]:
        self._db.executemany("INSERT OR IGNORE INTO clients (text) VALUES (?)", ((text,) for text in texts))
        return dict(_among(self._db, "SELECT text, client FROM clients WHERE text", texts))

    def _number_words(self) -> Mapping[str, int]:
        """Return the number of each text that calls did not have before."""
        new = {
            line.words: None
            for id_, line in self._latest.items()
            if line.words and not _keeps_words(line, self._stored.get(id_))
        }
        first = 1 + _single(self._db, "SELECT coalesce(max(words), 0) FROM words")
        return dict(zip(new, range(first, first + len(new)), strict=True))

    def _write_words(self, numbers: Mapping[str, int]) -> None:
        """Write texts; after others were forgotten, because FTS5 begins anew where numbers do not grow."""
        if not numbers:
            return
        self._db.executemany("INSERT INTO words (text, words) VALUES (?, ?)", numbers.items())
        searched = ((number, searchable(text)) for text, number in numbers.items())
        self._db.executemany("INSERT INTO trigrams (rowid, text) VALUES (?, ?)", searched)
        first = min(numbers.values())
        begun = _single(self._db, "SELECT coalesce(max(first), 0) FROM word_blocks")
        block = begun if begun and first - begun < BLOCK else first
        newest = max(id_ for id_, line in self._latest.items() if line.words in numbers)
        self._db.execute(_BLOCK, (block, newest))


def put_totals(db: sqlite3.Connection, totals: Iterable[tuple[int, commands.Totals]]) -> None:
    """Write what commands add up to now."""
    db.executemany(_TOTALS, ((*each, number) for number, each in totals))


def count_off(db: sqlite3.Connection, calls: Mapping[int, int]) -> None:
    """Note that there are fewer calls of these kinds."""
    db.executemany("UPDATE tallies SET calls = calls - ? WHERE kind = ?", ((n, kind) for kind, n in calls.items()))


def put_facets(db: sqlite3.Connection, facets: Iterable[tuple[str, Any, int]]) -> None:
    """Add to how many calls there are of values of columns."""
    db.executemany(_FACETS, facets)


def forget_words(db: sqlite3.Connection, numbers: Collection[int | None]) -> None:
    """Take out of these words those that no call has any more."""
    unused = sorted(_among(db, _UNUSED_WORDS, [number for number in numbers if number is not None]))
    db.executemany(
        "INSERT INTO trigrams (trigrams, rowid, text) VALUES ('delete', ?, ?)",
        ((number, searchable(text)) for number, text in unused),
    )
    db.executemany("DELETE FROM words WHERE words = ?", ((number,) for number, _ in unused))


_FACET_POSITIONS = tuple((column, KIND.index(column)) for column in FACETED)


class _Tally:
    """The calls of a kind that a batch has."""

    __slots__ = ("calls", "kind", "newest", "number")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.number = self.calls = self.newest = 0


def _facets(counts: Collection[tuple[Kind, int]]) -> Iterator[tuple[str, Any, int]]:
    """Yield columns and values, and how many more calls there are of each; `counts` says it of kinds."""
    for column, position in _FACET_POSITIONS:
        calls: dict[Any, int] = {}
        for kind, more in counts:
            calls[kind[position]] = calls.get(kind[position], 0) + more
        yield from ((column, value, more) for value, more in calls.items() if more and value is not None)


def _keeps_words(line: CallLine, stored: Stored | None) -> bool:
    return stored is not None and stored.words is not None and line.words == stored.text


def _among(db: sqlite3.Connection, sql: str, values: Collection[str | int]) -> sqlite3.Cursor:
    # Not by json_each, for which a text ends at a NUL.
    return db.execute(f"{sql} IN ({', '.join('?' * len(values))})", (*values,))


def _single(db: sqlite3.Connection, sql: str) -> int:
    found: int = db.execute(sql).fetchone()[0]
    return found


_STORED = (
    f"SELECT log.id, {', '.join(f'kinds.{column}' for column in KIND)}, clients.text, kinds.digest,"
    " log.audit_id, log.writer, log.seq, log.kind, log.words, words.text"
    f" FROM json_each(?) CROSS JOIN log ON log.id BETWEEN value AND value + {CALLS_PER_MICROSECOND - 1}"
    " CROSS JOIN kinds USING (kind) CROSS JOIN clients USING (client) LEFT JOIN words USING (words)"
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
