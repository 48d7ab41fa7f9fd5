"""Much of the journal is parsed by a process beside the indexer, and nothing depends on how far that comes."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kube_audit_proxy.index.ahead import Parsed, Problem, read
from kube_audit_proxy.journal.reader import JournalGap, segments
from support.journals import JournalWriter, random_calls

SIZE = 8192
NEVER = 1 << 30

pytestmark = pytest.mark.skipif(os.cpu_count() == 1, reason="with one processor nothing is done ahead")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Give the journal of three writers, with a line in it that is no record."""
    writers = [JournalWriter(tmp_path, f"gateway-{number}") for number in range(3)]
    for number, lines in enumerate(random_calls(400)):
        writers[number % 3].write(*lines)
        if number == 200:
            writers[0].write_bytes(b"not json")
        if number % 100 == 99:
            writers[number % 3].open_segment()
    return tmp_path


def told(batches: Iterable[Parsed]) -> tuple[dict[str, Any], dict[str, Any], list[Problem]]:
    """Return the last line of each call and where it is, how far each writer was read, and the problems.

    Where batches begin is of no matter, though a start whose end is in another batch is read.
    """
    calls: dict[str, Any] = {}
    ends: dict[str, Any] = {}
    problems: list[Problem] = []
    for batch in batches:
        calls |= {line.audit_id: (batch.cursor.segment, offset, line) for offset, line in batch.calls}
        ends[batch.writer] = batch.cursor, batch.last, batch.hash, ends.get(batch.writer, (0,))[-1] + batch.lines
        problems += batch.problems
    return calls, ends, problems


def ahead() -> list[psutil.Process]:
    """Return the processes that parse for this one."""
    return [child for child in psutil.Process().children() if "kube_audit_proxy.index.ahead" in child.cmdline()]


def begun(batches: Iterator[Parsed]) -> list[Parsed]:
    """Read until a process is at work, and the first that it parsed."""
    found = [next(batches)]
    while not ahead():
        found.append(next(batches))
    return found


def test_what_is_parsed_ahead_is_what_is_parsed_here(journal: Path) -> None:
    """The process beside gives the same calls, places, problems and hashes, and is gone afterwards."""
    batches = read(journal, {}, SIZE, SIZE)
    first = begun(batches)
    assert told([*first, *batches]) == told([*read(journal, {}, SIZE, NEVER)])
    assert not ahead()


def test_a_process_that_is_killed_leaves_nothing_out(journal: Path) -> None:
    """Where the process beside dies, the rest is parsed without it: once, all of it."""
    batches = read(journal, {}, SIZE, SIZE)
    first = begun(batches)
    for process in ahead():
        process.kill()
    assert told([*first, *batches]) == told([*read(journal, {}, SIZE, NEVER)])


def test_where_no_process_can_be_started_nothing_is_left_out(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no Python to start, or no room for one, all is parsed without it."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert told(read(journal, {}, SIZE, SIZE)) == told(read(journal, {}, SIZE, NEVER))


def test_a_reader_that_stops_leaves_no_process(journal: Path) -> None:
    """Whoever wants no more, an indexer that cannot write for one, has nothing left behind."""
    batches = read(journal, {}, SIZE, SIZE)
    begun(batches)
    batches.close()
    assert not ahead()


def test_a_gap_that_the_process_finds_is_told(journal: Path) -> None:
    """What retention deletes while the process beside reads is told as it is without one, not taken for the end."""
    reached = {batch.writer: batch.cursor for batch in read(journal, {}, SIZE, NEVER)}
    writer = JournalWriter(journal, "gateway-9")
    for number, lines in enumerate(random_calls(400)):
        writer.write(*lines)
        if number % 40 == 39:
            writer.open_segment()
    batches = read(journal, reached, SIZE, SIZE)
    begun(batches)
    for segment in segments(journal, "gateway-9")[:-1]:  # as retention does, the oldest first
        segment.unlink()
    with pytest.raises(JournalGap, match="gateway-9"):
        list(batches)


def test_little_is_parsed_here_however_many_writers_there_are(journal: Path) -> None:
    """A proxy's indexer, which looks several times a second, starts no process for what its writers wrote since."""
    before = psutil.Process().children()
    batches = 0
    for _ in read(journal, {}):
        batches += 1
        assert psutil.Process().children() == before
    assert batches >= 3
