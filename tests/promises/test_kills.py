"""kill -9 two hundred times under load: nothing reaches the API server unrecorded, and the trail is whole each time."""

import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import orjson
import psutil
import pytest

from kube_audit_proxy.demo.child import free_ports
from kube_audit_proxy.demo.cluster import DemoCluster
from kube_audit_proxy.index.filters import Filters
from kube_audit_proxy.index.indexer import heads
from kube_audit_proxy.index.reader import Index
from kube_audit_proxy.index.schema import NoIndex, open_for_reading
from kube_audit_proxy.journal.cursor import Cursor
from kube_audit_proxy.journal.reader import read_batches
from kube_audit_proxy.journal.verify import verify
from support import load, serving
from support.load import Load, Objects
from support.proxies import Proxy, wait_until

pytestmark = pytest.mark.servers

_MARK = "KUBE_AUDIT_PROXY_TEST_KILLS"
"""An environment variable by which the proxy's processes are found, whoever their parent is."""

_KINDS = {
    "process.worker": "worker",
    "committer.py": "committer",
    "process.indexer": "indexer",
    "process.admin": "admin",
    "serve": "parent",
}
"""What stands in the command line of each kind of process."""

_RUNNING = {"worker": 2, "committer": 2, "indexer": 1, "admin": 1, "parent": 1}

_PARTS = ["worker"] * 4 + ["committer"] * 3 + ["indexer"] * 2
"""What is killed, in some order, before the parent or everything is."""

_ENDS = ("parent", "everything", "everything", "parent", "everything")
_LATEST = 0.25
"""Seconds that pass at most between two kills, beside what it takes to check the trail."""


class _Processes:
    """The processes of a proxy, whoever their parent is: each has the mark in its environment."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._others: set[int] = set()
        """Those that have not: there are many, and all of them are looked at again and again."""

    def by_kind(self) -> dict[str, list[psutil.Process]]:
        """Return them."""
        found = defaultdict(list)
        for number in set(psutil.pids()) - self._others:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(number)
                if process.environ().get(_MARK) != self._mark:
                    self._others.add(number)
                elif process.status() != psutil.STATUS_ZOMBIE:
                    argv = " ".join(process.cmdline())
                    found[next((kind for part, kind in _KINDS.items() if part in argv), argv)].append(process)
        return found

    def count(self) -> dict[str, int]:
        """Return how many there are of each kind."""
        return {kind: len(some) for kind, some in self.by_kind().items()}

    def none(self) -> bool:
        """Tell whether none is left, looking at every process there is."""
        self._others.clear()
        return not self.by_kind()

    def kill(self, victim: str, rng: random.Random) -> None:
        """Kill one of a kind, or everything in some order."""
        if victim == "everything":
            processes = [process for some in self.by_kind().values() for process in some]
            rng.shuffle(processes)
        else:
            processes = [rng.choice(wait_until(lambda: self.by_kind()[victim], f"a {victim} to be there"))]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


class _Trail:
    """What the journal says of the calls so far, read as it grows."""

    def __init__(self, data_dir: Path) -> None:
        self._journal = data_dir / "journal"
        self._index = data_dir / "index.db"
        self._cursors: dict[str, Cursor] = {}
        self.starts: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.last: dict[str, dict[str, Any]] = {}

    def look(self) -> None:
        """Take in what was written meanwhile."""
        for batch in read_batches(self._journal, self._cursors):
            for record in filter(lambda record: record["kind"] == "call", map(orjson.loads, batch.lines)):
                call = record["auditID"]
                self.starts[call] += record["stage"] == "RequestReceived"
                self.ends[call] += record["stage"] in {"ResponseComplete", "Panic"}
                self.last[call] = record
            self._cursors[batch.writer] = batch.cursor

    def assert_whole(self) -> None:
        """As `kube-audit-proxy verify` does, with what the index knows of each writer's last line."""
        try:
            with contextlib.closing(open_for_reading(self._index)) as db:
                known = {writer: (head.seq, head.hash) for writer, head in heads(db).items()}
        except NoIndex:
            known = {}
        assert [str(report.finding) for report in verify(self._journal, known) if report.finding] == []

    def assert_complete(self) -> None:
        """Once nobody calls any more: each call has one start and one end, and the index has exactly these calls."""
        self.look()
        assert {call: number for call, number in self.starts.items() if number != 1} == {}
        assert {call: number for call, number in self.ends.items() if number != 1} == {}

        def caught_up() -> bool:
            try:
                with Index(self._index) as index:
                    return index.count(Filters()) >= len(self.last) and self._indexed(index) == self.last
            except NoIndex:
                return False

        wait_until(caught_up, "the index to have exactly what is in the journal")

    @staticmethod
    def _indexed(index: Index) -> dict[str, dict[str, Any]]:
        return {call.record["auditID"]: call.record for call in index.iterate(Filters())}


@dataclass
class _Rig:
    """A proxy that is killed and started again, and what is known of its calls."""

    demo: DemoCluster
    home: Path
    user: str
    port: int
    processes: _Processes = field(init=False)
    reached: load.Reached = field(init=False)
    trail: _Trail = field(init=False)
    killed: list[str] = field(default_factory=list)

    def serving(self) -> contextlib.AbstractContextManager[Proxy]:
        """Start it, for the length of a block."""
        settings: dict[str, Any] = {"listen": f"127.0.0.1:{self.port}", "workers": 2, "grace_period": 0.5}
        settings["journal"] = {"timeout": 60}  # so that no call is refused, however slow the machine is
        environ = {_MARK: str(self.home)}
        return serving.serving(self.home, self.demo.kubeconfig, clusters=("demo",), environ=environ, **settings)

    def assert_recorded(self) -> None:
        """No call has reached the API server whose start is not on record."""
        reached = set(self.reached.look())
        self.trail.look()
        assert reached <= set(self.trail.starts), f"after the kills of {self.killed}"


@contextlib.contextmanager
def _load(demo: DemoCluster, proxy: Proxy, objects: Objects, rng: random.Random) -> Iterator[Load]:
    """Everything at once: short calls, watches, and kubectl with commands, sessions and a watch."""
    with Load(proxy) as running:
        for _ in range(3):
            running.client(objects.something(random.Random(rng.random())), pause=0.01)  # noqa: S311 - what to do
        for _ in range(2):
            running.client(objects.watch, endless=True)
        short = [["exec", "toolbox", "--", "true"], ["get", "configmaps", "-n", objects.namespace]]
        running.kubectl(demo.kubectl, short)
        running.kubectl(demo.kubectl, [["exec", "-i", "toolbox", "--", "cat"]], stdin=b"still here\n")
        running.kubectl(demo.kubectl, [["get", "configmaps", "-n", objects.namespace, "--watch-only"]])
        yield running


@pytest.mark.parametrize("seed", range(4))
def test_fifty_kills(demo: DemoCluster, tmp_path: Path, seed: int) -> None:
    """After each of fifty kills under load: all that reached the API server is on record, and the trail is whole."""
    rng = random.Random(seed)  # noqa: S311 - when and whom to kill
    (port,) = free_ports(1)
    rig = _Rig(demo, tmp_path, load.place(demo, "kills"), port)
    rig.processes = _Processes(str(tmp_path))
    rig.reached, rig.trail = load.Reached(demo, rig.user), _Trail(tmp_path / "data")
    for last in _ENDS:
        with rig.serving() as proxy:
            rig.trail.assert_complete()
            _kill_under_load(rig, proxy, last, rng)
            wait_until(rig.processes.none, "every process to be gone")
        assert serving.verify(tmp_path / "data").returncode == 0, rig.killed
    with rig.serving():
        rig.trail.assert_complete()
    rig.assert_recorded()
    _assert_mixed(rig.trail, rig.user)
    assert len(rig.killed) == 50
    assert serving.verify(tmp_path / "data").returncode == 0
    assert rig.processes.none()


def _kill_under_load(rig: _Rig, proxy: Proxy, last: str, rng: random.Random) -> None:
    objects = Objects(rig.user, f"cm-{len(rig.killed)}")
    with _load(rig.demo, load.user(proxy, rig.user), objects, rng) as running:
        wait_until(lambda: len(objects.created) > 10, "the load to be on")
        for victim in rng.sample(_PARTS, len(_PARTS)):
            _kill_soon(rig, victim, rng)
        wait_until(lambda: rig.processes.count() == _RUNNING, "all processes to be back")
        running.check()
        _kill_soon(rig, last, rng)


def _kill_soon(rig: _Rig, victim: str, rng: random.Random) -> None:
    """Kill at some moment, and look at the trail."""
    Event().wait(rng.uniform(0, _LATEST))
    rig.processes.kill(victim, rng)
    rig.killed.append(victim)
    rig.assert_recorded()
    rig.trail.assert_whole()


def _assert_mixed(trail: _Trail, user: str) -> None:
    """The load was what it is meant to be, and was interrupted in the middle of calls."""
    calls = [record for record in trail.last.values() if record.get("user") == user]
    went_well = {(record["verb"], record.get("subresource", "")) for record in calls if record.get("status", 500) < 300}
    assert {(verb, "") for verb in ("get", "list", "create", "delete", "watch")} <= went_well
    assert {verb for verb, subresource in went_well if subresource == "exec"}
    assert [record for record in calls if record["outcome"] == "interrupted" and "duration_ms" not in record]
