"""How far shipping has come, on disk: a small SQLite file beside the journal."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.index.schema import is_damaged, set_aside, transaction
from kube_audit_proxy.journal.cursor import Cursor

FILE_NAME = "ship.db"

_TABLES = """
CREATE TABLE cursors (
  signal TEXT NOT NULL,
  writer TEXT NOT NULL,
  segment TEXT NOT NULL,
  offset INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  exported INTEGER NOT NULL,
  exported_before INTEGER NOT NULL,
  PRIMARY KEY (signal, writer)
) STRICT, WITHOUT ROWID;
CREATE TABLE commands (
  signal TEXT NOT NULL,
  command_id TEXT NOT NULL,
  state BLOB NOT NULL,
  PRIMARY KEY (signal, command_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE dead_letters (
  id INTEGER PRIMARY KEY,
  signal TEXT NOT NULL,
  writer TEXT NOT NULL,
  seq INTEGER NOT NULL,
  at REAL NOT NULL,
  reason TEXT NOT NULL,
  record BLOB NOT NULL
) STRICT;
CREATE TABLE epoch (number INTEGER NOT NULL) STRICT;
INSERT INTO epoch VALUES (1);
PRAGMA user_version = 1;
"""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a writer's lines are shipped.

    `exported` counts the lines that went out with a number of their own (`export_seq`), `exported_before` those of
    them that stand before the cursor's segment: a segment that has to be read again gives its lines the same numbers.
    """

    cursor: Cursor
    seq: int
    exported: int
    exported_before: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that nobody takes; `at` is in seconds since 1970."""

    signal: Signal
    writer: str
    seq: int
    at: float
    reason: str
    record: bytes


class State:
    """The file, opened by the shipper to write or by others to read. One object serves one thread."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def positions(self, signal: Signal) -> dict[str, Position]:
        """Return how far each writer has come."""
        rows = self._db.execute(
            "SELECT writer, segment, offset, seq, exported, exported_before FROM cursors WHERE signal = ?", (signal,)
        )
        return {
            writer: Position(Cursor(segment, offset), seq, exported, before)
            for writer, segment, offset, seq, exported, before in rows
        }

    def signals(self) -> list[Signal]:
        """Return the signals of which anything was ever shipped."""
        return [Signal(each) for (each,) in self._db.execute("SELECT DISTINCT signal FROM cursors ORDER BY signal")]

    def commands(self, signal: Signal) -> list[dict[str, Any]]:
        """Return what is known of the commands that may still go on."""
        rows = self._db.execute("SELECT state FROM commands WHERE signal = ?", (signal,))
        return [orjson.loads(state) for (state,) in rows]

    def dead_letters(self, limit: int = -1) -> list[DeadLetter]:
        """Return the records that nobody took, the newest first."""
        rows = self._db.execute(
            "SELECT signal, writer, seq, at, reason, record FROM dead_letters ORDER BY id DESC LIMIT ?", (limit,)
        )
        return [DeadLetter(Signal(signal), *rest) for signal, *rest in rows]

    def count_dead_letters(self) -> dict[Signal, int]:
        """Return how many records nobody took."""
        rows = self._db.execute("SELECT signal, count(*) FROM dead_letters GROUP BY signal")
        return {Signal(signal): count for signal, count in rows}

    def save(self, signal: Signal, positions: Mapping[str, Position], commands: Mapping[str, bytes | None]) -> None:
        """Note what was taken: the new positions, and of each command that changed what is known; None: forget it."""
        with transaction(self._db):
            self._db.executemany(
                "INSERT OR REPLACE INTO cursors VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (signal, writer, at.cursor.segment, at.cursor.offset, at.seq, at.exported, at.exported_before)
                    for writer, at in positions.items()
                ),
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO commands VALUES (?, ?, ?)",
                ((signal, each, state) for each, state in commands.items() if state),
            )
            self._db.executemany(
                "DELETE FROM commands WHERE signal = ? AND command_id = ?",
                ((signal, each) for each, state in commands.items() if not state),
            )

    def bury(self, letters: Iterable[DeadLetter]) -> None:
        """Keep records that nobody takes."""
        with transaction(self._db):
            self._db.executemany(
                "INSERT INTO dead_letters (signal, writer, seq, at, reason, record) VALUES (?, ?, ?, ?, ?, ?)",
                ((each.signal, each.writer, each.seq, each.at, each.reason, each.record) for each in letters),
            )

    def epoch(self) -> int:
        """Return a number that changes when somebody else sets the positions."""
        number: int = self._db.execute("SELECT number FROM epoch").fetchone()[0]
        return number

    def rewind(self, positions: Mapping[str, Position]) -> None:
        """Let all signals be shipped again from these positions, dead letters too; commands are added up anew."""
        with transaction(self._db):
            self._db.executemany(
                "UPDATE cursors SET segment = ?, offset = ?, seq = ?, exported = ?, exported_before = ?"
                " WHERE writer = ?",
                (
                    (at.cursor.segment, at.cursor.offset, at.seq, at.exported, at.exported_before, writer)
                    for writer, at in positions.items()
                ),
            )
            self._db.execute("DELETE FROM commands")
            self._db.execute("DELETE FROM dead_letters")
            self._db.execute("UPDATE epoch SET number = number + 1")


def set_aside_if_damaged(path: Path) -> Path | None:
    """Move a file that SQLite cannot read any more out of the way; return where it is now, None if it was sound.

    All is then shipped again, and what Loki has already it drops.
    """
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path, timeout=30.0)) as db:
            if db.execute("PRAGMA quick_check").fetchone()[0] == "ok":
                return None
    except sqlite3.DatabaseError as error:
        if not is_damaged(error):
            raise
    return set_aside(path)


@contextmanager
def opened_for_writing(path: Path) -> Iterator[State]:
    """Open the file, and make it where it is missing. Raises sqlite3.Error."""
    with closing(sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA wal_autocheckpoint = 4000")
        with transaction(db):
            if not db.execute("PRAGMA user_version").fetchone()[0]:
                for statement in _TABLES.split(";\n"):
                    db.execute(statement)
        yield State(db)


@contextmanager
def opened_for_reading(path: Path) -> Iterator[State]:
    """Open the file so that nothing can be written to it. Raises sqlite3.Error where there is none."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=30.0, isolation_level=None)) as db:
        yield State(db)
