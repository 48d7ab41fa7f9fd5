"""Waits for lines to come to Loki."""

from collections.abc import Callable, Iterator

from kube_audit_proxy.index.filters import Filters
from kube_audit_proxy.index.reader import Change
from kube_audit_proxy.index.rows import CallLine, ended
from kube_audit_proxy.loki.client import Loki
from kube_audit_proxy.loki.logql import calls
from kube_audit_proxy.loki.order import parsed
from kube_audit_proxy.loki.pages import walk
from kube_audit_proxy.loki.predicate import passes

LATEST = 900_000_000
"""Microseconds after which a line that comes to Loki is not noticed any more."""

_AHEAD = 600_000_000
_AGAIN = 10_000_000  # what is looked at again each time: writers are shipped a little apart
_THOROUGH = 30  # looks until one at all that may have come late


class LokiWatch:
    """Waits for calls that pass, from its beginning on. Lines come to Loki a second or two after they happen.

    `note` is told of every line that is yielded.
    """

    pause = 1.0

    def __init__(self, loki: Loki, filters: Filters, now: Callable[[], int], note: Callable[[CallLine], None]) -> None:
        self._loki = loki
        self._query = calls(filters)
        self._passes = passes(filters)
        self._now = now
        self._note = note
        self._looks = 0
        self._newest = 0
        self._seen: dict[tuple[str, bool], int] = {}
        for _ in self._unseen(now() - LATEST):
            pass

    def changes(self) -> Iterator[Change]:
        """Yield the calls that pass and that were answered or ended since the last look, in that order."""
        self._looks += 1
        oldest = self._now() - LATEST
        thorough = self._looks % _THOROUGH == 0
        start = oldest if thorough else max(oldest, self._newest - _AGAIN)
        for line in self._unseen(start):
            self._note(line)
            yield Change(line.reached, line.record)
        if thorough:
            self._seen = {call: moment for call, moment in self._seen.items() if moment >= oldest}

    def _unseen(self, start: int) -> Iterator[CallLine]:
        """Yield the lines from a time on that were not seen before, and no beginning of an answer that has ended."""
        for page in walk(self._loki, self._query, start * 1000, (self._now() + _AHEAD) * 1000, forward=True):
            lines = [line for line in parsed(page) if self._passes(line)]
            over = {line.audit_id for line in lines if ended(line.kind.stage)}
            for line in lines:
                is_over, call = ended(line.kind.stage), line.audit_id
                self._newest = max(self._newest, line.reached)
                if (call, is_over) in self._seen:
                    continue
                self._seen[call, is_over] = line.reached
                if is_over or (call not in over and (call, True) not in self._seen):
                    yield line
