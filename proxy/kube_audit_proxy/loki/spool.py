"""Keeps calls on disk, in order, while others are read: there may be more of them than memory has room for."""

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Self

from kube_audit_proxy.index.rows import RANKS, CallLine
from kube_audit_proxy.loki.order import parsed


class Spool:
    """A file without a name that is gone when it is closed. A context manager."""

    def __init__(self) -> None:
        # The empty name is a private file in the folder for such files, which SQLite unlinks.
        self._db = sqlite3.connect("")
        self._db.execute(
            "CREATE TABLE calls (received INTEGER, audit_id TEXT, rank INTEGER, line TEXT,"
            " PRIMARY KEY (received, audit_id)) STRICT"
        )

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Forget everything."""
        self._db.close()

    def keep(self, lines: Iterable[CallLine]) -> None:
        """Keep lines; of the lines of one call, the latest stays."""
        self._db.executemany(
            "INSERT INTO calls VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET rank = excluded.rank, line = excluded.line WHERE excluded.rank > rank",
            ((line.received, line.audit_id, RANKS[line.kind.stage], line.record) for line in lines),
        )

    def lines(self) -> Iterator[CallLine]:
        """Yield what is kept, oldest call first."""
        yield from parsed(self._db.execute("SELECT received, line FROM calls ORDER BY received, audit_id"))
