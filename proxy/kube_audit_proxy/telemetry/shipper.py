"""Ships what the journal says, one signal at its own pace: lines to where logs go, spans to where traces go.

Read, make records of it, deliver, and only then note how far it has come. What was taken without that being noted is
sent again, byte for byte, after a restart.
"""

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import orjson

from kube_audit_proxy import __version__
from kube_audit_proxy.audit.trace import is_sampled, trace_id
from kube_audit_proxy.export.names import Kind, Signal
from kube_audit_proxy.telemetry import lines, spans
from kube_audit_proxy.telemetry.commands import Command, Commands
from kube_audit_proxy.telemetry.delivery import Delivery, Item
from kube_audit_proxy.telemetry.entries import Entry
from kube_audit_proxy.telemetry.lines import LineEncoder
from kube_audit_proxy.telemetry.merge import Found, Merge, Parsed
from kube_audit_proxy.telemetry.spans import SpanEncoder, Times
from kube_audit_proxy.telemetry.state import DeadLetter, Position, State
from kube_audit_proxy.telemetry.times import began, ended
from kube_audit_proxy.telemetry.transport import Transport

log = logging.getLogger(__name__)

_POLL = 0.1
"""Seconds between two looks for new lines."""

_SAVE_EVERY = 1.0
"""Seconds, while there is more to ship, between two notes of how far it has come."""

_MOST_LINES, _MOST_BYTES = 4000, 4 << 20
"""Of one round. A start is a line too."""


class RewoundError(Exception):
    """Somebody has set from where to ship: begin anew from there."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is shipped and how. `command_idle` (seconds) is how long a command has to be quiet to be over."""

    clusters: tuple[str, ...] = ()
    command_idle: float = 5.0
    sample: float = 1.0
    """The share of traces whose spans are sent; lines always are."""


class Shipper:
    """Ships one signal. `state` is its own.

    Its public attributes are replaced, never changed, so that other threads may look at them.
    """

    def __init__(
        self,
        signal: Signal,
        *,
        journal: Path,
        state: State,
        transport: Transport,
        settings: Settings,
        stop: Event,
        parsed: Parsed | None = None,
    ) -> None:
        self.signal = signal
        self._state = state
        self._idle = int(settings.command_idle * 1e9)
        self._stop = stop
        self._finishing = Event()
        self._epoch = state.epoch()
        self.positions: Mapping[str, Position] = state.positions(signal)
        self._commands = Commands(state.commands(signal))
        self._merge = Merge(journal, self.positions, self._unreadable, parsed)
        self._encode: _Lines | _Spans
        self._encode = _Lines(settings.clusters) if signal is Signal.LOGS else _Spans(settings.sample)
        self._delivery = Delivery(transport, self._encode.envelope, self._refused, stop)
        self._reached: dict[str, Found] = {}
        self._saved = 0.0
        self.tried = self._delivery.tried
        self.waiting: Mapping[str, int] = {}
        """By writer, the time of the oldest line that is not shipped, in nanoseconds."""
        self.dead_letters = state.count_dead_letters().get(signal, 0)

    def run(self) -> None:
        """Ship until told to stop, or to finish and nothing is left. Raises RewoundError."""
        while not self._stop.is_set():
            if self._state.epoch() != self._epoch:
                raise RewoundError
            finishing = self._finishing.is_set()
            more = self.step()
            if more is None or (finishing and not more):
                return
            if not more:
                self._finishing.wait(_POLL)

    def finish(self) -> None:
        """Let `run` return once all that is in the journal now is shipped. For another thread to call."""
        self._finishing.set()

    def step(self) -> bool | None:
        """Ship what comes next; tell whether there is more, None if it was told to stop before it was taken."""
        found, more = self._merge.take(_MOST_LINES, _MOST_BYTES)
        self.waiting = self._merge.oldest() | {each.writer: each.entry.time for each in reversed(found)}
        if self._merge.restarted():
            self._commands.clear()
        items = self._items(found)
        # Nothing earlier is to come than the last line, or the present where all has been read.
        now = found[-1].entry.time if more else time.time_ns()
        items += self._commands_over(now)
        if items and not self._delivery.deliver(items):
            return None
        self._reached |= {each.writer: each for each in found}
        if not more or time.monotonic() - self._saved > _SAVE_EVERY:
            self._save()
        self.waiting = self._merge.oldest()
        return more

    def _items(self, found: list[Found]) -> list[Item]:
        items: list[Item] = []
        for each in found:
            writer, entry = each.writer, each.entry
            record = entry.record
            if record is None:
                if entry.command_id is not None:
                    self._commands.started(entry.command_id, entry.time)
                continue
            try:
                times = _times(record, entry.time) if entry.kind is Kind.CALL else None
                content = self._encode.entry(entry, each.exported, times)
                if times is not None and "command_id" in record:
                    self._commands.ended(record, *times, *[part.record for part in entry.common])
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a record, the others go on
                self._bury(writer, entry.seq, entry.line, f"not a record: {error!r}")
                continue
            if content:
                items.append(Item(content, writer, entry.seq, entry.line))
        return items

    def _commands_over(self, now: int) -> list[Item]:
        items: list[Item] = []
        for command in self._commands.over(now, self._idle):
            try:
                items += self._encode.command(command)
            except Exception as error:  # noqa: BLE001 - as above
                said = repr(command).encode("utf-8", "replace")
                self._bury("", command.calls, said, f"no record can be made of it: {error!r}")
        return items

    def _save(self) -> None:
        reached = {writer: each.position for writer, each in self._reached.items()}
        changed = self._commands.changed
        if reached or changed:
            self._state.save(self.signal, reached, {each: self._commands.state(each) for each in changed})
            self.positions = {**self.positions, **reached}
            self._reached.clear()
            changed.clear()
        self._saved = time.monotonic()

    def _refused(self, item: Item, reason: str) -> None:
        self._bury(item.writer, item.seq, item.line, reason)

    def _unreadable(self, writer: str, seq: int, line: bytes, reason: str) -> None:
        self._bury(writer, seq, line, reason)

    def _bury(self, writer: str, seq: int, line: bytes, reason: str) -> None:
        log.error("line %d of %s is not taken as %s, and kept as a dead letter: %s", seq, writer, self.signal, reason)
        self._state.bury([DeadLetter(self.signal, writer, seq, time.time(), reason[:1000], line)])
        self.dead_letters += 1


def _times(record: Mapping[str, Any], reached: int) -> Times:
    start = began(record)
    return Times(start, ended(record, start, reached))


class _Lines:
    """Makes log records."""

    envelope = staticmethod(lines.request)

    def __init__(self, clusters: Collection[str]) -> None:
        self._encoder = LineEncoder(clusters)

    def entry(self, entry: Entry, exported: int, _times: Times | None) -> bytes:
        assert entry.record is not None and entry.kind is not None  # noqa: S101, PT018 - the caller's promise
        return self._encoder.encode(
            entry.record, entry.line, entry.common, time=entry.time, kind=entry.kind, export_seq=exported
        )

    def command(self, command: Command) -> list[Item]:
        record = command.record()
        line = orjson.dumps(record)
        content = self._encoder.encode(record, line, (), time=command.last, kind=Kind.COMMAND)
        return [Item(content, "", command.calls, line)]


class _Spans:
    """Makes spans."""

    def __init__(self, sample: float) -> None:
        self._encoder = SpanEncoder()
        self._sample = sample

    @staticmethod
    def envelope(contents: list[bytes]) -> bytes:
        return spans.request(contents, __version__)

    def entry(self, entry: Entry, _exported: int, times: Times | None) -> bytes:
        record = entry.record
        if times is None or record is None or not self._kept(record.get("command_id") or record["auditID"]):
            return b""
        return self._encoder.encode_call(record, times, entry.common)

    def command(self, command: Command) -> list[Item]:
        if not self._kept(command.command_id):
            return []
        record = command.record()
        content = self._encoder.encode_command(record, Times(command.first, command.last))
        return [Item(content, "", command.calls, orjson.dumps(record))]

    def _kept(self, uuid: str) -> bool:
        return is_sampled(trace_id(uuid), self._sample)
