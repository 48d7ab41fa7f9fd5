"""A disk that is full, read-only, sick, slow or gone costs calls, never records: and all goes on by itself when it can.

The whole program, in front of an API server that remembers what came to it.
"""

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from kube_audit_proxy.demo.cluster import DemoCluster
from support.faults import Faults
from support.proxies import Proxy, wait_until
from support.raw import Raw
from support.scripted import Asked, Connection
from support.serving import health, kubeconfig, logged, serving, verify
from support.small_disk import SmallDisk, failing_disk, small_disk
from support.witness import Witness, check_trail, ids, make_calls, post, until_served, witness

REFUSED = "the call cannot be recorded, so it is not made: "
_DEADLINE = 30  # seconds: far more than anything takes


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Witness]:
    """Give an API server, for whose kubeconfig see `_front`."""
    with witness() as running:
        kubeconfig(tmp_path / "upstream", {"plain": (running.server.url, b"")})
        yield running


def _front(home: Path) -> Path:
    return home / "upstream"


def _use_up(disk: SmallDisk, proxy: Proxy) -> None:
    """Fill the room of the file with calls, which are recorded, and then what the line that did not fit gave up."""
    wait_until(lambda: make_calls(proxy, 1) == [503], "the room to be used up")
    disk.fill()


def _check_refused(proxy: Proxy, upstream: Witness, words: str) -> None:
    """A write is a 503 that says why, goes nowhere, and operators are told the same."""
    before = len(upstream.seen("POST"))
    with Raw(proxy) as raw:
        answer = post(raw)
        assert (answer.code, answer.json()["reason"], answer.closes) == (503, "ServiceUnavailable", False)
        assert answer.message().startswith(REFUSED)
        assert words in answer.message()
        assert post(raw).code == 503
    assert len(upstream.seen("POST")) == before
    wait_until(lambda: health(proxy)[0] != 200, "the proxy to say that it is not ready")
    code, told = health(proxy)
    assert (code, words in told) == (503, True), told


def _check_recovered(proxy: Proxy, upstream: Witness, refused: int) -> None:
    """Calls are made again without anybody's doing; the trail is whole, and tells of the refusals."""
    until_served(proxy)
    wait_until(lambda: health(proxy)[0] == 200, "the proxy to be ready again")
    ends = proxy.ended(lambda end: end.get("status") == 503, refused)
    assert {(end["outcome"], end["decision"], end["decided_by"]) for end in ends} == {("refused", "error", "proxy")}
    assert not {end["auditID"] for end in ends} & set(upstream.seen())
    check_trail(proxy, upstream)
    done = verify(proxy.data_dir)
    assert done.returncode == 0, done.stdout
    called = {line["auditID"] for line in proxy.lines() if line["kind"] == "call"}
    wait_until(lambda: logged(proxy.data_dir) == called, "the index to have every call")


def test_a_full_disk(upstream: Witness, tmp_path: Path) -> None:
    """Without room, writes are refused and relaxed reads go on; with room again all of it stands in the trail."""
    with (
        small_disk(tmp_path / "data") as disk,
        serving(tmp_path, _front(tmp_path), journal={"relaxed": ["read"]}) as proxy,
    ):
        assert make_calls(proxy, 3) == [200] * 3
        with disk.full():
            _use_up(disk, proxy)
            assert make_calls(proxy, 3, "GET") == [200] * 3
            _check_refused(proxy, upstream, "No space left on device")
        _check_recovered(proxy, upstream, 3)
        relaxed = ids(proxy.lines(), relaxed=True, stage="ResponseComplete")
        assert set(upstream.seen("GET")) == set(relaxed)


@pytest.mark.servers
def test_kubectl_on_a_full_disk(demo: DemoCluster, tmp_path: Path) -> None:
    """A kubectl prints the sentence and ends with 1, nothing is made in the cluster, and later it works as before."""
    with (
        small_disk(tmp_path / "data") as disk,
        serving(tmp_path, demo.kubeconfig, clusters=("demo",)) as proxy,
    ):

        def kubectl(*arguments: str) -> subprocess.CompletedProcess[str]:
            argv = [str(demo.kubectl), f"--kubeconfig={proxy.kubeconfig}", f"--cache-dir={tmp_path}", *arguments]
            return subprocess.run(argv, check=False, capture_output=True, text=True)

        assert kubectl("create", "cm", "before-full").returncode == 0
        with disk.full():
            (done,) = wait_until(
                lambda: _failed(kubectl("create", "cm", "while-full", "--dry-run=server")), "a refusal"
            )
            disk.fill()  # what the line that did not fit gave up
            assert (done.returncode, done.stdout) == (1, "")
            assert f"{REFUSED}The journal cannot be written: No space left on device" in done.stderr
            assert kubectl("create", "cm", "while-full").returncode == 1
        wait_until(lambda: health(proxy)[0] == 200, "the proxy to be ready again")
        assert kubectl("create", "cm", "after-full").returncode == 0
        found = kubectl("get", "cm", "-o", "name").stdout.split()
        assert [name for name in found if name.endswith("-full")] == ["configmap/after-full", "configmap/before-full"]
        assert kubectl("delete", "cm", "before-full", "after-full").returncode == 0
        assert verify(proxy.data_dir).returncode == 0


def _failed(done: subprocess.CompletedProcess[str]) -> list[subprocess.CompletedProcess[str]]:
    return [done] if done.returncode else []


def test_a_worker_that_dies_while_the_disk_is_full(upstream: Witness, tmp_path: Path) -> None:
    """Its successor cannot end what it left open, says so, tries again, and is there by itself when there is room."""
    came = Event()

    def never_answered(connection: Connection, _asked: Asked) -> None:
        came.set()
        connection.count_rest()

    upstream.server.on("/test/stalls", never_answered)
    with (
        small_disk(tmp_path / "data") as disk,
        serving(tmp_path, _front(tmp_path)) as proxy,
        Raw(proxy) as waiting,
    ):
        waiting.send(waiting.head("GET /clusters/plain/test/stalls"))
        assert came.wait(_DEADLINE)
        with disk.full():
            _use_up(disk, proxy)
            proxy.children()["w0"].kill()
            wait_until(lambda: "No space left on device" in proxy.log.read_text(), "the worker to say why")
            assert proxy.process.poll() is None
        wait_until(lambda: health(proxy)[0] == 200, "the worker to be back")
        until_served(proxy)
        check_trail(proxy, upstream)
        assert verify(proxy.data_dir).returncode == 0


def test_a_disk_that_turns_read_only(upstream: Witness, tmp_path: Path) -> None:
    """As the kernel makes it after an error of the disk; the journal goes on when it is mounted anew, repaired."""
    (tmp_path / "data").mkdir()
    with (
        failing_disk(tmp_path / "data" / "journal") as disk,
        serving(tmp_path, _front(tmp_path), journal={"relaxed": ["read"]}) as proxy,
    ):
        assert make_calls(proxy, 3) == [200] * 3
        disk.fail()
        _check_refused(proxy, upstream, "Read-only file system")
        assert make_calls(proxy, 1, "GET") == [200]
        disk.replace()
        _check_recovered(proxy, upstream, 2)
        assert set(upstream.seen("GET")) == set(ids(proxy.lines(), relaxed=True, stage="ResponseComplete"))


def test_a_disk_that_reports_an_error(upstream: Witness, tmp_path: Path) -> None:
    """A call whose start cannot be synced is refused, though it was written; once syncs work, so do calls."""
    faults = Faults(tmp_path)
    with serving(tmp_path, _front(tmp_path), environ=faults.environ) as proxy:
        assert make_calls(proxy, 3) == [200] * 3
        with faults.failing_sync():
            _check_refused(proxy, upstream, "The journal cannot be made durable: Input/output error")
        _check_recovered(proxy, upstream, 2)


def test_a_slow_disk(upstream: Witness, tmp_path: Path) -> None:
    """With half a second for each sync every call takes as long, is made, and many share one sync."""
    faults = Faults(tmp_path)
    callers, each = 40, 2
    with serving(tmp_path, _front(tmp_path), environ=faults.environ) as proxy:
        with faults.slow_sync(0.5), ThreadPoolExecutor(callers) as pool:
            before = faults.syncs
            codes = list(pool.map(lambda _: make_calls(proxy, each), range(callers)))
            syncs = faults.syncs - before
        assert codes == [[200] * each] * callers
        ends = proxy.ended(count=callers * each)
        assert min(end["upstream_start_ms"] for end in ends) >= 500
        assert syncs < callers
        assert health(proxy)[0] == 200
        check_trail(proxy, upstream)
        assert verify(proxy.data_dir).returncode == 0


def test_a_disk_slower_than_the_limit(upstream: Witness, tmp_path: Path) -> None:
    """Where a sync takes longer than `journal.timeout`, calls are refused in time, not kept waiting."""
    faults = Faults(tmp_path)
    with serving(tmp_path, _front(tmp_path), environ=faults.environ, journal={"timeout": 0.25}) as proxy:
        until_served(proxy)
        with faults.slow_sync(3.0):
            wait_until(lambda: make_calls(proxy, 1) == [503], "a call to be refused")
            with Raw(proxy) as raw:
                assert f"{REFUSED}The journal took longer than 0.25 s" in post(raw).message()
        until_served(proxy)
        _check_recovered(proxy, upstream, 2)


def test_a_writers_directory_that_is_removed(upstream: Witness, tmp_path: Path) -> None:
    """The chain goes on in a new directory, and `verify` says which lines are gone that retention did not delete."""
    with serving(tmp_path, _front(tmp_path)) as proxy:
        assert make_calls(proxy, 3) == [200] * 3
        proxy.ended(count=3)
        gone = proxy.lines()[-1]["seq"]
        shutil.rmtree(proxy.data_dir / "journal" / "w0")
        before = len(upstream.seen())
        assert make_calls(proxy, 1) == [503]
        assert len(upstream.seen()) == before
        until_served(proxy)
        assert proxy.lines()[0]["seq"] == gone + 1
        told = verify(proxy.data_dir).stdout
        assert f"lines before {gone + 1} are no longer kept, and {gone} of them were not deleted by retention" in told


def test_a_full_disk_for_the_index_alone(upstream: Witness, tmp_path: Path) -> None:
    """Where only the index has no room, every call is made and recorded; it catches up when there is room again."""
    with (
        small_disk(tmp_path / "data", "2m") as disk,
        small_disk(tmp_path / "data" / "journal", "16m"),
        serving(tmp_path, _front(tmp_path)) as proxy,
    ):
        assert make_calls(proxy, 3) == [200] * 3
        indexer = proxy.children()["indexer"]
        with disk.full():
            assert make_calls(proxy, 100) == [200] * 100
            wait_until(lambda: "the index cannot be kept up" in proxy.log.read_text(), "the indexer to say so")
        called = {line["auditID"] for line in proxy.lines() if line["kind"] == "call"}
        wait_until(lambda: logged(proxy.data_dir) == called, "the index to catch up")
        assert proxy.children()["indexer"] == indexer
        assert proxy.log.read_text().count("the index cannot be kept up") < 3
        check_trail(proxy, upstream)
        assert verify(proxy.data_dir).returncode == 0
