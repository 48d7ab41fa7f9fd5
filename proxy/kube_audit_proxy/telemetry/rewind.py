"""From where to ship again what was recorded since a time, under the numbers it was shipped with."""

from collections.abc import Mapping
from pathlib import Path

import orjson

from kube_audit_proxy.journal.cursor import Cursor
from kube_audit_proxy.journal.reader import first_seq, segments
from kube_audit_proxy.telemetry.entries import UnreadableError, entry
from kube_audit_proxy.telemetry.state import Position
from kube_audit_proxy.telemetry.times import nanoseconds


def rewound(journal: Path, positions: Mapping[str, Position], since: int) -> dict[str, Position]:
    """Return positions at the beginnings of segments, from which all lines since a time (nanoseconds) come.

    Whose segments cannot be told apart by their times is shipped again from the first.
    """
    return {writer: _rewound(journal, writer, position, since) for writer, position in positions.items()}


def _rewound(journal: Path, writer: str, position: Position, since: int) -> Position:
    shipped = [path for path in segments(journal, writer) if path.name <= position.cursor.segment]
    begun_before = [number for number, path in enumerate(shipped) if _opened(path) <= since]
    again = shipped[begun_before[-1] if begun_before else 0 :]
    if not again:
        return position
    numbered = sum(_numbered(path) for path in again if path.name < position.cursor.segment)
    before = position.exported_before - numbered
    return Position(Cursor(again[0].name, 0), first_seq(again[0]) - 1, before, before)


def _opened(path: Path) -> int:
    with path.open("rb") as file:
        try:
            return nanoseconds(orjson.loads(file.readline())["opened"])
        except (ValueError, KeyError, TypeError):
            return 0


def _numbered(path: Path) -> int:
    """Count the lines that are shipped with a number of their own."""
    count = 0
    with path.open("rb") as file:
        for line in file:
            try:
                count += entry(line.rstrip(b"\n")).kind is not None
            except UnreadableError:
                continue
    return count
