"""Takes out of the index what retention has deleted from the journal.

What is left is what a rebuild would make of the journal as it is now. A call goes when the line that says most of it
has gone; one that is cut, its start deleted and its end kept, stays, because the end repeats all of its start. A
command that is cut is added up anew from the calls that stay. A rebuild differs in this only:

- the call that changed last stays until another one changes: who follows the changes counts on their numbers growing;
- of calls of one microsecond, those that stay keep their ids;
- of a call that is cut, its command can have what only the earlier lines said, or lack it where others of its calls
  went: the status of an answer that began and was interrupted.
"""
# ruff: noqa: S608 - the names are those of the rows

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kube_audit_proxy.index import commands
from kube_audit_proxy.index.filters import microseconds
from kube_audit_proxy.index.rows import first_id, parse
from kube_audit_proxy.index.schema import FACETED, transaction
from kube_audit_proxy.index.write import count_off, forget_words, put_facets, put_totals
from kube_audit_proxy.journal.reader import segment_name

PAGE = 500
"""Calls that are looked at in one transaction: milliseconds, or some tens of them where all the calls go."""


@dataclass(frozen=True, slots=True)
class Border:
    """Where a writer's trail begins now, and how new the newest line is that was deleted."""

    first_seq: int
    newest: datetime


def prune(db: sqlite3.Connection, borders: Mapping[str, Border], page: int = PAGE) -> Iterator[None]:
    """Delete what the lines before the borders have told, writer by writer, in small transactions: one each step."""
    if not borders:
        return
    seqs = {writer: border.first_seq for writer, border in borders.items()}
    # A call was received before its last line was written. Where a clock went back, a later round finds the rest.
    end = first_id(microseconds(max(border.newest for border in borders.values())) + 1_000_000)
    after: int | None = -1
    while after is not None:
        with transaction(db):
            after = _prune_page(db, seqs, after, end, page)
        yield
    with transaction(db):
        db.executemany(
            "DELETE FROM problems WHERE writer = ? AND segment < ?",
            ((writer, segment_name(seq)) for writer, seq in seqs.items()),
        )
        for statement in _NO_CALLS:
            db.execute(statement)
    yield


def _prune_page(db: sqlite3.Connection, seqs: Mapping[str, int], after: int, end: int, page: int) -> int | None:
    """Look at the next calls; return the last one's id, None where there were no more."""
    rows = db.execute(_CALLS, (after, end, page)).fetchall()
    if not rows:
        return None
    last_change = db.execute("SELECT max(change) FROM log").fetchone()[0]
    gone = [row for row in rows if row[3] < seqs.get(row[2], 0) and row[1] != last_change]
    for table in ("log", "records"):
        db.executemany(f"DELETE FROM {table} WHERE id = ?", ((id_,) for id_, *_ in gone))
    _count_off(db, Counter(kind for *_, kind, _ in gone))
    forget_words(db, {words for *_, words in gone})
    reached: int = rows[-1][0]
    for command in {command for *_, command, _, _ in gone if command is not None}:
        _add_up(db, command, seqs, reached, end)
    return reached


def _count_off(db: sqlite3.Connection, kinds: Mapping[int, int]) -> None:
    count_off(db, kinds)
    facets: Counter[tuple[str, Any]] = Counter()
    for kind, calls in kinds.items():
        values = db.execute(f"SELECT {', '.join(FACETED)} FROM kinds WHERE kind = ?", (kind,)).fetchone()
        for field, value in zip(FACETED, values, strict=True):
            if value is not None:
                facets[field, value] -= calls
    put_facets(db, ((field, value, calls) for (field, value), calls in facets.items()))


def _add_up(db: sqlite3.Connection, command: int, seqs: Mapping[str, int], reached: int, end: int) -> None:
    """Make a command what is left of it; not yet where more of its calls will go, with which this comes again."""
    later = db.execute(_LATER_CALLS, (command, reached, end))
    if any(seq < seqs.get(writer, 0) for writer, seq in later):
        return
    totals: commands.Totals | None = None
    for (record,) in db.execute(_RECORDS, (command,)):
        if (line := parse(record.encode())) is not None:
            totals = commands.add(totals, line, None)
    if totals is None:
        db.execute("DELETE FROM runs WHERE command = ?", (command,))
    else:
        put_totals(db, [(command, totals)])


_CALLS = (
    "SELECT id, change, writer, seq, command, kind, words FROM log NOT INDEXED"
    " WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
)
_LATER_CALLS = "SELECT writer, seq FROM log INDEXED BY log_command WHERE command = ? AND id > ? AND id < ?"
_RECORDS = "SELECT record FROM log INDEXED BY log_command CROSS JOIN records USING (id) WHERE command = ? ORDER BY id"
_NO_CALLS = (
    "DELETE FROM facets WHERE calls <= 0",
    "DELETE FROM kinds WHERE kind IN (SELECT kind FROM tallies WHERE calls <= 0)",
    "DELETE FROM tallies WHERE calls <= 0",
    "DELETE FROM clients WHERE client NOT IN (SELECT client FROM kinds)",
    # The last block that begins before the oldest words has them.
    """
    DELETE FROM word_blocks WHERE first < (
      SELECT max(first) FROM word_blocks WHERE first <= (SELECT min(words) FROM words)
    )
    """,
)
