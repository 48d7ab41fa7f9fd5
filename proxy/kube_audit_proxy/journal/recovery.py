"""What a writer that stopped or died left behind is put in order, before anybody writes after it.

The room behind the last line is cut off. So is a torn last line, which is kept in a file beside; and so is what was
written at once with it and has holes, since a power failure leaves any part of what was not durable. A call with a
start and no end is closed as interrupted. Anything else that is wrong stays as it is, for `verify` to show: new lines
go to a new segment, and no line that was complete is ever overwritten. What was found is told in the log.
"""

import logging
import os
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kube_audit_proxy.audit.fields import Decision, Outcome, Stage
from kube_audit_proxy.journal.chain import Break, Chain, Wrong
from kube_audit_proxy.journal.committer import flush, flush_directory
from kube_audit_proxy.journal.files import (
    Clock,
    JournalError,
    begin_segment,
    cut_back,
    explain,
    header,
    locked,
    write_all,
)
from kube_audit_proxy.journal.line import FIRST_PREVIOUS, Line, LineError, build, content, digest, head, parse
from kube_audit_proxy.journal.reader import first_seq, segments
from kube_audit_proxy.journal.room import begins_hole, begun_line, lines_end

log = logging.getLogger(__name__)

ENDS = frozenset({Stage.RESPONSE_COMPLETE, Stage.PANIC})
INTERRUPTED = "the proxy stopped or died before the call ended"
_OF_THE_LINE = ("writer", "seq", "prev")


@dataclass(frozen=True, slots=True)
class Recovered:
    """Number and hash of the last line, after which a writer goes on, and what was found.

    `interrupted` calls were closed, in a `segment` of their own, `torn` bytes cut off; `broken` is the first break in
    the part that was read.
    """

    seq: int
    previous: str
    segment: Path | None
    interrupted: int
    torn: int
    broken: Break | None


@dataclass(slots=True)
class _Scan:
    """What is known after reading the newest part of a journal."""

    chain: Chain
    starts: dict[str, Line] = field(default_factory=dict)
    broken: Break | None = None
    whole: int = 0  # the newest segment's size, without what has to be cut off

    def take(self, data: bytes) -> None:
        broken = self.chain.feed(data)
        self.broken = self.broken or broken
        line = self.chain.line
        if line is None:
            return
        stage, call = line.record.get("stage"), line.record.get("auditID")
        if not isinstance(call, str):
            return
        if stage == Stage.REQUEST_RECEIVED:
            self.starts[call] = line
        elif stage in ENDS:
            self.starts.pop(call, None)


def recover(directory: Path, writer: str, *, clock: Clock, product: str) -> Recovered:
    """Put the journal of a writer that nobody uses any more in order; `directory` is that of the whole journal.

    Raises JournalError where another process still writes it, or where the disk does not take what has to be written.
    """
    own = directory / writer
    try:
        with locked(own):
            return recover_held(own, writer, clock=clock, product=product)
    except OSError as error:
        raise JournalError(f"the journal {own} cannot be recovered: {explain(error)}") from error


def recover_held(directory: Path, writer: str, *, clock: Clock, product: str) -> Recovered:
    """Do the same in a writer's own directory, whose lock is held.

    Everything it reports is durable when it returns. Raises OSError or JournalError.
    """
    paths = segments(directory.parent, writer)
    scan = _scan(paths, writer)
    torn = 0
    if paths:
        torn = _keep_torn(paths[-1], scan.whole, writer)
        cut_back(paths[-1], scan.whole)
    if scan.broken is not None:
        log.error(
            "%s: the journal is BROKEN at seq %d: %s: expected %s, found %s. It stays as it is, and new lines go to a "
            "new segment; `verify` shows the place", writer, scan.broken.seq, scan.broken.what, scan.broken.expected,
            scan.broken.found,
        )  # fmt: skip
    if scan.starts:
        log.info("%s: %d calls had no end, and are closed as interrupted", writer, len(scan.starts))
    seq, previous = scan.chain.seq, scan.chain.previous or FIRST_PREVIOUS
    if not scan.starts:
        return Recovered(seq, previous, None, 0, torn, scan.broken)
    oldest = min(line.seq for line in scan.starts.values())
    bodies = [header(product, clock(), oldest)]
    bodies += [interrupted(line.record, clock()) for line in scan.starts.values()]
    segment, descriptor = begin_segment(directory, seq + 1)
    lines: list[bytes] = []
    start = head(writer)
    for body in bodies:
        seq += 1
        line = build(start, seq, previous.encode(), body)
        previous = digest(line)
        lines.append(line + b"\n")
    data = b"".join(lines)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        _, error = write_all(file.fileno(), data)
        if error is not None:
            raise error
        flush(file.fileno())
    flush_directory(bytes(directory))
    return Recovered(seq, previous, segment, len(scan.starts), torn, scan.broken)


def _keep_torn(path: Path, offset: int, writer: str) -> int:
    """Keep what follows this offset, durably, in a file beside; return how many bytes.

    They may be what is left of lines that were whole.
    """
    with path.open("rb") as file:
        file.seek(offset)
        torn = file.read().rstrip(b"\0")
    if not torn:
        return 0
    beside = path.with_name(f"{path.name}.torn")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as kept:
        _, error = write_all(kept.fileno(), torn)
        if error is not None:
            raise error
        flush(kept.fileno())
    flush_directory(os.fsencode(path.parent))
    log.warning("%s: its last %d bytes are no whole line; they are cut off, and kept in %s", writer, len(torn), beside)
    return len(torn)


def interrupted(start: dict[str, Any], now: str) -> bytes:
    """Return the body of the end of a call of which only the start is known: all of its start, in the same order."""
    record = {name: value for name, value in start.items() if name not in _OF_THE_LINE}
    record |= {
        "stage": Stage.RESPONSE_COMPLETE,
        "stageTimestamp": now,
        "decision": Decision.ERROR,
        "decided_by": "proxy",
        "outcome": Outcome.INTERRUPTED,
        "message": INTERRUPTED,
    }
    return content(record)


def _scan(paths: list[Path], writer: str) -> _Scan:
    """Read from the segment with the oldest call that was open when the newest segment was begun."""
    if not paths:
        return _Scan(Chain(writer))
    first = _where_to_begin(paths)
    before = first_seq(paths[first]) - 1
    scan = _Scan(Chain(writer, before, None if before else FIRST_PREVIOUS))
    for path in paths[first:]:
        _scan_segment(path, scan, newest=path is paths[-1])
    return scan


def _where_to_begin(paths: list[Path]) -> int:
    """Return the index of the segment in which the oldest call that can be open has its start."""
    names = [first_seq(path) for path in paths]
    for path in reversed(paths):
        with path.open("rb") as file:
            first = file.readline()
        try:
            line = parse(first)
        except LineError:
            continue  # empty or torn: the one before knows
        oldest = line.record.get("oldest_open", line.seq)
        if isinstance(oldest, int):
            return max(bisect_right(names, oldest) - 1, 0)
    return 0


def _scan_segment(path: Path, scan: _Scan, *, newest: bool) -> None:
    offset = 0
    with path.open("rb") as file:
        end = lines_end(file.fileno())
        rest = begun_line(file.fileno(), end)
        while offset < end:
            data = file.readline()
            known = scan.chain.seq, scan.chain.previous, scan.broken
            scan.take(data[:-1])
            is_last = offset + len(data) == end and not rest
            if newest and scan.chain.line is None and (is_last or begins_hole(file.fileno(), offset, data)):
                scan.chain.seq, scan.chain.previous, scan.broken = known
                break
            offset += len(data)
    if newest:
        scan.whole = offset
    elif rest:
        scan.take(rest)
        scan.broken = scan.broken or Break(Wrong.UNTERMINATED, scan.chain.seq, "a newline", "the end of the file")
