"""The rows of one download, read from the index piece by piece."""

import sqlite3
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kube_audit_proxy.admin.grafana_query import Asked
from kube_audit_proxy.export import csv, jsonl
from kube_audit_proxy.index.reader import Index
from kube_audit_proxy.index.schema import open_for_reading

_PIECE = 256 << 10
"""Bytes, about, that are handed out at once."""


class IncompleteError(Exception):
    """Not all rows could be read, so that what has been handed out must not look complete."""


@dataclass(frozen=True, slots=True)
class Format:
    """What a file is made of: its media type, its first line, and a row of each call."""

    ending: str
    media_type: str
    header: str
    row: Callable[[str, Mapping[str, Any]], str]


FORMATS = (
    Format("csv", "text/csv; charset=utf-8", csv.header(), lambda _line, record: csv.row(record)),
    Format("jsonl", "application/x-ndjson; charset=utf-8", "", lambda line, _record: jsonl.row(line)),
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
        rows: list[str] = []
        size = 0
        for call in index.iterate(filters):
            rows.append(form.row(call.line, call.record))
            size += len(rows[-1])
            if size >= _PIECE:
                yield Piece("".join(rows).encode(), len(rows))
                rows.clear()
                size = 0
        if _tables(watch) != tables:
            raise IncompleteError("the index was built again meanwhile")
        if rows:
            yield Piece("".join(rows).encode(), len(rows))


def _tables(db: sqlite3.Connection) -> int:
    """Return a number that changes when tables are dropped and made, as an index that is built again does."""
    found: int = db.execute("PRAGMA schema_version").fetchone()[0]
    return found
