"""The trail as Loki holds it: the same calls, in the same order, as the index beside the journal gives.

Loki sorts lines by when calls ended; a trail is sorted by when they were received. From the newest to the oldest that
is easy: where all lines of a moment and later are read, all calls received since are known. From the oldest to the
newest, the few calls that took long, or still run, are fetched first and kept on disk; the others end soon.

Calls that were only received, and whose answer has not begun, are not in Loki.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Self, TypeVar

from kube_audit_proxy.export.names import Kind
from kube_audit_proxy.index.commands import Totals, add
from kube_audit_proxy.index.filters import Choice, Filters
from kube_audit_proxy.index.reader import Call, Command
from kube_audit_proxy.index.rows import RANKS, CallLine, ended, first_id, newer
from kube_audit_proxy.loki.client import MOST_LINES, Loki
from kube_audit_proxy.loki.logql import LogQL, calls, calls_with, late, prompt
from kube_audit_proxy.loki.order import PROMPT, SLACK, Page, key, merged, newest_first, oldest_first, parsed
from kube_audit_proxy.loki.pages import walk
from kube_audit_proxy.loki.predicate import Predicate, passes
from kube_audit_proxy.loki.spool import Spool
from kube_audit_proxy.loki.watch import LokiWatch

DAY = 86_400_000_000

LOOK_BACK = 90 * DAY
"""As long as our Loki keeps lines, unless it is told otherwise."""

AHEAD = 600_000_000
"""Microseconds that the clocks of proxies may be ahead of ours: Loki takes no lines from further ahead."""

_IDS = 100  # of calls or commands that one question names
_KEPT = 20_000  # lines of commands that are kept for `calls_of`
_CHUNK = 1000

Item = TypeVar("Item")


class LokiTrail:
    """Reads the trail from Loki. A context manager; all that goes wrong is a LokiError.

    `now` gives the present in microseconds since 1970; `look_back` is how many of them are looked through where no
    filter says since when.
    """

    def __init__(
        self, loki: Loki, now: Callable[[], int] = lambda: time.time_ns() // 1000, look_back: int = LOOK_BACK
    ) -> None:
        self._loki = loki
        self._now = now
        self._look_back = look_back
        self._kept: dict[str, list[CallLine]] = {}
        self._spans: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the connections."""
        self._loki.__exit__(*exception)

    def calls(self, filters: Filters, limit: int) -> list[Call]:
        """Return the newest calls that pass, newest first."""
        return [_call(line) for line in islice(self._newest(filters, first=2 * limit), limit)]

    def iterate(self, filters: Filters) -> Iterator[Call]:
        """Yield all calls that pass, oldest first, in constant memory: those there are when it begins."""
        now, test = self._end(), passes(filters)
        start = self._start(filters) - SLACK
        soon = now if filters.until is None else min(now, filters.until + PROMPT)
        with Spool() as spool:
            for page in self._walk(calls(filters).and_(late()), start, now):
                spool.keep(line for line in parsed(page) if test(line))
            found = oldest_first(self._walk(calls(filters, Kind.CALL).and_(prompt()), start, soon), test)
            for chunk in _chunks(merged(spool.lines(), found), _CHUNK):
                yield from map(_call, self._settled(chunk, filters, test))

    def count(self, filters: Filters) -> int:
        """Return how many calls pass. All of them are read."""
        return sum(1 for _ in self.iterate(filters))

    def expected(self, filters: Filters) -> None:
        """Return None: LogQL cannot count what only the lines themselves tell."""

    def commands(self, filters: Filters, limit: int) -> list[Command]:
        """Return the commands with the newest calls that pass, newest first. A limit of 0 is none."""
        newest: dict[str, CallLine] = {}
        for line in self._newest(filters, '| command_id!=""', first=4 * limit):
            if line.command_id is not None:
                newest.setdefault(line.command_id, line)
            if limit and len(newest) == limit:
                break
        self._kept = {}
        return list(chain.from_iterable(self._commands(dict(batch)) for batch in _chunks(newest.items(), _IDS)))

    def command(self, command_id: str) -> Command | None:
        """Return a command as it is now; None if it is unknown."""
        self._kept.pop(command_id, None)
        lines = self._lines_of([command_id], *self._span(command_id))[command_id]
        return Command(command_id, _totals(lines), 0) if lines else None

    def calls_of(self, command_id: str) -> list[Call]:
        """Return the calls of a command, oldest first."""
        lines = self._kept.get(command_id)
        if lines is None:
            lines = self._lines_of([command_id], *self._span(command_id))[command_id]
        latest = {key(line): line for line in lines}
        return [_call(latest[place]) for place in sorted(latest)]

    def watch(self, filters: Filters) -> LokiWatch:
        """Begin to wait for what comes after this moment."""
        return LokiWatch(self._loki, filters, self._now, self._note)

    def _start(self, filters: Filters) -> int:
        return self._now() - self._look_back if filters.since is None else filters.since

    def _end(self) -> int:
        return self._now() + AHEAD

    def _walk(
        self, query: LogQL, start: int, end: int, *, forward: bool = True, first: int = MOST_LINES
    ) -> Iterator[Page]:
        return walk(self._loki, query, start * 1000, end * 1000, forward=forward, first=first)

    def _newest(self, filters: Filters, *stages: str, first: int) -> Iterator[CallLine]:
        """Yield the calls that pass, newest first; `first` is how many lines to ask for to begin with."""
        now, test = self._end(), passes(filters)
        query = calls(filters).and_(*stages)
        start = self._start(filters) - SLACK
        soon = now if filters.until is None else min(now, max(start, filters.until + PROMPT))
        size = min(max(first, 100), MOST_LINES) if first else MOST_LINES
        pages = chain(
            self._walk(query.and_(late()), soon, now, forward=False, first=size),
            self._walk(query, start, soon, forward=False, first=size),
        )
        for group in newest_first(pages, test):
            for chunk in _chunks(group, _CHUNK):
                yield from self._settled(chunk, filters, test)

    def _settled(self, lines: list[CallLine], filters: Filters, test: Predicate) -> list[CallLine]:
        """Leave out, of calls that seem to run, those that ended in a way that the filters do not let pass."""
        running = [line for line in lines if not ended(line.kind.stage)]
        if not running or not _tells_of_the_end(filters):
            return lines
        ends = self._ends(running)
        latest = (ends.get(line.audit_id, line) for line in lines)
        return [line for line in latest if test(line)]

    def _ends(self, running: list[CallLine]) -> dict[str, CallLine]:
        """Return how calls ended, those of them that did."""
        start, now = min(line.reached for line in running) - SLACK, self._end()
        ids = [line.audit_id for line in running]
        pages = chain.from_iterable(
            self._walk(calls_with("auditID", batch, Kind.CALL), start, now) for batch in _chunks(ids, _IDS)
        )
        return {line.audit_id: line for page in pages for line in parsed(page)}

    def _commands(self, newest: Mapping[str, CallLine]) -> Iterator[Command]:
        """Yield commands of each of which a call is known."""
        low = min(line.received for line in newest.values())
        high = max(line.reached for line in newest.values())
        found = self._lines_of(newest, low, high)
        for command_id, line in newest.items():
            lines = found[command_id]
            if sum(map(len, self._kept.values())) + len(lines) <= _KEPT:
                self._kept[command_id] = lines
            for each in lines:
                self._note(each)
            yield Command(command_id, _totals(lines), first_id(line.received))

    def _lines_of(self, command_ids: Iterable[str], low: int, high: int) -> Mapping[str, list[CallLine]]:
        """Return all lines of commands of which something happened between two times, oldest calls first.

        They are looked for until a day passed in which nothing happened.
        """
        query = calls_with("command_id", command_ids)
        found: dict[str, dict[tuple[str, str], CallLine]] = defaultdict(dict)
        now = self._end()
        asked_from, asked_to = low - DAY, min(high + DAY, now)
        parts = [(asked_from, asked_to)]
        while parts:
            for start, end in parts:
                for line in chain.from_iterable(map(parsed, self._walk(query, start, end))):
                    low, high = min(low, line.received), max(high, line.reached)
                    found[str(line.command_id)][line.audit_id, line.kind.stage] = line
            parts = [(low - DAY, asked_from)] if low - DAY < asked_from else []
            if (later := min(high + DAY, now)) > asked_to:
                parts.append((asked_to, later))
            asked_from, asked_to = min(asked_from, low - DAY), max(asked_to, later)
        every = [line for lines in found.values() for line in lines.values()]
        over = {line.audit_id for line in every if ended(line.kind.stage)}
        if running := [line for line in every if line.audit_id not in over]:
            for line in self._ends(running).values():
                found[str(line.command_id)][line.audit_id, line.kind.stage] = line
        return defaultdict(list, {command: sorted(lines.values(), key=_place) for command, lines in found.items()})

    def _span(self, command_id: str) -> tuple[int, int]:
        return self._spans.get(command_id) or (self._now() - self._look_back, self._end())

    def _note(self, line: CallLine) -> None:
        """Remember when something of a command happened."""
        if (command_id := line.command_id) is not None:
            low, high = self._spans.get(command_id, (line.received, line.reached))
            self._spans[command_id] = (min(low, line.received), max(high, line.reached))


def _tells_of_the_end(filters: Filters) -> bool:
    """Tell whether a call that runs may pass although its end does not."""
    return bool(filters.text) or filters.status != Choice() or filters.decision != Choice()


def _call(line: CallLine) -> Call:
    return Call(first_id(line.received), line.record)


def _place(line: CallLine) -> tuple[int, str, int]:
    return *key(line), RANKS[line.kind.stage]


def _totals(lines: Iterable[CallLine]) -> Totals:
    """Add up the lines of a command, of which there is at least one."""
    totals: Totals | None = None
    known: dict[str, CallLine] = {}
    for line in lines:
        before = known.get(line.audit_id)
        if before is None or newer(line, before):
            totals = add(totals, line, before)
            known[line.audit_id] = line
    if totals is None:
        raise ValueError("a command without a call")
    return totals


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
