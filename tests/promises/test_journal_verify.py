"""Anyone can check that the trail is whole, and is told where it is not."""

from collections.abc import Callable
from pathlib import Path

import pytest
from journal_rig import end, report, start, write_journal

from kube_audit_proxy.journal.chain import Wrong
from kube_audit_proxy.journal.line import build, head
from kube_audit_proxy.journal.verify import verify

Change = Callable[[list[bytes]], list[bytes]]


def change(path: Path, how: Change) -> None:
    """Change the lines of a file."""
    path.write_bytes(b"".join(how(path.read_bytes().splitlines(keepends=True))))


def test_an_untouched_journal_is_counted(tmp_path: Path) -> None:
    """Lines, segments and calls are counted, all bytes are told to the progress, and nothing is wrong."""
    paths = write_journal(tmp_path, 5, 4, 7)
    read: list[int] = []
    (only,) = verify(tmp_path, progress=read.append)
    assert (only.segments, only.lines, only.calls, only.open_calls) == (3, 16, 7, 1)
    assert (only.first_seq, only.last_seq, only.finding, only.remarks) == (1, 16, None, [])
    assert sum(read) == sum(path.stat().st_size for path in paths)


@pytest.mark.parametrize(
    ("how", "what", "line", "seq"),
    [
        pytest.param(lambda s: [*s[:2], s[2].replace(b"alice", b"mally"), *s[3:]], Wrong.ALTERED, 3, 8, id="altered"),
        pytest.param(lambda s: [*s[:4], s[4].replace(b"alice", b"mally")], Wrong.ALTERED, 5, 10, id="altered last"),
        pytest.param(lambda s: [*s[:2], s[2][:9] + b"\xff" + s[2][10:], *s[3:]], Wrong.NOT_A_LINE, 3, 8, id="garbled"),
        pytest.param(lambda s: [*s[:2], *s[3:]], Wrong.GAP, 3, 8, id="removed line"),
        pytest.param(lambda s: s[1:], Wrong.GAP, 1, 6, id="removed first line"),
        pytest.param(lambda s: s[:4], Wrong.GAP, 1, 10, id="removed last line"),
        pytest.param(lambda s: [*s[:2], s[3], s[2], s[4]], Wrong.GAP, 3, 8, id="swapped lines"),
        pytest.param(lambda s: [*s[:3], s[2], *s[3:]], Wrong.DUPLICATE, 4, 8, id="repeated line"),
        pytest.param(lambda s: [*s[:4], s[4][:-1]], Wrong.UNTERMINATED, 5, 10, id="no newline"),
        pytest.param(lambda s: [*s[:4], s[4][:-9]], Wrong.NOT_A_LINE, 5, 10, id="torn inside"),
    ],
)
def test_tampering_is_named_with_its_place(tmp_path: Path, how: Change, what: Wrong, line: int, seq: int) -> None:
    """Whatever is done to a file in the middle: its kind, file, line, offset and number are told."""
    paths = write_journal(tmp_path, 5, 5, 5)
    change(paths[1], how)
    finding = report(tmp_path).finding
    assert finding is not None
    segment = paths[2] if line == 1 and seq == 10 else paths[1]
    before = segment.read_bytes().splitlines(keepends=True)[: line - 1]
    place = (segment.name, line, sum(map(len, before)))
    assert (finding.what, finding.seq, finding.segment, finding.line, finding.offset) == (what, seq, *place)
    assert f"{what} at {segment.name}, line {line} " in str(finding)


def test_a_removed_segment_is_named(tmp_path: Path) -> None:
    """A missing file in the middle is a gap at the beginning of the next."""
    paths = write_journal(tmp_path, 5, 5, 5)
    paths[1].unlink()
    finding = report(tmp_path).finding
    assert finding is not None
    assert (finding.what, finding.segment, finding.line, finding.seq) == (Wrong.GAP, paths[2].name, 1, 6)


def test_a_renamed_segment_is_named(tmp_path: Path) -> None:
    """A file whose name is not the number of its first line is told, though its lines go on."""
    paths = write_journal(tmp_path, 5, 5)
    renamed = paths[1].rename(paths[1].with_name(f"{7:020d}.jsonl"))
    finding = report(tmp_path).finding
    assert finding is not None
    assert (finding.what, finding.segment, finding.seq) == (Wrong.MISNAMED, renamed.name, 6)


def test_a_tail_that_was_cut_off_is_noticed_by_who_knew_it(tmp_path: Path) -> None:
    """Alone a shorter journal is a valid one; with the last line known elsewhere it is not."""
    (path,) = write_journal(tmp_path, 6)
    whole = report(tmp_path)
    heads = {"w0": (whole.last_seq, whole.last_hash)}
    assert report(tmp_path, heads).finding is None
    change(path, lambda lines: lines[:4])
    assert report(tmp_path).finding is None
    finding = report(tmp_path, heads).finding
    assert finding is not None
    assert (finding.what, finding.segment, finding.line, finding.seq) == (Wrong.CUT_OFF, path.name, 5, 5)
    assert finding.offset == path.stat().st_size


def test_a_rewritten_tail_is_noticed_by_who_knew_it(tmp_path: Path) -> None:
    """A last line that was replaced by another with a valid chain does not have the hash known elsewhere."""
    (path,) = write_journal(tmp_path, 6)
    whole = report(tmp_path)
    change(path, lambda lines: [*lines[:5], lines[5].replace(b"alice", b"mally")])
    assert report(tmp_path).finding is None
    finding = report(tmp_path, {"w0": (whole.last_seq, whole.last_hash)}).finding
    assert finding is not None
    assert (finding.what, finding.line, finding.expected) == (Wrong.ALTERED, 6, whole.last_hash)


def test_a_removed_writer_is_noticed_by_who_knew_it(tmp_path: Path) -> None:
    """Also a writer's whole directory cannot disappear."""
    write_journal(tmp_path, 3)
    missing = list(verify(tmp_path, {"w1": (5, "0" * 64)}))[1]
    assert missing.writer == "w1"
    assert missing.finding is not None
    assert missing.finding.what is Wrong.MISSING


def test_what_is_no_break_is_remarked(tmp_path: Path) -> None:
    """A deleted beginning, a line being written, an end alone, and ends that were lost are said, and are no break."""
    first, second = write_journal(tmp_path, 4, 2)
    first.unlink()
    bodies = (end("alone"), b'"kind":"lost","count":3,"since":"2026-11-23T10:00:00.000000Z"', start("torn"))
    for body in bodies:
        last = report(tmp_path)
        with second.open("ab") as file:
            file.write(build(head("w0"), last.last_seq + 1, last.last_hash.encode(), body) + b"\n")
    change(second, lambda lines: [*lines[:-1], lines[-1][:-5]])
    told = report(tmp_path)
    assert told.finding is None
    assert (told.ends_without_start, told.lost, told.first_seq, told.torn > 0) == (1, 3, 5, True)
    assert len(told.remarks) == 4
