"""The rows of one download, read from the index piece by piece."""

import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from kube_audit_proxy.admin.grafana_query import Asked
from kube_audit_proxy.export import csv, jsonl
from kube_audit_proxy.index.reader import Call, Index
from kube_audit_proxy.index.schema import open_for_reading

_PIECE = 250
"""Calls that are handed out at once: a few hundred kilobytes."""


class IncompleteError(Exception):
    """Not all rows could be read, so that what has been handed out must not look complete."""


@dataclass(frozen=True, slots=True)
class Format:
    """What a file is made of: its media type, its first line, and the rows of calls."""

    ending: str
    media_type: str
    header: str
    rows: Callable[[Sequence[Call]], str]


FORMATS = (
    Format("csv", "text/csv; charset=utf-8", csv.header(), lambda calls: csv.rows(each.line for each in calls)),
    Format("jsonl", "application/x-ndjson; charset=utf-8", "", lambda calls: jsonl.rows(each.line for each in calls)),
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the file, and how many calls are in it."""

    data: bytes
    rows: int


def pieces(path: Path, asked: Asked, form: Format) -> Generator[Piece, None, None]:
    """Yield the file that was asked for: the header first, then all calls that pass, oldest first.

    Memory stays the same however many there are. The calls are those there are when it begins. To be used by one
    thread, and closed by it. Raises NoIndex at the first piece where there is no index, and IncompleteError at the
    end where the index was emptied meanwhile, to be built again.
    """
    with closing(open_for_reading(path)) as watch, Index(path) as index:
        tables = _tables(watch)
        filters = asked.filters_for(str(user) for user in index.facets("user"))
        yield Piece(form.header.encode(), 0)
        calls = index.iterate(filters)
        some = list(islice(calls, _PIECE))
        while some:
            following = list(islice(calls, _PIECE))
            if not following and _tables(watch) != tables:
                raise IncompleteError("the index was built again meanwhile")
            yield Piece(form.rows(some).encode(), len(some))
            some = following


def _tables(db: sqlite3.Connection) -> int:
    """Return a number that changes when tables are dropped and made, as an index that is built again does."""
    found: int = db.execute("PRAGMA schema_version").fetchone()[0]
    return found
