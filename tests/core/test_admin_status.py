"""What processes say of themselves is read as it was written, and becomes metrics and health."""

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from kube_audit_proxy import __version__
from kube_audit_proxy.admin import health
from kube_audit_proxy.admin.lag import Lag
from kube_audit_proxy.admin.metrics import COUNTERS, GAUGES, HISTOGRAMS, ProxyCollector
from kube_audit_proxy.process.status import (
    ALIVE_FOR,
    Histogram,
    Kind,
    Sample,
    Snapshot,
    gauges,
    read,
    write,
)
from kube_audit_proxy.process.tally import Tally

NOW = 1_795_000_000.0


def worker(name: str = "w0", at: float = NOW, problem: str = "") -> Snapshot:
    """Return what a worker says that has carried three calls."""
    tally = Tally()
    tally.connections = 2
    tally.count(200, "allow", 3.0, 2.0, 10, 3000, "read")
    tally.count(201, "allow", 1.0, 0.5, 5, 100, "write")
    tally.count(101, "allow", None, 9e6, 7, 1, "exec")
    tally.count(403, "deny", 99_999.0, None)
    tally.committed(0.3)
    return tally.snapshot(name, "1.2.3", at, problem=problem, gauges=gauges({"calls_in_flight": 4}))


def scraped(
    *snapshots: Snapshot, lags: dict[str, Lag] | None = None
) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample of a scrape, as a real parser reads it."""
    registry = CollectorRegistry(auto_describe=False)
    named = {each.process: each for each in snapshots}
    registry.register(ProxyCollector(lambda: ["w0", "indexer"], lambda: named, lambda: lags or {}, lambda: NOW))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    samples = [sample for family in families for sample in family.samples]
    found = {
        (sample.name.removeprefix("kube_audit_proxy_"), frozenset(sample.labels.items())): sample.value
        for sample in samples
    }
    assert len(found) == len(samples)
    return found


def labels(**values: str) -> frozenset[tuple[str, str]]:
    """Return labels as a key."""
    return frozenset(values.items())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Each process's last word comes back whole, and nobody else can read the files."""
    run = tmp_path / "data" / "run"
    shipper = Snapshot("shipper", Kind.SHIPPER, "1", NOW, ready=False, problem='The "backend" is away.',
                       counters=(Sample("ship_failures", 2.0, (("signal", "logs"), ("reason", "429"))),),
                       histograms=(Histogram("x", (1.0,), (3, 4), 5.5, (("a", "b"),)),))  # fmt: skip
    assert read(run) == {}
    for snapshot in (worker(), shipper, worker(at=NOW + 5)):
        write(run, snapshot)
    assert read(run) == {"w0": worker(at=NOW + 5), "shipper": shipper}
    assert [path.stat().st_mode & 0o777 for path in (run, *run.iterdir())] == [0o700, 0o600, 0o600]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"process": "w0"', b'{"process": "w0", "kind": "poet"}'])
def test_what_cannot_be_read_is_left_out(tmp_path: Path, content: bytes) -> None:
    """A file that another version of the program left does not hide the others."""
    write(tmp_path, worker("w1"))
    (tmp_path / "w0.json").write_bytes(content)
    assert list(read(tmp_path)) == ["w1"]


def test_metrics_of_a_worker() -> None:
    """Calls by what became of them, durations in seconds and cumulative buckets, sums, gauges, and that it lives."""
    found = scraped(worker())
    calls = {key[1]: value for key, value in found.items() if key[0] == "calls_total"}
    assert calls == {
        labels(process="w0", decision="allow", code="2xx", verb_class="read"): 1,
        labels(process="w0", decision="allow", code="2xx", verb_class="write"): 1,
        labels(process="w0", decision="allow", code="1xx", verb_class="exec"): 1,
        labels(process="w0", decision="deny", code="4xx", verb_class=""): 1,
    }
    w0 = labels(process="w0")
    assert found["connections_total", w0] == 2
    assert found["request_bytes_total", w0] == 22
    assert found["response_bytes_total", w0] == 3101
    assert found["calls_in_flight", w0] == 4
    buckets = {dict(key[1])["le"]: value for key, value in found.items() if key[0] == "call_duration_seconds_bucket"}
    assert (buckets["0.001"], buckets["0.0025"], buckets["0.005"], buckets["30.0"], buckets["+Inf"]) == (1, 1, 2, 2, 3)
    assert found["call_duration_seconds_count", w0] == 3
    assert found["call_duration_seconds_sum", w0] == pytest.approx(100.003)
    assert found["upstream_duration_seconds_count", w0] == 2
    assert found["upstream_duration_seconds_sum", w0] == pytest.approx(0.0025)
    assert found["journal_commit_seconds_bucket", labels(process="w0", le="0.0005")] == 1
    assert (found["up", w0], found["ready", w0], found["up", labels(process="indexer")]) == (1, 1, 0)
    assert [dict(key[1])["version"] for key in found if key[0] == "build_info"] == [__version__]


def test_a_dead_process_says_nothing() -> None:
    """What a process said before it died is no metric any more; that it is dead is one."""
    found = scraped(worker(at=NOW - ALIVE_FOR - 1))
    assert found["up", labels(process="w0")] == found["ready", labels(process="w0")] == 0
    assert found["snapshot_age_seconds", labels(process="w0")] == ALIVE_FOR + 1
    assert not [key for key in found if key[0].startswith(("calls", "connections", "call_duration"))]


def test_every_metric_is_described_once_and_its_labels_kept() -> None:
    """All that the tables name is exported, with its labels; what they do not name is not."""
    described = (*COUNTERS, *GAUGES, *HISTOGRAMS)
    assert len({each.name for each in described}) == len(described)
    values = {each.name: tuple((label, f'"{label}"\n') for label in each.labels) for each in described}
    snapshot = Snapshot(
        "w0", Kind.WORKER, "1", NOW, ready=True,
        counters=(Sample("unheard_of", 1), *(Sample(each.name, 1, values[each.name]) for each in COUNTERS)),
        gauges=tuple(Sample(each.name, 2, values[each.name]) for each in GAUGES),
        histograms=tuple(Histogram(each.name, (1.0,), (1, 2), 3.0, values[each.name]) for each in HISTOGRAMS),
    )  # fmt: skip
    found = scraped(snapshot)
    for names, ending, value in ((COUNTERS, "_total", 1), (GAUGES, "", 2), (HISTOGRAMS, "_sum", 3)):
        for each in names:
            assert found[each.name + ending, labels(process="w0", **dict(values[each.name]))] == value
    assert not [key for key in found if "unheard" in key[0]]
    used = worker()
    assert {each.name for each in used.counters} <= set(values)
    assert {each.name for each in used.histograms} <= set(values)


def test_lag_of_the_index() -> None:
    """Lines still to be read and the age of the first of them are told for each writer, without any process's help."""
    found = scraped(lags={"w0": Lag(90, 100, NOW - 7), "w1": Lag(5, 5, None)})
    w0, w1 = labels(writer="w0"), labels(writer="w1")
    assert (found["index_lag_lines", w0], found["index_lag_seconds", w0]) == (10, 7)
    assert (found["index_lag_lines", w1], found["index_lag_seconds", w1]) == (0, 0)
    assert found["journal_lines_total", w0] == 100


def test_health() -> None:
    """Healthy is where all live; ready is where all workers live and can record; what is wrong is told by name."""
    indexer = Snapshot("indexer", Kind.INDEXER, "1", NOW, ready=True)
    expected = ["w0", "w1", "indexer"]
    good = {"w0": worker(), "w1": worker("w1"), "indexer": indexer}
    workers = ["w0", "w1"]
    assert health.alive(expected, good, NOW).text("healthz", verbose=False) == "ok\n"
    assert health.ready(workers, good, NOW).text("readyz", verbose=False) == "ok\n"
    assert health.alive(expected, good, NOW).text("healthz", verbose=True) == (
        "[+]w0 ok\n[+]w1 ok\n[+]indexer ok\nhealthz check passed\n"
    )
    late = good | {"indexer": replace(indexer, at=NOW - ALIVE_FOR - 1)}
    assert (
        "[-]indexer failed: it has given no sign of life for more than 15 s" in health.alive(expected, late, NOW).lines
    )
    assert health.ready(workers, late, NOW).good
    full = good | {"w1": worker("w1", problem="The journal cannot be written: No space left on device")}
    assert health.alive(expected, full, NOW).good
    assert health.ready(workers, full, NOW).text("readyz", verbose=False) == (
        "[+]w0 ok\n[-]w1 failed: The journal cannot be written: No space left on device\nreadyz check failed\n"
    )
    assert not health.ready(workers, {}, NOW).good
