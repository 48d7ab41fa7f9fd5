"""How far the index is behind the journal, looked at from outside: also told while no indexer runs."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from kube_audit_proxy.index.indexer import Head, heads
from kube_audit_proxy.index.schema import NoIndex, open_for_reading
from kube_audit_proxy.journal.cursor import Cursor
from kube_audit_proxy.journal.reader import last_seq, segments, writers


@dataclass(frozen=True, slots=True)
class Lag:
    """How many lines of a writer are in the index and in the journal, and how old the first one is that is not in both.

    `since` is in Unix seconds; None where nothing is behind.
    """

    indexed: int
    written: int
    since: float | None

    @property
    def lines(self) -> int:
        """How many lines are still to be read."""
        return max(0, self.written - self.indexed)


def lags(journal: Path, index: Path) -> dict[str, Lag]:
    """Return the lag of each writer. Where there is no index, all is behind."""
    reached = _heads(index)
    return {writer: _lag(journal, writer, reached.get(writer)) for writer in writers(journal)}


def _heads(index: Path) -> Mapping[str, Head]:
    try:
        with closing(open_for_reading(index)) as db:
            return heads(db)
    except NoIndex:
        return {}


def _lag(journal: Path, writer: str, head: Head | None) -> Lag:
    indexed = head.seq if head else 0
    written = max(indexed, *(last_seq(path) for path in segments(journal, writer)[-2:]), 0)
    return Lag(indexed, written, _first_after(journal, writer, head.cursor if head else None))


def _first_after(journal: Path, writer: str, cursor: Cursor | None) -> float | None:
    """Return when the first line after a place was written; None where there is none, or it does not say."""
    for path in segments(journal, writer):
        if cursor and path.name < cursor.segment:
            continue
        try:
            with path.open("rb") as file:
                file.seek(cursor.offset if cursor and path.name == cursor.segment else 0)
                line = file.readline()
        except FileNotFoundError:
            continue
        if line.endswith(b"\n"):
            return _written_at(_fields(line))
    return None


def _written_at(fields: Mapping[str, Any]) -> float | None:
    stamp = fields.get("stageTimestamp") or fields.get("opened")
    try:
        return datetime.fromisoformat(stamp).timestamp() if isinstance(stamp, str) else None
    except ValueError:
        return None


def _fields(line: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
