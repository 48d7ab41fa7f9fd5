"""The tables of the index, and how its file is opened.

What shapes them: a page of the newest calls has to come fast whatever the filter, with ten million calls in the file.

- A call's `id` is its time: microseconds since 1970, times 1,024, plus a number that keeps calls of one microsecond
  apart. SQLite ends every index with the id, so an index over one column is also sorted by time, a range of time is a
  range of ids, and a page starts where the last one ended.
- What filters look at is the same for many calls, so it is kept once, as a *kind* of call: who, where, what and how it
  ended. There are far fewer kinds than calls. A filter, however many parts it has, is a question about kinds; a call
  only has the number of its kind, and one index finds the calls of a kind by time. What no kind fulfils is not there.
  The indexes of kinds have all that filters ask for, so that only kinds that pass are looked up.
- `tallies` has how many calls of each kind there are, and how new they are at most: the newest calls of many kinds are
  among those of the kinds that had a call last.
- The text that is searched is in two parts. What is said of a client is kept with the kinds. What is about the call
  itself, its `words`, is found by the sequences of three characters in it. Words are numbered as they come, so the
  newest are found first; `word_blocks` tells how new the calls are of all words before a number.
- `facets` counts the calls of each value, which tells by which column kinds are found best (`queries.narrowest`).

The views are for everybody who wants to look: they show calls as if each were kept by itself.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = 4
FILE_NAME = "index.db"

INDEXED = ("user", "namespace", "resource", "verb", "status", "decision")
FACETED = (*INDEXED, "cluster", "method", "access_method")
KIND = (
    "stage",
    "cluster",
    "user",
    "access_method",
    "method",
    "verb",
    "api_group",
    "resource",
    "subresource",
    "namespace",
    "status",
    "decision",
    "outcome",
)
"""What calls of one kind have in common, in this order; that, and what is said of the client."""

_ASKED = ("kind", "client", *(column for column in KIND if column not in {"stage", "outcome"}))
"""What filters can ask of a kind; its number comes first, so that new kinds are written in few places."""

_TABLES = """
CREATE TABLE log (
  id INTEGER PRIMARY KEY,
  change INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  command INTEGER,
  words INTEGER,
  audit_id TEXT NOT NULL,
  writer TEXT NOT NULL,
  seq INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX log_change ON log (change);
CREATE INDEX log_kind ON log (kind);
CREATE INDEX log_command ON log (command) WHERE command IS NOT NULL;
CREATE INDEX log_words ON log (words, kind) WHERE words IS NOT NULL;
CREATE TABLE records (id INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE kinds (
  kind INTEGER PRIMARY KEY,
  client INTEGER NOT NULL,
  stage TEXT NOT NULL,
  cluster TEXT,
  user TEXT,
  access_method TEXT,
  method TEXT,
  verb TEXT,
  api_group TEXT,
  resource TEXT,
  subresource TEXT,
  namespace TEXT,
  status INTEGER,
  decision TEXT,
  outcome TEXT,
  digest TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE tallies (kind INTEGER PRIMARY KEY, calls INTEGER NOT NULL, newest INTEGER NOT NULL) STRICT;
CREATE INDEX tallies_newest ON tallies (newest);
CREATE TABLE clients (client INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE words (words INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
CREATE VIRTUAL TABLE trigrams USING fts5 (
  text, content = '', detail = none, columnsize = 0, tokenize = 'trigram case_sensitive 1'
);
CREATE VIRTUAL TABLE trigram_terms USING fts5vocab (trigrams, row);
CREATE TABLE word_blocks (first INTEGER PRIMARY KEY, newest INTEGER NOT NULL) STRICT;
CREATE TABLE facets (
  field TEXT NOT NULL,
  value ANY NOT NULL,
  calls INTEGER NOT NULL,
  PRIMARY KEY (field, value)
) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
  command INTEGER PRIMARY KEY,
  command_id TEXT NOT NULL UNIQUE,
  user TEXT,
  access_method TEXT,
  command_name TEXT,
  command_source TEXT,
  clusters TEXT NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  calls INTEGER NOT NULL,
  running INTEGER NOT NULL,
  denied INTEGER NOT NULL,
  worst_status INTEGER,
  exit_code INTEGER
) STRICT;
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
CREATE VIEW calls AS
  SELECT id, change, audit_id, stage, writer, seq, cluster, kinds.user, kinds.access_method, method, verb, api_group,
    resource, subresource, namespace, status, decision, outcome, command_id
  FROM log CROSS JOIN kinds USING (kind) LEFT JOIN runs USING (command);
CREATE VIEW texts AS
  SELECT id, clients.text || char(31) || coalesce(words.text, '') AS text
  FROM log CROSS JOIN kinds USING (kind) CROSS JOIN clients USING (client) LEFT JOIN words USING (words);
CREATE VIEW commands AS
  SELECT command_id, user, access_method, command_name AS command, command_source, clusters, first, last, calls,
    running, denied, worst_status, exit_code
  FROM runs;
"""

_NAMES = "SELECT type, name FROM sqlite_schema WHERE sql LIKE ? AND name NOT LIKE 'sqlite%' ORDER BY rowid DESC"

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
        # What a view or a virtual table is made of goes after it.
        for form in ("CREATE VIEW%", "CREATE VIRTUAL TABLE%", "CREATE TABLE%"):
            for type_, name in db.execute(_NAMES, (form,)).fetchall():
                db.execute(f'DROP {type_} "{name}"')
        for statement in _TABLES.split(";\n"):
            db.execute(statement)
        for column in INDEXED:
            others = ", ".join(other for other in _ASKED if other != column)
            db.execute(f"CREATE INDEX kinds_{column} ON kinds ({column}, {others}) WHERE {column} IS NOT NULL")
        db.execute(f"PRAGMA user_version = {VERSION}")
