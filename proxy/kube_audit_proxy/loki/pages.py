"""Reads more lines than Loki gives at once, each exactly once."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from kube_audit_proxy.loki.client import MOST_LINES, Line, LokiError
from kube_audit_proxy.loki.logql import LogQL, beginning, not_beginning

LONGEST_SPAN = 30 * 86_400 * 1_000_000_000
"""Nanoseconds that one question is about at most (`max_query_length` of Loki is 30d1h)."""

FIRST_MOMENT = 10**18
"""The earliest time that is asked for, in 2001: Loki takes shorter numbers for seconds."""

_SECOND = 1_000_000_000
_WIDER = 4

_DIGITS = "0123456789abcdef-"
_MOST_DIGITS = 36  # of a UUID


class Asks(Protocol):
    """What gives one page of lines."""

    def page(self, query: str, start: int, end: int, limit: int, *, forward: bool) -> tuple[list[Line], bool]:
        """Return the first lines, and whether there may be more."""


def walk(
    loki: Asks, query: LogQL, start: int, end: int, *, forward: bool, first: int = MOST_LINES
) -> Iterator[Sequence[Line]]:
    """Yield all lines from `start` on and before `end`, in order; never a part only of the lines of one moment.

    The first page has `first` lines, each one after it twice as many as the one before. A question is about as much
    time as may have a page of lines: of more, Loki reads what it then throws away.
    """
    low, high, size, span = max(start, FIRST_MOMENT), end, first, LONGEST_SPAN
    while low < high:
        since, until = (low, min(low + span, high)) if forward else (max(high - span, low), high)
        lines, more = loki.page(str(query), since, until, size, forward=forward)
        if not more:
            yield _distinct(lines)
            low, high = (until, high) if forward else (low, since)
            span = min(_WIDER * span, LONGEST_SPAN)
            continue
        # The lines of the last moment may go on beyond the page: they are asked for again, with what follows.
        border = lines[-1][0]
        whole = [line for line in lines if line[0] != border]
        if whole:
            yield _distinct(whole)
            low, high = (border, high) if forward else (low, border + 1)
        elif size >= MOST_LINES:
            yield _distinct(_moment(loki, query, border))
            low, high = (border + 1, high) if forward else (low, border)
        larger = min(2 * size, MOST_LINES)
        covered = border - since if forward else until - border
        expected = larger if len(lines) == size else len(lines)
        span = min(max(covered * expected // len(lines) * 5 // 4, _SECOND), LONGEST_SPAN)
        size = larger


def _distinct(lines: Sequence[Line]) -> Sequence[Line]:
    """Leave out what was shipped twice under other labels, which Loki does not notice."""
    return list(dict.fromkeys(lines))


def _moment(loki: Asks, query: LogQL, moment: int, prefix: str = "") -> list[Line]:
    """Return all lines of one nanosecond, however many: in parts, by how the id of their call begins."""
    if len(prefix) >= _MOST_DIGITS:
        raise LokiError(
            f"more than {MOST_LINES:,} lines in Loki are of one call at one moment", "that is no trail of the proxy's."
        )
    found: list[Line] = []
    stages = [(beginning("auditID", prefix + digit), prefix + digit) for digit in _DIGITS]
    others = not_beginning("auditID", _DIGITS, after=prefix)
    for stage, longer in (*stages, (others, None)):
        lines, more = loki.page(
            str(query.and_(*([beginning("auditID", prefix)] if prefix else []), stage)),
            moment, moment + 1, MOST_LINES, forward=True,
        )  # fmt: skip
        if more:
            if longer is None:
                raise LokiError(
                    f"more than {MOST_LINES:,} lines in Loki are of one moment, and their calls have no ids",
                    "that is no trail of the proxy's.",
                )
            lines = _moment(loki, query, moment, longer)
        found += lines
    return found
