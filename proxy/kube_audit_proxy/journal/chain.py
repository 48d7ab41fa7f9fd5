"""Is this the unbroken sequence of lines that one writer wrote? Pure: lines in, the break out."""

from dataclasses import dataclass
from enum import StrEnum

from kube_audit_proxy.journal.line import FIRST_PREVIOUS, Line, LineError, digest, parse


class Wrong(StrEnum):
    """What can be wrong with a line or a file of lines."""

    NOT_A_LINE = "not a line"
    WRONG_WRITER = "wrong writer"
    GAP = "gap"
    DUPLICATE = "duplicate"
    ALTERED = "altered"
    UNTERMINATED = "unterminated"
    MISNAMED = "misnamed"
    CUT_OFF = "cut off"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Break:
    """A place where the chain does not hold. `seq` is the line that is wrong, which can be the one before."""

    what: Wrong
    seq: int
    expected: str
    found: str


class Chain:
    """Checks the lines of one writer, fed in order.

    It starts after line `seq`, whose hash is `previous`; None where nobody knows that hash any more, because the
    segments before were deleted. After a break it goes on from the line it found, so that what follows can still be
    read; only the first break is worth telling.
    """

    __slots__ = ("line", "previous", "seq", "writer")

    def __init__(self, writer: str, seq: int = 0, previous: str | None = FIRST_PREVIOUS) -> None:
        self.writer = writer
        self.seq = seq
        self.previous = previous
        self.line: Line | None = None

    def feed(self, data: bytes) -> Break | None:
        """Take the next line, without its newline; `line` then holds it parsed, or None."""
        expected = self.seq + 1
        try:
            self.line = line = parse(data)
        except LineError as error:
            self.line = None
            self.seq, self.previous = expected, digest(data)
            return Break(Wrong.NOT_A_LINE, expected, f"line {expected}", str(error))
        found = self._compare(line, expected)
        # Never backwards: a writer that goes on after a break must not use a number twice.
        self.seq, self.previous = max(line.seq, expected), digest(data)
        return found

    def _compare(self, line: Line, expected: int) -> Break | None:
        if line.writer != self.writer:
            return Break(Wrong.WRONG_WRITER, expected, self.writer, line.writer)
        if line.seq > expected:
            return Break(Wrong.GAP, expected, f"line {expected}", f"line {line.seq}")
        if line.seq < expected:
            return Break(Wrong.DUPLICATE, line.seq, f"line {expected}", f"line {line.seq}")
        if self.previous is not None and line.previous != self.previous:
            # The line before does not have the hash that was true when this one was written.
            return Break(Wrong.ALTERED, max(self.seq, 1), line.previous, self.previous)
        return None
