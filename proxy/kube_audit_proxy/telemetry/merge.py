"""The lines of all writers of a journal in the order of their times, from where shipping has come to.

Loki takes lines only as long as they are not much older than the newest of their stream. After hours without a
collector, the writers' lines have to be sent as they came, not one writer after the other.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from kube_audit_proxy.journal.cursor import Cursor
from kube_audit_proxy.journal.reader import Batch, JournalGap, read_writer, segments, writers
from kube_audit_proxy.telemetry.entries import Commons, Entry, UnreadableError, entry
from kube_audit_proxy.telemetry.state import Position

log = logging.getLogger(__name__)

_BATCHES_KNOWN = 6
"""About a megabyte of lines each."""

Unreadable = Callable[[str, int, bytes, str], None]
"""Is told of lines that are no records: writer, seq as far as it is known, line, reason."""


class Found(NamedTuple):
    """An entry, whose it is, how many lines with numbers there are up to it, and where it ends in its segment."""

    writer: str
    entry: Entry
    exported: int
    offset: int
    segment: str
    exported_before: int

    @property
    def position(self) -> Position:
        """Where its writer stands after it."""
        return Position(Cursor(self.segment, self.offset), self.entry.seq, self.exported, self.exported_before)


class Parsed:
    """What was parsed last, for several threads that read one journal and are about equally far.

    A batch is known again by its last line: that holds the hash of the one before, and so on.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, bytes], list[Entry | UnreadableError]] = {}
        self._commons = Commons()
        self._lock = Lock()

    def entries(self, writer: str, lines: Sequence[bytes]) -> list[Entry | UnreadableError]:
        """Return what each line is."""
        key = (writer, len(lines), lines[-1])
        found = self._known.get(key)
        if found is None:
            found = list(_entries(lines, self._commons))
            with self._lock:
                self._known[key] = found
                while len(self._known) > _BATCHES_KNOWN:
                    del self._known[next(iter(self._known))]
        return found


def _entries(lines: Iterable[bytes], commons: Commons) -> Iterator[Entry | UnreadableError]:
    for line in lines:
        try:
            yield entry(line, commons)
        except UnreadableError as error:
            yield error


class _Writer:
    """What is read of one writer and not yet taken."""

    def __init__(self, journal: Path, name: str, position: Position | None, parsed: Parsed) -> None:
        self.name = name
        self.found: deque[Found] = deque()
        self.position = position
        self.restarted = False
        self._journal = journal
        self._parsed = parsed
        self._batches: Iterator[Batch] = iter(())

    def fill(self, unreadable: Unreadable) -> bool:
        """Read on if nothing is left to take; tell whether there is something."""
        while not self.found:
            batch = self._next() or self._next_of_new()
            if batch is None:
                return False
            self._take(batch, unreadable)
        return True

    def _next_of_new(self) -> Batch | None:
        """Look for what was written since, and go around what was removed meanwhile."""
        self._batches = read_writer(self._journal, self.name, self.position.cursor if self.position else None)
        return self._next()

    def _next(self) -> Batch | None:
        try:
            return next(self._batches, None)
        except JournalGap as gap:
            left = [path.name for path in segments(self._journal, self.name) if path.name > gap.segment]
            if not left:
                return None
            log.warning("%s: %s was removed before it was shipped; going on with %s", self.name, gap.segment, left[0])
            before = self.position or Position(Cursor("", 0), 0, 0, 0)
            self.position = Position(Cursor(left[0], 0), before.seq, before.exported, before.exported)
            self._batches = read_writer(self._journal, self.name, self.position.cursor)
            return self._next()

    def _take(self, batch: Batch, unreadable: Unreadable) -> None:
        segment = batch.cursor.segment
        offset = batch.cursor.offset - sum(map(len, batch.lines)) - len(batch.lines)
        before = self.position or Position(Cursor("", 0), 0, 0, 0)
        seq, exported, exported_before = before.seq, before.exported, before.exported_before
        if segment != before.cursor.segment:
            exported_before = exported
        elif offset < before.cursor.offset:
            # Recovery cut off lines that were shipped; those that took their numbers are to be shipped as well.
            exported, self.restarted = exported_before, True
        for line, one in zip(batch.lines, self._parsed.entries(self.name, batch.lines), strict=True):
            offset += len(line) + 1
            if isinstance(one, UnreadableError):
                seq += 1
                unreadable(self.name, seq, line, str(one))
                continue
            seq = one.seq
            exported += one.kind is not None
            self.found.append(Found(self.name, one, exported, offset, segment, exported_before))
        self.position = Position(batch.cursor, seq, exported, exported_before)


class Merge:
    """Gives the lines that come after `positions`. Reading is by and by; nothing is kept beside what was read last."""

    def __init__(
        self, journal: Path, positions: Mapping[str, Position], unreadable: Unreadable, parsed: Parsed | None = None
    ) -> None:
        self._journal = journal
        self._unreadable = unreadable
        self._parsed = parsed or Parsed()
        self._writers = {name: self._writer(name, position) for name, position in positions.items()}

    def take(self, most: int, most_bytes: int) -> tuple[list[Found], bool]:
        """Return the next lines, about so many and of about so many bytes, and whether there are more."""
        for name in writers(self._journal):
            if name not in self._writers:
                self._writers[name] = self._writer(name, None)
        ready = [each for each in self._writers.values() if each.fill(self._unreadable)]
        taken: list[Found] = []
        size = 0
        while ready and len(taken) < most and size < most_bytes:
            oldest = min(ready, key=lambda each: each.found[0].entry.time) if len(ready) > 1 else ready[0]
            found = oldest.found.popleft()
            taken.append(found)
            size += len(found.entry.line)
            if not oldest.found and not oldest.fill(self._unreadable):
                ready.remove(oldest)
        return taken, bool(ready)

    def _writer(self, name: str, position: Position | None) -> _Writer:
        return _Writer(self._journal, name, position, self._parsed)

    def oldest(self) -> dict[str, int]:
        """Return, by writer, the time of the oldest line that was read and not taken."""
        return {name: each.found[0].entry.time for name, each in self._writers.items() if each.found}

    def restarted(self) -> bool:
        """Tell, once, whether a writer's lines had to be read again from an earlier place."""
        found = [each for each in self._writers.values() if each.restarted]
        for each in found:
            each.restarted = False
        return bool(found)
