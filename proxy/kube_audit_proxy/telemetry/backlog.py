"""How much of the journal is still to be shipped."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.journal.reader import JournalGap, last_seq, read_writer, segments, writers
from kube_audit_proxy.telemetry.entries import UnreadableError, entry
from kube_audit_proxy.telemetry.state import Position, State


@dataclass(frozen=True, slots=True)
class Backlog:
    """The last line of a writer that is shipped, the last that is written, and since when (nanoseconds) one waits."""

    signal: Signal
    writer: str
    shipped: int
    written: int
    since: int | None


def backlogs(journal: Path, state: State) -> Iterator[Backlog]:
    """Yield the backlog of each signal and writer."""
    for signal in state.signals():
        positions = state.positions(signal)
        for writer in sorted({*positions, *writers(journal)}):
            yield _backlog(journal, signal, writer, positions.get(writer))


def _backlog(journal: Path, signal: Signal, writer: str, position: Position | None) -> Backlog:
    shipped = position.seq if position else 0
    written = max(shipped, *(last_seq(path) for path in segments(journal, writer)[-2:]), 0)
    return Backlog(signal, writer, shipped, written, _waiting_since(journal, writer, position))


def _waiting_since(journal: Path, writer: str, position: Position | None) -> int | None:
    try:
        for batch in read_writer(journal, writer, position.cursor if position else None):
            for line in batch.lines:
                try:
                    if time := entry(line).time:
                        return time
                except UnreadableError:
                    continue
    except JournalGap:
        pass
    return None
