"""Makes CSV of journal lines in processes beside the one that reads and writes: it is most of the work of an export.

Lines go to `python -m kube_audit_proxy.export.formatter` in pieces, and their rows come back: each piece has its length
in bytes before it. Such a process ends with its input, so it never outlives who started it.
"""

import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, NamedTuple

from kube_audit_proxy.export import csv

_LENGTH = struct.Struct(">Q")


class FormatterError(Exception):
    """A process that made rows has ended before its work was done."""


class Rows(NamedTuple):
    """The rows of a piece, and how many calls are in it."""

    data: bytes
    calls: int


Format = Callable[[Iterable[Sequence[str]]], Iterator[Rows]]


def in_process(pieces: Iterable[Sequence[str]]) -> Iterator[Rows]:
    """Yield the rows of each piece of lines, in their order, without any other process."""
    for piece in pieces:
        yield Rows(_rows(piece), len(piece))


@contextmanager
def formatters(number: int) -> Iterator[Format]:
    """Start so many processes, and give what yields the rows of each piece of lines, in their order."""
    with ExitStack() as stack:
        processes = [stack.enter_context(_started()) for _ in range(number)]

        def rows(pieces: Iterable[Sequence[str]]) -> Iterator[Rows]:
            idle, busy = deque(processes), deque[tuple[subprocess.Popen[bytes], int]]()
            for piece in pieces:
                if not idle:
                    yield _taken(busy[0])
                    idle.append(busy.popleft()[0])
                _given(idle[0], "\n".join(piece).encode())
                busy.append((idle.popleft(), len(piece)))
            yield from map(_taken, busy)

        yield rows


@contextmanager
def _started() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "kube_audit_proxy.export.formatter"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        # One that still writes is not waited for.
        process.kill()
        with suppress(BrokenPipeError):
            process.communicate()


def _given(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    try:
        process.stdin.write(_LENGTH.pack(len(data)) + data)
        process.stdin.flush()
    except BrokenPipeError:
        raise FormatterError from None


def _taken(busy: tuple[subprocess.Popen[bytes], int]) -> Rows:
    process, calls = busy
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    if (data := _read(process.stdout)) is None:
        raise FormatterError
    return Rows(data, calls)


def _read(file: IO[bytes]) -> bytes | None:
    """Read a piece; None where there is no whole one."""
    length = file.read(_LENGTH.size)
    if len(length) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(length)
    data = file.read(size)
    return data if len(data) == size else None


def _rows(lines: Sequence[str | bytes]) -> bytes:
    return csv.rows(lines).encode()


def main() -> None:
    """Answer pieces of lines with their rows, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for who started this, and ends this too
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    while (data := _read(sys.stdin.buffer)) is not None:
        rows = _rows(data.split(b"\n"))
        sys.stdout.buffer.write(_LENGTH.pack(len(rows)) + rows)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
