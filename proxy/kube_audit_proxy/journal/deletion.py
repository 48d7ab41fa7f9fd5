"""Looks at a writer's segments for retention, and deletes what that has decided on."""

import logging
import os
from datetime import datetime
from pathlib import Path

from kube_audit_proxy.journal.committer import flush_directory
from kube_audit_proxy.journal.files import Clock
from kube_audit_proxy.journal.line import Line, LineError, digest, parse
from kube_audit_proxy.journal.notes import Note, read_notes, write_note
from kube_audit_proxy.journal.reader import first_seq, segments
from kube_audit_proxy.journal.retention import Deletion, Seal, Segment
from kube_audit_proxy.journal.room import begun_line, last_line, lines_end

log = logging.getLogger(__name__)

_LONGEST_LINE = 64 << 20
_TIMES = ("stageTimestamp", "opened")


def survey(journal: Path, writer: str) -> tuple[Segment, ...]:
    """Return a writer's segments, oldest first, by their first and last lines."""
    found: list[Segment] = []
    after: Line | None = None
    for path in reversed(segments(journal, writer)):
        with path.open("rb") as file:
            first, last = file.readline(_LONGEST_LINE), _last_line(file.fileno())
            size = os.fstat(file.fileno()).st_size
        header = _header(first, writer, first_seq(path))
        found.append(
            Segment(
                name=path.name,
                first_seq=first_seq(path),
                previous=header.previous if header else "",
                size=size,
                needed_from=_needed_from(header) if header else None,
                seal=_seal(last, after) if header and after else None,
            )
        )
        after = header
    return tuple(reversed(found))


def delete(journal: Path, deletion: Deletion, clock: Clock) -> None:
    """Note a segment's deletion, delete it, and tell. Each is durable before the next. Raises OSError."""
    directory, segment, seal = journal / deletion.writer, deletion.segment, deletion.seal
    note = Note(
        segment=segment.name,
        first_seq=segment.first_seq,
        last_seq=seal.last_seq,
        prev=segment.previous,
        last_hash=seal.last_hash,
        newest=seal.newest.isoformat(),
        bytes=segment.size,
        deleted=clock(),
        reason=deletion.reason,
        shipped=deletion.shipped,
    )
    # A crash may have come between the two.
    if not any((known.segment, known.last_hash) == (note.segment, note.last_hash) for known in read_notes(directory)):
        write_note(directory, note)
    (directory / segment.name).unlink(missing_ok=True)
    flush_directory(os.fsencode(directory))
    words = (
        f"lines {segment.first_seq} to {seal.last_seq} of {deletion.writer} ({deletion.reason}, up to {note.newest})"
    )
    if deletion.loud:
        log.warning("retention deleted %s: they were NEVER SHIPPED, and are lost", words)
    else:
        log.info("retention deleted %s", words)


def _last_line(descriptor: int) -> bytes | None:
    """Return a file's last line without its newline, None if it has no newline."""
    return None if begun_line(descriptor, lines_end(descriptor), _LONGEST_LINE) else last_line(descriptor)


def _seal(last: bytes | None, after: Line) -> Seal | None:
    """Return the end of a segment whose last line is this, if the next segment's header goes on from it."""
    line = _parsed(last + b"\n") if last else None
    if last is None or line is None or (line.writer, line.seq) != (after.writer, after.seq - 1):
        return None
    previous = digest(last)
    newest = _time(line) or _time(after)
    return Seal(line.seq, previous, newest) if previous == after.previous and newest else None


def _header(data: bytes, writer: str, seq: int) -> Line | None:
    line = _parsed(data)
    return line if line and (line.writer, line.seq) == (writer, seq) else None


def _parsed(data: bytes) -> Line | None:
    if not data.endswith(b"\n"):
        return None
    try:
        return parse(data[:-1])
    except LineError:
        return None


def _needed_from(header: Line) -> int | None:
    oldest = header.record.get("oldest_open", header.seq)
    return oldest if isinstance(oldest, int) else None


def _time(line: Line) -> datetime | None:
    for field in _TIMES:
        try:
            moment = datetime.fromisoformat(line.record[field])
        except (KeyError, TypeError, ValueError):
            continue
        if moment.tzinfo is not None:
            return moment
    return None
