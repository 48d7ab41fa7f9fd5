"""Is the trail all there, and as it was written? Reads every line of every segment, whatever their size."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kube_audit_proxy.audit.fields import Stage
from kube_audit_proxy.journal.chain import Break, Chain, Wrong
from kube_audit_proxy.journal.line import Line
from kube_audit_proxy.journal.notes import account, read_notes
from kube_audit_proxy.journal.reader import first_seq, segments, writers
from kube_audit_proxy.journal.recovery import ENDS
from kube_audit_proxy.journal.room import begins_hole, begun_line, lines_end

LONGEST_LINE = 64 << 20  # bytes: what is longer is no line, and is not read into memory in one piece


@dataclass(frozen=True, slots=True)
class Finding:
    """The first place at which a writer's journal is not what was written.

    `line` counts from 1 and `offset` in bytes, both within the segment; they point at the wrong line, or at where a
    missing one should be.
    """

    what: Wrong
    segment: str
    line: int
    offset: int
    seq: int
    expected: str
    found: str

    def __str__(self) -> str:
        """Say it in a sentence."""
        place = f"{self.segment}, line {self.line} (byte {self.offset}), seq {self.seq}"
        return f"{self.what} at {place}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class Report:
    """What one writer's journal holds; `finding` is the first break, None where there is none.

    `torn` is the number of bytes of a last line that has no newline yet, because it is being written or because of a
    crash. `ends_without_start` counts ends whose start is not there: refused while the journal was in trouble, or
    begun in segments that are no longer kept. `lost` counts the ends that never could be written. `unnoted` lines at
    the beginning are not there, and retention has not noted that it deleted them.
    """

    writer: str
    segments: int
    lines: int
    calls: int
    open_calls: int
    ends_without_start: int
    lost: int
    first_seq: int
    last_seq: int
    last_hash: str
    torn: int
    unnoted: int
    finding: Finding | None

    @property
    def remarks(self) -> list[str]:
        """Say what is no break, but worth knowing."""
        unnoted = f", and {self.unnoted} of them were not deleted by retention" if self.unnoted else ""
        told = (
            (self.first_seq > 1, f"lines before {self.first_seq} are no longer kept{unnoted}"),
            (self.torn, f"the last {self.torn} bytes are a line without its end"),
            (self.ends_without_start, f"{self.ends_without_start} calls have an end and no start"),
            (self.lost, f"{self.lost} ends of calls were lost while the journal could not be written"),
        )
        return [words for applies, words in told if applies]


@dataclass(frozen=True, slots=True)
class _Place:
    segment: str
    line: int
    offset: int


@dataclass(slots=True)
class _Walk:
    """What is known so far of one writer."""

    chain: Chain
    head: tuple[int, str] | None
    place: _Place
    first: int
    lines: int = 0
    calls: int = 0
    open: set[str] = field(default_factory=set)
    ends_without_start: int = 0
    lost: int = 0
    torn: int = 0
    end: int = 0
    finding: Finding | None = None

    def take(self, data: bytes, place: _Place) -> None:
        """Take the next line, without its newline."""
        broken = self.chain.feed(data)
        self.lines += 1
        if broken is not None:
            before = broken.what is Wrong.ALTERED and self.lines > 1
            self.wrong(broken, self.place if before else place)
        self.place, self.end = place, place.offset + len(data) + 1
        line = self.chain.line
        if line is None:
            return
        if self.head is not None and line.seq == self.head[0] and self.chain.previous != self.head[1]:
            self.wrong(Break(Wrong.ALTERED, line.seq, self.head[1], str(self.chain.previous)), place)
        self._count(line)

    def wrong(self, broken: Break, place: _Place) -> None:
        """Note a break, if it is the first."""
        if self.finding is None:
            self.finding = Finding(
                broken.what, place.segment, place.line, place.offset, broken.seq, broken.expected, broken.found
            )

    def _count(self, line: Line) -> None:
        record = line.record
        stage, call = record.get("stage"), record.get("auditID")
        if record.get("kind") == "lost":
            count = record.get("count")
            self.lost += count if isinstance(count, int) else 0
        elif not isinstance(call, str):
            return
        elif stage == Stage.REQUEST_RECEIVED:
            self.calls += 1
            self.open.add(call)
        elif stage in ENDS and call in self.open:
            self.open.remove(call)
        elif stage in ENDS:
            self.ends_without_start += 1


def verify(
    journal: Path,
    heads: Mapping[str, tuple[int, str]] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Report]:
    """Check every writer's journal and yield a report of each, in the order of their names.

    `heads` gives, by writer, number and hash of a line that somebody else knows to have been there, so that a tail that
    was cut off and a writer that was removed are noticed too. `progress` is called with the bytes read since its last
    call. Memory depends on the longest line and on the calls open at one time, not on the size of the journal.
    """
    known = heads or {}
    for writer in sorted({*writers(journal), *known}):
        yield _verify_writer(journal, writer, known.get(writer), progress)


def _verify_writer(journal: Path, writer: str, head: tuple[int, str] | None, progress: Callable[[int], None]) -> Report:
    paths = segments(journal, writer)
    notes = read_notes(journal / writer)
    first = first_seq(paths[0]) if paths else notes[-1].last_seq + 1 if notes else 1
    known = account(notes, first)
    chain = Chain(writer, first - 1, known.previous)
    walk = _Walk(chain, head, _Place(paths[0].name if paths else "", 0, 0), first)
    if known.broken is not None:
        walk.wrong(known.broken, _Place(walk.place.segment, 1, 0))
    for path in paths:
        try:
            if first_seq(path) != chain.seq + 1 and path.stat().st_size:
                _misnamed(walk, path)
            _walk_segment(walk, path, progress, newest=path is paths[-1])
        except FileNotFoundError:
            _deleted_meanwhile(walk, path)
    if notes and not walk.lines:
        # Retention never deletes the newest segment.
        walk.wrong(Break(Wrong.MISSING, first, f"lines from {first} on", "no line at all"), walk.place)
    if head is not None and chain.seq < head[0]:
        what = Wrong.CUT_OFF if walk.lines else Wrong.MISSING
        last = f"line {chain.seq} as the last" if walk.lines else "no line at all"
        place = _Place(walk.place.segment, walk.place.line + 1, walk.end)
        walk.wrong(Break(what, chain.seq + 1, f"lines up to {head[0]}", last), place)
    return Report(
        writer=writer,
        segments=len(paths),
        lines=walk.lines,
        calls=walk.calls,
        open_calls=len(walk.open),
        ends_without_start=walk.ends_without_start,
        lost=walk.lost,
        first_seq=walk.first,
        last_seq=chain.seq,
        last_hash=chain.previous or "",
        torn=walk.torn,
        unnoted=known.unnoted,
        finding=walk.finding,
    )


def _misnamed(walk: _Walk, path: Path) -> None:
    """Note a file whose lines go on where the last one's ended, but whose name gives another number."""
    with path.open("rb") as file:
        ahead = Chain(walk.chain.writer, walk.chain.seq, walk.chain.previous)
        if ahead.feed(file.readline(LONGEST_LINE).removesuffix(b"\n")) is None:
            expected, found = f"a segment of line {ahead.seq}", path.name
            walk.wrong(Break(Wrong.MISNAMED, ahead.seq, expected, found), _Place(path.name, 1, 0))


def _deleted_meanwhile(walk: _Walk, path: Path) -> None:
    """Go on after a segment that retention has deleted since it was listed; without its note the gap shows."""
    note = next((note for note in read_notes(path.parent) if note.segment == path.name), None)
    if note is None:
        return
    chain = walk.chain
    if chain.previous not in {None, note.prev}:
        walk.wrong(Break(Wrong.ALTERED, chain.seq, note.prev, str(chain.previous)), walk.place)
    chain.seq, chain.previous = note.last_seq, note.last_hash
    if not walk.lines:
        walk.first = note.last_seq + 1


def _walk_segment(walk: _Walk, path: Path, progress: Callable[[int], None], *, newest: bool) -> None:
    number = offset = told = 0
    with path.open("rb") as file:
        end = lines_end(file.fileno())
        while offset < end and (data := file.readline(LONGEST_LINE)):
            if newest and b"\0" in data and begins_hole(file.fileno(), offset, data):
                break
            number += 1
            place = _Place(path.name, number, offset)
            offset += len(data)
            walk.take(data.removesuffix(b"\n"), place)
            if not data.endswith(b"\n"):
                _unterminated(walk, place)
            if offset - told >= 1 << 20:
                progress(offset - told)
                told = offset
        rest = begun_line(file.fileno(), end, LONGEST_LINE)
        if offset < end:
            walk.torn = end - offset + len(rest)
        elif newest and len(rest) < LONGEST_LINE:
            walk.torn = len(rest)
        elif rest:
            place = _Place(path.name, number + 1, offset)
            walk.take(rest, place)
            _unterminated(walk, place)
        progress(os.fstat(file.fileno()).st_size - told)


def _unterminated(walk: _Walk, place: _Place) -> None:
    walk.wrong(Break(Wrong.UNTERMINATED, walk.chain.seq, "a newline", "none"), place)
