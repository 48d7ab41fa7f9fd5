"""The files of one writer: its directory, its lock, its segments. What touches a disk without an event loop."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from kube_audit_proxy.journal.committer import flush, flush_directory
from kube_audit_proxy.journal.line import FORMAT, content
from kube_audit_proxy.journal.reader import segment_name

Clock = Callable[[], str]
"""Gives the present time: RFC 3339, microseconds, UTC."""


class JournalError(Exception):
    """A record could not be made durable, or a journal not be opened; the message is a sentence that says why."""


def explain(error: OSError) -> str:
    """Return the system's words for an error; where the files are is not for every client to know."""
    return os.strerror(error.errno) if error.errno else str(error)


def make_directory(directory: Path) -> None:
    """Make a writer's directory, for nobody else to read, with a durable name; the journal around it must exist."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        return
    flush_directory(os.fsencode(directory.parent))


class Lock:
    """Holds a writer's directory for this process: there is one writer to a directory.

    Raises JournalError where another process holds it, and names that process.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            flock(self._descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise JournalError(f"the journal {directory} is held by process {holder}") from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def holds(self) -> bool:
        """Say whether the lock still is the file of that name; not after its directory was removed or replaced."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let another process write here."""
        os.close(self._descriptor)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a writer's directory for a while."""
    lock = Lock(directory)
    try:
        yield
    finally:
        lock.release()


def begin_segment(directory: Path, seq: int) -> tuple[Path, int]:
    """Open the file for the segment that begins with this line.

    An empty file of that name, which a crash or a full disk left, is used; one with lines in it is never touched.
    """
    path = directory / segment_name(seq)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.fstat(descriptor).st_size:
        os.close(descriptor)
        raise JournalError(f"the segment {path} already has lines in it")
    return path, descriptor


def header(product: str, opened: str, oldest_open: int | None) -> bytes:
    """Return the body of a segment's first line."""
    record: dict[str, object] = {"kind": "segment", "format": FORMAT, "product": product, "opened": opened}
    if oldest_open is not None:
        record["oldest_open"] = oldest_open
    return content(record)


def write_all(descriptor: int, data: bytes) -> tuple[int, OSError | None]:
    """Write; return how many bytes were taken, and why not all of them."""
    written = 0
    while written < len(data):
        try:
            written += os.write(descriptor, data[written:] if written else data)
        except OSError as error:
            return written, error
    return written, None


def is_open_at(path: Path, descriptor: int) -> bool:
    """Say whether the open file still is the one of that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def cut_back(path: Path, size: int) -> None:
    """Cut a file off at this size, durably, if there is one and it is longer."""
    with suppress(FileNotFoundError):
        if path.stat().st_size <= size:
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            flush(descriptor)
        finally:
            os.close(descriptor)
