"""A reader gets every complete line once, in order, whatever happens to the files meanwhile."""

from pathlib import Path

import pytest
from journal_rig import write_journal

from kube_audit_proxy.journal.cursor import Cursor
from kube_audit_proxy.journal.reader import JournalGap, read_batches, segments, writers


def everything(journal: Path) -> bytes:
    """Return the bytes of all segments of w0."""
    return b"".join(path.read_bytes() for path in segments(journal, "w0"))


@pytest.mark.parametrize("max_bytes", [1, 100, 1000, 1 << 20])
def test_lines_come_once_and_in_order(tmp_path: Path, max_bytes: int) -> None:
    """Whatever the size of a read, the lines are those of the files, and going on from any batch gives the rest."""
    write_journal(tmp_path, 5, 3, 7)
    batches = list(read_batches(tmp_path, {}, max_bytes))
    lines = [line for batch in batches for line in batch.lines]
    assert b"".join(line + b"\n" for line in lines) == everything(tmp_path)
    read = 0
    for batch in batches:
        read += len(batch.lines)
        rest = [line for more in read_batches(tmp_path, {"w0": batch.cursor}, max_bytes) for line in more.lines]
        assert rest == lines[read:]


def test_writers_are_read_in_order(tmp_path: Path) -> None:
    """Each writer has its own cursor; a journal that is not there has nothing to read."""
    assert writers(tmp_path / "none") == []
    assert list(read_batches(tmp_path / "none", {})) == []
    for name in ("w1", "w0"):
        write_journal(tmp_path, 3, writer=name)
    batches = list(read_batches(tmp_path, {}))
    assert [(batch.writer, len(batch.lines)) for batch in batches] == [("w0", 3), ("w1", 3)]
    assert [batch.writer for batch in read_batches(tmp_path, {"w0": batches[0].cursor})] == ["w1"]


def test_a_torn_line_is_left_until_it_is_whole(tmp_path: Path) -> None:
    """A line that is being written is not handed out in part."""
    (path,) = write_journal(tmp_path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    (batch,) = read_batches(tmp_path, {})
    assert len(batch.lines) == 2
    assert list(read_batches(tmp_path, {"w0": batch.cursor})) == []
    path.write_bytes(whole)
    (rest,) = read_batches(tmp_path, {"w0": batch.cursor})
    assert rest.lines == whole.splitlines()[2:]


def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    """A cursor into a segment that is gone is a gap; without a cursor the oldest segment there is comes first."""
    first, second = write_journal(tmp_path, 3, 4)
    (batch, _) = read_batches(tmp_path, {})
    first.unlink()
    with pytest.raises(JournalGap, match=first.name) as gap:
        list(read_batches(tmp_path, {"w0": batch.cursor}))
    assert (gap.value.writer, gap.value.segment) == ("w0", first.name)
    assert [batch.cursor.segment for batch in read_batches(tmp_path, {})] == [second.name]
    with pytest.raises(JournalGap, match="of writer w7"):
        list(read_batches(tmp_path, {"w7": Cursor(first.name, 0)}))


def test_a_tail_that_was_cut_off_is_read_again(tmp_path: Path) -> None:
    """After lines that were never durable were cut off, nothing that came in their place is missed."""
    (path,) = write_journal(tmp_path, 5)
    whole = path.read_bytes()
    (batch,) = read_batches(tmp_path, {})
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))
    cursor = next(read_batches(tmp_path, {"w0": batch.cursor})).cursor
    assert cursor.offset == path.stat().st_size
    path.write_bytes(b"".join(lines[:3]) + b"x" * (len(whole) * 2) + b"\n")
    assert sum(len(again.lines) for again in read_batches(tmp_path, {"w0": batch.cursor})) == 4


def test_other_files_are_no_segments(tmp_path: Path) -> None:
    """What does not have a segment's name is not read."""
    paths = write_journal(tmp_path, 3)
    (tmp_path / "w0" / "lock").write_text("1\n")
    (tmp_path / "w0" / "1.jsonl").write_text("x\n")
    (tmp_path / "notes.txt").write_text("x\n")
    assert writers(tmp_path) == ["w0"]
    assert segments(tmp_path, "w0") == paths
