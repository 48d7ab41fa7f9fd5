"""`python -m benchmarks.streams`: how fast bytes pass through exec, cp and port-forward, against the same directly.

On the real node of the tests, so it takes root on Linux; the pod, the servers, kubectl and the proxy share the machine.
"""

import os
import re
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.goals import Figure, save
from benchmarks.rig import HEADERS, Peer, Upstream, kubectl, ours, running
from servers.node import Node
from servers.node.machine import why_not
from servers.node.pods import SLEEP, container, pod, run

MEGABYTES, ROUNDS = 500, 5
_POD = "box"
_SERVES = f"mkdir /www && head -c {MEGABYTES << 20} /dev/zero > /www/zero && httpd -p 80 -h /www && {SLEEP}"


def main() -> None:
    """Measure and save the figures."""
    if reason := why_not():
        print(reason)
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="kube-audit-proxy-bench-") as folder, ExitStack() as stack:
        home = Path(folder)
        node = stack.enter_context(Node(home / "node"))
        run(node, pod(_POD, container(_SERVES)))
        direct = Peer("direct", node.server, HEADERS, (), kubeconfig=node.kubeconfig)
        proxy = ours(home, Upstream(node.kubeconfig, direct), stack)
        file = home / "file"
        file.write_bytes(os.urandom(1 << 20) * MEGABYTES)
        seconds: dict[str, dict[str, float]] = {}
        for name, measure in _MEASURES.items():
            each: dict[str, list[float]] = {"direct": [], "proxy": []}
            for _ in range(ROUNDS):
                each["direct"].append(measure(direct, file))
                each["proxy"].append(measure(proxy, file))
            seconds[name] = {peer: statistics.median(found) for peer, found in each.items()}
            rates = {peer: MEGABYTES / taken for peer, taken in seconds[name].items()}
            print(f"{name}: {rates['direct']:.0f} MB/s directly, {rates['proxy']:.0f} MB/s through the proxy")
    figures = [
        Figure(f"{name}: throughput / direct", taken["direct"] / taken["proxy"], 0.8, at_most=False)
        for name, taken in seconds.items()
    ]
    save("streams", {"megabytes": MEGABYTES, "seconds": seconds}, figures)


def _run(peer: Peer, *arguments: str) -> float:
    started = time.monotonic()
    argv = [str(kubectl()), f"--kubeconfig={peer.kubeconfig}", *arguments]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def _exec(peer: Peer, file: Path) -> float:  # noqa: ARG001 - all measures are asked alike
    return _run(peer, "exec", _POD, "--", "head", "-c", str(MEGABYTES << 20), "/dev/zero")


def _copy(peer: Peer, file: Path) -> float:
    return _run(peer, "cp", str(file), f"{_POD}:/copied", "--retries=0")


def _forward(peer: Peer, file: Path) -> float:  # noqa: ARG001 - all measures are asked alike
    """Fetch bytes from a port of the pod."""
    argv = [str(kubectl()), f"--kubeconfig={peer.kubeconfig}", "port-forward", f"pod/{_POD}", ":80"]
    with running(argv) as forwarding:
        assert forwarding.stdout is not None
        where = re.search(rb":(\d+) ->", forwarding.stdout.readline())
        assert where is not None
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", int(where[1]))) as connection:
            connection.sendall(b"GET /zero HTTP/1.0\r\n\r\n")
            while connection.recv(1 << 20):
                pass
        return time.monotonic() - started


_MEASURES: dict[str, Callable[[Peer, Path], float]] = {"exec": _exec, "cp": _copy, "port-forward": _forward}


if __name__ == "__main__":
    main()
