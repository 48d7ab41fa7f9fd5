"""What is new in the journal since a place: for the index, the shipper and the command line.

A reader may see lines that are not durable yet. Where a machine or a disk fails, such lines can be cut off again, and
others get their numbers: a consumer keeps the last line it was given for a pair of writer and seq.
"""

import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kube_audit_proxy.journal.cursor import Cursor
from kube_audit_proxy.journal.line import LineError, parse
from kube_audit_proxy.journal.room import last_line, lines_end

_NOTHING_NEW = (b"\n", b"\n\0")
"""What is around the place after a segment's last line: it was all read."""

_SEGMENT = re.compile(r"[0-9]{20}\.jsonl")


class JournalGap(Exception):  # noqa: N818 - a state of the journal that its reader has to decide on
    """The segment in which a reader stopped is no longer there. `writer` and `segment` say which."""

    def __init__(self, writer: str, segment: str) -> None:
        super().__init__(f"segment {segment} of writer {writer} is missing; lines in it may not have been read")
        self.writer = writer
        self.segment = segment


@dataclass(frozen=True, slots=True)
class Batch:
    """Complete lines of one writer, without their newlines, and the place after them."""

    writer: str
    lines: list[bytes]
    cursor: Cursor


def segment_name(first: int) -> str:
    """Return the file name of the segment whose first line has this number."""
    return f"{first:020d}.jsonl"


def first_seq(segment: Path) -> int:
    """Return the number of a segment's first line, as its name says."""
    return int(segment.stem)


def writers(journal: Path) -> list[str]:
    """Return the names of all writers that have a directory in this journal, sorted; none where there is no journal."""
    try:
        return sorted(entry.name for entry in journal.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []


def segments(journal: Path, writer: str) -> list[Path]:
    """Return a writer's segments in the order in which they were written."""
    return [journal / writer / name for name in _names(journal, writer)]


def _names(journal: Path, writer: str) -> list[str]:
    # There may be thousands, and readers look ten times a second: texts are cheaper than paths.
    try:
        return sorted(filter(_SEGMENT.fullmatch, os.listdir(journal / writer)))  # noqa: PTH208 - see above
    except FileNotFoundError:
        return []


def last_seq(segment: Path) -> int:
    """Return the number of a segment's last whole line, looking at its end; 0 where there is none or it is gone."""
    try:
        with segment.open("rb") as file:
            return parse(last_line(file.fileno())).seq
    except (FileNotFoundError, LineError):
        return 0


def read_batches(journal: Path, cursors: Mapping[str, Cursor], max_bytes: int = 1 << 20) -> Iterator[Batch]:
    """Yield what was written since the cursors, writer by writer, in about `max_bytes` at a time.

    A writer without a cursor is read from the oldest segment there is. A last line without its newline is left for
    later. Raises JournalGap when it comes to a writer whose cursor names a segment that is gone. Where the file is not
    the one the cursor was made for (its tail was cut off by recovery), that segment is read again from its start.
    """
    for writer in sorted({*writers(journal), *cursors}):
        yield from read_writer(journal, writer, cursors.get(writer), max_bytes)


def read_writer(journal: Path, writer: str, cursor: Cursor | None, max_bytes: int = 1 << 20) -> Iterator[Batch]:
    """Do the same for one writer."""
    names = _names(journal, writer)
    offset = 0
    if cursor is not None:
        at = bisect_left(names, cursor.segment)
        if names[at : at + 1] != [cursor.segment]:
            raise JournalGap(writer, cursor.segment)
        names, offset = names[at:], cursor.offset
    for name in names:
        yield from _read_segment(writer, journal / writer / name, offset, max_bytes)
        offset = 0


def _read_segment(writer: str, path: Path, offset: int, max_bytes: int) -> Iterator[Batch]:
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise JournalGap(writer, path.name) from None
    with file:
        if offset:
            before_and_after = os.pread(file.fileno(), 2, offset - 1)
            if before_and_after in _NOTHING_NEW:
                return
            if not before_and_after.startswith(b"\n"):
                offset = 0
        end = lines_end(file.fileno(), offset)
        file.seek(offset)
        rest: list[bytes] = []
        read = offset
        while read < end and (data := file.read(min(max_bytes, end - read))):
            read += len(data)
            whole = data.rfind(b"\n") + 1
            if not whole:  # a line longer than max_bytes
                rest.append(data)
                continue
            complete = b"".join((*rest, data[:whole]))
            rest = [data[whole:]]
            offset += len(complete)
            yield Batch(writer, complete[:-1].split(b"\n"), Cursor(path.name, offset))
