"""Gets items taken by the other side: again and again while it cannot, and around those that it never will."""

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import NamedTuple

from kube_audit_proxy.telemetry.transport import MOST_BYTES, Answer, Transport, Verdict

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0
_TOO_MUCH_TWICE = 2
"""So often a request is sent as it is before less is sent at a time."""

_TELL_EVERY = 60.0
"""Seconds between two complaints about one and the same trouble."""


class Item(NamedTuple):
    """A serialized record on its way, and the line it comes from."""

    content: bytes
    writer: str
    seq: int
    line: bytes


@dataclass(slots=True)
class Tried:
    """What came of all attempts so far, for whoever watches."""

    delivered: int = 0
    requests: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    problem: str = ""
    """What is wrong at present, "" while all is well."""
    last_success: float = 0.0
    """Seconds since 1970."""


class Delivery:
    """Delivers the items of one signal.

    `envelope` makes a request of items' contents; `refused` is told of each item that is refused by itself.
    """

    def __init__(
        self,
        transport: Transport,
        envelope: Callable[[list[bytes]], bytes],
        refused: Callable[[Item, str], None],
        stop: Event,
    ) -> None:
        self._transport = transport
        self._envelope = envelope
        self._refused = refused
        self._stop = stop
        self._told = 0.0
        self.tried = Tried()

    def deliver(self, items: Sequence[Item]) -> bool:
        """Return True once each item is taken or refused by itself; False if it was told to stop before that."""
        waiting = [list(part) for part in _parts(items)]
        while waiting:
            part = waiting.pop(0)
            answer = self._send_until_answered(part)
            if answer is None:
                return False
            if answer.verdict is Verdict.TAKEN:
                self.tried.delivered += len(part)
            elif len(part) == 1:
                self._refused(part[0], answer.reason)
            else:
                # Which of them it is nobody says, nor how much is too much. What is taken twice changes nothing.
                half = len(part) // 2
                waiting[:0] = [part[:half], part[half:]]
        return True

    def _send_until_answered(self, part: Sequence[Item]) -> Answer | None:
        request = self._envelope([item.content for item in part])
        pause, too_much = _FIRST_PAUSE, 0
        while True:
            answer = self._transport.send(request)
            self.tried.requests += 1
            if answer.verdict in {Verdict.TAKEN, Verdict.REFUSED}:
                self._well()
                return answer
            self._in_trouble(answer.reason)
            too_much += answer.verdict is Verdict.TOO_MUCH
            if too_much >= _TOO_MUCH_TWICE and len(part) > 1:
                return answer
            if self._stop.wait(max(pause * random.uniform(0.8, 1.2), answer.wait or 0)):  # noqa: S311 - no secret
                return None
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _well(self) -> None:
        if self.tried.problem:
            log.info("%s takes records again", self._transport.where)
        self.tried.problem, self._told = "", 0.0
        self.tried.last_success = time.time()

    def _in_trouble(self, reason: str) -> None:
        kind = reason.partition(":")[0][:64]
        self.tried.failures[kind] = self.tried.failures.get(kind, 0) + 1
        self.tried.problem = f"{self._transport.where}: {reason}"
        now = time.monotonic()
        if not self._told or now - self._told > _TELL_EVERY:
            self._told = now
            log.warning("%s does not take records, which wait in the journal: %s", self._transport.where, reason)


def _parts(items: Sequence[Item]) -> list[Sequence[Item]]:
    """Cut items into requests that are not too large."""
    parts: list[Sequence[Item]] = []
    start = size = 0
    for number, item in enumerate(items):
        if size and size + len(item.content) > MOST_BYTES:
            parts.append(items[start:number])
            start, size = number, 0
        size += len(item.content)
    return [*parts, items[start:]] if start < len(items) else parts
