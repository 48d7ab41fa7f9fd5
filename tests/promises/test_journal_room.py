"""Lines are written into room, which is no part of them: nobody reads it, and a finished segment has none."""

from pathlib import Path

import pytest
from journal_rig import NOW, end, records, report, run, start, write_journal, writing
from test_journal_trouble import largest_file

from kube_audit_proxy.journal.chain import Wrong
from kube_audit_proxy.journal.cursor import Cursor
from kube_audit_proxy.journal.deletion import survey
from kube_audit_proxy.journal.files import JournalError
from kube_audit_proxy.journal.reader import last_seq, read_batches, segments
from kube_audit_proxy.journal.recovery import Recovered, recover
from kube_audit_proxy.journal.room import LARGEST_BATCH
from kube_audit_proxy.journal.writer import Limits

PAGE = 4096


def recovered(journal: Path) -> Recovered:
    """Recover w0."""
    return recover(journal, "w0", clock=lambda: NOW, product="x")


def test_a_file_does_not_grow_with_each_line(tmp_path: Path) -> None:
    """While it is written, its size stays; readers see whole lines at once and nothing else; then the room is gone."""

    async def test() -> None:
        async with writing(tmp_path, limits=Limits(room=100_000)) as writer:
            await writer.commit(start("a"), "a")
            (path,) = segments(tmp_path, "w0")
            size = path.stat().st_size
            assert size > 100_000
            for number in range(100):
                await writer.commit(start(f"{number}"), f"{number}")
                assert last_seq(path) == report(tmp_path).last_seq == len(records(tmp_path)) == number + 3
            assert path.stat().st_size == size
            assert report(tmp_path).torn == 0

    run(test)
    (path,) = segments(tmp_path, "w0")
    assert b"\0" not in path.read_bytes()
    assert report(tmp_path).lines == 102


@pytest.mark.parametrize("room", [0, 1, 1000, 1 << 20])
def test_room_of_any_size(tmp_path: Path, room: int) -> None:
    """Over the end of the room and of segments, lines come one after the other; no finished segment has room left."""

    async def test() -> None:
        async with writing(tmp_path, limits=Limits(segment_bytes=5000, room=room)) as writer:
            for number in range(100):
                await writer.commit(start(f"{number}"), f"{number}")
                writer.append(end(f"{number}"), f"{number}")
                assert not [path for path in segments(tmp_path, "w0")[:-1] if b"\0" in path.read_bytes()]

    run(test)
    told = report(tmp_path)
    assert (told.finding, told.calls, told.open_calls, told.torn) == (None, 100, 0, 0)
    assert len(segments(tmp_path, "w0")) > 3


def test_room_is_used_up_on_a_full_disk(tmp_path: Path) -> None:
    """Where a file cannot grow any more, its room still takes lines; then they are refused, and none is lost."""
    made: list[str] = []

    async def test() -> None:
        async with writing(tmp_path, limits=Limits(retry=3600, room=20_000)) as writer:
            await writer.commit(start("a"), "a")
            (path,) = segments(tmp_path, "w0")
            with largest_file(path.stat().st_size):
                with pytest.raises(JournalError, match="File too large"):  # noqa: PT012 - at some time
                    while True:
                        await writer.commit(start(f"{len(made)}"), f"{len(made)}")
                        made.append(f"{len(made)}")
                assert report(tmp_path).torn == 0
            await writer.commit(start("z"), "z")
            assert writer.failed is None

    run(test)
    assert len(made) > 50
    calls = [record["auditID"] for record in records(tmp_path) if record.get("stage") == "RequestReceived"]
    assert calls == ["a", *made, "z"]
    assert report(tmp_path).finding is None


def test_a_killed_writers_room_is_cut_off(tmp_path: Path) -> None:
    """It is nothing torn, nothing to be kept or told; and a reader goes on from where it was."""
    (path,) = write_journal(tmp_path, 5)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(70_000))
    (batch,) = read_batches(tmp_path, {})
    assert batch.cursor == Cursor(path.name, len(whole))
    assert list(read_batches(tmp_path, {"w0": batch.cursor})) == []
    found = recovered(tmp_path)
    assert (found.torn, found.broken, found.seq) == (0, None, 5)
    assert path.read_bytes() == whole
    assert not list(path.parent.glob("*.torn"))


def test_room_in_older_segments_does_no_harm(tmp_path: Path) -> None:
    """Where it could not be cut off, the trail is read, verified, recovered and deleted all the same."""
    paths = write_journal(tmp_path, 5, 4, 3, 3)
    expected, sealed = records(tmp_path), [each.seal for each in survey(tmp_path, "w0")]
    for path in paths[:2]:
        path.write_bytes(path.read_bytes() + bytes(70_000))
    assert records(tmp_path) == expected
    told = report(tmp_path)
    assert (told.finding, told.torn, told.lines) == (None, 0, 15)
    assert recovered(tmp_path).broken is None
    assert [each.seal for each in survey(tmp_path, "w0")] == sealed
    assert None not in sealed[:-1]


@pytest.mark.parametrize(
    ("first", "last"),
    [
        pytest.param(PAGE, 2 * PAGE, id="a page amid a write"),
        pytest.param(-PAGE, 2 * PAGE, id="from the line with which a write began to the end of a page"),
        pytest.param(PAGE, PAGE + 512, id="a sector"),
        pytest.param(-PAGE, 3 * PAGE, id="all but the beginning of a line"),
    ],
)
def test_what_was_not_durable_can_have_holes(tmp_path: Path, first: int, last: int) -> None:
    """After a power failure any sectors of the last write are there: from the first hole on it is kept aside."""
    (path,) = write_journal(tmp_path, 100)
    known = report(tmp_path)
    whole = path.read_bytes()[: 3 * PAGE + 50]
    if first < 0:
        first = whole.index(b"\n", -first) + 1
    path.write_bytes(whole[:first] + bytes(last - first) + whole[last:] + bytes(70_000))
    before = whole[: whole.rfind(b"\n", 0, first) + 1]
    told = report(tmp_path)
    assert (told.finding, told.torn) == (None, len(whole) - len(before))
    missed = report(tmp_path, {"w0": (known.last_seq, known.last_hash)}).finding
    assert missed is not None
    assert (missed.what, missed.offset) == (Wrong.CUT_OFF, len(before))
    found = recovered(tmp_path)
    assert (found.torn, found.broken) == (told.torn, None)
    assert path.read_bytes() == before
    assert len(path.with_name(f"{path.name}.torn").read_bytes()) == found.torn
    assert report(tmp_path).finding is None


def test_a_hole_amid_what_was_durable_is_evidence(tmp_path: Path) -> None:
    """With more lines after it than are ever written at once, it is no power failure's: all stays, and is shown."""
    (path,) = write_journal(tmp_path, LARGEST_BATCH + 100)
    whole = path.read_bytes()
    damaged = whole[:PAGE] + bytes(PAGE) + whole[2 * PAGE :]
    path.write_bytes(damaged)
    found = recovered(tmp_path)
    assert found.broken is not None
    assert (found.broken.what, found.torn) == (Wrong.NOT_A_LINE, 0)
    assert path.read_bytes() == damaged
    shown = report(tmp_path).finding
    assert shown is not None
    assert shown.offset == whole.rfind(b"\n", 0, PAGE) + 1
