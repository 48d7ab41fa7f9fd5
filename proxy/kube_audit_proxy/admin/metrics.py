"""What the processes have counted, and how far the index is behind, as Prometheus reads it."""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from kube_audit_proxy import __version__
from kube_audit_proxy.admin.lag import Lag
from kube_audit_proxy.process.status import Histogram, Sample, Snapshot

PREFIX = "kube_audit_proxy_"

Each = TypeVar("Each", Sample, Histogram)


@dataclass(frozen=True, slots=True)
class Description:
    """A metric that snapshots may have: its name without the prefix, what it tells, and its labels beside `process`.

    Counters get `_total` behind their name.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()


COUNTERS = (
    Description(
        "calls",
        "API calls that have ended, by decision, class of the HTTP status and what they can do (read, write, exec).",
        ("decision", "code", "verb_class"),
    ),
    Description("connections", "Connections accepted from clients."),
    Description("request_bytes", "Bytes of requests' bodies and streams sent on to API servers."),
    Description("response_bytes", "Bytes of answers' bodies and streams sent to clients."),
    Description("shipped_records", "Records that the backend has taken.", ("signal",)),
    Description("ship_retries", "Attempts to ship that were repeated.", ("signal",)),
    Description("ship_failures", "Attempts to ship that failed.", ("signal", "reason")),
    Description("dead_letters", "Records that the backend refuses, which are kept aside.", ("signal",)),
)

GAUGES = (
    Description("connections_open", "Connections of clients that are open."),
    Description("calls_in_flight", "API calls that have begun and not ended."),
    Description("journal_bytes", "Bytes that the journal takes on disk."),
    Description("journal_segments", "Files that the journal consists of."),
    Description("ship_lag_seconds", "Age of the oldest line that is not shipped yet; 0 where there is none.",
                ("signal", "writer")),
    Description("shipped_seq", "Number of the last line of the journal that is shipped.", ("signal", "writer")),
    Description("ship_last_success_timestamp_seconds", "When the backend took something last.", ("signal",)),
)  # fmt: skip

HISTOGRAMS = (
    Description("call_duration_seconds", "Duration of API calls, end to end, without those that last (watch, exec)."),
    Description("upstream_duration_seconds", "The part of it between the first byte sent upstream and the last back."),
    Description("journal_commit_seconds", "Time until the start of a call was durable."),
)


class ProxyCollector(Collector):
    """Collects at each scrape, from what is asked then.

    `expected` gives the processes there are to be, `read` the snapshots, `lags` the index's lag, `wall` the Unix time.
    """

    def __init__(
        self,
        expected: Callable[[], Sequence[str]],
        read: Callable[[], Mapping[str, Snapshot]],
        lags: Callable[[], Mapping[str, Lag]],
        wall: Callable[[], float],
    ) -> None:
        self._expected = expected
        self._read = read
        self._lags = lags
        self._wall = wall

    def collect(self) -> Iterable[Metric]:
        """Return all metrics as they are now. What a process that does not live has said is left out."""
        now = self._wall()
        snapshots = self._read()
        alive = {name: each for name, each in snapshots.items() if each.alive(now)}
        yield InfoMetricFamily(
            f"{PREFIX}build",
            "The program's version.",
            {"version": __version__, "python_version": platform.python_version()},
        )
        yield from _processes(self._expected(), snapshots, alive, now)
        yield from _counters(alive)
        yield from _gauges(alive)
        yield from _histograms(alive)
        yield from _journal(self._lags(), now)


def _processes(
    expected: Sequence[str], snapshots: Mapping[str, Snapshot], alive: Mapping[str, Snapshot], now: float
) -> Iterable[Metric]:
    up = GaugeMetricFamily(f"{PREFIX}up", "Whether the process lives.", labels=("process",))
    ready = GaugeMetricFamily(f"{PREFIX}ready", "Whether the process can do its work.", labels=("process",))
    age = GaugeMetricFamily(f"{PREFIX}snapshot_age_seconds", "Since the process's sign of life.", labels=("process",))
    for name in dict.fromkeys((*expected, *alive)):
        up.add_metric([name], name in alive)
        ready.add_metric([name], name in alive and alive[name].ready)
        if name in snapshots:
            age.add_metric([name], max(0.0, now - snapshots[name].at))
    return up, ready, age


def _counters(alive: Mapping[str, Snapshot]) -> Iterable[Metric]:
    for description in COUNTERS:
        family = CounterMetricFamily(PREFIX + description.name, description.help, labels=_labels(description))
        for process, sample in _samples(alive, description.name, lambda each: each.counters):
            family.add_metric(_values(description, process, sample), sample.value)
        yield family


def _gauges(alive: Mapping[str, Snapshot]) -> Iterable[Metric]:
    for description in GAUGES:
        family = GaugeMetricFamily(PREFIX + description.name, description.help, labels=_labels(description))
        for process, sample in _samples(alive, description.name, lambda each: each.gauges):
            family.add_metric(_values(description, process, sample), sample.value)
        yield family


def _histograms(alive: Mapping[str, Snapshot]) -> Iterable[Metric]:
    for description in HISTOGRAMS:
        family = HistogramMetricFamily(PREFIX + description.name, description.help, labels=_labels(description))
        for process, histogram in _samples(alive, description.name, lambda each: each.histograms):
            bounds = (*map(str, histogram.bounds), "+Inf")
            buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
            family.add_metric(_values(description, process, histogram), buckets, histogram.sum)
        yield family


def _journal(lags: Mapping[str, Lag], now: float) -> Iterable[Metric]:
    written = CounterMetricFamily(f"{PREFIX}journal_lines", "Lines written to the journal.", labels=("writer",))
    lines = GaugeMetricFamily(f"{PREFIX}index_lag_lines", "Lines that are not in the index yet.", labels=("writer",))
    seconds = GaugeMetricFamily(f"{PREFIX}index_lag_seconds", "Age of the oldest of them; 0 where there is none.",
                                labels=("writer",))  # fmt: skip
    for writer, lag in lags.items():
        written.add_metric([writer], lag.written)
        lines.add_metric([writer], lag.lines)
        seconds.add_metric([writer], max(0.0, now - lag.since) if lag.since is not None else 0.0)
    return written, lines, seconds


def _samples(
    alive: Mapping[str, Snapshot], name: str, of: Callable[[Snapshot], Iterable[Each]]
) -> Iterable[tuple[str, Each]]:
    return ((process, each) for process, snapshot in alive.items() for each in of(snapshot) if each.name == name)


def _labels(description: Description) -> tuple[str, ...]:
    return ("process", *description.labels)


def _values(description: Description, process: str, each: Sample | Histogram) -> list[str]:
    labels = dict(each.labels)
    return [process, *(labels.get(name, "") for name in description.labels)]
