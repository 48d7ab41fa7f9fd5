"""The tables of the index, and how its file is opened.

What shapes them: a page of the newest calls has to come fast whatever the filter, with ten million calls in the file.

- A call's `id` is its time: microseconds since 1970, times 1,024, plus a number that keeps calls of one microsecond
  apart. SQLite ends every index with the id, so an index over one column is also sorted by time, a range of time is a
  range of ids, and a page starts where the last one ended.
- `calls` holds only what filters look at, because a filter that no index helps reads all of it. The records
  themselves and the text to search are in tables of their own.
- `facets` counts the calls of each value, which tells whether an index is worth using (`queries.narrowest`), or that
  there is nothing to be found.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = 1
FILE_NAME = "index.db"

INDEXED = ("user", "namespace", "resource", "verb", "status", "decision")
FACETED = (*INDEXED, "cluster", "method", "access_method")

_TABLES = """
CREATE TABLE calls (
  id INTEGER PRIMARY KEY,
  change INTEGER NOT NULL,
  audit_id TEXT NOT NULL,
  stage TEXT NOT NULL,
  writer TEXT NOT NULL,
  seq INTEGER NOT NULL,
  cluster TEXT,
  user TEXT,
  access_method TEXT,
  method TEXT,
  verb TEXT,
  api_group TEXT,
  resource TEXT,
  subresource TEXT,
  namespace TEXT,
  name TEXT,
  status INTEGER,
  decision TEXT,
  outcome TEXT,
  duration_ms REAL,
  command_id TEXT
) STRICT;
CREATE UNIQUE INDEX calls_change ON calls (change);
CREATE INDEX calls_command_id ON calls (command_id) WHERE command_id IS NOT NULL;
CREATE TABLE records (id INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE texts (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
CREATE TABLE facets (
  field TEXT NOT NULL,
  value ANY NOT NULL,
  calls INTEGER NOT NULL,
  PRIMARY KEY (field, value)
) STRICT, WITHOUT ROWID;
CREATE TABLE commands (
  command_id TEXT PRIMARY KEY,
  user TEXT,
  access_method TEXT,
  command TEXT,
  command_source TEXT,
  clusters TEXT NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  calls INTEGER NOT NULL,
  running INTEGER NOT NULL,
  denied INTEGER NOT NULL,
  worst_status INTEGER,
  exit_code INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE cursors (
  writer TEXT PRIMARY KEY,
  segment TEXT NOT NULL,
  offset INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  hash TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE problems (
  writer TEXT NOT NULL,
  segment TEXT NOT NULL,
  offset INTEGER NOT NULL,
  what TEXT NOT NULL,
  PRIMARY KEY (writer, segment, offset)
) STRICT, WITHOUT ROWID;
"""

_OPTIONS = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA cache_size = -131072;
PRAGMA wal_autocheckpoint = 16384;
PRAGMA temp_store = MEMORY;
"""


class NoIndex(Exception):  # noqa: N818 - a state that people meet before the first start, not a fault
    """There is no index to read: the file is missing, or another version of the program wrote it."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path = path


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open the index, make it where it is missing, and empty it where another version of the program wrote it.

    An emptied index fills by itself, because its cursors are gone too. The caller closes the connection.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
    try:
        db.executescript(_OPTIONS)
        if version(db) != VERSION:
            clear(db)
    except BaseException:
        db.close()
        raise
    return db


def is_damaged(error: sqlite3.DatabaseError) -> bool:
    """Tell whether an error says that the file is no index any more, rather than that it is in use, say."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def set_aside(path: Path) -> Path:
    """Move a damaged index out of the way of a new one, replacing the one before; return where it is now."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    for ending in ("-wal", "-shm"):
        path.with_name(f"{path.name}{ending}").unlink(missing_ok=True)
    return aside


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open the index so that nothing can be written to it. Raises NoIndex. The caller closes the connection."""
    if not path.is_file():
        raise NoIndex(path, "there is no such file")
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0, isolation_level=None)
    try:
        _check(path, version(db))
        db.execute("PRAGMA cache_size = -65536")
    except BaseException:
        db.close()
        raise
    return db


def _check(path: Path, found: int) -> None:
    if found != VERSION:
        raise NoIndex(path, f"written by another version of the program (format {found}, this one reads {VERSION})")


def version(db: sqlite3.Connection) -> int:
    """Return the version of the tables in the file; 0 where there are none."""
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    return found


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Write all or nothing. Waits for another writer to finish."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def clear(db: sqlite3.Connection) -> None:
    """Leave the tables of this version, empty. In the file itself: whoever has it open goes on reading it."""
    with transaction(db):
        names = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'").fetchall()
        for (name,) in names:
            db.execute(f'DROP TABLE "{name}"')
        for statement in _TABLES.split(";"):
            db.execute(statement)
        for column in INDEXED:
            db.execute(f"CREATE INDEX calls_{column} ON calls ({column}) WHERE {column} IS NOT NULL")
        db.execute(f"PRAGMA user_version = {VERSION}")
