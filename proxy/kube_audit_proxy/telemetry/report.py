"""What the shipper says of itself in its snapshot."""

import time
from collections.abc import Iterable, Iterator

from kube_audit_proxy import __version__
from kube_audit_proxy.process.status import Kind, Sample, Snapshot
from kube_audit_proxy.telemetry.shipped import PROCESS
from kube_audit_proxy.telemetry.shipper import Shipper


def snapshot(shippers: Iterable[Shipper]) -> Snapshot:
    """Return what is to be told of the shippers of all signals."""
    all_of_them = list(shippers)
    problems = " ".join(f"{each.signal}: {each.tried.problem}." for each in all_of_them if each.tried.problem)
    return Snapshot(
        process=PROCESS,
        kind=Kind.SHIPPER,
        version=__version__,
        at=time.time(),
        ready=not problems,
        problem=problems,
        counters=tuple(sample for each in all_of_them for sample in _counters(each)),
        gauges=tuple(sample for each in all_of_them for sample in _gauges(each, time.time())),
    )


def _counters(shipper: Shipper) -> Iterator[Sample]:
    signal = ("signal", shipper.signal.value)
    tried = shipper.tried
    yield Sample("shipped_records", tried.delivered, (signal,))
    yield Sample("ship_retries", sum(tried.failures.values()), (signal,))
    yield Sample("dead_letters", shipper.dead_letters, (signal,))
    for reason, count in list(tried.failures.items()):
        yield Sample("ship_failures", count, (signal, ("reason", reason)))


def _gauges(shipper: Shipper, now: float) -> Iterator[Sample]:
    signal = ("signal", shipper.signal.value)
    yield Sample("ship_last_success_timestamp_seconds", shipper.tried.last_success, (signal,))
    waiting = dict(shipper.waiting)
    for writer, position in shipper.positions.items():
        labels = (signal, ("writer", writer))
        yield Sample("shipped_seq", position.seq, labels)
        yield Sample("ship_lag_seconds", _age(waiting.get(writer), now), labels)


def _age(time_ns: int | None, now: float) -> float:
    return round(max(now - time_ns / 1e9, 0.0), 3) if time_ns is not None else 0.0
