"""Where the lines of a segment end. What follows its last newline is room, or the beginning of a line.

The segment that is being written has room behind its lines: NULs, which no line contains, written ahead of them. To
make a line durable that changes the size of its file, the file system has to write more than that line: with room, a
sync takes six tenths of the time on ext4. A segment that is done with has no room, except where the proxy was killed.
"""

import os
import re
from typing import Final

ROOM: Final = 256 << 10
"""Bytes written ahead: more would hold up the sync that comes with them, less would be used up all the time."""

LARGEST_BATCH: Final = 1000
"""Lines written at once: after a long trouble, more would hold up the loop. Two of the writer's own may come before."""

_STEP = 64 << 10
_HOLE = re.compile(rb"\0+")
_SECTOR = 512
"""Bytes that a disk writes whole or not at all."""


def lines_end(descriptor: int, begin: int = 0) -> int:
    """Return the place after the last newline of a file, looking at what comes after `begin`; `begin` if there is none.

    All before this place was written before this returns, whoever writes on: it is looked for from the end, and lines
    are written from the beginning.
    """
    return _after_newline(descriptor, begin, os.fstat(descriptor).st_size)


def last_line(descriptor: int) -> bytes:
    """Return the last whole line of a file, without its newline; empty if there is none."""
    end = lines_end(descriptor)
    start = _after_newline(descriptor, 0, end - 1)
    return os.pread(descriptor, end - start, start)[:-1]


def begun_line(descriptor: int, end: int, limit: int = -1) -> bytes:
    """Return what there is of a line after this place, where the last whole one ended: up to so many bytes.

    It is empty if all that follows is room, or if a writer has ended the line meanwhile.
    """
    size = os.fstat(descriptor).st_size - end
    data = os.pread(descriptor, size if limit < 0 else min(size, limit), end)
    return b"" if b"\n" in data else data.rstrip(b"\0")


def begins_hole(descriptor: int, offset: int, line: bytes) -> bool:
    """Tell whether the newest segment ends here, at this offset, because this line of it was not durable.

    After a power failure any sectors of what was last written may be there. So a hole in it ends with a sector, and no
    more lines follow than are ever written at once. A copy that was made while the segment was written can have such a
    hole too: there it had come to the room, and the lines overtook it.
    """
    hole = _HOLE.search(line)
    if hole is None or (offset + hole.end()) % _SECTOR:
        return False
    place, following = offset + len(line), 0
    while following <= LARGEST_BATCH + 1 and (data := os.pread(descriptor, _STEP, place)):
        place += len(data)
        following += data.count(b"\n")
    return following <= LARGEST_BATCH + 1


def _after_newline(descriptor: int, begin: int, end: int) -> int:
    while end > begin:
        start = max(end - _STEP, begin)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return begin


def write_at(descriptor: int, data: bytes, offset: int, room: bytes = b"") -> tuple[int, OSError | None]:
    """Write at this place, and room behind; return how many bytes of both were taken, and why not all of the data.

    On a full disk there is less room or none, and no error as long as the data were taken.
    """
    written = 0
    while written < len(data):
        try:
            if room and not written:
                written = os.pwritev(descriptor, (data, room), offset)
            else:
                written += os.pwrite(descriptor, data[written:] if written else data, offset + written)
        except OSError as error:
            return written, error
    return written, None
