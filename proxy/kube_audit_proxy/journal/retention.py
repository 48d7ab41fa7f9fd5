"""Which segments of the trail may be deleted? Pure: what there is and what is wanted in, deletions out.

Whole segments go, a writer's oldest first. One goes only if nothing needs it any more (`_spare`) and it was shipped, or
if it is past the hard limit, and then loudly. Where nothing is shipped at all, age and size alone decide.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from kube_audit_proxy.journal.cursor import Cursor

NEWEST_KEPT = 2
"""So many of a writer's newest segments always stay.

The newest one's first lines may not be durable yet. Where a crash takes them, a writer goes on from the hash of the
last line of the one before.
"""


class Reason(StrEnum):
    """Why a segment was deleted."""

    AGE = "age"
    SIZE = "size"
    HARD_LIMIT = "hard_limit"


@dataclass(frozen=True, slots=True)
class Policy:
    """How much of the trail is kept: for how long, how long at most even if it was not shipped, and how many bytes.

    None is no limit.
    """

    keep_seconds: float | None = None
    hard_limit_seconds: float | None = None
    keep_bytes: int | None = None

    @property
    def keeps_everything(self) -> bool:
        """Whether nothing is ever to be deleted."""
        return self.keep_seconds is None and self.hard_limit_seconds is None and self.keep_bytes is None


@dataclass(frozen=True, slots=True)
class Seal:
    """The end of a segment that the next one goes on from: number and hash of its last line, and how new that is."""

    last_seq: int
    last_hash: str
    newest: datetime


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a writer.

    `previous` is the hash that its first line gives of the line before. `needed_from` is the oldest line that a
    recovery reads if this is the newest segment, None where its header cannot be read. `seal` is None where the next
    segment does not go on from its last line: it is the newest, or evidence that something is wrong.
    """

    name: str
    first_seq: int
    previous: str
    size: int
    needed_from: int | None
    seal: Seal | None


@dataclass(frozen=True, slots=True)
class Trail:
    """What there is of one writer, oldest segment first, and how far it has been read by the index and shipped."""

    writer: str
    segments: tuple[Segment, ...]
    indexed: Cursor | None
    shipped: Cursor | None


@dataclass(frozen=True, slots=True)
class Deletion:
    """A segment that is to be deleted. `shipped` is None where nothing is shipped at all."""

    writer: str
    segment: Segment
    seal: Seal
    reason: Reason
    shipped: bool | None

    @property
    def loud(self) -> bool:
        """Whether lines are deleted that somebody still waits for."""
        return self.shipped is False


def decide(trails: Sequence[Trail], policy: Policy, now: datetime, *, ships: bool) -> list[Deletion]:
    """Return what is to be deleted, each writer's segments from the oldest on, in that order.

    `ships` says whether the trail is to be shipped: what was not, then stays until it is past the hard limit. Age is
    that of a segment's newest line. What is beyond `keep_bytes` goes from the oldest on, whichever writer's it is.
    """
    found: list[Deletion] = []
    rests: list[list[Deletion]] = []
    for trail in trails:
        candidates = list(_candidates(trail, ships=ships))
        aged = list(_by_age(candidates, policy, now))
        found += aged
        rests.append(candidates[len(aged) :])
    if policy.keep_bytes is not None:
        kept = sum(segment.size for trail in trails for segment in trail.segments)
        kept -= sum(deletion.segment.size for deletion in found)
        found += _by_size(rests, kept - policy.keep_bytes)
    return found


def _candidates(trail: Trail, *, ships: bool) -> Iterator[Deletion]:
    names = {segment.name for segment in trail.segments}
    for segment, seal in _spare(trail, names):
        shipped = _is_behind(segment, trail.shipped, names) if ships else None
        yield Deletion(trail.writer, segment, seal, Reason.SIZE, shipped)


def _spare(trail: Trail, names: set[str]) -> Iterator[tuple[Segment, Seal]]:
    """Yield the oldest segments, up to the first that something still needs."""
    # As recovery does: the newest segment that has a header says where the oldest call that can be open has its start.
    starts = (segment.needed_from for segment in reversed(trail.segments) if segment.needed_from is not None)
    needed_from = next(starts, 0)
    for segment in trail.segments[:-NEWEST_KEPT]:
        seal = segment.seal
        if seal is None or seal.last_seq >= needed_from or not _is_behind(segment, trail.indexed, names):
            return
        yield segment, seal


def _is_behind(segment: Segment, cursor: Cursor | None, names: set[str]) -> bool:
    """Tell whether a reader is done with a segment and its cursor is in a later one; it has to be one of these."""
    return cursor is not None and cursor.segment in names and segment.name < cursor.segment


def _by_age(candidates: Iterable[Deletion], policy: Policy, now: datetime) -> Iterator[Deletion]:
    for one in candidates:
        age = now - one.seal.newest
        if not one.loud and _is_over(age, policy.keep_seconds):
            yield _because(Reason.AGE, one)
        elif _is_over(age, policy.hard_limit_seconds):
            yield _because(Reason.HARD_LIMIT, one)
        else:
            return


def _by_size(rests: Iterable[list[Deletion]], excess: int) -> Iterator[Deletion]:
    queues = [iter(rest) for rest in rests]
    heads = {number: head for number, queue in enumerate(queues) if (head := next(queue, None)) is not None}
    while excess > 0 and heads:
        number = min(heads, key=lambda number: heads[number].seal.newest)
        one = heads.pop(number)
        if one.loud:
            continue  # nor what comes after it
        yield one
        excess -= one.segment.size
        if (head := next(queues[number], None)) is not None:
            heads[number] = head


def _because(reason: Reason, one: Deletion) -> Deletion:
    return Deletion(one.writer, one.segment, one.seal, reason, one.shipped)


def _is_over(age: timedelta, seconds: float | None) -> bool:
    return seconds is not None and age.total_seconds() > seconds
