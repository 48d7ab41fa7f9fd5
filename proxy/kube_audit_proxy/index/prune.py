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

from kube_audit_proxy.index import commands
from kube_audit_proxy.index.filters import microseconds
from kube_audit_proxy.index.rows import first_id, parse
from kube_audit_proxy.index.schema import FACETED, transaction
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
        db.execute("DELETE FROM facets WHERE calls <= 0")
    yield


def _prune_page(db: sqlite3.Connection, seqs: Mapping[str, int], after: int, end: int, page: int) -> int | None:
    """Look at the next calls; return the last one's id, None where there were no more."""
    rows = db.execute(_CALLS, (after, end, page)).fetchall()
    if not rows:
        return None
    last_change = db.execute("SELECT max(change) FROM calls").fetchone()[0]
    gone: list[tuple[int]] = []
    facets: Counter[tuple[str, str | int]] = Counter()
    touched: set[str] = set()
    for id_, change, writer, seq, command_id, *values in rows:
        if seq >= seqs.get(writer, 0) or change == last_change:
            continue
        gone.append((id_,))
        facets.update((field, value) for field, value in zip(FACETED, values, strict=True) if value is not None)
        if command_id is not None:
            touched.add(command_id)
    for table in ("calls", "records", "texts"):
        db.executemany(f"DELETE FROM {table} WHERE id = ?", gone)
    db.executemany(
        "UPDATE facets SET calls = calls - ? WHERE field = ? AND value = ?",
        ((calls, field, value) for (field, value), calls in facets.items()),
    )
    reached: int = rows[-1][0]
    for command_id in touched:
        _add_up(db, command_id, seqs, reached, end)
    return reached


def _add_up(db: sqlite3.Connection, command_id: str, seqs: Mapping[str, int], reached: int, end: int) -> None:
    """Make a command what is left of it; not yet where more of its calls will go, with which this comes again."""
    later = db.execute(_LATER_CALLS, (command_id, reached, end))
    if any(seq < seqs.get(writer, 0) for writer, seq in later):
        return
    totals: commands.Totals | None = None
    for (record,) in db.execute(_RECORDS, (command_id,)):
        if (line := parse(record.encode())) is not None:
            totals = commands.add(totals, line, None)
    if totals is None:
        db.execute("DELETE FROM commands WHERE command_id = ?", (command_id,))
    else:
        db.execute(_PUT_COMMAND, (command_id, *totals))


_CALLS = (
    f"SELECT id, change, writer, seq, command_id, {', '.join(FACETED)} FROM calls NOT INDEXED"
    " WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
)
_LATER_CALLS = "SELECT writer, seq FROM calls INDEXED BY calls_command_id WHERE command_id = ? AND id > ? AND id < ?"
_RECORDS = (
    "SELECT record FROM calls INDEXED BY calls_command_id CROSS JOIN records USING (id)"
    " WHERE command_id = ? ORDER BY id"
)
_PUT_COMMAND = f"INSERT OR REPLACE INTO commands VALUES (?{', ?' * len(commands.Totals._fields)})"
