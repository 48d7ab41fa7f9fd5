"""What retention notes of each segment that it deletes, so that a beginning that is gone can be told from a theft.

The notes of a writer are lines of JSON in `retention.log`, beside its segments. A note is durable before its segment is
deleted: a note whose segment is still there says nothing.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import orjson

from kube_audit_proxy.journal.chain import Break, Wrong
from kube_audit_proxy.journal.committer import flush, flush_directory
from kube_audit_proxy.journal.files import write_all
from kube_audit_proxy.journal.line import FIRST_PREVIOUS

FILE_NAME = "retention.log"


@dataclass(frozen=True, slots=True)
class Note:
    """One deleted segment: its name, first and last line, the hashes around it; how new and large it was; when and why.

    `prev` is that of its first line, `last_hash` what the first line after it gives as its `prev`. `shipped` is None
    where nothing was to be shipped.
    """

    segment: str
    first_seq: int
    last_seq: int
    prev: str
    last_hash: str
    newest: str
    bytes: int
    deleted: str
    reason: str
    shipped: bool | None


@dataclass(frozen=True, slots=True)
class Account:
    """What the notes say of the lines that are not there any more.

    `previous` is the hash that the first line there is has to give, None if nobody knows it. `unnoted` lines at the
    very beginning were gone before the first note. `broken` says where lines are gone that a note should speak of.
    """

    previous: str | None
    unnoted: int
    broken: Break | None


def read_notes(directory: Path) -> tuple[Note, ...]:
    """Return a writer's notes, oldest first. What cannot be read, such as a torn last line, is no note."""
    try:
        data = (directory / FILE_NAME).read_bytes()
    except FileNotFoundError:
        return ()
    return tuple(note for line in data.split(b"\n")[:-1] if (note := _parse(line)) is not None)


def write_note(directory: Path, note: Note) -> None:
    """Add a note, durably; what a crash has left of another one is cut off. Raises OSError."""
    path = directory / FILE_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole < size:
            os.ftruncate(descriptor, whole)
        _, error = write_all(descriptor, orjson.dumps(asdict(note)) + b"\n")
        if error is not None:
            os.ftruncate(descriptor, whole)
            raise error
        flush(descriptor)
    finally:
        os.close(descriptor)
    if not size:
        flush_directory(os.fsencode(directory))


def account(notes: Iterable[Note], first_seq: int) -> Account:
    """Compare the notes with the number of the first line that is there."""
    gone = [note for note in notes if note.first_seq < first_seq]
    if not gone:
        return Account(FIRST_PREVIOUS if first_seq == 1 else None, first_seq - 1, None)
    last = gone[-1]
    return Account(
        last.last_hash if last.last_seq == first_seq - 1 else None,
        gone[0].first_seq - 1,
        _hole(gone) or _missing(last.last_seq + 1, first_seq),
    )


def _hole(notes: Sequence[Note]) -> Break | None:
    for before, after in pairwise(notes):
        if broken := _missing(before.last_seq + 1, after.first_seq):
            return broken
        if before.last_hash != after.prev:
            return Break(Wrong.ALTERED, before.last_seq, after.prev, before.last_hash)
    return None


def _missing(expected: int, found: int) -> Break | None:
    if expected == found:
        return None
    return Break(Wrong.MISSING, expected, f"line {expected}, which retention did not delete", f"line {found}")


def _parse(line: bytes) -> Note | None:
    try:
        values = orjson.loads(line)
        typed = all(isinstance(values[name], kind) for name, kind in _TYPES.items())
        return Note(**values) if typed and datetime.fromisoformat(values["newest"]).tzinfo else None
    except (KeyError, TypeError, ValueError):
        return None


_TYPES: dict[str, type] = {
    "segment": str,
    "first_seq": int,
    "last_seq": int,
    "prev": str,
    "last_hash": str,
    "newest": str,
}
"""What somebody relies on."""
