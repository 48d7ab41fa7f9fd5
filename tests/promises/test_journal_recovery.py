"""What a crash left is put in order: torn lines cut, open calls closed, evidence kept."""

import itertools
from pathlib import Path

import pytest
from journal_rig import NOW, end, records, report, run, stages, start, write_journal, writing

from kube_audit_proxy.journal.chain import Chain, Wrong
from kube_audit_proxy.journal.line import build, head
from kube_audit_proxy.journal.reader import segments
from kube_audit_proxy.journal.recovery import Recovered, recover
from kube_audit_proxy.journal.writer import Limits


def recovered(journal: Path) -> Recovered:
    """Recover w0."""
    return recover(journal, "w0", clock=lambda: NOW, product="x")


def add(path: Path, *bodies: bytes) -> None:
    """Append lines to a file, in its chain."""
    told = report(path.parents[1])
    chain = Chain("w0", told.last_seq, told.last_hash)
    with path.open("ab") as file:
        for body in bodies:
            line = build(head("w0"), chain.seq + 1, str(chain.previous).encode(), body)
            chain.feed(line)
            file.write(line + b"\n")


def test_open_calls_are_closed_as_interrupted(tmp_path: Path) -> None:
    """A start without an end gets one that repeats the start, in the same order, and says what happened."""
    (path,) = write_journal(tmp_path, 3)
    add(path, start("a", verb="get", groups=["x"]), start("b"), end("b"))
    assert recovered(tmp_path).interrupted == 1
    assert report(tmp_path).finding is None
    assert report(tmp_path).open_calls == 0
    last = records(tmp_path)[-1]
    assert list(last.items())[3:] == [
        ("kind", "call"),
        ("stage", "ResponseComplete"),
        ("auditID", "a"),
        ("user", "alice"),
        ("verb", "get"),
        ("groups", ["x"]),
        ("stageTimestamp", NOW),
        ("decision", "error"),
        ("decided_by", "proxy"),
        ("outcome", "interrupted"),
        ("message", "the proxy stopped or died before the call ended"),
    ]


def test_a_call_that_ended_in_a_panic_is_not_closed_again(tmp_path: Path) -> None:
    """Panic is an end as well; a response that only started is not."""
    (path,) = write_journal(tmp_path, 3)
    add(path, start("a"), start("b"))
    add(
        path,
        start("a").replace(b"RequestReceived", b"Panic"),
        start("b").replace(b"RequestReceived", b"ResponseStarted"),
    )
    assert recovered(tmp_path).interrupted == 1
    assert stages(tmp_path)[-1] == ("b", "ResponseComplete")


@pytest.mark.parametrize("room", [0, 5000])
def test_a_line_torn_anywhere_is_cut(tmp_path: Path, room: int) -> None:
    """Whatever part of the last line got to the disk: it is cut off, what is before stays, and the chain goes on."""
    (path,) = write_journal(tmp_path, 3)
    whole = path.read_bytes()
    last = len(whole) - whole[:-1].rfind(b"\n") - 1
    for left in range(last):
        journal = tmp_path / f"{left}"
        (copy,) = write_journal(journal, 3)
        copy.write_bytes(whole[: len(whole) - last + left] + bytes(room))
        assert recovered(journal).torn == left
        assert report(journal).finding is None
        assert report(journal).open_calls == 0
        assert copy.read_bytes() == whole[: len(whole) - last]


def test_a_last_line_with_a_hole_is_cut(tmp_path: Path) -> None:
    """After a power failure a last line can have its end and not its middle."""
    (path,) = write_journal(tmp_path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-60] + bytes(50) + whole[-10:])
    assert recovered(tmp_path).torn > 0
    assert report(tmp_path).finding is None


@pytest.mark.parametrize("room", [0, 5000])
@pytest.mark.parametrize("torn", [0, 1, 50])
def test_a_segment_torn_in_its_first_line_is_used_again(tmp_path: Path, torn: int, room: int) -> None:
    """A file of which only the name, or part of the header, got to the disk becomes the next segment."""
    first, second = write_journal(tmp_path, 4, 3)
    second.write_bytes(second.read_bytes()[:torn] + bytes(room))
    assert recovered(tmp_path).segment == second
    assert segments(tmp_path, "w0") == [first, second]
    assert report(tmp_path).finding is None
    assert report(tmp_path).open_calls == 0


@pytest.mark.parametrize(
    ("line", "old", "new", "what"),
    [
        (2, b"alice", b"mally", Wrong.ALTERED),
        (2, b"{", b"\0", Wrong.NOT_A_LINE),
        (4, b"alice", b"mally", Wrong.ALTERED),
        (5, b'"prev":"', b'"prev":"0', Wrong.ALTERED),
    ],
)
def test_evidence_is_never_overwritten(tmp_path: Path, line: int, old: bytes, new: bytes, what: Wrong) -> None:
    """What no crash can have done stays to the byte; new lines go to a new segment, and verify still shows it."""
    (path,) = write_journal(tmp_path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(old, new)
    tampered = b"".join(lines)
    path.write_bytes(tampered)
    shown = report(tmp_path).finding
    assert shown is not None
    assert shown.what is what

    async def test() -> None:
        async with writing(tmp_path) as writer:
            assert writer.recovered.broken is not None
            await writer.commit(start("new"), "new")

    run(test)
    assert path.read_bytes() == tampered
    assert b'"auditID":"new"' in segments(tmp_path, "w0")[-1].read_bytes()
    assert report(tmp_path).finding == shown


def test_old_segments_are_not_read(tmp_path: Path) -> None:
    """The time of a recovery does not grow with the journal: it begins at the oldest call that was open."""

    async def test() -> None:
        async with writing(tmp_path, limits=Limits(segment_bytes=3000)) as writer:
            for number in range(60):
                await writer.commit(start(f"{number}"), f"{number}")
                if number != 40:
                    writer.append(end(f"{number}"), f"{number}")

    run(test)
    seq = {
        record.get("auditID"): record["seq"] for record in records(tmp_path) if record.get("stage") == "RequestReceived"
    }
    paths = segments(tmp_path, "w0")
    old = [path for path, following in itertools.pairwise(paths) if int(following.stem) <= seq["40"]]
    assert len(old) > 2
    for path in old:
        path.write_bytes(b"unreadable\n")
    found = recovered(tmp_path)
    assert (found.broken, found.interrupted) == (None, 1)


def test_a_recovery_that_was_killed_is_done_again(tmp_path: Path) -> None:
    """Where the recovery itself was cut short, the next one closes the rest."""
    (path,) = write_journal(tmp_path, 1)
    calls = [f"{number}" for number in range(5)]
    add(path, *(start(call) for call in calls))
    segment = recovered(tmp_path).segment
    assert segment is not None
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:3])[:-4])
    assert recovered(tmp_path).interrupted == 4
    assert report(tmp_path).finding is None
    ends = [call for call, stage in stages(tmp_path) if stage == "ResponseComplete"]
    assert sorted(ends) == calls


def test_nothing_to_recover_writes_nothing(tmp_path: Path) -> None:
    """A journal in order stays as it is."""
    (path,) = write_journal(tmp_path, 5)
    before = path.read_bytes()
    assert recovered(tmp_path) == Recovered(5, report(tmp_path).last_hash, None, 0, 0, None)
    assert [file.read_bytes() for file in segments(tmp_path, "w0")] == [before]
