"""`python -m benchmarks.soak [SECONDS]`: whether anything grows while people work: memory, descriptors, latency.

200 watches, 50 execs a minute and 200 calls a second, through two workers, for twenty minutes unless told otherwise.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from benchmarks.goals import Figure, save
from benchmarks.rig import TARGET, build, first_line, kubectl, ours, real_upstream, running

SECONDS, PERIOD = 1200, 20
WATCHES, EXECS_A_MINUTE, CALLS_A_SECOND = 200, 50, 200
_CHURNED = 20
"""Watches that are closed and opened again each period."""
_FLAT = (("memory", "mib", 1.05), ("descriptors", "descriptors", 1.05), ("p50", "p50_ms", 1.2), ("p99", "p99_ms", 1.5))
"""What may not grow, and how much it may differ: latencies of a shared machine do by themselves."""


def main() -> None:
    """Run, measure every period, and save how the last quarter compares with the second."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else SECONDS
    samples = []
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="kube-audit-proxy-bench-") as folder, ExitStack() as stack:
        home = Path(folder)
        proxy = ours(home, real_upstream(home, stack), stack, workers=2)
        load, watches = build("load", home), build("watches", home)
        watch = [str(watches), f"{proxy.url}/api/v1/configmaps?watch=1&fieldSelector=metadata.name=bench"]
        held = stack.enter_context(running([*watch, str(WATCHES - _CHURNED), *proxy.headers], talk=True))
        assert first_line(held) == "open"
        execute = [str(kubectl()), f"--kubeconfig={proxy.kubeconfig}", "exec", "toolbox", "--", "echo", "on"]
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            with running([*watch, str(_CHURNED), *proxy.headers], talk=True) as churned:
                assert first_line(churned) == "open"
                calls = subprocess.Popen(
                    [str(load), proxy.url + TARGET, "8", str(CALLS_A_SECOND * PERIOD), *proxy.headers],
                    env={**os.environ, "LOAD_RATE": str(CALLS_A_SECOND)}, stdout=subprocess.PIPE,
                )  # fmt: skip
                for _ in range(EXECS_A_MINUTE * PERIOD // 60):
                    subprocess.run(execute, check=True, stdout=subprocess.DEVNULL)
                    time.sleep(PERIOD / 2 / (EXECS_A_MINUTE * PERIOD // 60))
                output, _ = calls.communicate()
                samples.append(_sample(proxy.path) | json.loads(output))
            print(" ".join(f"{name} {value:,.1f}" for name, value in samples[-1].items()), flush=True)
    quarter = max(len(samples) // 4, 1)
    early, late = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    save("soak", samples, [
        Figure(f"soak of {seconds // 60} min: {what}, last quarter / second", ratio, goal)
        for what, key, goal in _FLAT
        if (ratio := _middle(late, key) / _middle(early, key))
    ])  # fmt: skip


def _sample(processes: tuple[psutil.Process, ...]) -> dict[str, float]:
    return {
        "mib": sum(process.memory_info().rss for process in processes) / (1 << 20),
        "descriptors": sum(process.num_fds() for process in processes),
    }


def _middle(samples: list[dict[str, float]], key: str) -> float:
    return statistics.median(sample[key] for sample in samples)


if __name__ == "__main__":
    main()
