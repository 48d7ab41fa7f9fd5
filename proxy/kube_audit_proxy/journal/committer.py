"""Makes a journal's file durable on request: a process of its own, so that no gateway waits for a disk.

It is started as a script (`python -I -S committer.py`), with a socket as its standard input, and imports next to
nothing, so that it is small and starts fast. A request is the length of a path in bytes (unsigned 16 bits, network
order) and that path; length 0 means the same file as before. The answer is an errno (unsigned 32 bits), 0 once
everything written to the file so far is durable. It ends when the socket does: a killed gateway leaves no orphan.
"""

import os
import signal
import socket
import struct
import sys
import time
from errno import EBADMSG, EIO, ESTALE

LENGTH = struct.Struct("!H")
ANSWER = struct.Struct("!I")
DURABLE = ANSWER.pack(0)

_COARSEST = 2_000_000_000
"""Nanoseconds: two changes of a directory that are further apart never have the same time, whatever its file system."""

if sys.platform == "darwin":
    from fcntl import F_FULLFSYNC, fcntl

    def flush(descriptor: int) -> None:
        """Write the file through the drive's own cache as well, which fsync does not do there."""
        fcntl(descriptor, F_FULLFSYNC)
else:
    flush = os.fdatasync


def flush_directory(path: bytes) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class File:
    """The file that is being made durable."""

    def __init__(self) -> None:
        self.path = b""
        self.descriptor = -1
        self.inode = 0
        self.directory = b""
        self.unchanged: tuple[int, int, int] | None = None

    def sync(self, path: bytes) -> None:
        """Make everything written to the file durable; raise OSError where that failed or its name is gone."""
        if path:
            self.close()
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.path = path
            self.inode = os.fstat(self.descriptor).st_ino
            self.directory = os.path.dirname(path)  # noqa: PTH120 - pathlib is slow to import
            self.unchanged = None
        if self.descriptor < 0:
            raise OSError(EBADMSG, "no path was given yet")
        flush(self.descriptor)
        if path:
            flush_directory(self.directory)
        self._look_at_name()

    def _look_at_name(self) -> None:
        """Raise OSError where the file has lost its name: it is durable and lost all the same.

        Its directory is looked at first, and the file only if something was changed there. Who looks at a file that is
        being written makes Linux (6.13 on) note the time of the next write exactly: that is a quarter more CPU a sync.
        """
        found = os.stat(self.directory)  # noqa: PTH116 - the same
        state = found.st_dev, found.st_ino, found.st_mtime_ns
        if state == self.unchanged:
            return
        if os.stat(self.path).st_ino != self.inode:  # noqa: PTH116 - the same
            raise OSError(ESTALE, "another file has this name")
        self.unchanged = state if time.time_ns() - found.st_mtime_ns > _COARSEST else None

    def close(self) -> None:
        """Let go of the file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def receive(connection: socket.socket, size: int) -> bytes:
    """Return exactly this many bytes; raise EOFError at the end of the connection."""
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def serve(connection: socket.socket) -> None:
    """Answer requests until the other end is gone."""
    file = File()
    while True:
        (length,) = LENGTH.unpack(receive(connection, LENGTH.size))
        path = receive(connection, length) if length else b""
        try:
            file.sync(path)
        except OSError as error:
            connection.sendall(ANSWER.pack(error.errno or EIO))
        else:
            connection.sendall(DURABLE)


def main() -> None:
    """Serve the socket on standard input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # these go to whole groups; the gateway drains first, and then ends us
    with socket.socket(fileno=0) as connection:
        try:
            serve(connection)
        except (EOFError, ConnectionError):
            return


if __name__ == "__main__":
    main()
