"""What can be asked of a trail, wherever it is kept: beside the journal, or in Loki."""

from collections.abc import Iterator
from typing import Protocol

from kube_audit_proxy.index.filters import Filters
from kube_audit_proxy.index.reader import Call, Change, Command, Index


class Watch(Protocol):
    """Waits for what is recorded from its beginning on. `pause` is how many seconds to leave between two looks."""

    pause: float

    def changes(self) -> Iterator[Change]:
        """Yield the calls that pass and that came or went on since the last look, in that order."""


class Trail(Protocol):
    """A trail that is read. The order of calls is that of the times at which they were received."""

    def calls(self, filters: Filters, limit: int) -> list[Call]:
        """Return the newest calls that pass, newest first."""

    def iterate(self, filters: Filters) -> Iterator[Call]:
        """Yield all calls that pass, oldest first, in constant memory: those there are when it begins."""

    def count(self, filters: Filters) -> int:
        """Return how many calls pass."""

    def expected(self, filters: Filters) -> int | None:
        """Return how many calls `iterate` will yield; None where to count them costs as much as to read them."""

    def commands(self, filters: Filters, limit: int) -> list[Command]:
        """Return the commands with the newest calls that pass, newest first. A limit of 0 is none."""

    def command(self, command_id: str) -> Command | None:
        """Return a command; None if it is unknown."""

    def calls_of(self, command_id: str) -> list[Call]:
        """Return the calls of a command, oldest first."""

    def watch(self, filters: Filters) -> Watch:
        """Begin to wait for what comes after this moment."""


class IndexTrail(Index):
    """The trail beside the journal."""

    def expected(self, filters: Filters) -> int:
        """Return how many calls `iterate` will yield."""
        return self.count(filters)

    def watch(self, filters: Filters) -> "IndexWatch":
        """Begin to wait for what comes after this moment."""
        return IndexWatch(self, filters, self.last_change())


class IndexWatch:
    """Waits for changes of the index after the one with a number."""

    pause = 0.2

    def __init__(self, index: Index, filters: Filters, after: int) -> None:
        self._index = index
        self._filters = filters
        self._after = after

    def changes(self) -> Iterator[Change]:
        """Yield the calls that pass and that came or went on since the last look, in that order."""
        last = self._index.last_change()
        # The numbers begin anew where the index is built again.
        for change in self._index.changes(self._filters, min(self._after, last)):
            last = change.number
            yield change
        self._after = last
