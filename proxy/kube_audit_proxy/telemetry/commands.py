"""When is a command over, and what do its calls add up to? Pure: lines and times in, records of commands out.

Nobody says that a command has ended. It is taken for over when none of its calls runs and nothing has come of it for
a while. If it goes on after all (kubectl edit, while somebody types), there is another record, which adds up more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from kube_audit_proxy.audit.fields import Decision
from kube_audit_proxy.audit.trace import trace_id
from kube_audit_proxy.export.names import Kind
from kube_audit_proxy.telemetry.times import rfc3339

FORGOTTEN_AFTER = 900_000_000_000
"""Nanoseconds after which a command that is over is forgotten: what comes of it then, adds up from nothing."""

_SAID_BY_FIRST = ("user", "access_method", "command", "command_source")


@dataclass(slots=True)
class Command:
    """A command so far. Times are in nanoseconds since 1970; `told` is the number of calls in its last record."""

    command_id: str
    first: int
    last: int
    said: dict[str, Any]
    clusters: list[str]
    calls: int = 0
    running: int = 0
    denied: int = 0
    status: int = 0
    exit_code: int | None = None
    told: int = 0

    def record(self) -> dict[str, Any]:
        """Return the record of the command; a field that does not apply is absent."""
        record = {
            "kind": Kind.COMMAND.value,
            "stageTimestamp": rfc3339(self.last),
            "requestReceivedTimestamp": rfc3339(self.first),
            "command_id": self.command_id,
            "trace_id": trace_id(self.command_id),
            **self.said,
            "cluster": self.clusters[0] if self.clusters else None,
            "clusters": ",".join(self.clusters) or None,
            "calls": self.calls,
            "denied": self.denied,
            "status": self.status or None,
            "exit_code": self.exit_code,
            "duration_ms": round((self.last - self.first) / 1e6, 3),
        }
        return {key: value for key, value in record.items() if value is not None}


class Commands:
    """The commands that may still go on, fed with lines in the order of their times.

    `changed` holds the ids of those that changed since it was last cleared, for whoever keeps them on a disk.
    """

    def __init__(self, known: Iterable[Mapping[str, Any]] = ()) -> None:
        commands = [Command(**each) for each in known]
        # Those that are told are in the order in which they will be forgotten.
        told = sorted((each for each in commands if each.told == each.calls), key=lambda each: each.last)
        self._told = {each.command_id: each for each in told}
        self._open = {each.command_id: each for each in commands if each.command_id not in self._told}
        self._look_at = 0
        self.changed: set[str] = set()

    def started(self, command_id: str, moment: int) -> None:
        """Take the start of a call: a command is not over while one runs."""
        command = self._going_on(command_id, moment)
        command.running += 1
        command.last = max(command.last, moment)

    def ended(self, record: Mapping[str, Any], start: int, end: int, *common: Mapping[str, Any]) -> None:
        """Take the end of a call; what it has in common with others may be apart from the rest."""
        command = self._going_on(record["command_id"], start)
        parts = (*common, record)
        if start <= command.first or not command.said:
            command.first = min(start, command.first)
            command.said = {field: part[field] for part in parts for field in _SAID_BY_FIRST if field in part}
        command.last = max(command.last, end)
        command.running = max(command.running - 1, 0)
        command.calls += 1
        command.denied += record.get("decision") == Decision.DENY
        command.status = max(command.status, record.get("status", 0))
        if (code := record.get("exit_code")) is not None:
            command.exit_code = code if command.exit_code is None else max(command.exit_code, code)
        cluster = next((part["cluster"] for part in parts if "cluster" in part), None)
        if cluster is not None and cluster not in command.clusters:
            command.clusters.append(cluster)

    def over(self, now: int, idle: int) -> list[Command]:
        """Return the commands that are over at `now`, in the order of their ends; each once, until it goes on.

        `now` must not be later than the lines that were taken: a line that is still to come may belong to any of them.
        """
        self._forget(now)
        if self._look_at - idle <= now < self._look_at:
            return []
        resting = [each for each in self._open.values() if not each.running]
        over = sorted((each for each in resting if each.last + idle <= now), key=lambda each: each.last)
        news = [command for command in over if command.calls > command.told]
        for command in over:
            command.told = command.calls
            self._told[command.command_id] = self._open.pop(command.command_id)
            self.changed.add(command.command_id)
        self._look_at = min((each.last + idle for each in resting if each.command_id in self._open), default=now + idle)
        return news

    def state(self, command_id: str) -> bytes | None:
        """Return what is known of a command as JSON, for `known` of another time; None if it is forgotten."""
        command = self._open.get(command_id) or self._told.get(command_id)
        return orjson.dumps(command) if command else None

    def clear(self) -> None:
        """Forget all."""
        self.changed |= self._open.keys() | self._told.keys()
        self._open.clear()
        self._told.clear()

    def _going_on(self, command_id: str, moment: int) -> Command:
        self.changed.add(command_id)
        command = self._open.get(command_id)
        if command is None:
            command = self._told.pop(command_id, None) or Command(command_id, moment, moment, {}, [])
            self._open[command_id] = command
        return command

    def _forget(self, now: int) -> None:
        while self._told:
            oldest = next(iter(self._told.values()))
            if oldest.last + FORGOTTEN_AFTER > now:
                return
            del self._told[oldest.command_id]
            self.changed.add(oldest.command_id)
