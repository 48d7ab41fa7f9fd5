"""How much of the journal is still to be shipped."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.journal.line import LineError, parse
from kube_audit_proxy.journal.reader import JournalGap, read_writer, segments, writers
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
    written = max(_last_seq(journal, writer), shipped)
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


def _last_seq(journal: Path, writer: str) -> int:
    """Return the number of the last whole line, reading the end of the newest segment only."""
    for path in reversed(segments(journal, writer)):
        with path.open("rb") as file:
            size = path.stat().st_size
            reach = 1 << 16
            while True:
                file.seek(max(size - reach, 0))
                lines = file.read(size).rpartition(b"\n")[0].split(b"\n")
                try:
                    return parse(lines[-1]).seq
                except LineError:
                    if reach >= size:
                        break
                    reach *= 16
    return 0
