"""What cannot be recorded is not done, unless that was asked for; and then the record says so."""

import subprocess
from pathlib import Path

import pytest
import yaml

from kube_audit_proxy.demo.cluster import DemoCluster
from support.proxies import PROGRAM, lines, served, wait_until

pytestmark = pytest.mark.servers


def _config(home: Path, demo: DemoCluster, relaxed: list[str]) -> Path:
    config = {
        "data_dir": "data",
        "listen": "127.0.0.1:0",
        "clusters": [{"name": "demo", "kubeconfig": str(demo.kubeconfig)}],
        "journal": {"relaxed": relaxed},
        "grace_period": 1,
    }
    path = home / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _kubectl(demo: DemoCluster, kubeconfig: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [str(demo.kubectl), f"--kubeconfig={kubeconfig}", *arguments]
    return subprocess.run(argv, check=False, capture_output=True, text=True)


def _own_kubeconfig(home: Path) -> Path:
    path = home / "kubeconfig"
    argv = [*PROGRAM, "kubeconfig", "--cluster=demo", f"--data-dir={home / 'data'}", "-o", str(path)]
    subprocess.run(argv, check=True, capture_output=True)
    return path


def test_a_call_that_cannot_be_recorded_is_refused(demo: DemoCluster, tmp_path: Path) -> None:
    """With the journal gone every call is a 503 that says why; with it back, calls go on and the refusals are told."""
    with served(_config(tmp_path, demo, []), tmp_path / "log"):
        kubeconfig = _own_kubeconfig(tmp_path)
        assert _kubectl(demo, kubeconfig, "get", "ns").returncode == 0
        journal = tmp_path / "data" / "journal"
        journal.rename(tmp_path / "away")
        refused = _kubectl(demo, kubeconfig, "create", "cm", "never")
        assert refused.returncode == 1
        assert "cannot be recorded" in refused.stderr
        assert "NotFound" in _kubectl(demo, demo.kubeconfig, "get", "cm", "never").stderr
        (tmp_path / "away").rename(journal)
        wait_until(lambda: _kubectl(demo, kubeconfig, "get", "ns").returncode == 0, "the proxy to serve again")
        (told, *_) = wait_until(lambda: _refusals(tmp_path / "data"), "the refusal to be recorded")
    assert (told["verb"], told["resource"], told["decision"], told["outcome"]) == (
        "create", "configmaps", "error", "refused",
    )  # fmt: skip


def _refusals(data_dir: Path) -> list[dict[str, str]]:
    return [line for line in lines(data_dir) if line.get("status") == 503 and line["method"] == "POST"]


def test_reads_may_be_let_through_unrecorded_and_say_so(demo: DemoCluster, tmp_path: Path) -> None:
    """With `relaxed: [read]` a read goes on without its record, an exec and a write do not; the trail says relaxed."""
    with served(_config(tmp_path, demo, ["read"]), tmp_path / "log"):
        kubeconfig = _own_kubeconfig(tmp_path)
        assert _kubectl(demo, kubeconfig, "get", "ns").returncode == 0
        journal = tmp_path / "data" / "journal"
        journal.rename(tmp_path / "away")
        assert _kubectl(demo, kubeconfig, "get", "po", "toolbox").returncode == 0
        assert _kubectl(demo, kubeconfig, "exec", "toolbox", "--", "true").returncode == 1
        assert _kubectl(demo, kubeconfig, "create", "cm", "never").returncode == 1
        (tmp_path / "away").rename(journal)
        told = wait_until(
            lambda: [line for line in lines(tmp_path / "data") if line.get("relaxed")], "the reads to be told"
        )
    assert {(line["verb"], line["resource"]) for line in told} == {("get", "pods")}
