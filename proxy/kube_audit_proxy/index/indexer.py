"""Follows the journal and writes what it finds into the index, in a process of its own."""
# ruff: noqa: S608 - the names are those of the rows

import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from threading import Event

import orjson

from kube_audit_proxy.index import commands
from kube_audit_proxy.index.rows import CALLS_PER_MICROSECOND, CallLine, MalformedError, Row, first_id, newer, parse
from kube_audit_proxy.index.schema import FACETED, clear, is_damaged, open_for_writing, set_aside, transaction
from kube_audit_proxy.journal.cursor import Cursor
from kube_audit_proxy.journal.line import LineError, digest
from kube_audit_proxy.journal.line import parse as parse_line
from kube_audit_proxy.journal.reader import Batch, JournalGap, read_batches

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1

Progress = Callable[[int], None]
Chores = Callable[[sqlite3.Connection], Iterator[None]]
Problem = tuple[str, str, int, str]


def _no_progress(_lines: int) -> None:
    """Tell nobody."""


def _no_chores(_db: sqlite3.Connection) -> Iterator[None]:
    """Have nothing else to do."""
    return repeat(None)


@dataclass(frozen=True, slots=True)
class Head:
    """How far a writer's lines are in the index: the place after the last line, its number and its hash."""

    cursor: Cursor
    seq: int
    hash: str


def run(journal: Path, db_path: Path, stop: Event, chores: Chores = _no_chores) -> None:
    """Keep the index at most about a second behind the journal until `stop` is set, and then bring it to the end.

    Where someone deletes the file meanwhile, it is built again; so is one that turns out to be damaged, which is kept
    beside. `chores` gives other work on the index, without end, of which a step is done after each look.
    """
    while not stop.is_set():
        try:
            with closing(open_for_writing(db_path)) as db:
                steps = chores(db)
                while db_path.exists() and not stop.is_set():
                    index_once(db, journal)
                    next(steps)
                    stop.wait(POLL_SECONDS)
                if db_path.exists():
                    index_once(db, journal)
        except sqlite3.DatabaseError as error:
            if not is_damaged(error):
                raise
            log.warning("the index is damaged (%s) and is built again; %s is what it was", error, set_aside(db_path))


def rebuild(db: sqlite3.Connection, journal: Path, progress: Progress = _no_progress) -> int:
    """Empty the index and fill it from the journal; return the number of lines read.

    Readers may go on meanwhile and see a part of the calls; so may another indexer, which then shares the work.
    `progress` is told the lines read so far.
    """
    clear(db)
    return index_once(db, journal, progress)


def index_once(db: sqlite3.Connection, journal: Path, progress: Progress = _no_progress) -> int:
    """Bring the index up to the journal and return the number of lines read.

    Lines that are no records are skipped and noted in `problems`. Where the journal does not go on from where the
    index had come to, because recovery cut off lines that were never durable, the index is built again.
    """
    lines = 0
    while True:
        stored = heads(db)
        reached = dict(stored)
        try:
            for batch in read_batches(journal, {writer: head.cursor for writer, head in stored.items()}):
                head = reached.get(batch.writer)
                if head is stored.get(batch.writer) and _rewritten(batch, head):
                    clear(db)
                    break
                with transaction(db):
                    if heads(db).get(batch.writer) != head:
                        break  # another indexer was faster: go on from there
                    reached[batch.writer] = _apply(db, batch, head)
                lines += len(batch.lines)
                progress(lines)
            else:
                return lines
        except JournalGap as gap:
            _skip_gap(db, gap)


def heads(db: sqlite3.Connection) -> dict[str, Head]:
    """Return how far each writer's lines are in the index."""
    rows = db.execute("SELECT writer, segment, offset, seq, hash FROM cursors")
    return {writer: Head(Cursor(segment, offset), seq, last) for writer, segment, offset, seq, last in rows}


def _rewritten(batch: Batch, head: Head | None) -> bool:
    """Tell whether these lines have numbers that others had before: those were cut off, the index must forget them."""
    if head is None:
        return False
    try:
        return parse_line(batch.lines[0]).seq <= head.seq
    except LineError:
        return False


def _skip_gap(db: sqlite3.Connection, gap: JournalGap) -> None:
    """Note that a segment went away before it was read to its end, and go on with the oldest that is there."""
    with transaction(db):
        offset = db.execute("SELECT offset FROM cursors WHERE writer = ?", (gap.writer,)).fetchone() or (0,)
        _write_problems(db, [(gap.writer, gap.segment, offset[0], "the segment was removed before it was read")])
        db.execute("DELETE FROM cursors WHERE writer = ?", (gap.writer,))


def _apply(db: sqlite3.Connection, batch: Batch, head: Head | None) -> Head:
    """Write what a batch says; the caller's transaction makes it whole."""
    lines, problems = _parse(batch)
    known = _Known(db, lines)
    change = db.execute("SELECT coalesce(max(change), 0) FROM calls").fetchone()[0]
    latest: dict[int, CallLine] = {}
    for offset, line in lines:
        call = known.id_of(line)
        if call is None:
            problems.append((batch.writer, batch.cursor.segment, offset, "too many calls in one microsecond"))
        elif known.take(call, line):
            latest.pop(call, None)  # so that the order is that of the latest lines
            latest[call] = line
    known.write(db, latest, change)
    _write_problems(db, problems)
    try:
        seq = parse_line(batch.lines[-1]).seq
    except LineError:
        seq = head.seq + len(batch.lines) if head else len(batch.lines)
    new = Head(batch.cursor, seq, digest(batch.lines[-1]))
    db.execute(
        "INSERT OR REPLACE INTO cursors VALUES (?, ?, ?, ?, ?)",
        (batch.writer, new.cursor.segment, new.cursor.offset, new.seq, new.hash),
    )
    return new


def _parse(batch: Batch) -> tuple[list[tuple[int, CallLine]], list[Problem]]:
    """Return the lines about calls, each with its offset in the segment, and what is wrong with the others."""
    lines: list[tuple[int, CallLine]] = []
    problems: list[Problem] = []
    offset = batch.cursor.offset - sum(map(len, batch.lines)) - len(batch.lines)
    for data in batch.lines:
        try:
            if (line := parse(data)) is not None:
                lines.append((offset, line))
        except MalformedError as error:
            problems.append((batch.writer, batch.cursor.segment, offset, str(error)))
        offset += len(data) + 1
    return lines, problems


def _write_problems(db: sqlite3.Connection, problems: Iterable[Problem]) -> None:
    db.executemany("INSERT OR REPLACE INTO problems VALUES (?, ?, ?, ?)", problems)


class _Known:
    """What the index knows of the calls and commands of a batch, and what the batch adds to it."""

    def __init__(self, db: sqlite3.Connection, lines: Iterable[tuple[int, CallLine]]) -> None:
        moments = orjson.dumps([first_id(line.received) for _, line in lines]).decode()
        self.rows: dict[int, Row] = {
            id_: Row._make(row)
            for id_, *row in db.execute(
                f"SELECT calls.id, {', '.join(Row._fields)} FROM json_each(?) JOIN calls"
                f" ON calls.id BETWEEN value AND value + {CALLS_PER_MICROSECOND - 1}",
                (moments,),
            )
        }
        self.stored = frozenset(self.rows)
        command_ids = orjson.dumps([line.row.command_id for _, line in lines]).decode()
        self.totals: dict[str, commands.Totals] = {
            command_id: commands.Totals._make(totals)
            for command_id, *totals in db.execute(
                "SELECT * FROM commands WHERE command_id IN (SELECT value FROM json_each(?))", (command_ids,)
            )
        }
        self.facets: Counter[tuple[str, str | float]] = Counter()
        self.touched: set[str] = set()

    def id_of(self, line: CallLine) -> int | None:
        """Return the id of the line's call, a free one if it is new; None where its microsecond is full."""
        first = first_id(line.received)
        for id_ in range(first, first + CALLS_PER_MICROSECOND):
            row = self.rows.get(id_)
            if row is None or row.audit_id == line.row.audit_id:
                return id_
        return None

    def take(self, id_: int, line: CallLine) -> bool:
        """Note a line of this call; return False, and note nothing, if it says less than is known already."""
        row, before = line.row, self.rows.get(id_)
        if before is not None and not newer(row, before):
            return False
        self.rows[id_] = row
        for column, position in _FACETS:
            new, old = row[position], before[position] if before is not None else None
            if new != old:
                if new is not None:
                    self.facets[column, new] += 1
                if old is not None:
                    self.facets[column, old] -= 1
        if row.command_id is not None:
            self.touched.add(row.command_id)
            self.totals[row.command_id] = commands.add(self.totals.get(row.command_id), line, before)
        return True

    def write(self, db: sqlite3.Connection, latest: dict[int, CallLine], change: int) -> None:
        """Write the latest line of each call; they get the numbers after `change`."""
        numbered = list(enumerate(latest.items(), change + 1))
        db.executemany(
            _INSERT, ((id_, number, *line.row) for number, (id_, line) in numbered if id_ not in self.stored)
        )
        db.executemany(
            _UPDATE,
            (
                (number, *(line.row[position] for position in _CHANGING_POSITIONS), id_)
                for number, (id_, line) in numbered
                if id_ in self.stored
            ),
        )
        db.executemany(
            "INSERT OR REPLACE INTO records VALUES (?, ?)", ((id_, line.record) for id_, line in latest.items())
        )
        db.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?)", ((id_, line.text) for id_, line in latest.items()))
        db.executemany(
            "INSERT INTO facets VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET calls = calls + excluded.calls",
            ((column, value, calls) for (column, value), calls in self.facets.items() if calls),
        )
        marks = ", ".join("?" * (1 + len(commands.Totals._fields)))
        db.executemany(
            f"INSERT OR REPLACE INTO commands VALUES ({marks})",
            ((command_id, *self.totals[command_id]) for command_id in self.touched),
        )


# A later line repeats all the other columns.
_CHANGING = ("stage", "writer", "seq", "status", "decision", "outcome", "duration_ms")
_CHANGING_POSITIONS = tuple(Row._fields.index(column) for column in _CHANGING)
_FACETS = tuple((column, Row._fields.index(column)) for column in FACETED)
_INSERT = f"INSERT INTO calls (id, change, {', '.join(Row._fields)}) VALUES (?, ?{', ?' * len(Row._fields)})"
_UPDATE = f"UPDATE calls SET change = ?, {', '.join(f'{column} = ?' for column in _CHANGING)} WHERE id = ?"
