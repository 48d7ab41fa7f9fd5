"""`python -m benchmarks.calls`: what a call costs, and how much later its answer comes.

The proxy has TLS on both sides, its journal is durable, and all of its processes count that are in the path of a call
(workers and their committers; the indexer, which follows behind, is shown by itself). `kubectl proxy` takes plain HTTP
in and audits nothing; nginx has TLS on both sides and a JSON access log. All fetch the same 3 KB object, first of an
HTTPS server of Go's that does nothing else, so that the proxies are what limits, then of a real kube-apiserver, which
is what limits then.
"""

import json
import os
import statistics
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.goals import Figure, save
from benchmarks.rig import TARGET, Peer, build, cpu, kubectl_proxy, light_upstream, nginx, ours, real_upstream

CONNECTIONS, CALLS, WARM_UP = 16, 12_000, 2_000
ROUNDS, SLOW_ROUNDS = 11, 5
"""On a machine that is shared, a round is out by a tenth now and then; those with a kube-apiserver set no figure."""

Row = dict[str, float]


def measure(load: Path, peer: Peer, calls: int, rate: float = 0) -> Row:
    """Give calls/s, latencies in ms, and microseconds of CPU per call; `load` is the program that makes the calls.

    It makes no more than `rate` a second, if that is given.
    """
    before, behind = cpu(peer.path), cpu(peer.behind)
    output = subprocess.run(
        [str(load), peer.url + TARGET, str(CONNECTIONS), str(calls), *peer.headers],
        check=True, stdout=subprocess.PIPE, env={**os.environ, **({"LOAD_RATE": str(int(rate))} if rate else {})},
    ).stdout  # fmt: skip
    result: Row = json.loads(output)
    return {
        "calls_per_second": result["calls"] / result["seconds"],
        "cpu_us": (cpu(peer.path) - before) / result["calls"] * 1e6,
        "behind_us": (cpu(peer.behind) - behind) / result["calls"] * 1e6,
        "p50_ms": result["p50_ms"],
        "p99_ms": result["p99_ms"],
    }


def rounds(load: Path, peers: list[Peer], count: int, rate: float = 0) -> dict[str, Row]:
    """Measure every peer in turn, several times over; give the medians."""
    for peer in peers:
        measure(load, peer, WARM_UP)
    rows: dict[str, list[Row]] = {peer.name: [] for peer in peers}
    for _ in range(count):
        for peer in peers:
            rows[peer.name].append(measure(load, peer, CALLS, rate))
    return {
        name: {key: statistics.median(row[key] for row in found) for key in found[0]} for name, found in rows.items()
    }


def main() -> None:
    """Measure, print tables, and save the figures."""
    results: dict[str, dict[str, Row]] = {}
    # Not in a tmpfs: fdatasync has to cost what it costs.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="kube-audit-proxy-bench-") as folder:
        for name, start, count in (
            ("Go HTTPS server", light_upstream, ROUNDS),
            ("kube-apiserver", real_upstream, SLOW_ROUNDS),
        ):
            home = Path(folder) / name.split()[0]
            home.mkdir()
            with ExitStack() as stack:
                upstream = start(home, stack)
                load = build("load", home)
                one, two = (ours(home, upstream, stack, workers=workers) for workers in (1, 2))
                results[name] = rounds(
                    load, [kubectl_proxy(upstream, stack), nginx(home, upstream, stack), one, two], count
                )
                half = results[name][one.name]["calls_per_second"] / 2
                results[f"{name}, at half load"] = rounds(load, [upstream.direct, one], count, half)
            _show(name, results[name], count)
            _show(f"{name}, {half:,.0f} calls/s", results[f"{name}, at half load"], count)
    save("calls", results, _figures(results))


def _figures(results: dict[str, dict[str, Row]]) -> list[Figure]:
    calls, half = results["Go HTTPS server"], results["Go HTTPS server, at half load"]
    one, two = calls["kube-audit-proxy, 1 worker"], calls["kube-audit-proxy, 2 workers"]
    direct, through = half["direct"], half["kube-audit-proxy, 1 worker"]
    return [
        Figure("CPU per call / kubectl proxy", one["cpu_us"] / calls["kubectl proxy"]["cpu_us"], 0.65),
        Figure("CPU per call / nginx", one["cpu_us"] / calls["nginx"]["cpu_us"], 2.3),
        Figure("added latency at half load, p50 (ms)", through["p50_ms"] - direct["p50_ms"], 0.5),
        Figure("added latency at half load, p99 (ms)", through["p99_ms"] - direct["p99_ms"], 3),
        Figure("CPU per call, 2 workers / 1", two["cpu_us"] / one["cpu_us"], 1.1),
    ]


def _show(upstream: str, results: dict[str, Row], count: int) -> None:
    table = Table(
        "", "calls/s", "CPU/call (us)", "p50 (ms)", "p99 (ms)", "indexer (us)",
        title=f"{CONNECTIONS} connections, 3 KB answers of a {upstream}; medians of {count} rounds",
    )  # fmt: skip
    for name, row in results.items():
        table.add_row(
            name, f"{row['calls_per_second']:,.0f}", f"{row['cpu_us']:.0f}" if row["cpu_us"] else "",
            f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}", f"{row['behind_us']:.0f}" if row["behind_us"] else "",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
