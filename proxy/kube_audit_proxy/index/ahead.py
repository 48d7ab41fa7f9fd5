"""Reads and parses what is new in the journal; where that is much, in a process beside the one that writes the index.

Parsing is a third of the work of filling an index. `python -m kube_audit_proxy.index.ahead` does it a batch ahead: its
standard input tells where to begin, its standard output is what it parsed, as pickles. It ends with whoever reads them.
What such a process does not do, whatever the reason, is done without it, so it has no errors to tell.
"""

import gc
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from heapq import merge
from itertools import accumulate
from pathlib import Path
from typing import IO, NamedTuple

from kube_audit_proxy.index.pairs import repeated
from kube_audit_proxy.index.rows import CallLine, Kind, MalformedError, parse
from kube_audit_proxy.journal.cursor import Cursor
from kube_audit_proxy.journal.line import LineError, digest
from kube_audit_proxy.journal.line import parse as parse_line
from kube_audit_proxy.journal.reader import Batch, JournalGap, read_writer, writers

BATCH = 8 << 20
"""Bytes of the journal, about, that are written into the index in one transaction."""

ALONE = BATCH // 2
"""Bytes that are parsed here before it is thought worthwhile to start a process for the others."""

Problem = tuple[str, str, int, str]
"""A line that is no record: its writer, segment and offset, and what is wrong with it."""


class Parsed(NamedTuple):
    """What the index has to know of a batch.

    `size` is that of its lines in bytes. `first` and `last` are the numbers of its first and last line, None where that
    is no line of a journal; `hash` is the hash of the last line. The calls have their offsets in the segment.
    """

    writer: str
    cursor: Cursor
    lines: int
    size: int
    first: int | None
    last: int | None
    hash: str
    calls: list[tuple[int, CallLine]]
    problems: list[Problem]


def read(
    journal: Path, cursors: Mapping[str, Cursor], size: int = BATCH, alone: int = ALONE
) -> Generator[Parsed, None, None]:
    """Yield what was written since the cursors, by all writers, about in the order in which it was written.

    Raises JournalGap as `journal.reader` does, and OSError.
    """
    reached, read_here = dict(cursors), 0
    here = _parsed_here(journal, cursors, size)
    for batch in here:
        reached[batch.writer] = batch.cursor
        read_here += batch.size
        if read_here > alone and _has_processors():
            here.close()  # it holds what it has read
            with _ahead(journal, reached, size) as batches:
                yield batch  # while this one is dealt with, the process starts
                for batch in batches:  # noqa: PLW2901 - it is not kept for longer
                    reached[batch.writer] = batch.cursor
                    yield batch
            yield from _parsed_here(journal, reached, size)
            return
        yield batch


@contextmanager
def no_collection() -> Iterator[None]:
    """Make many objects, none of which refer to each other in circles, without looking for such circles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _has_processors() -> bool:
    return (os.cpu_count() or 1) > 1


def _parsed_here(journal: Path, cursors: Mapping[str, Cursor], size: int) -> Generator[Parsed, None, None]:
    for batch in _batches(journal, cursors, size):
        with no_collection():
            parsed = _parsed(batch)
        yield parsed


@contextmanager
def _ahead(journal: Path, cursors: Mapping[str, Cursor], size: int) -> Iterator[Iterable[Parsed]]:
    """Start a process, and give what it parses; nothing where none can be started."""
    try:
        started = subprocess.Popen([sys.executable, "-m", __spec__.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError:  # out of descriptors, for one
        yield ()
        return
    with started as process:
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        try:
            with suppress(BrokenPipeError):
                pickle.dump((journal, dict(cursors), size), process.stdin)
                process.stdin.close()
            yield iter(partial(_received, process.stdout), None)
        finally:
            process.kill()  # one that still writes is not waited for


def _send(parsed: Parsed, file: IO[bytes]) -> None:
    # Tuples without a name are read four times as fast. What calls have in common is sent once.
    kinds: dict[Kind, int] = {}
    known: dict[str | None, str | None] = {}
    one = known.setdefault
    calls = [
        (offset, kinds.setdefault(kind, len(kinds)), (one(writer, writer), one(run, run), one(name, name), *own))
        for offset, (kind, writer, run, name, *own) in parsed.calls
    ]
    about_batch, problems = parsed[:-2], parsed.problems
    pickle.dump((*about_batch, [*map(tuple, kinds)], calls, problems), file, pickle.HIGHEST_PROTOCOL)
    file.flush()


def _received(file: IO[bytes]) -> Parsed | None:
    """Return what comes next; None where nothing whole does."""
    with no_collection():
        try:
            *about_batch, kinds, calls, problems = pickle.load(file)  # noqa: S301 - of our own process
        except (EOFError, pickle.UnpicklingError):
            return None
        kinds = [*map(Kind._make, kinds)]
        lines = [(offset, CallLine(kinds[kind], *about)) for offset, kind, about in calls]
        return Parsed._make((*about_batch, lines, problems))


def _parsed(batch: Batch) -> Parsed:
    calls: list[tuple[int, CallLine]] = []
    problems: list[Problem] = []
    starts = repeated(batch.writer, batch.lines)
    needless = {*starts.values()}
    size = sum(map(len, batch.lines)) + len(batch.lines)
    begin = batch.cursor.offset - size
    offsets = accumulate((len(line) + 1 for line in batch.lines), initial=begin)
    for position, (offset, line) in enumerate(zip(offsets, batch.lines, strict=False)):
        if position in needless:
            continue
        try:
            if (call := parse(line)) is not None:
                calls.append((offset, call))
        except MalformedError as error:
            problems.append((batch.writer, batch.cursor.segment, offset, str(error)))
            if (at := starts.get(position)) is not None and (call := parse(batch.lines[at])) is not None:
                calls.append((offset, call))  # then the start tells more
    first, last = _seq(batch.lines[0]), _seq(batch.lines[-1])
    last_hash = digest(batch.lines[-1])
    return Parsed(batch.writer, batch.cursor, len(batch.lines), size, first, last, last_hash, calls, problems)


def _seq(line: bytes) -> int | None:
    try:
        return parse_line(line).seq
    except LineError:
        return None


def _batches(journal: Path, cursors: Mapping[str, Cursor], size: int) -> Iterator[Batch]:
    names = sorted({*writers(journal), *cursors})
    each = max(size // max(len(names), 1), size // 8)
    return merge(*(read_writer(journal, name, cursors.get(name), each) for name in names), key=_written)


def _written(batch: Batch) -> bytes:
    found = _TIME.search(batch.lines[0])
    return found[1] if found else b""


_TIME = re.compile(rb'"(?:stageTimestamp|opened|since)":"([^"]*)"')


def main() -> None:
    """Parse the journal to its end, or to where it has a gap."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for who started this, and ends this too
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    gc.disable()
    journal, cursors, size = pickle.load(sys.stdin.buffer)  # noqa: S301 - of our own process
    with suppress(JournalGap):
        for batch in _batches(journal, cursors, size):
            _send(_parsed(batch), sys.stdout.buffer)


if __name__ == "__main__":
    main()
