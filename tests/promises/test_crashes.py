"""Whatever dies, the trail is whole: starts are on disk, ends are made up for, and the processes come back or go."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kube_audit_proxy.demo.cluster import DemoCluster
from support.proxies import PROGRAM, Proxy, lines, proxy, wait_until

pytestmark = pytest.mark.servers


@pytest.fixture
def own(demo: DemoCluster, tmp_path: Path) -> Iterator[Proxy]:
    """Give a proxy of the test's own, with two workers."""
    command = ["--kubeconfig", str(demo.kubeconfig), "--workers", "2"]
    with proxy(command, tmp_path / "data", tmp_path / "log") as running:
        yield running


@contextlib.contextmanager
def watching(demo: DemoCluster, own: Proxy) -> Iterator[str]:
    """Hold a watch open, and give the writer that has it."""
    argv = [str(demo.kubectl), f"--kubeconfig={own.kubeconfig}", "get", "cm", "--watch-only"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as kubectl:
        try:
            begun = wait_until(lambda: _watch(own.data_dir, "ResponseStarted"), "the watch to begin")
            yield begun[0]["writer"]
        finally:
            kubectl.kill()


def _watch(data_dir: Path, stage: str) -> list[dict[str, Any]]:
    return [line for line in lines(data_dir) if line.get("verb") == "watch" and line.get("stage") == stage]


def _verify(data_dir: Path) -> subprocess.CompletedProcess[str]:
    argv = [*PROGRAM, "verify", "--data-dir", str(data_dir)]
    return subprocess.run(argv, check=False, capture_output=True, text=True)


def _get(demo: DemoCluster, own: Proxy) -> int:
    argv = [str(demo.kubectl), f"--kubeconfig={own.kubeconfig}", "get", "ns"]
    return subprocess.run(argv, check=False, capture_output=True).returncode


def test_a_killed_worker_comes_back_and_closes_its_calls(demo: DemoCluster, own: Proxy) -> None:
    """After kill -9 of a worker its running call is closed as interrupted, the trail is whole, and it serves again."""
    with watching(demo, own) as writer:
        worker = own.children()[writer]
        worker.kill()
        (end,) = wait_until(lambda: _watch(own.data_dir, "ResponseComplete"), "the watch to be closed")
    assert (end["outcome"], end["writer"]) == ("interrupted", writer)
    assert "duration_ms" not in end
    wait_until(lambda: own.children().get(writer) not in {None, worker}, "the worker to come back")
    assert _get(demo, own) == 0
    assert _verify(own.data_dir).returncode == 0


@pytest.mark.parametrize("victim", ["w0 committer", "indexer"])
def test_a_killed_helper_comes_back(demo: DemoCluster, own: Proxy, victim: str) -> None:
    """After kill -9 of a committer or the indexer, calls go on and stand in the log."""
    assert _get(demo, own) == 0
    own.children()[victim].kill()
    assert [_get(demo, own) for _ in range(4)] == [0] * 4
    ends = own.ended(lambda end: end.get("resource") == "namespaces", 5)
    wait_until(lambda: {end["auditID"] for end in ends} <= _logged(own.data_dir), "the index to have every call")


def _logged(data_dir: Path) -> set[str]:
    argv = [*PROGRAM, "log", "-o", "json", "--limit", "0", "--data-dir", str(data_dir)]
    import json

    output = subprocess.run(argv, check=False, capture_output=True).stdout
    return {json.loads(line)["auditID"] for line in output.splitlines()}


def test_nothing_is_left_when_the_parent_is_killed(demo: DemoCluster, own: Proxy, tmp_path: Path) -> None:
    """After kill -9 of the parent every child goes by itself; the next start closes what was open."""
    with watching(demo, own):
        children = list(own.children().values())
        own.process.kill()
        own.process.wait()
        psutil.wait_procs(children, timeout=60)
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    with proxy(["--kubeconfig", str(demo.kubeconfig)], own.data_dir, tmp_path / "log") as again:
        (end,) = _watch(again.data_dir, "ResponseComplete")
        assert end["outcome"] == "interrupted"
        assert _get(demo, again) == 0
    assert _verify(own.data_dir).returncode == 0


def test_everything_killed_at_once(demo: DemoCluster, own: Proxy, tmp_path: Path) -> None:
    """After kill -9 of all processes at once, the next start closes the open call and the trail is whole."""
    with watching(demo, own):
        for process in [psutil.Process(own.process.pid), *own.children().values()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        own.process.wait()
    with proxy(["--kubeconfig", str(demo.kubeconfig)], own.data_dir, tmp_path / "log") as again:
        assert _get(demo, again) == 0
    (end,) = _watch(own.data_dir, "ResponseComplete")
    assert end["outcome"] == "interrupted"
    assert _verify(own.data_dir).returncode == 0


def test_sigterm_ends_running_calls_on_the_record(demo: DemoCluster, own: Proxy) -> None:
    """SIGTERM takes no new calls, cuts what runs after the grace period, records it, and leaves no process behind."""
    with watching(demo, own):
        children = list(own.children().values())
        assert own.stop() == 0
        assert not [child for child in children if child.is_running()]
    (end,) = _watch(own.data_dir, "ResponseComplete")
    assert end["outcome"] == "interrupted"
    assert end["duration_ms"] > 0
    assert _verify(own.data_dir).returncode == 0


def test_ctrl_c_at_the_terminal_is_as_good(own: Proxy) -> None:
    """SIGINT to the parent ends all of it as well, with exit code 0."""
    children = list(own.children().values())
    own.process.send_signal(signal.SIGINT)
    assert own.process.wait(60) == 0
    assert not [child for child in children if child.is_running()]


def test_an_altered_byte_is_found(demo: DemoCluster, own: Proxy) -> None:
    """`verify` names the file and the line of the first byte that was changed, and ends with 1."""
    assert _get(demo, own) == 0
    own.ended(lambda end: end.get("resource") == "namespaces")
    own.stop()
    segment = next(
        path for path in sorted(own.data_dir.glob("journal/*/*.jsonl")) if b"namespaces" in path.read_bytes()
    )
    content = segment.read_bytes()
    segment.write_bytes(content.replace(b'"verb":"list"', b'"verb":"lisT"', 1))
    done = _verify(own.data_dir)
    assert done.returncode == 1
    assert "BROKEN" in done.stdout
    assert segment.name in done.stdout


def test_a_removed_tail_is_found(demo: DemoCluster, own: Proxy) -> None:
    """The index remembers the last line of each writer, so that cutting the end of a journal off is noticed."""
    assert _get(demo, own) == 0
    own.ended(lambda end: end.get("resource") == "namespaces")
    own.stop()
    segment = next(
        path for path in sorted(own.data_dir.glob("journal/*/*.jsonl")) if b"namespaces" in path.read_bytes()
    )
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:-1]))
    assert _verify(own.data_dir).returncode == 1
