"""`make bench`: calls per second and CPU per call of this proxy, and of `kubectl proxy`, in the same run.

The proxy has TLS on both sides, its journal is durable, and all of its processes count that are in the path of a call
(workers and their committers; the indexer, which follows behind, is shown by itself). `kubectl proxy` takes plain
HTTP in and audits nothing. Both fetch the same 3 KB object, first of an HTTPS server of Go's that does nothing else,
so that the proxies are what limits, then of a real kube-apiserver, which is what limits then.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from rich.console import Console
from rich.table import Table

from kube_audit_proxy.demo.build import ensure
from kube_audit_proxy.demo.cluster import DemoCluster
from kube_audit_proxy.tls import ensure_certificates

CONNECTIONS, CALLS, WARM_UP, ROUNDS = 16, 12_000, 2_000, 3
_AGENT = "kubectl/v1.36.3 (linux/amd64) kubernetes/0000000"
_HEADERS = [
    f"User-Agent: {_AGENT}",
    "Accept-Encoding: gzip",
    "Kubectl-Command: kubectl get",
    "Kubectl-Session: 3d9f6c1e-6a0f-4d43-9a55-0f6f5d4a1b2c",
]
_TARGET = "/api/v1/namespaces/default/configmaps/bench"


@dataclass(frozen=True, slots=True)
class Peer:
    """Something that carries calls: where, with which headers, and the processes it consists of."""

    name: str
    url: str
    headers: tuple[str, ...]
    path: tuple[psutil.Process, ...]
    behind: tuple[psutil.Process, ...] = ()


def measure(load: Path, peer: Peer, calls: int) -> dict[str, float]:
    """Give calls/s, latencies in ms, and microseconds of CPU per call; `load` is the program that makes the calls."""
    before, behind = _cpu(peer.path), _cpu(peer.behind)
    output = subprocess.run(
        [str(load), peer.url + _TARGET, str(CONNECTIONS), str(calls), *peer.headers],
        check=True, stdout=subprocess.PIPE,
    ).stdout  # fmt: skip
    result: dict[str, float] = json.loads(output)
    return {
        "calls_per_second": result["calls"] / result["seconds"],
        "cpu_us": (_cpu(peer.path) - before) / result["calls"] * 1e6,
        "behind_us": (_cpu(peer.behind) - behind) / result["calls"] * 1e6,
        "p50_ms": result["p50_ms"],
        "p99_ms": result["p99_ms"],
    }


def _cpu(processes: tuple[psutil.Process, ...]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.terminate()


def _first_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def _ours(process: subprocess.Popen[bytes], workers: int) -> Peer:
    ready: dict[str, Any] = json.loads(_first_line(process))
    token = yaml.safe_load(Path(ready["kubeconfig"]).read_bytes())["users"][0]["user"]["token"]
    children = psutil.Process(process.pid).children(recursive=True)
    indexer = tuple(child for child in children if any("indexer" in part for part in child.cmdline()))
    path = tuple(child for child in children if child not in indexer)
    name = f"kube-audit-proxy, {workers} worker{'s' if workers > 1 else ''}"
    headers = (*_HEADERS, f"Authorization: Bearer {token}")
    return Peer(name, f"{ready['url']}/clusters/demo", headers, path, indexer)


def main() -> None:
    """Measure, print tables, and write benchmarks/results/latest.json."""
    results = {}
    # Not in a tmpfs: fdatasync has to cost what it costs.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="kube-audit-proxy-bench-") as home:
        for name, upstream in (("Go HTTPS server", _light_upstream), ("kube-apiserver", _real_upstream)):
            with ExitStack() as stack:
                folder = Path(home) / name.split()[0]
                folder.mkdir()
                kubeconfig = upstream(folder, stack)
                results[name] = _rounds(_build("load", folder), _peers(folder, kubeconfig, stack))
            _show(name, results[name])
    target = Path(__file__).parent / "results" / "latest.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(results, indent=2) + "\n")


def _light_upstream(home: Path, stack: ExitStack) -> Path:
    certificates = ensure_certificates(home / "tls", [])
    program = _build("upstream", home)
    command = [str(program), str(certificates.certificate), str(certificates.key)]
    address = _first_line(stack.enter_context(running(command)))
    cluster = {"server": f"https://{address}", "certificate-authority": str(certificates.authority)}
    content = {
        "current-context": "demo",
        "clusters": [{"name": "demo", "cluster": cluster}],
        "users": [{"name": "demo", "user": {"token": "of-no-use"}}],
        "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "demo"}}],
    }
    kubeconfig = home / "upstream.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(content))
    return kubeconfig


def _build(tool: str, home: Path) -> Path:
    program = home / tool
    tools = Path(__file__).parent / "tools"
    subprocess.run(["go", "build", "-o", str(program), f"./{tool}"], cwd=tools, check=True)
    return program


def _real_upstream(home: Path, stack: ExitStack) -> Path:
    cluster = stack.enter_context(DemoCluster(home / "cluster", progress=print))
    command = [str(cluster.kubectl), "--kubeconfig", str(cluster.kubeconfig), "create", "configmap", "bench"]
    subprocess.run([*command, f"--from-literal=data={'x' * 2_600}"], check=True)
    return cluster.kubeconfig


def _peers(home: Path, kubeconfig: Path, stack: ExitStack) -> list[Peer]:
    kubectl = ensure("kubernetes", print)["kubectl"]
    proxy = stack.enter_context(running([str(kubectl), "--kubeconfig", str(kubeconfig), "proxy", "--port=0"]))
    where = _first_line(proxy).rpartition(" ")[2]
    peers = [Peer("kubectl proxy", f"http://{where}", tuple(_HEADERS), (psutil.Process(proxy.pid),))]
    for workers in (1, 2):
        command = [sys.executable, "-m", "kube_audit_proxy", "up", "--json", "--kubeconfig", str(kubeconfig)]
        command += ["--data-dir", str(home / f"data-{workers}"), "--listen", "127.0.0.1:0", "--workers", str(workers)]
        peers.append(_ours(stack.enter_context(running(command)), workers))
    return peers


def _rounds(load: Path, peers: list[Peer]) -> dict[str, dict[str, float]]:
    """Measure every peer in turn, several times over, and keep each one's best round."""
    for peer in peers:
        measure(load, peer, WARM_UP)
    best: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for peer in peers:
            result = measure(load, peer, CALLS)
            if peer.name not in best or result["cpu_us"] < best[peer.name]["cpu_us"]:
                best[peer.name] = result
    return best


def _show(upstream: str, results: dict[str, dict[str, float]]) -> None:
    base = results["kubectl proxy"]["cpu_us"]
    table = Table(
        "",
        "calls/s",
        "CPU/call (us)",
        "/ kubectl proxy",
        "p50 (ms)",
        "p99 (ms)",
        "indexer (us)",
        title=f"{CONNECTIONS} connections, 3 KB answers of a {upstream}",
    )
    for name, row in results.items():
        table.add_row(
            name, f"{row['calls_per_second']:,.0f}", f"{row['cpu_us']:.0f}", f"{row['cpu_us'] / base:.2f}",
            f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}", f"{row['behind_us']:.0f}" if row["behind_us"] else "",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
