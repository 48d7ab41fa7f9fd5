"""Follows the journal and writes what it finds into the index, in a process of its own."""

import gc
import logging
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from heapq import merge
from itertools import accumulate, repeat
from pathlib import Path
from threading import Event

from kube_audit_proxy.index.pairs import repeated
from kube_audit_proxy.index.rows import CallLine, MalformedError, parse
from kube_audit_proxy.index.schema import clear, is_damaged, open_for_writing, set_aside, transaction
from kube_audit_proxy.index.write import Calls
from kube_audit_proxy.journal.cursor import Cursor
from kube_audit_proxy.journal.line import LineError, digest
from kube_audit_proxy.journal.line import parse as parse_line
from kube_audit_proxy.journal.reader import Batch, JournalGap, read_writer, writers

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1

_MANY, _GATHER_SECONDS = 50, 0.3
"""Where a look finds so many lines, the next one comes later: calls that are indexed together cost a third less."""

_BATCH = 8 << 20
"""Bytes of the journal, about, that are written into the index in one transaction."""

_AGAIN_SECONDS = 1.0

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
    beside. What the disk refuses is tried again until it does not. `chores` gives other work on the index, without end,
    of which a step is done after each look.
    """
    told = ""
    while not stop.is_set():
        try:
            with closing(open_for_writing(db_path)) as db:
                steps = chores(db)
                while db_path.exists() and not stop.is_set():
                    lines = index_once(db, journal)
                    next(steps)
                    if told:
                        log.info("the index is kept up again")
                        told = ""
                    stop.wait(POLL_SECONDS if lines < _MANY else _GATHER_SECONDS)
                if db_path.exists():
                    index_once(db, journal)
        except (sqlite3.OperationalError, OSError) as error:
            if str(error) != told:
                told = str(error)
                log.warning("the index cannot be kept up (%s); it catches up as soon as it can", told)
            stop.wait(_AGAIN_SECONDS)
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
            for batch in _batches(journal, {writer: head.cursor for writer, head in stored.items()}):
                head = reached.get(batch.writer)
                if head is stored.get(batch.writer) and _rewritten(batch, head):
                    clear(db)
                    break
                with transaction(db), _no_collection():
                    if heads(db).get(batch.writer) != head:
                        break  # another indexer was faster: go on from there
                    reached[batch.writer] = _apply(db, batch, head)
                lines += len(batch.lines)
                progress(lines)
            else:
                return lines
        except JournalGap as gap:
            _skip_gap(db, gap)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Make many objects, none of which refer to each other in circles, without looking for such circles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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
    calls = Calls(db, [line for _, line in lines])
    for offset, line in lines:
        if not calls.take(line):
            problems.append((batch.writer, batch.cursor.segment, offset, "too many calls in one microsecond"))
    calls.write()
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
    starts = repeated(batch.writer, batch.lines)
    needless = {*starts.values()}
    begin = batch.cursor.offset - sum(map(len, batch.lines)) - len(batch.lines)
    offsets = accumulate((len(line) + 1 for line in batch.lines), initial=begin)
    for position, (offset, line) in enumerate(zip(offsets, batch.lines, strict=False)):
        if position in needless:
            continue
        try:
            if (call := parse(line)) is not None:
                lines.append((offset, call))
        except MalformedError as error:
            problems.append((batch.writer, batch.cursor.segment, offset, str(error)))
            if (at := starts.get(position)) is not None and (call := parse(batch.lines[at])) is not None:
                lines.append((offset, call))  # then the start tells more
    return lines, problems


def _write_problems(db: sqlite3.Connection, problems: Iterable[Problem]) -> None:
    db.executemany("INSERT OR REPLACE INTO problems VALUES (?, ?, ?, ?)", problems)


def _batches(journal: Path, cursors: Mapping[str, Cursor]) -> Iterator[Batch]:
    """Yield what is new of all writers, about in the order in which it was written, so that it is indexed in it."""
    names = sorted({*writers(journal), *cursors})
    size = max(_BATCH // max(len(names), 1), _BATCH // 8)
    return merge(*(read_writer(journal, name, cursors.get(name), size) for name in names), key=_written)


def _written(batch: Batch) -> bytes:
    found = _TIME.search(batch.lines[0])
    return found[1] if found else b""


_TIME = re.compile(rb'"(?:stageTimestamp|opened|since)":"([^"]*)"')
