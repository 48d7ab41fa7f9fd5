"""SIGHUP to `serve`: a good configuration takes over without a call dropped, a bad one is refused with its problems."""

import dataclasses
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube_audit_proxy.config import AdminConfig, ClusterConfig, Config
from kube_audit_proxy.demo.cluster import DemoCluster
from kube_audit_proxy.process.reload import problems, without_restart
from kube_audit_proxy.tls import ensure_certificates
from support import load, serving
from support.load import Load, Objects, Watch
from support.proxies import PROGRAM, Proxy, wait_until
from support.raw import Raw

_TAKEN_OVER = "ready at"
_REFUSED = "the one before stays in force"


def _reload(proxy: Proxy, change: Callable[[dict[str, Any]], object], told: str) -> str:
    """Change the configuration, send SIGHUP, wait until the log tells of this, and give what it has told."""
    path = proxy.data_dir.parent / "config.yaml"
    config = yaml.safe_load(path.read_bytes())
    change(config)
    path.write_text(yaml.safe_dump(config))
    size = proxy.log.stat().st_size
    proxy.process.send_signal(signal.SIGHUP)
    wait_until(lambda: told in proxy.log.read_text()[size:], f"the log to say {told!r}")
    return proxy.log.read_text()[size:]


def _further_cluster(demo: DemoCluster) -> Callable[[dict[str, Any]], object]:
    entry = {"name": "further", "kubeconfig": str(demo.kubeconfig), "context": "demo"}
    return lambda config: config["clusters"].append(entry)


def _status(proxy: Proxy, cluster: str) -> int:
    with Raw(proxy) as raw:
        return raw.ask(f"GET /clusters/{cluster}/version").code


def _workers(proxy: Proxy) -> set[str]:
    """The workers that are to take calls, as operators are shown them."""
    lines = serving.health(proxy, "readyz?verbose")[1].splitlines()
    return {line.partition("]")[2].split()[0] for line in lines if line.startswith("[")}


@pytest.mark.servers
def test_a_good_configuration_takes_over_under_load(demo: DemoCluster, tmp_path: Path) -> None:
    """With 20 watches, a session and a stream of creates: no call fails, streams go on, the new setting is in force."""
    name = load.place(demo, "reload")
    some = [Objects(name, f"cm-{number}") for number in range(3)]
    marker = Objects(name, "marker")
    with ExitStack() as stack:
        settings: dict[str, Any] = {"clusters": ("demo",), "workers": 2, "grace_period": 600}
        own = stack.enter_context(serving.serving(tmp_path, demo.kubeconfig, **settings))
        proxy = load.user(own, name)
        watches = [Watch(proxy, marker, load.version(proxy, marker)) for _ in range(20)]
        argv = [str(demo.kubectl), f"--kubeconfig={proxy.kubeconfig}", "exec", "-i", "toolbox", "--"]
        pipe = subprocess.PIPE
        session = stack.enter_context(subprocess.Popen([*argv, "sh", "-c", "echo begun; cat"], stdin=pipe, stdout=pipe))
        assert session.stdout is not None
        assert session.stdout.readline() == b"begun\n"
        assert _status(proxy, "further") == 403
        before = own.children()
        with Load(proxy) as running:
            for objects in some:
                running.client(objects.create)
            wait_until(lambda: all(len(objects.created) > 5 for objects in some), "the creates to be on")
            _reload(own, _further_cluster(demo), _TAKEN_OVER)
            assert _status(proxy, "further") == 200
            assert _workers(own) == {"w2", "w3"}
            with Raw(proxy) as raw:
                assert marker.create(raw).code == 201
            for watch in watches:
                watch.until({"marker-0"})
            at = [len(objects.created) for objects in some]
            wait_until(lambda: all(len(objects.created) > n + 5 for objects, n in zip(some, at, strict=True)), "more")
        for watch in watches:
            watch.close()
        assert session.communicate(b"still here\n")[0] == b"still here\n"
        assert session.returncode == 0
        for worker in ("w0", "w1"):
            before[worker].wait(60)
        assert (running.refused, running.broken) == (0, [])
        assert [objects.unanswered for objects in some] == [set()] * 3
        assert {answer.code for objects in some for answer in objects.created.values()} == {201}
        ends = own.ended()
        assert {end["outcome"] for end in ends} == {"complete", "client_gone", "refused"}
        assert {end["status"] for end in ends if end["outcome"] == "refused"} == {403}
        _reload(own, lambda config: config.update(workers=1), _TAKEN_OVER)
        assert _workers(own) == {"w0"}
        command = [
            *PROGRAM,
            "kubeconfig",
            "--cluster=further",
            f"--data-dir={own.data_dir}",
            "-o",
            str(tmp_path / "further.kubeconfig"),
        ]
        assert subprocess.run(command, check=False).returncode == 0
        assert own.stop() == 0
    assert serving.verify(own.data_dir).returncode == 0
    starts = [line["auditID"] for line in own.lines() if line.get("stage") == "RequestReceived"]
    assert sorted(starts) == sorted(end["auditID"] for end in own.ended())


@pytest.mark.servers
def test_a_bad_configuration_is_refused_and_the_old_one_goes_on(demo: DemoCluster, tmp_path: Path) -> None:
    """What is wrong with a file, or with what it names, is told in full, and nobody notices anything."""
    with serving.serving(tmp_path, demo.kubeconfig, clusters=("demo",)) as own:
        worker = own.children()["w0"]
        told = _reload(own, lambda config: config.update(grace_period=-1, moon="full"), _REFUSED)
        assert "- grace_period is to be 0 or more, not -1" in told
        assert "- moon is not a setting" in told

        def wrong_files(config: dict[str, Any]) -> None:
            del config["moon"]
            config |= {"grace_period": 2, "tls": {"certificate": "none.crt", "key": "none.key"}}
            config["clusters"].append({"name": "gone", "kubeconfig": "gone.kubeconfig"})

        told = _reload(own, wrong_files, _REFUSED)
        assert "none.crt" in told
        assert "- cluster 'gone': " in told
        (tmp_path / "config.yaml").write_text("clusters: [")
        own.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "it is not valid YAML" in own.log.read_text(), "the log to tell")
        assert (_status(own, "demo"), _status(own, "gone")) == (200, 403)
        assert own.children()["w0"] == worker
    assert serving.verify(own.data_dir).returncode == 0


@pytest.mark.servers
def test_a_worker_that_cannot_start_does_not_take_over(demo: DemoCluster, tmp_path: Path) -> None:
    """Where a new process fails at its start, the old ones go on, and another attempt may succeed."""
    with serving.serving(tmp_path, demo.kubeconfig, clusters=("demo",)) as own:
        taken = own.data_dir / "journal" / "w1"
        taken.mkdir(mode=0o700)
        with (taken / "lock").open("w") as lock:
            flock(lock, LOCK_EX)
            told = _reload(own, _further_cluster(demo), _REFUSED)
            assert "w1 ended with 1 before it was ready" in told
            assert (_status(own, "demo"), _status(own, "further")) == (200, 403)
            assert _workers(own) == {"w0"}
        _reload(own, lambda _: None, _TAKEN_OVER)
        assert (_status(own, "further"), _workers(own)) == (200, {"w1"})
    assert serving.verify(own.data_dir).returncode == 0


@pytest.mark.servers
def test_what_only_a_restart_changes_stays_and_is_told(demo: DemoCluster, tmp_path: Path) -> None:
    """Another address or data directory is not taken over; the rest is, and the log says so in one sentence."""
    with serving.serving(tmp_path, demo.kubeconfig, clusters=("demo",)) as own:

        def elsewhere(config: dict[str, Any]) -> None:
            _further_cluster(demo)(config)
            config |= {"data_dir": "elsewhere", "listen": "127.0.0.1:1"}
            config["admin"]["listen"] = "127.0.0.1:2"

        told = _reload(own, elsewhere, _TAKEN_OVER)
        assert "only a restart changes data_dir, listen, admin.listen" in told
        assert _status(own, "further") == 200
        assert serving.health(own)[0] == 200
    assert not (tmp_path / "elsewhere").exists()


_RUNNING = Config(Path("/data"), (ClusterConfig("a"),), port=8443, admin=AdminConfig())


@pytest.mark.parametrize(
    ("change", "fixed"),
    [
        ({}, ()),
        ({"grace": 1.0, "workers": 9}, ()),
        ({"port": 0}, ()),
        ({"port": 1}, ("listen",)),
        ({"host": "::"}, ("listen",)),
        ({"data_dir": Path("/other")}, ("data_dir",)),
        ({"admin": None}, ("admin.listen",)),
        ({"admin": AdminConfig(port=1, tls=True)}, ("admin.listen",)),
        ({"admin": AdminConfig(token_file=Path("/token"))}, ()),
    ],
)
def test_what_can_change_without_a_restart(change: dict[str, Any], fixed: tuple[str, ...]) -> None:
    """Addresses and the data directory stay; everything else, a token's file beside its address too, is the new one."""
    read = dataclasses.replace(_RUNNING, **change)
    following, told = without_restart(_RUNNING, read)
    assert told == fixed
    assert (following.data_dir, following.host, following.port) == (Path("/data"), "127.0.0.1", 8443)
    assert (following.grace, following.workers, following.clusters) == (read.grace, read.workers, read.clusters)
    assert following.admin is not None
    assert (following.admin.host, following.admin.port) == ("127.0.0.1", 9444)
    if read.admin is not None:
        assert (following.admin.tls, following.admin.token_file) == (read.admin.tls, read.admin.token_file)


def test_a_listener_for_operators_is_not_opened_without_a_restart() -> None:
    """Where there is none, the reload of a configuration with one leaves it so and says it."""
    running = dataclasses.replace(_RUNNING, admin=None)
    following, told = without_restart(running, _RUNNING)
    assert (following.admin, told) == (None, ("admin.listen",))


def test_every_problem_outside_of_the_file_is_told(tmp_path: Path) -> None:
    """A certificate that is another key's, and each cluster that cannot be found, are named at once."""
    own, other = (ensure_certificates(tmp_path / name, ()) for name in ("own", "other"))
    clusters = tuple(ClusterConfig(name, (tmp_path / "missing",)) for name in ("a", "b"))
    config = Config(tmp_path, clusters, certificate=own.certificate, key=other.key)
    told = list(problems(config))
    assert [sentence.partition(":")[0] for sentence in told] == ["tls", "cluster 'a'", "cluster 'b'"]
    assert not list(problems(dataclasses.replace(config, clusters=(), key=own.key)))
