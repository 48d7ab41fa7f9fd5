"""What retention decides, case by case: nothing that is needed goes, nothing unshipped goes quietly."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kube_audit_proxy.journal.chain import Wrong
from kube_audit_proxy.journal.cursor import Cursor
from kube_audit_proxy.journal.line import FIRST_PREVIOUS
from kube_audit_proxy.journal.notes import Note, account
from kube_audit_proxy.journal.reader import segment_name
from kube_audit_proxy.journal.retention import Deletion, Policy, Reason, Seal, Segment, Trail, decide

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
DAY = 86_400.0
AGE = Policy(keep_seconds=30 * DAY)
BOTH = Policy(keep_seconds=30 * DAY, hard_limit_seconds=90 * DAY)


def at(number: int) -> Cursor:
    """Give a place in the segment with this number."""
    return Cursor(segment_name(number * 10 + 1), 500)


def trail(*ages: int, writer: str = "w0", indexed: int | None = -1, shipped: int | None = None) -> Trail:
    """Give a trail of segments of ten lines and 100 bytes, so many days old, oldest first.

    `indexed` and `shipped` are the numbers of the segments in which these cursors are; -1 is the newest.
    """
    segments = tuple(
        Segment(
            name=segment_name(number * 10 + 1),
            first_seq=number * 10 + 1,
            previous=f"{number}",
            size=100,
            needed_from=number * 10 + 1,
            seal=Seal(number * 10 + 10, f"{number + 1}", NOW - timedelta(days=age)) if number < len(ages) - 1 else None,
        )
        for number, age in enumerate(ages)
    )
    cursors = [at(number % len(ages)) if number is not None else None for number in (indexed, shipped)]
    return Trail(writer, segments, cursors[0], cursors[1])


def with_segment(of: Trail, number: int, **changes: object) -> Trail:
    """Give the same trail with one segment changed."""
    segments = list(of.segments)
    segments[number] = replace(segments[number], **changes)  # type: ignore[arg-type] # fields by name
    return replace(of, segments=tuple(segments))


def told(found: list[Deletion]) -> list[tuple[str, int, Reason, bool]]:
    """Say what is deleted: writer, number of the segment, reason, and whether loudly."""
    return [(one.writer, one.segment.first_seq // 10, one.reason, one.loud) for one in found]


OLD = trail(50, 40, 35, 33, 10, 0)


@pytest.mark.parametrize(
    ("name", "of", "gone"),
    [
        ("all that is old enough", OLD, 4),
        ("only to the first that is not", trail(50, 10, 50, 50, 0, 0), 1),
        ("never the two newest", trail(50, 50, 50, 50), 2),
        ("never the only one", trail(50), 0),
        ("nothing of nothing", Trail("w0", (), at(0), None), 0),
        ("nothing that no index has read", replace(OLD, indexed=None), 0),
        ("none the index is in, nor after it", replace(OLD, indexed=at(2)), 2),
        ("nothing where the index is elsewhere", replace(OLD, indexed=at(70)), 0),
        ("none with the start of an open call", with_segment(OLD, 5, needed_from=25), 2),
        ("none whose last line is the start of an open call", with_segment(OLD, 5, needed_from=20), 1),
        ("one whose calls have all ended", with_segment(OLD, 5, needed_from=21), 2),
        ("calls that were open earlier do not matter", with_segment(OLD, 4, needed_from=1), 4),
        ("but where a crash left no header, as before", with_segment(with_segment(OLD, 5, needed_from=None), 4, needed_from=15), 1),  # noqa: E501
        ("nothing where no header can be read", replace(OLD, segments=tuple(replace(one, needed_from=None) for one in OLD.segments)), 0),  # noqa: E501
        ("no evidence, nor what follows it", with_segment(OLD, 1, seal=None), 1),
    ],
)  # fmt: skip
def test_what_is_needed_stays(name: str, of: Trail, gone: int) -> None:
    """Where nothing is shipped, age decides, from the oldest on and up to the first segment that something needs."""
    expected = [("w0", number, Reason.AGE, False) for number in range(gone)]
    assert told(decide([of], AGE, NOW, ships=False)) == expected, name


@pytest.mark.parametrize(
    ("name", "of", "policy", "expected"),
    [
        ("nothing has a limit", trail(999, 999, 0, 0), Policy(), {}),
        ("not shipped", trail(50, 40, 0, 0), AGE, {}),
        ("shipped", trail(50, 40, 0, 0, shipped=2), AGE, {0: (Reason.AGE, False), 1: (Reason.AGE, False)}),
        ("the shipper is in it", trail(50, 40, 0, 0, shipped=1), AGE, {0: (Reason.AGE, False)}),
        ("shipping is noted elsewhere", replace(trail(50, 40, 0, 0), shipped=at(70)), AGE, {}),
        ("shipped, and young", trail(20, 10, 0, 0, shipped=3), AGE, {}),
        ("not shipped, past the hard limit", trail(95, 89, 0, 0), BOTH, {0: (Reason.HARD_LIMIT, True)}),
        ("shipped, past the hard limit", trail(95, 0, 0, shipped=2), BOTH, {0: (Reason.AGE, False)}),
        (
            "partly shipped, past the hard limit",
            trail(99, 98, 97, 50, 0, 0, shipped=1),
            BOTH,
            {0: (Reason.AGE, False), 1: (Reason.HARD_LIMIT, True), 2: (Reason.HARD_LIMIT, True)},
        ),
        ("only a hard limit", trail(95, 50, 0, 0), replace(BOTH, keep_seconds=None), {0: (Reason.HARD_LIMIT, True)}),
        ("past the hard limit, not indexed", trail(95, 94, 0, 0, indexed=0), BOTH, {}),
    ],
)  # fmt: skip
def test_what_was_not_shipped_stays(
    name: str, of: Trail, policy: Policy, expected: Mapping[int, tuple[Reason, bool]]
) -> None:
    """Where the trail is to be shipped, only that goes which was, or what is past the hard limit: that is told."""
    found = decide([of], policy, NOW, ships=True)
    assert told(found) == [("w0", number, *how) for number, how in expected.items()], name


def test_without_shipping_the_hard_limit_is_not_loud() -> None:
    """Nobody waits for these lines."""
    found = decide([trail(95, 0, 0)], Policy(hard_limit_seconds=90 * DAY), NOW, ships=False)
    assert told(found) == [("w0", 0, Reason.HARD_LIMIT, False)]


@pytest.mark.parametrize(
    ("keep", "policy", "ships", "expected"),
    [
        (900, Policy(), False, []),
        (899, Policy(), False, [("w0", 0)]),
        (800, Policy(), False, [("w0", 0)]),
        (500, Policy(), False, [("w0", 0), ("w1", 0), ("w1", 1), ("w0", 1)]),
        (0, Policy(), False, [("w0", 0), ("w1", 0), ("w1", 1), ("w0", 1), ("w0", 2)]),
        (0, Policy(), True, [("w0", 0), ("w0", 1)]),
        (800, AGE, False, [("w0", 0), ("w1", 0)]),
        (600, AGE, False, [("w0", 0), ("w1", 0), ("w1", 1)]),
    ],
)
def test_size_takes_the_oldest_of_all_writers(
    keep: int, policy: Policy, *, ships: bool, expected: list[tuple[str, int]]
) -> None:
    """Beyond so many bytes the oldest goes first, whichever writer's it is; what was not shipped stays all the same."""
    trails = [trail(50, 10, 8, 0, 0, shipped=2), trail(40, 30, 0, 0, writer="w1"), Trail("w2", (), None, None)]
    found = decide(trails, replace(policy, keep_bytes=keep), NOW, ships=ships)
    assert [(one.writer, one.segment.first_seq // 10) for one in found] == expected
    assert not any(one.loud for one in found)


def test_an_older_segment_behind_a_newer_one_waits_for_it() -> None:
    """Where a clock went back, a writer's segments still go in their order."""
    found = decide([trail(10, 50, 50, 0, 0)], Policy(keep_bytes=300), NOW, ships=False)
    assert told(found) == [("w0", 0, Reason.SIZE, False), ("w0", 1, Reason.SIZE, False)]
    assert decide([trail(10, 50, 50, 0, 0)], AGE, NOW, ships=False) == []


def note(first: int, last: int, prev: str, last_hash: str) -> Note:
    """Give a note of a deleted segment."""
    time = NOW.isoformat()
    return Note(segment_name(first), first, last, prev, last_hash, time, 100, time, "age", None)


ONE, TWO, THREE = note(1, 5, FIRST_PREVIOUS, "a"), note(6, 9, "a", "b"), note(10, 12, "b", "c")


@pytest.mark.parametrize(
    ("name", "notes", "first", "expected", "broken"),
    [
        ("nothing deleted", [], 1, (FIRST_PREVIOUS, 0), None),
        ("nobody noted anything", [], 6, (None, 5), None),
        ("noted, not deleted yet", [ONE], 1, (FIRST_PREVIOUS, 0), None),
        ("all noted", [ONE, TWO], 10, ("b", 0), None),
        ("the last one not deleted yet", [ONE, TWO], 6, ("a", 0), None),
        ("some gone before the first note", [TWO, THREE], 13, ("c", 5), None),
        ("the first one noted is still there", [TWO], 6, (None, 5), None),
        ("gone after the last note", [ONE], 10, (None, 0), (Wrong.MISSING, 6)),
        ("gone between two notes", [ONE, THREE], 13, ("c", 0), (Wrong.MISSING, 6)),
        ("two notes that do not fit", [ONE, replace(TWO, prev="x")], 10, ("b", 0), (Wrong.ALTERED, 5)),
        ("the first line is within a note", [ONE], 4, (None, 0), (Wrong.MISSING, 6)),
    ],
)
def test_notes_account_for_what_is_gone(
    name: str, notes: list[Note], first: int, expected: tuple[str | None, int], broken: tuple[Wrong, int] | None
) -> None:
    """What is gone without a note, once there are notes, is a break; the hash before the first line comes from them."""
    found = account(notes, first)
    assert (found.previous, found.unnoted) == expected, name
    assert (found.broken and (found.broken.what, found.broken.seq)) == broken, name
