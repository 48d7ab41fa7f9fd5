"""Retention at work: once a minute, what may go is deleted from the journal, and then from the index."""

import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path

from kube_audit_proxy.clock import WallClock
from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.index.indexer import heads
from kube_audit_proxy.index.prune import Border, prune
from kube_audit_proxy.journal.cursor import Cursor
from kube_audit_proxy.journal.deletion import delete, survey
from kube_audit_proxy.journal.files import Clock
from kube_audit_proxy.journal.notes import read_notes
from kube_audit_proxy.journal.reader import first_seq, segments, writers
from kube_audit_proxy.journal.retention import Deletion, Policy, Trail, decide
from kube_audit_proxy.telemetry.state import opened_for_reading

log = logging.getLogger(__name__)

_EVERY = 60.0

_AT_ONCE = 20
"""Segments that are deleted before the index is brought up to date again."""


class Retention:
    """Keeps a journal and its index within a policy; for the one process that writes the index.

    `shipped` gives how far each writer's lines were shipped; it is None where nothing is to be shipped. `monotonic` is
    in seconds; there is a round each `every` of them.
    """

    def __init__(
        self,
        journal: Path,
        policy: Policy,
        *,
        shipped: Callable[[], Mapping[str, Cursor]] | None,
        clock: Clock | None = None,
        every: float = _EVERY,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._policy = policy
        self._shipped = shipped
        self._clock = clock or WallClock()
        self._every = every
        self._monotonic = monotonic

    def chores(self, db: sqlite3.Connection) -> Iterator[None]:
        """Do a little of the work with each step, without end: whoever takes the steps does other things between."""
        if self._policy.keeps_everything:
            while True:
                yield
        due = self._monotonic()
        pruned: dict[str, Border] = {}
        while True:
            if self._monotonic() >= due:
                due = self._monotonic() + self._every
                while self._delete_some(db):
                    yield
                found = self._borders() or pruned
                if found != pruned:
                    yield from prune(db, found)
                    pruned = found
            yield

    def _delete_some(self, db: sqlite3.Connection) -> bool:
        """Delete segments; return whether there is more to do at once."""
        try:
            wanted = self._wanted(db)
            for deletion in wanted[:_AT_ONCE]:
                delete(self._journal, deletion, self._clock)
        except OSError as error:
            log.error("retention cannot delete, and tries again later: %s", error)  # noqa: TRY400 - the disk's fault
            return False
        return len(wanted) > _AT_ONCE

    def _borders(self) -> dict[str, Border] | None:
        try:
            return borders(self._journal)
        except OSError as error:
            log.error("retention cannot read its notes, and tries again later: %s", error)  # noqa: TRY400 - the same
            return None

    def _wanted(self, db: sqlite3.Connection) -> list[Deletion]:
        indexed = heads(db)
        shipped = {} if self._shipped is None else self._shipped()
        trails = [
            Trail(
                writer,
                survey(self._journal, writer),
                indexed[writer].cursor if writer in indexed else None,
                shipped.get(writer),
            )
            for writer in writers(self._journal)
        ]
        now = datetime.fromisoformat(self._clock())
        return decide(trails, self._policy, now, ships=self._shipped is not None)


def shipped_cursors(path: Path, signals: Collection[Signal]) -> dict[str, Cursor]:
    """Return how far each writer's lines were shipped as every one of these signals; nothing where nobody can tell."""
    if not path.is_file():
        return {}
    try:
        with opened_for_reading(path) as state:
            found = [{writer: at.cursor for writer, at in state.positions(signal).items()} for signal in signals]
    except sqlite3.Error as error:
        log.warning("%s cannot be read, so nothing counts as shipped: %s", path, error)
        return {}
    everywhere = set[str].intersection(*map(set, found)) if found else set()
    return {writer: min((each[writer] for each in found), key=astuple) for writer in everywhere}


def borders(journal: Path) -> dict[str, Border]:
    """Return where the trail begins of each writer from which retention has deleted something."""
    found: dict[str, Border] = {}
    for writer in writers(journal):
        notes = read_notes(journal / writer)
        paths = segments(journal, writer)
        if not (notes and paths):
            continue
        # What was noted may still be there; what somebody else has removed is not for the index to forget.
        first = min(notes[-1].last_seq + 1, first_seq(paths[0]))
        newest = max(datetime.fromisoformat(note.newest) for note in notes)
        found[writer] = Border(first, newest.astimezone(UTC))
    return found
