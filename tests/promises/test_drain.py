"""A proxy or a worker that is told to end lets what runs come to its end: no call is lost, doubled or forgotten."""

import contextlib
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from kube_audit_proxy.demo.child import free_ports
from kube_audit_proxy.demo.cluster import DemoCluster
from support import load, serving
from support.load import Load, Objects, Reached, Watch
from support.proxies import Proxy, wait_until
from support.raw import Raw
from support.trail import Record

pytestmark = pytest.mark.servers

_WATCHES, _EXECS = 200, 20
_EXIT = "read line; exit 7"
"""What a session does that is to come to its end."""


@contextlib.contextmanager
def _exec(demo: DemoCluster, proxy: Proxy, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Have kubectl run a script in a pod that says when it has begun, and then reads its standard input."""
    cache = f"--cache-dir={proxy.data_dir.parent / 'kubectl-cache'}"
    argv = [str(demo.kubectl), f"--kubeconfig={proxy.kubeconfig}", cache, "exec", "-i", "toolbox", "--"]
    pipe = subprocess.PIPE
    command = [*argv, "sh", "-c", f"echo begun; {script}"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as kubectl:
        try:
            yield kubectl
        finally:
            kubectl.kill()


def _has_begun(session: subprocess.Popen[bytes]) -> None:
    assert session.stdout is not None
    assert session.stdout.readline() == b"begun\n"


def _come_to_its_end(session: subprocess.Popen[bytes]) -> int:
    session.communicate(b"now\n")
    return session.returncode


def _ends(proxy: Proxy) -> dict[str, Record]:
    """The end of each call by audit ID; each has one, and a start before it."""
    calls = [line for line in proxy.lines() if line["kind"] == "call"]
    starts = Counter(line["auditID"] for line in calls if line["stage"] == "RequestReceived")
    ends = {line["auditID"]: line for line in calls if line["stage"] in {"ResponseComplete", "Panic"}}
    assert starts == Counter(dict.fromkeys(ends, 1))
    assert len(ends) == sum(line["stage"] in {"ResponseComplete", "Panic"} for line in calls)
    return ends


@contextlib.contextmanager
def _creates(proxy: Proxy, some: list[Objects], pause: float = 0.05) -> Iterator[Load]:
    """Have a client create some of each, and go on during the block."""
    before = [len(objects.created) for objects in some]
    with Load(proxy) as running:
        for objects in some:
            running.client(objects.create, pause)
        wait_until(
            lambda: all(len(objects.created) > n + 5 for objects, n in zip(some, before, strict=True)), "creates"
        )
        yield running


def _listed(demo: DemoCluster, objects: Objects) -> set[str]:
    """The names of the objects that are in the cluster."""
    argv = [str(demo.kubectl), f"--kubeconfig={demo.kubeconfig}", "get", "cm", "-n", objects.namespace, "-o", "name"]
    names = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()
    return {name.removeprefix("configmap/") for name in names} - {"kube-root-ca.crt"}


def _assert_every_create_is_accounted_for(
    demo: DemoCluster, some: list[Objects], reached: Reached, proxy: Proxy
) -> None:
    """Objects there are = creates answered 201, and those not answered of which the trail tells how they ended."""
    ends = _ends(proxy)
    calls = {call: event for call, event in reached.look().items() if event["verb"] == "create"}
    made = Counter(
        event["objectRef"]["name"]
        for event in calls.values()
        if event["objectRef"]["resource"] == "configmaps" and event["responseStatus"]["code"] == 201
    )
    assert set(calls) <= set(ends)
    assert set(made.values()) == {1}
    answered = {name for each in some for name, answer in each.created.items() if answer.code == 201}
    unanswered = set().union(*(each.unanswered for each in some))
    told = {calls[call]["objectRef"]["name"] for call in calls if ends[call]["outcome"] != "complete"}
    assert {answer.code for each in some for answer in each.created.values()} == {201}
    assert answered <= set(made)
    assert set(made) - answered <= unanswered & told
    assert _listed(demo, some[0]) == set(made)
    for each in some:
        for name, answer in each.created.items():
            assert calls[answer.audit_id]["objectRef"]["name"] == name
            assert (ends[answer.audit_id]["outcome"], ends[answer.audit_id]["status"]) == ("complete", 201)


def test_a_stop_under_load_loses_nothing(demo: DemoCluster, tmp_path: Path) -> None:
    """SIGTERM with 200 watches, 20 sessions and a stream of creates: each is accounted for, across the next start."""
    (port,) = free_ports(1)
    name = load.place(demo, "drain")
    reached = Reached(demo, name)
    settings: dict[str, Any] = {"clusters": ("demo",), "listen": f"127.0.0.1:{port}", "workers": 2, "grace_period": 10}
    some = [Objects(name, f"cm-{number}") for number in range(3)]
    with ExitStack() as stack:
        first = stack.enter_context(serving.serving(tmp_path, demo.kubeconfig, **settings))
        proxy = load.user(first, name)
        version = load.version(proxy, some[0])
        watches = [Watch(proxy, some[0], version) for _ in range(_WATCHES)]
        execs = [stack.enter_context(_exec(demo, proxy, _EXIT if each % 2 else "cat")) for each in range(_EXECS)]
        for session in execs:
            _has_begun(session)
        processes = psutil.Process(first.process.pid).children(recursive=True)
        with _creates(proxy, some) as running:
            first.process.terminate()
            wait_until(lambda: running.refused, "the proxy to take no new connections")
        assert [_come_to_its_end(session) for session in execs[1::2]] == [7] * (_EXECS // 2)
        for watch in watches:
            watch.to_its_end()
        assert first.process.wait(60) == 0
        assert [process for process in processes if process.is_running()] == []
        ends = _ends(proxy)

        stack.enter_context(serving.serving(tmp_path, demo.kubeconfig, **settings))
        for watch in watches:
            watch.connect(proxy)
        with _creates(proxy, some):
            pass
        names = _listed(demo, some[0])
        for watch in watches:
            watch.until(names)
            watch.close()
        assert all(sorted(watch.seen) == sorted(names) for watch in watches)
    _assert_every_create_is_accounted_for(demo, some, reached, proxy)
    assert serving.verify(proxy.data_dir).returncode == 0
    told = Counter((end["verb"], end.get("subresource"), end["outcome"], end.get("exit_code")) for end in ends.values())
    assert told["watch", None, "interrupted", None] == _WATCHES
    assert told["get", "exec", "complete", 7] + told["create", "exec", "complete", 7] == _EXECS // 2
    assert told["get", "exec", "interrupted", None] + told["create", "exec", "interrupted", None] == _EXECS // 2


def test_a_worker_that_is_told_to_end_has_a_successor_at_once(demo: DemoCluster, tmp_path: Path) -> None:
    """SIGTERM to the only worker under load: no call fails, its streams go on to their end, another one takes over."""
    name = load.place(demo, "replaced")
    reached = Reached(demo, name)
    some = [Objects(name, f"cm-{number}") for number in range(3)]
    marker = Objects(name, "marker")
    with ExitStack() as stack:
        settings: dict[str, Any] = {"clusters": ("demo",), "grace_period": 600}
        own = stack.enter_context(serving.serving(tmp_path, demo.kubeconfig, **settings))
        proxy = load.user(own, name)
        version = load.version(proxy, marker)
        watches = [Watch(proxy, marker, version) for _ in range(20)]
        session = stack.enter_context(_exec(demo, proxy, _EXIT))
        _has_begun(session)
        with _creates(proxy, some, pause=0) as running:
            worker = own.children()["w0"]
            worker.terminate()
            wait_until(lambda: "w1 takes its place" in own.log.read_text(), "a successor")
            wait_until(
                lambda: {"w1"} & {line["writer"] for line in proxy.lines() if line["kind"] == "call"}, "it to serve"
            )
            with Raw(proxy) as raw:
                assert marker.create(raw).code == 201
            for watch in watches:
                watch.until({"marker-0"})
                watch.close()
            assert _come_to_its_end(session) == 7
            worker.wait(60)
            wait_until(lambda: serving.health(own)[0] == 200, "the proxy to be ready")
            assert "[+]w1 ok" in serving.health(own, "readyz?verbose")[1]
        assert (running.refused, running.broken) == (0, [])
        assert set().union(*(objects.unanswered for objects in some)) == set()
    _assert_every_create_is_accounted_for(demo, [*some, marker], reached, proxy)
    assert {end["outcome"] for end in _ends(proxy).values()} == {"complete", "client_gone"}
    assert serving.verify(proxy.data_dir).returncode == 0


def test_a_draining_worker_that_is_killed_leaves_no_call_open(demo: DemoCluster, tmp_path: Path) -> None:
    """A worker that is killed while its calls come to their end leaves none open: they are closed as interrupted."""
    name = load.place(demo, "killed")
    objects = Objects(name, "cm")
    with serving.serving(tmp_path, demo.kubeconfig, clusters=("demo",), grace_period=600) as own:
        proxy = load.user(own, name)
        watch = Watch(proxy, objects, load.version(proxy, objects))
        worker = own.children()["w0"]
        worker.terminate()
        wait_until(lambda: "w1 takes its place" in own.log.read_text(), "a successor")
        worker.kill()
        watch.to_its_end()
        (end,) = own.ended(lambda end: end["verb"] == "watch")
        assert (end["outcome"], end["writer"]) == ("interrupted", "w0")
        assert "duration_ms" not in end
        wait_until(lambda: serving.health(own, "healthz")[0] == 200, "the proxy to be well")
    assert serving.verify(proxy.data_dir).returncode == 0


def test_a_connection_makes_its_last_call_while_the_worker_drains(demo: DemoCluster, tmp_path: Path) -> None:
    """A call that has begun to arrive is answered, and told that it is the last there; then the worker ends."""
    with serving.serving(tmp_path, demo.kubeconfig, clusters=("demo",), grace_period=600) as own, Raw(own) as raw:
        assert not raw.ask("GET /clusters/demo/version").closes
        head = raw.head("GET /clusters/demo/version")
        raw.send(head[:10])
        worker = own.children()["w0"]
        worker.terminate()
        wait_until(lambda: "w1 takes its place" in own.log.read_text(), "a successor")
        raw.send(head[10:])
        answer = raw.answer()
        assert (answer.code, answer.closes) == (200, True)
        assert raw.ended()
        assert raw.was_closed_in_order
        worker.wait(60)
