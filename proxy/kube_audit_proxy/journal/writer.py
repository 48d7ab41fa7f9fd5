"""Makes records durable, in order, without ever making the event loop wait for a disk.

Lines are gathered for one more turn of the loop, written with one system call and made durable by one sync in another
process; lines that come meanwhile are gathered for the next. So everything before the lines in hand is durable, always,
and whatever goes wrong with them is put right by going back to where they began.
"""

import asyncio
import os
from binascii import hexlify
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOENT, ESTALE
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Final, Self

from kube_audit_proxy.coroutine import Waiter
from kube_audit_proxy.journal.files import (
    Clock,
    JournalError,
    Lock,
    begin_segment,
    cut_back,
    explain,
    header,
    is_open_at,
    make_directory,
)
from kube_audit_proxy.journal.line import build, content, head
from kube_audit_proxy.journal.recovery import Recovered, recover_held
from kube_audit_proxy.journal.room import LARGEST_BATCH, ROOM, write_at
from kube_audit_proxy.journal.syncer import COMMAND, Syncer

IDLE_TURN: Final = 0.00002  # seconds: a turn of the loop that took less had nothing to do


@dataclass(frozen=True)
class Limits:
    """What a writer keeps to: sizes of a segment and its room in bytes, times in seconds, how many ends to keep."""

    segment_bytes: int = 64 << 20
    room: int = ROOM
    timeout: float = 5.0
    end_delay: float = 0.05
    gather: float = 0.001
    retry: float = 1.0
    kept: int = 10_000


DEFAULT_LIMITS = Limits()


class _Item:
    """A body on its way: who waits for it, which call it opens or ends; `lost` on the writer's own lines only."""

    __slots__ = ("body", "ends", "lost", "opens", "since", "waiter")

    def __init__(
        self,
        body: bytes,
        waiter: Waiter | None = None,
        *,
        opens: str | None = None,
        ends: str | None = None,
        since: float = 0.0,
        lost: int | None = None,
    ) -> None:
        self.body = body
        self.waiter = waiter
        self.opens = opens
        self.ends = ends
        self.since = since
        self.lost = lost


class _Batch:
    """Lines that are written and not yet durable; `size` is the file's before them, in bytes.

    `whole`: nothing that was to be written with them was refused.
    """

    __slots__ = ("first", "items", "last_hash", "size", "whole")

    def __init__(self, items: list[_Item], first: int, last_hash: bytes, size: int, *, whole: bool) -> None:
        self.items = items
        self.first = first
        self.last_hash = last_hash
        self.size = size
        self.whole = whole


def _ends(items: list[_Item]) -> int:
    """Count the lines that nobody waits for."""
    return sum(item.waiter is None for item in items)


class JournalWriter:
    """The one writer of `<journal>/<name>`; made by `open`, on a running loop, and used on that loop only.

    `failed` says what is wrong at present, None while all is well. `recovered` says what was found at the start.
    """

    def __init__(
        self, directory: Path, name: str, *, clock: Clock, product: str, limits: Limits, command: Sequence[str]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._directory = directory
        self._clock = clock
        self._product = product
        self._limits = limits
        self._head = head(name)
        self._lock = Lock(directory)
        try:
            self.recovered: Recovered = recover_held(directory, name, clock=clock, product=product)
            self._path, self._descriptor = begin_segment(directory, self.recovered.seq + 1)
        except BaseException:
            self._lock.release()
            raise
        self._size = 0
        self._room_end = 0
        self._room = bytes(limits.room)
        self._seq = self.recovered.seq
        self._previous = self.recovered.previous.encode()
        self._spoiled = False  # the file may end with lines that are not durable and have to be cut off
        self._unsynced = True  # the committer has not been told of this file
        self._renew = True  # the header is written at once, so that trouble shows before the first call
        self.failed: str | None = None
        self._open: dict[str, int] = {}
        self._pending: list[_Item] = []
        self._ends = 0
        self._lost = 0
        self._lost_since = ""
        self._urgent = False
        self._scheduled = False
        self._turn = 0.0
        self._gather_until = 0.0
        self._closing = False
        self._batch: _Batch | None = None
        self._settled: asyncio.Future[None] | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._syncer = Syncer(self._synced, command)
        self._flush()

    @classmethod
    def open(
        cls,
        journal: Path,
        name: str,
        *,
        clock: Clock,
        product: str,
        limits: Limits = DEFAULT_LIMITS,
        committer_command: Sequence[str] = COMMAND,
    ) -> Self:
        """Recover what was left, begin a segment and start the committer; the journal's directory must exist.

        It reads and syncs on the loop, so it belongs before the first call is accepted. Raises JournalError where
        another process writes there, or where what has to be recovered cannot be.
        """
        directory = journal.absolute() / name
        try:
            make_directory(directory)
            return cls(directory, name, clock=clock, product=product, limits=limits, command=committer_command)
        except OSError as error:
            raise JournalError(f"the journal {directory} cannot be opened: {explain(error)}") from error

    @property
    def committer_id(self) -> int | None:
        """The process that makes the lines durable at present."""
        return self._syncer.process_id

    def commit(self, body: bytes, call: str | None = None) -> Waiter:
        """Hand in a record and return what to wait for: done once it is durable, JournalError where it may not be.

        `call` is the audit ID of a call that begins with this record.
        """
        waiter = Waiter()
        if self._closing:
            waiter.settle(JournalError("The journal is closed."))
            return waiter
        self._pending.append(_Item(body, waiter, opens=call, since=self._loop.time()))
        self._urgent = True
        if not self._scheduled and self._batch is None:
            self._schedule()
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(self._limits.timeout, self._watch)
        return waiter

    def append(self, body: bytes, ends: str | None = None) -> None:
        """Hand in a record nobody waits for: it goes with the next commit, or alone after a moment.

        `ends` is the audit ID of a call that ends with this record. In trouble it is kept, and written afterwards;
        what is too much to keep is counted, and the count written. Raises JournalError on a closed writer.
        """
        if self._closing:
            raise JournalError("The journal is closed.")
        if self._ends >= self._limits.kept:
            self._lose(ends)
            return
        self._ends += 1
        self._pending.append(_Item(body, ends=ends))
        if self._end_timer is None and not self._urgent:
            self._end_timer = self._loop.call_later(self._limits.end_delay, self._flush_ends)

    async def close(self) -> None:
        """Make durable what was handed in, and end the committer. Raises JournalError where that did not work."""
        if self._closing:
            return
        self._closing = True
        tries = 2
        while tries and (self._batch is not None or self._pending or self._lost):
            if self._batch is None:
                self._flush()
            if self._batch is None:
                break
            self._settled = self._loop.create_future()
            done, _ = await asyncio.wait([self._settled], timeout=self._limits.timeout)
            tries -= bool(self.failed or not done)
        written = self._batch.items if self._batch is not None else []
        left = len(self._pending) + self._lost + sum(item.lost is None for item in written)
        for timer in (self._end_timer, self._watchdog, self._retry):
            if timer is not None:
                timer.cancel()
        reason = f"The journal was closed before {left} records were durable: {self.failed or 'the disk is too slow'}"
        self._fail(self._pending, reason)
        self._fail(written, reason)
        await self._syncer.close()
        if self._descriptor >= 0:
            self._close_segment()
        self._lock.release()
        if left:
            raise JournalError(reason)

    # When to write

    def _schedule(self) -> None:
        """Write as soon as a turn of the loop has had nothing to do: what is being read right now comes along.

        So an idle loop waits for one turn. A busy one gathers for a moment: there it is syncs that cost, and whoever
        waits for this one would otherwise wait for the one before.
        """
        self._scheduled = True
        self._turn = perf_counter()
        self._gather_until = self._turn + self._limits.gather
        self._loop.call_soon(self._gather)

    def _gather(self) -> None:
        now = perf_counter()
        if now - self._turn > IDLE_TURN and now < self._gather_until and len(self._pending) < LARGEST_BATCH:
            self._turn = now
            self._loop.call_soon(self._gather)
        else:
            self._flush()

    def _flush_ends(self) -> None:
        self._end_timer = None
        if self._pending:
            self._flush()

    def _try_again(self) -> None:
        self._retry = None
        if self._batch is None:
            self._renew = not self._pending  # with nothing to write, a new segment's header shows whether it works
            self._flush()

    def _after_batch(self) -> None:
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)
        if self._closing or not self._pending:
            return
        if self._urgent:
            self._schedule()
        elif self._end_timer is None and self.failed is None:
            self._end_timer = self._loop.call_later(self._limits.end_delay, self._flush_ends)

    # Writing

    def _flush(self) -> None:
        self._scheduled = False
        if self._batch is not None or not (self._pending or self._lost or self._renew):
            return
        items = self._pending[:LARGEST_BATCH]
        del self._pending[:LARGEST_BATCH]
        self._urgent = bool(self._pending)
        self._ends = _ends(self._pending)
        try:
            self._prepare_segment()
        except (OSError, JournalError) as error:
            words = explain(error) if isinstance(error, OSError) else str(error)
            self._give_back(items, f"The journal cannot be written: {words}")
            return
        if self._lost or not self._size:
            items[:0] = self._own_lines()
        self._write(items)

    def _prepare_segment(self) -> None:
        """Have a file that can be written to; everything in the present one is durable."""
        if self._spoiled:
            self._hold_lock()
            self._discard_segment()
        full = self._size >= self._limits.segment_bytes
        if self._descriptor >= 0 and not full and not (self._renew and self._size):
            return
        if self._descriptor >= 0:
            self._close_segment()
        self._hold_lock()
        self._path, self._descriptor = begin_segment(self._directory, self._seq + 1)
        self._size = self._room_end = 0
        self._unsynced = True

    def _close_segment(self) -> None:
        """Let go of a file whose lines are durable, without its room; where that cannot be cut off, it does no harm."""
        if self._room_end > self._size:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
        os.close(self._descriptor)
        self._descriptor = -1

    def _hold_lock(self) -> None:
        """Take the lock again where the directory was removed, or another disk is in its place."""
        if self._lock.holds():
            return
        make_directory(self._directory)
        lock = Lock(self._directory)
        self._lock.release()
        self._lock = lock

    def _discard_segment(self) -> None:
        """Cut off what did not become durable, and let go of the file: after a failed sync nothing about it is sure."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            # On a disk that is not there any more nothing counts; on the one in its place may be the same file.
            if is_open_at(self._path, self._descriptor):
                raise
            cut_back(self._path, self._size)
        if not self._size:
            self._path.unlink(missing_ok=True)  # the next segment has this name
        os.close(self._descriptor)
        self._descriptor = -1
        self._spoiled = False

    def _own_lines(self) -> Iterable[_Item]:
        if not self._size:
            body = header(self._product, self._clock(), next(iter(self._open.values()), None))
            yield _Item(body, lost=0)
        if self._lost:
            body = content({"kind": "lost", "count": self._lost, "since": self._lost_since})
            yield _Item(body, lost=self._lost)

    def _write(self, items: list[_Item]) -> None:
        seq, previous, first = self._seq, self._previous, self._head
        lines: list[bytes] = []
        hashes: list[bytes] = []
        for item in items:
            seq += 1
            line = build(first, seq, previous, item.body)
            previous = hexlify(sha256(line).digest())
            lines.append(line)
            hashes.append(previous)
        lines.append(b"")
        data = b"\n".join(lines)
        before = self._size
        room = self._room if before + len(data) > self._room_end else b""
        written, error = write_at(self._descriptor, data, before, room)
        self._room_end = max(self._room_end, before + written)
        refused: list[_Item] = []
        if error is not None:
            # A line that got through whole stays: a reader may have seen it.
            whole = data.rfind(b"\n", 0, written) + 1
            count = data.count(b"\n", 0, whole)
            items, refused = items[:count], items[count:]
        else:
            whole = len(data)
        self._batch = (
            _Batch(items, self._seq + 1, hashes[len(items) - 1], before, whole=error is None) if items else None
        )
        self._size += whole
        if error is not None:
            self._give_back(refused, f"The journal cannot be written: {explain(error)}")
            self._cut_partial_line()
        if self._batch is not None:
            self._syncer.request(self._path, new=self._unsynced)
            self._unsynced = False

    def _cut_partial_line(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._size)
            self._room_end = self._size
        except OSError:
            self._spoiled = True

    # What became of it

    def _synced(self, number: int) -> None:
        batch = self._batch
        if batch is None:
            return
        self._batch = None
        if number:
            self._not_durable(batch, number)
        else:
            self._durable(batch)
        self._after_batch()
        if not number:  # and last, since those who waited may hand in more at once
            for item in batch.items:
                if item.waiter is not None:
                    item.waiter.resume()

    def _durable(self, batch: _Batch) -> None:
        seq = batch.first
        calls = self._open
        for item in batch.items:
            if item.opens is not None:
                calls[item.opens] = seq
            elif item.ends is not None:
                calls.pop(item.ends, None)
            elif item.lost:
                self._lost -= item.lost
            seq += 1
        self._seq = seq - 1
        self._previous = batch.last_hash
        if batch.whole:
            self._renew = False
            self.failed = None
            if self._retry is not None:
                self._retry.cancel()
                self._retry = None

    def _not_durable(self, batch: _Batch, number: int) -> None:
        self._size = batch.size
        self._spoiled = True
        words = "its file was removed" if number in (ENOENT, ESTALE) else os.strerror(number)
        self._give_back(batch.items, f"The journal cannot be made durable: {words}: {self._path}")
        try:
            self._discard_segment()
        except OSError:
            return  # tried again before anything is written

    def _give_back(self, items: list[_Item], reason: str) -> None:
        """Fail those who wait, keep the others' lines for the next try, say what is wrong and try again later."""
        self.failed = reason
        self._fail(items, reason)
        kept = [item for item in items if item.waiter is None and item.lost is None]
        room = max(self._limits.kept - self._ends, 0)
        for item in kept[room:]:
            self._lose(item.ends)
        self._pending[:0] = kept[:room]
        self._ends = _ends(self._pending)
        if self._retry is None and not self._closing:
            self._retry = self._loop.call_later(self._limits.retry, self._try_again)

    def _lose(self, ends: str | None) -> None:
        if not self._lost:
            self._lost_since = self._clock()
        self._lost += 1
        if ends is not None:
            self._open.pop(ends, None)

    @staticmethod
    def _fail(items: Iterable[_Item], reason: str) -> None:
        for item in items:
            if item.waiter is not None:
                item.waiter.settle(JournalError(reason))

    def _watch(self) -> None:
        """Fail those who have waited too long; what they handed in may still become durable."""
        self._watchdog = None
        now = self._loop.time()
        waiting = [
            item
            for item in (*(self._batch.items if self._batch else ()), *self._pending)
            if item.waiter is not None and not item.waiter.done
        ]
        late = [item for item in waiting if item.since + self._limits.timeout <= now]
        if late:
            self.failed = f"The journal took longer than {self._limits.timeout:g} s"
            self._fail(late, self.failed)
            self._pending = [item for item in self._pending if item.waiter is None or not item.waiter.done]
        if len(waiting) > len(late):
            delay = waiting[len(late)].since + self._limits.timeout - now
            self._watchdog = self._loop.call_later(max(delay, 0.001), self._watch)
