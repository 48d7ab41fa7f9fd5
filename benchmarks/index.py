"""`python -m benchmarks.index [CALLS]`: how fast the index is filled, how far it is behind, and how fast it answers.

The calls are those of a company (`journals.Population`): 400 callers in 300 namespaces, pods that come and go, one call
in twenty refused or in vain. Pages are asked for as `kubectl audit log` does: the file is opened for each. With ten
million calls, which is what is measured where no number is given, this takes about half an hour, and 20 GB in /var/tmp.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing import Process
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.goals import Figure, save
from benchmarks.journals import Population, overlapping, write_lines, write_varied_journal
from kube_audit_proxy.admin.lag import lags
from kube_audit_proxy.index.filters import parse
from kube_audit_proxy.index.indexer import heads, index_once, run
from kube_audit_proxy.index.reader import Index
from kube_audit_proxy.index.schema import FILE_NAME, open_for_writing

CALLS, TIMED, FILLED, EXPORTED = 10_000_000, 200_000, 5, 1_000_000
PER_SECOND, SECONDS = 2_000, 20
PAGE, REPEATED = 100, 5
_BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


def main() -> None:
    """Measure, print tables, and write benchmarks/results/index.json."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else CALLS
    measured: dict[str, Any] = {"calls": calls}
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="kube-audit-proxy-bench-") as folder:
        home = Path(folder)
        measured |= {"filling": _filling(home / "filling"), "lag_seconds": _lag(home / "lag")}
        trail = home / "trail"
        _grow(trail, EXPORTED, "w0", 1)
        measured["csv"] = _export(trail)
        if calls // 10 != EXPORTED:
            trail = home / "tenth"
            _grow(trail, calls // 10, "w0", 1)
        pages = {"tenth": _pages(trail / FILE_NAME)}
        _grow(trail, calls - calls // 10, "w1", 2)
        pages["all"] = _pages(trail / FILE_NAME)
        measured["index_bytes_per_call"] = (trail / FILE_NAME).stat().st_size / calls
    tenth, all_ = (_p95(pages[size].values()) for size in ("tenth", "all"))
    measured["pages_ms"] = pages
    _show(pages)
    save(
        "index",
        measured,
        [
            Figure("index: rows per second", measured["filling"]["rows_per_second"], 20_000, at_most=False),
            Figure("index: lag at 2,000 calls/s (s)", max(measured["lag_seconds"]), 1),
            Figure(f"first page of {calls:,} calls, p95 (ms)", all_, 200),
            Figure("first page, p95 / that of a tenth of the calls", all_ / tenth, 1.5),
            Figure("CSV of 1 M calls (s)", measured["csv"]["seconds"], 20),
            Figure("CSV of 1 M calls, peak memory (MB)", measured["csv"]["peak_mb"], 150),
        ],
    )


def _filling(home: Path) -> dict[str, float]:
    """Index a journal that is there, several times over; give the medians."""
    write_varied_journal(home / "journal", TIMED, begin=_BEGIN)
    rounds = [_filled(home / "journal", home / f"{number}.db") for number in range(FILLED)]
    return {key: median(each[key] for each in rounds) for key in rounds[0]}


def _filled(journal: Path, path: Path) -> dict[str, float]:
    with closing(open_for_writing(path)) as db:
        begin, used = time.perf_counter(), time.process_time()
        index_once(db, journal)
        seconds, used = time.perf_counter() - begin, time.process_time() - used
    return {"rows_per_second": TIMED / seconds, "cpu_us_per_row": used / TIMED * 1e6}


def _lag(home: Path) -> list[float]:
    """Follow a journal that grows; return how long the oldest line was there that was not in the index, many times."""
    (home / "journal").mkdir(parents=True)
    stop = threading.Event()
    writing = Process(target=_write_live, args=(home / "journal",))
    following = Process(target=_follow, args=(home,))
    writing.start()
    following.start()
    found: list[float] = []
    written = deque[tuple[float, int]]()
    try:
        while writing.is_alive():
            stop.wait(0.05)
            now = time.monotonic()
            for lag in lags(home / "journal", home / FILE_NAME).values():
                written.append((now, lag.written))
                while written and written[0][1] <= lag.indexed:
                    written.popleft()
                found.append(now - written[0][0] if written else 0.0)
    finally:
        writing.join()
        following.terminate()
        following.join()
    # Not how long processes take to begin.
    return [round(lag, 3) for lag in found[40:]]


def _write_live(journal: Path) -> None:
    begin = datetime.now(UTC)
    calls = Population().calls(PER_SECOND * SECONDS, begin, PER_SECOND)

    def paced() -> Iterator[bytes]:
        for number, body in enumerate(overlapping(calls)):
            if number % 40 == 0:
                time.sleep(max(0.0, begin.timestamp() + number / 2 / PER_SECOND - time.time()))
            yield body

    write_lines(journal, paced(), begin=begin, writer="w0")


def _follow(home: Path) -> None:
    run(home / "journal", home / FILE_NAME, threading.Event())


def _grow(home: Path, calls: int, writer: str, seed: int) -> None:
    """Add calls to a trail: one process writes its journal while this one indexes it and deletes what is indexed."""
    journal, begin = home / "journal", _BEGIN + timedelta(days=10 * (seed - 1))
    arguments = {"begin": begin, "writer": writer, "seed": seed}
    writing = Process(target=write_varied_journal, args=(journal, calls), kwargs=arguments)
    writing.start()
    journal.mkdir(parents=True, exist_ok=True)
    pause = threading.Event()
    with closing(open_for_writing(home / FILE_NAME)) as db:
        while True:
            last = not writing.is_alive()
            index_once(db, journal)
            reached = heads(db)
            for segment in (journal / writer).glob("*.jsonl"):
                if writer in reached and segment.name < reached[writer].cursor.segment:
                    segment.unlink()
            if last:
                break
            pause.wait(0.2)
    writing.join()


def _export(home: Path) -> dict[str, float]:
    """Export all calls as CSV, as people do; memory is that of all processes of it together."""
    target = home / "calls.csv"
    command = [sys.executable, "-m", "kube_audit_proxy", "export", "--data-dir", str(home), "-o", str(target)]
    pause = threading.Event()
    peak, begin = 0, time.perf_counter()
    with subprocess.Popen(command) as process:
        whole = psutil.Process(process.pid)
        while process.poll() is None:
            with _going():
                peak = max(peak, sum(each.memory_info().rss for each in (whole, *whole.children(recursive=True))))
            pause.wait(0.05)
    seconds = time.perf_counter() - begin
    with target.open("rb") as file:
        assert sum(1 for _ in file) == EXPORTED + 1
    target.unlink()
    return {"seconds": seconds, "peak_mb": peak / 1e6}


@contextmanager
def _going() -> Iterator[None]:
    """Do something with processes that may end meanwhile."""
    try:
        yield
    except psutil.Error:
        return


def _pages(path: Path) -> dict[str, float]:
    """Return the milliseconds that the first page of each filter takes, in the middle of several times."""
    with Index(path) as index:
        newest, oldest = (datetime.fromtimestamp(at / 1e6 / 1024, UTC) for at in _ends(index))
    found: dict[str, float] = {}
    for raw in filters(Population()):
        shares = {name: float(raw[name]) for name in ("since", "until") if name in raw}
        times = {name: [f"{int((newest - oldest).total_seconds() * share)}s"] for name, share in shares.items()}
        asked = parse({name: [value] for name, value in raw.items()} | times, now=newest)
        taken: list[float] = []
        for _ in range(REPEATED):
            begin = time.perf_counter()
            with Index(path) as index:
                index.calls(asked, PAGE)
            taken.append((time.perf_counter() - begin) * 1e3)
        found[" ".join(f"--{name} {value}" for name, value in raw.items()) or "(none)"] = round(median(taken), 2)
    return found


def _ends(index: Index) -> tuple[int, int]:
    """Return the ids of the newest and of the oldest call."""
    everything = parse({}, now=_BEGIN)
    return index.calls(everything, 1)[0].id, next(index.iterate(everything)).id


def filters(people: Population) -> list[Mapping[str, str]]:
    """Return filters of all sorts, those among them that are hard to answer: rare, together rare, and in vain.

    Times are shares of the time that the calls took, before the newest of them.
    """
    often, sometimes, seldom = (people.callers[rank] for rank in (0, 50, 399))
    robot = people.callers[4].name
    busy, quiet = people.namespaces[0], people.namespaces[299]

    alone = {
        "user": (often.name, sometimes.name, seldom.name, "alice.*", "*robot", "!*robot", "nobody"),
        "namespace": (busy, quiet, "pay-*", "!team-*"),
        "resource": ("secrets", "pods/exec", "pods/*", "*.argoproj.io", "!pods,!deployments", "nodes"),
        "verb": ("delete", "!get,!list"),
        "method": ("PUT",),
        "access-method": ("browser", "api"),
        "cluster": ("prod-eu", "!dev"),
        "status": ("200", "503", "4xx", ">=500", "!200,!201"),
        "decision": ("deny", "!allow"),
        "command-id": ("!*", "00*", "*ff", "abcd*", "zz"),
        "text": (
            "limit=500", "checkout", "passwd", "argocd", "has been modified", "0123456789ab", "nowhere to be found",
            "checkout-77zz", "-99-", "zq", "\u00a7",
        ),
        "since": ("0.01",),
        "until": ("0.5", "0.99"),
    }  # fmt: skip
    together = (
        {"cluster": "prod-eu", "verb": "delete"},
        {"user": sometimes.name, "namespace": busy},
        {"user": often.name, "resource": "secrets", "verb": "delete"},
        {"user": seldom.name, "status": "503"},
        {"namespace": quiet, "verb": "delete", "status": "409"},
        {"user": often.name, "verb": "delete", "resource": "secrets", "status": "403", "cluster": "dev"},
        {"cluster": "dev", "verb": "watch", "status": "409", "resource": "leases"},
        {"method": "PUT", "status": "503", "resource": "pods"},
        {"user": robot, "access-method": "kubectl"},
        {"text": "checkout-1", "user": sometimes.name},
        {"text": 'secrets "', "status": "404"},
        {"text": "/leases/", "user": often.name, "verb": "delete"},
        {"text": "kubectl", "status": "503"},
        {"text": "ledger", "namespace": busy},
        {"text": quiet, "user": often.name},
        {"text": "a1b2c3d4", "resource": "jobs", "verb": "patch"},
        {"text": "feed-5", "decision": "deny"},
        {"text": "nowhere to be found", "decision": "deny", "since": "0.7"},
        {"until": "0.9", "user": sometimes.name},
        {"until": "0.5", "status": "503"},
        {"until": "0.5", "decision": "deny", "user": "*robot"},
        {"since": "0.6", "until": "0.55", "verb": "delete", "resource": "secrets"},
        {"until": "0.95", "text": "checkout"},
        {"until": "0.5", "text": "kubectl exec"},
    )
    return [{}, *({name: value} for name, values in alone.items() for value in values), *together]


def _p95(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[int(len(ordered) * 0.95)]


def _show(pages: Mapping[str, Mapping[str, float]]) -> None:
    table = Table("filters", "a tenth of the calls", "all of them", title=f"First page of {PAGE} calls (ms)")
    for name in sorted(pages["all"], key=pages["all"].__getitem__):
        table.add_row(name, *(f"{pages[size][name]:.1f}" for size in ("tenth", "all")))
    table.add_row(f"p95 of {len(pages['all'])}", *(f"{_p95(pages[size].values()):.1f}" for size in ("tenth", "all")))
    Console().print(table)


if __name__ == "__main__":
    main()
