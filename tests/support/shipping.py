"""Ships journals that tests have written, in this process, to wherever a test says."""

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from kube_audit_proxy.config import ClusterConfig, Config, TelemetryConfig
from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.process.shipper import make_shippers
from kube_audit_proxy.telemetry.shipper import Shipper
from kube_audit_proxy.telemetry.state import State, opened_for_reading
from kube_audit_proxy.telemetry.transport import Answer, Verdict
from support import journals
from support.journals import Record

COMMAND_IDLE = 5.0


def config(data_dir: Path, cluster: str, endpoint: str = "", signals: Sequence[Signal] = tuple(Signal)) -> Config:
    """Give the configuration of a proxy of one cluster whose records are shipped."""
    telemetry = TelemetryConfig(endpoint=endpoint, signals=tuple(signals), command_idle=COMMAND_IDLE)
    return Config(data_dir, (ClusterConfig(cluster),), telemetry=telemetry)


@contextmanager
def shippers(settings: Config, stop: Event | None = None) -> Iterator[dict[Signal, Shipper]]:
    """Make the shippers of a configuration, as the shipper's process does."""
    with ExitStack() as stack:
        yield {each.signal: each for each in make_shippers(settings, stack, stop or Event())}


def ship_all(settings: Config) -> dict[Signal, Shipper]:
    """Ship what there is, and give the shippers as they then are."""
    with shippers(settings) as made:
        for each in made.values():
            each.finish()
            each.run()
        return made


@contextmanager
def shipping(settings: Config) -> Iterator[dict[Signal, Shipper]]:
    """Ship in threads until the end of the block, as the shipper's process does."""
    stop = Event()
    with shippers(settings, stop) as made:
        threads = [Thread(target=each.run) for each in made.values()]
        for thread in threads:
            thread.start()
        try:
            yield made
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@contextmanager
def state_of(settings: Config) -> Iterator[State]:
    """Open what the shippers of a configuration have noted."""
    with opened_for_reading(settings.shipped) as state:
        yield state


def calls(
    cluster: str, count: int, *, begin: datetime | None = None, apart: float = 0.01, **fields: Any
) -> list[Record]:
    """Give the lines of so many calls, `apart` seconds from each other; from a minute ago if nothing is said."""
    begin = begin or datetime.now(UTC) - timedelta(minutes=1)
    return [
        line
        for number in range(count)
        for line in call(begin + timedelta(seconds=apart * number), cluster=cluster, **fields)
    ]


def call(received: datetime, **fields: Any) -> tuple[Record, Record]:
    """Give both lines of a call that was received at a time."""
    stamp = journals.stamp(received)
    new = {"auditID": str(uuid.uuid4()), "requestReceivedTimestamp": stamp, "stageTimestamp": stamp}
    start = journals.start(**{**new, **fields})
    return start, journals.end(start, **{key: fields[key] for key in fields if key in _OF_THE_END})


class TakesAll:
    """A place that takes everything and keeps nothing."""

    where = "nowhere"

    def send(self, _request: bytes) -> Answer:
        """Take it."""
        return Answer(Verdict.TAKEN)

    def close(self) -> None:
        """Have nothing to close."""


def ends(lines: Iterable[Record]) -> list[Record]:
    """Give the ends among lines."""
    return [line for line in lines if line.get("stage") in {"ResponseComplete", "Panic"}]


def clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave nothing of the caller's own OpenTelemetry settings."""
    for name in [each for each in os.environ if each.startswith("OTEL_")]:
        monkeypatch.delenv(name)


_OF_THE_END = frozenset(("duration_ms", "status", "decision", "outcome", "exit_code", "decided_by"))
