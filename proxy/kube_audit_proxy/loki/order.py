"""From lines in the order in which calls ended to calls in the order in which they were received. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge

from kube_audit_proxy.index.rows import CallLine, MalformedError, newer, parse
from kube_audit_proxy.loki.logql import LATE_MS
from kube_audit_proxy.loki.predicate import Predicate

SLACK = 5_000_000
"""Microseconds by which a clock may have been set back while a call went on, without the order being wrong."""

PROMPT = LATE_MS * 1000 + SLACK
"""Microseconds within which all calls end but the late ones."""

Line = tuple[int, str]
Page = Sequence[Line]
Key = tuple[int, str]


def key(line: CallLine) -> Key:
    """Return the place of a line's call in the order: when it was received, then its id."""
    return line.received, line.audit_id


def parsed(lines: Iterable[Line]) -> Iterator[CallLine]:
    """Yield the lines about calls. What else was put there under our name is no record, and is left out."""
    for _, text in lines:
        try:
            line = parse(text.encode())
        except MalformedError:
            continue
        if line is not None:
            yield line


def newest_first(pages: Iterable[Page], passes: Predicate) -> Iterator[list[CallLine]]:
    """Turn pages of lines, newest first, into groups of calls that pass, newest first: the latest line of each.

    What is held is what was under way at the moment that the reading has come to.
    """
    held: dict[Key, CallLine] = {}
    for page in pages:
        _take(held, page, passes)
        if page:
            # What was not read yet ended before this moment, so it was received before.
            moment = page[-1][0] // 1000 + SLACK
            yield _let_go(held, sorted((known for known in held if known[0] >= moment), reverse=True))
    yield _let_go(held, sorted(held, reverse=True))


def oldest_first(pages: Iterable[Page], passes: Predicate) -> Iterator[CallLine]:
    """Turn pages of lines about calls that are not late, oldest first, into the calls that pass, oldest first."""
    held: dict[Key, CallLine] = {}
    for page in pages:
        _take(held, page, passes)
        if page:
            moment = page[-1][0] // 1000 - PROMPT
            yield from _let_go(held, sorted(known for known in held if known[0] < moment))
    yield from _let_go(held, sorted(held))


def merged(one: Iterable[CallLine], other: Iterable[CallLine]) -> Iterator[CallLine]:
    """Merge two sequences of calls, oldest first; of a call that is in both, the latest line stays."""
    before: CallLine | None = None
    for line in merge(one, other, key=key):
        if before is not None and key(before) == key(line):
            before = line if newer(line, before) else before
            continue
        if before is not None:
            yield before
        before = line
    if before is not None:
        yield before


def _take(held: dict[Key, CallLine], page: Page, passes: Predicate) -> None:
    for line in parsed(page):
        if passes(line):
            known = held.get(key(line))
            if known is None or newer(line, known):
                held[key(line)] = line


def _let_go(held: dict[Key, CallLine], keys: Iterable[Key]) -> list[CallLine]:
    return [held.pop(known) for known in keys]
