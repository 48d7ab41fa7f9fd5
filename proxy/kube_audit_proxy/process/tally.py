"""What a worker counts of its calls. Compiled, as all is that every call comes through."""

from typing import Final

from kube_audit_proxy.audit.fields import Decision
from kube_audit_proxy.process.status import Histogram, Kind, Sample, Snapshot

# Milliseconds, as calls are measured.
_CALL_BOUNDS: Final[tuple[float, ...]] = (
    1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 30_000.0,
)  # fmt: skip
_COMMIT_BOUNDS: Final[tuple[float, ...]] = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1000.0, 5000.0)


class Tally:
    """What a worker counts of its calls, in well under a microsecond each. For one thread.

    `connections` (accepted so far) is the caller's to increase.
    """

    __slots__ = (
        "_calls",
        "_commit",
        "_commit_sum",
        "_duration",
        "_duration_sum",
        "_request_bytes",
        "_response_bytes",
        "_upstream",
        "_upstream_sum",
        "connections",
    )

    def __init__(self) -> None:
        self._calls: dict[tuple[str, int, str], int] = {}
        self._duration = [0] * (len(_CALL_BOUNDS) + 1)
        self._upstream = [0] * (len(_CALL_BOUNDS) + 1)
        self._commit = [0] * (len(_COMMIT_BOUNDS) + 1)
        self._duration_sum = self._upstream_sum = self._commit_sum = 0.0
        self._request_bytes = self._response_bytes = 0
        self.connections = 0

    def count(  # noqa: PLR0917 - names would cost more than some of the work
        self,
        status: int,
        decision: str,
        duration_ms: float | None,
        upstream_ms: float | None,
        request_bytes: int = 0,
        response_bytes: int = 0,
        verb_class: str = "",
    ) -> None:
        """Count a call that has ended. A `duration_ms` of None is for those that last, which says nothing of speed."""
        key = (decision, status, verb_class)
        calls = self._calls
        calls[key] = calls.get(key, 0) + 1
        self._request_bytes += request_bytes
        self._response_bytes += response_bytes
        if duration_ms is None:
            return
        self._duration[_bucket(_CALL_BOUNDS, duration_ms)] += 1
        self._duration_sum += duration_ms
        if upstream_ms is not None:
            self._upstream[_bucket(_CALL_BOUNDS, upstream_ms)] += 1
            self._upstream_sum += upstream_ms

    def refused(self) -> int:
        """Return how many calls were not let through."""
        return sum(calls for (decision, _, _), calls in self._calls.items() if decision != Decision.ALLOW)

    def committed(self, ms: float) -> None:
        """Count how long the start of a call took to become durable."""
        self._commit[_bucket(_COMMIT_BOUNDS, ms)] += 1
        self._commit_sum += ms

    def snapshot(
        self, process: str, version: str, at: float, *, problem: str = "", gauges: tuple[Sample, ...] = ()
    ) -> Snapshot:
        """Return what has been counted; a worker with a problem is not ready."""
        by_class: dict[tuple[str, str, str], int] = {}
        for (decision, status, verb_class), calls in self._calls.items():
            labels = (decision, f"{status // 100}xx" if status else "none", verb_class)
            by_class[labels] = by_class.get(labels, 0) + calls
        counters = [
            Sample("calls", calls, tuple(zip(("decision", "code", "verb_class"), labels, strict=True)))
            for labels, calls in by_class.items()
        ]
        counters += [
            Sample("connections", self.connections),
            Sample("request_bytes", self._request_bytes),
            Sample("response_bytes", self._response_bytes),
        ]
        histograms = (
            _in_seconds("call_duration_seconds", _CALL_BOUNDS, self._duration, self._duration_sum),
            _in_seconds("upstream_duration_seconds", _CALL_BOUNDS, self._upstream, self._upstream_sum),
            _in_seconds("journal_commit_seconds", _COMMIT_BOUNDS, self._commit, self._commit_sum),
        )
        return Snapshot(process, Kind.WORKER, version, at, not problem, problem, tuple(counters), gauges, histograms)


def _in_seconds(name: str, bounds: tuple[float, ...], counts: list[int], total: float) -> Histogram:
    return Histogram(name, tuple(bound / 1000 for bound in bounds), tuple(counts), total / 1000)


def _bucket(bounds: tuple[float, ...], value: float) -> int:
    """Return in which bucket a value is. Most are small, so that this is faster than to search by halves."""
    for number, bound in enumerate(bounds):
        if value <= bound:
            return number
    return len(bounds)
