"""What a user of the demo cluster relies on, with real servers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from kube_audit_proxy.demo.cluster import ClusterError, DemoCluster
from servers.kubectls import new_kubectl, old_kubectl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.servers

_START_AND_DIE = """
import os, signal, sys
from pathlib import Path
from kube_audit_proxy.demo.cluster import DemoCluster
DemoCluster(Path(sys.argv[1])).start()
os.kill(os.getpid(), signal.SIGKILL)
"""


def _kubectl(
    demo: DemoCluster, *arguments: str, program: Path | None = None, given: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program or demo.kubectl), f"--kubeconfig={demo.kubeconfig}", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _processes_of(folder: Path) -> list[str]:
    lines = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if f"{folder}/" in line]


@pytest.mark.parametrize("kubectl", [new_kubectl, old_kubectl])
def test_nodes_are_ready_and_pods_run(demo: DemoCluster, kubectl: Callable[[], Path]) -> None:
    """A new and an old kubectl see two Ready nodes and the pods of the shop right after the start."""
    nodes = _kubectl(demo, "get", "nodes", "--no-headers", program=kubectl()).stdout.splitlines()
    assert [line.split()[:2] for line in nodes] == [["node-1", "Ready"], ["node-2", "Ready"]]
    pods = _kubectl(demo, "get", "pods", "-A", "--no-headers", program=kubectl()).stdout.splitlines()
    found = [(line.split()[0], line.split()[1].split("-")[0], line.split()[3]) for line in pods]
    theirs = [("default", "toolbox"), ("shop", "db"), *[("shop", "web")] * 3]
    assert sorted(each for each in found if each[:2] in theirs) == [(*each, "Running") for each in theirs]


@pytest.mark.parametrize("kubectl", [new_kubectl, old_kubectl])
def test_logs_and_exec_answer(demo: DemoCluster, kubectl: Callable[[], Path]) -> None:
    """Logs print the container's lines; exec passes input, output and the exit code."""
    assert "toolbox is ready\n" in _kubectl(demo, "logs", "toolbox", program=kubectl()).stdout
    assert "listening on :8080\n" in _kubectl(demo, "logs", "-n", "shop", "deploy/web", program=kubectl()).stdout
    assert _kubectl(demo, "exec", "toolbox", "--", "echo", "hi", program=kubectl()).stdout == "hi\n"
    through = _kubectl(demo, "exec", "-i", "toolbox", "--", "cat", program=kubectl(), given="in and out\n")
    assert (through.returncode, through.stdout) == (0, "in and out\n")
    assert _kubectl(demo, "exec", "toolbox", "--", "sh", "-c", "exit 3", program=kubectl()).returncode == 3


def test_new_pod_is_scheduled(demo: DemoCluster) -> None:
    """A pod that names no node runs too."""
    assert _kubectl(demo, "run", "guest", "--image=busybox").returncode == 0
    waited = _kubectl(demo, "wait", "--for=condition=Ready", "pod/guest", "--timeout=30s")
    assert _kubectl(demo, "delete", "pod", "guest").returncode == 0
    assert waited.returncode == 0, waited.stderr


def test_three_people_have_their_rights(demo: DemoCluster) -> None:
    """The administrator may do all, the developer works in two namespaces, the viewer only looks."""
    for user, question, expected in (
        ("admin", ("delete", "nodes"), "yes"),
        ("developer", ("create", "pods/exec", "-n", "shop"), "yes"),
        ("developer", ("get", "pods/exec", "-n", "default"), "yes"),
        ("developer", ("create", "pods/portforward", "-n", "default"), "yes"),
        ("developer", ("get", "pods/log", "-n", "shop"), "yes"),
        ("developer", ("get", "pods", "-n", "kube-system"), "no"),
        ("viewer", ("list", "pods", "-n", "shop"), "yes"),
        ("viewer", ("create", "pods/exec", "-n", "default"), "no"),
    ):
        answer = _kubectl(demo, "--as", user, "auth", "can-i", *question).stdout.strip()
        assert (user, question, answer) == (user, question, expected)


def test_viewer_cannot_delete_pods(demo: DemoCluster) -> None:
    """The cluster itself refuses the viewer, who is known by impersonation only."""
    refused = _kubectl(demo, "--as", "viewer", "delete", "pod", "toolbox")
    assert refused.returncode == 1
    assert 'User "viewer" cannot delete resource "pods"' in refused.stderr


def test_audit_log_has_every_stage_of_the_owners_calls(demo: DemoCluster) -> None:
    """The API server's own audit log shows a call as received and as complete once kubectl has its answer."""
    assert _kubectl(demo, "get", "configmaps", "-n", "shop").returncode == 0
    path = "/api/v1/namespaces/shop/configmaps"
    lines = map(json.loads, demo.audit_log.read_bytes().splitlines())
    events = [
        line for line in lines if line["user"]["username"] == "demo-owner" and line["requestURI"].startswith(path)
    ]
    stages = {event["stage"] for event in events if event["auditID"] == events[-1]["auditID"]}
    assert stages == {"RequestReceived", "ResponseComplete"}


def test_secrets_are_for_the_owner_only(demo: DemoCluster) -> None:
    """Nobody else on the machine can read a key or a token."""
    assert demo.kubeconfig.stat().st_mode & 0o777 == 0o600
    assert demo.kubeconfig.parent.stat().st_mode & 0o077 == 0


def test_api_server_restarts_with_its_data(demo: DemoCluster) -> None:
    """After the API server was killed and started again everything is still there."""
    demo.stop_apiserver(patience=0)
    assert _kubectl(demo, "get", "pod", "toolbox").returncode == 1
    demo.start_apiserver()
    assert _kubectl(demo, "exec", "toolbox", "--", "echo", "back").stdout == "back\n"


def test_directory_is_not_shared(demo: DemoCluster) -> None:
    """A second cluster in the directory of a running one is refused and harms nothing."""
    with pytest.raises(ClusterError, match="Another demo cluster runs in"):
        DemoCluster(demo.kubeconfig.parent).start()
    assert _kubectl(demo, "get", "nodes").returncode == 0


def test_dying_server_is_explained_and_nothing_is_left(tmp_path: Path) -> None:
    """A server that ends during the start is named with the end of its log; the others are stopped."""
    folder = tmp_path / "cluster"
    with pytest.raises(ClusterError) as caught:
        DemoCluster(folder, apiserver_flags=["--no-such-flag"]).start()
    assert "kube-apiserver ended with code" in str(caught.value)
    assert "no-such-flag" in str(caught.value)
    assert str(folder / "logs" / "kube-apiserver.log") in str(caught.value)
    assert _processes_of(folder) == []


def test_stopped_cluster_leaves_no_process_and_starts_afresh(tmp_path: Path) -> None:
    """After stop() nothing runs; the same directory gives a new cluster with new secrets."""
    folder = tmp_path / "cluster"
    with DemoCluster(folder) as cluster:
        first = cluster.token
        assert _kubectl(cluster, "create", "namespace", "mine").returncode == 0
    assert _processes_of(folder) == []
    with DemoCluster(folder) as cluster:
        assert cluster.token != first
        assert "mine" not in _kubectl(cluster, "get", "namespaces").stdout
    assert _processes_of(folder) == []


def test_killed_parent_leaves_no_process(tmp_path: Path) -> None:
    """Even kill -9 of the program that started the cluster ends all servers."""
    folder = tmp_path / "cluster"
    died = subprocess.run([sys.executable, "-c", _START_AND_DIE, str(folder)], timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while left := _processes_of(folder):
        assert time.monotonic() < deadline, left
