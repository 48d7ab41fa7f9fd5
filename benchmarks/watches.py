"""`python -m benchmarks.watches`: what ten thousand idle watches cost one worker, and how soon all have an event."""

import resource
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from benchmarks.goals import Figure, save
from benchmarks.rig import build, first_line, light_upstream, ours, running

WATCHES, EVENTS = 10_000, 5
_SPARE = 100
"""Descriptors of a worker that are no watches'. Each watch takes two: one to each side."""


def main() -> None:
    """Measure and save the figures."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(WATCHES, (hard - _SPARE) // 2)
    if count < WATCHES:
        print(f"{count} watches, because a process may have no more than {hard} descriptors here (it had {soft})")
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="kube-audit-proxy-bench-") as folder, ExitStack() as stack:
        home = Path(folder)
        upstream = light_upstream(home, stack)
        proxy = ours(home, upstream, stack)
        worker = next(process for process in proxy.path if any("worker" in part for part in process.cmdline()))
        before = worker.memory_info().rss
        started = time.monotonic()
        command = [str(build("watches", home)), f"{proxy.url}/api/v1/configmaps?watch=1", str(count), *proxy.headers]
        watching = stack.enter_context(running(command, talk=True))
        assert first_line(watching) == "open"
        opened = time.monotonic() - started
        each = (_settled(worker) - before) / count / 1024
        seconds = []
        for _ in range(EVENTS):
            for process in (watching, upstream.process):
                assert process is not None
                assert process.stdin is not None
                process.stdin.write(b"\n")
                process.stdin.flush()
            seconds.append(float(first_line(watching)))
    measured = {"watches": count, "seconds_to_open": opened, "kib_each": each, "seconds_to_reach_all": seconds}
    save("watches", measured, [
        Figure(f"{count:,} idle watches: memory each (KiB)", each, 80),
        Figure(f"{count:,} idle watches: an event reaches all (s)", max(seconds), 2),
    ])  # fmt: skip


def _settled(worker: psutil.Process) -> int:
    """Give the resident memory once it has stopped to grow."""
    last = 0
    while (now := worker.memory_info().rss) > last:
        last = now
        time.sleep(1)
    return last


if __name__ == "__main__":
    main()
