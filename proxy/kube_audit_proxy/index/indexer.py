"""Follows the journal and writes what it finds into the index, in a process of its own."""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from threading import Event

from kube_audit_proxy.index.ahead import Parsed, Problem, no_collection, read
from kube_audit_proxy.index.schema import clear, is_damaged, open_for_writing, set_aside, transaction
from kube_audit_proxy.index.write import Calls
from kube_audit_proxy.journal.cursor import Cursor
from kube_audit_proxy.journal.reader import JournalGap

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1

_MANY, _GATHER_SECONDS = 50, 0.3
"""Where a look finds so many lines, the next one comes later: calls that are indexed together cost a third less."""

_AGAIN_SECONDS = 1.0

_LAST_LINES = 50_000
"""Lines that are still read by an indexer that is told to stop, at least: a few seconds' work. The next one goes on."""

Progress = Callable[[int], None]
Chores = Callable[[sqlite3.Connection], Iterator[None]]


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


class _LeftToTheNextError(Exception):
    """Who is to stop has much to read."""


def run(journal: Path, db_path: Path, stop: Event, chores: Chores = _no_chores) -> None:
    """Keep the index at most about a second behind the journal until `stop` is set, and then bring it to the end.

    Where that is far, as when an index is built anew, the rest is left to the next start.
    Where someone deletes the file meanwhile, it is built again; so is one that turns out to be damaged, which is kept
    beside. What the disk refuses is tried again until it does not. `chores` gives other work on the index, without end,
    of which a step is done after each look.
    """
    told = ""
    while not stop.is_set():
        try:
            with closing(open_for_writing(db_path)) as db:
                for _ in _looks(db, db_path, journal, stop, chores(db)):
                    if told:
                        log.info("the index is kept up again")
                        told = ""
        except _LeftToTheNextError:
            log.info("the index is behind the journal; the next start goes on where it is now")
        except (sqlite3.OperationalError, OSError) as error:
            if str(error) != told:
                told = str(error)
                log.warning("the index cannot be kept up (%s); it catches up as soon as it can", told)
            stop.wait(_AGAIN_SECONDS)
        except sqlite3.DatabaseError as error:
            if not is_damaged(error):
                raise
            log.warning("the index is damaged (%s) and is built again; %s is what it was", error, set_aside(db_path))


def _looks(db: sqlite3.Connection, db_path: Path, journal: Path, stop: Event, steps: Iterator[None]) -> Iterator[None]:
    """Look at the journal again and again while the file is there; after `stop` once more."""

    def leave_much(lines: int) -> None:
        if lines >= _LAST_LINES and stop.is_set():
            raise _LeftToTheNextError

    while db_path.exists() and not stop.is_set():
        lines = index_once(db, journal, leave_much)
        next(steps)
        yield
        stop.wait(POLL_SECONDS if lines < _MANY else _GATHER_SECONDS)
    if db_path.exists():
        index_once(db, journal, leave_much)


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
            with closing(read(journal, {writer: head.cursor for writer, head in stored.items()})) as batches:
                for batch in batches:
                    head = reached.get(batch.writer)
                    if head is stored.get(batch.writer) and _rewritten(batch, head):
                        clear(db)
                        break
                    with transaction(db), no_collection():
                        if heads(db).get(batch.writer) != head:
                            break  # another indexer was faster: go on from there
                        reached[batch.writer] = _apply(db, batch, head)
                    lines += batch.lines
                    progress(lines)
                else:
                    return lines
        except JournalGap as gap:
            _skip_gap(db, gap)


def heads(db: sqlite3.Connection) -> dict[str, Head]:
    """Return how far each writer's lines are in the index."""
    rows = db.execute("SELECT writer, segment, offset, seq, hash FROM cursors")
    return {writer: Head(Cursor(segment, offset), seq, last) for writer, segment, offset, seq, last in rows}


def _rewritten(batch: Parsed, head: Head | None) -> bool:
    """Tell whether these lines have numbers that others had before: those were cut off, the index must forget them."""
    return head is not None and batch.first is not None and batch.first <= head.seq


def _skip_gap(db: sqlite3.Connection, gap: JournalGap) -> None:
    """Note that a segment went away before it was read to its end, and go on with the oldest that is there."""
    with transaction(db):
        offset = db.execute("SELECT offset FROM cursors WHERE writer = ?", (gap.writer,)).fetchone() or (0,)
        _write_problems(db, [(gap.writer, gap.segment, offset[0], "the segment was removed before it was read")])
        db.execute("DELETE FROM cursors WHERE writer = ?", (gap.writer,))


def _apply(db: sqlite3.Connection, batch: Parsed, head: Head | None) -> Head:
    """Write what a batch says; the caller's transaction makes it whole."""
    calls = Calls(db, [line for _, line in batch.calls])
    full = [offset for offset, line in batch.calls if not calls.take(line)]
    calls.write()
    told = [(batch.writer, batch.cursor.segment, offset, "too many calls in one microsecond") for offset in full]
    _write_problems(db, [*batch.problems, *told])
    seq = batch.last if batch.last is not None else batch.lines + (head.seq if head else 0)
    db.execute(
        "INSERT OR REPLACE INTO cursors VALUES (?, ?, ?, ?, ?)",
        (batch.writer, batch.cursor.segment, batch.cursor.offset, seq, batch.hash),
    )
    return Head(batch.cursor, seq, batch.hash)


def _write_problems(db: sqlite3.Connection, problems: Iterable[Problem]) -> None:
    db.executemany("INSERT OR REPLACE INTO problems VALUES (?, ?, ?, ?)", problems)
