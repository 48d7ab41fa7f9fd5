"""What the tests of streams rely on: a real node that runs pods, and nothing of which is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from servers.node import Node
from servers.node.machine import why_not
from servers.node.plan import NODE
from servers.node.pods import SLEEP, container, kubectl, pod, run
from support.proxies import wait_until

pytestmark = pytest.mark.servers

_START_AND_DIE = """
import os, signal, sys
from pathlib import Path
from servers.node import Node
from servers.node.pods import SLEEP, container, pod, run
node = Node(Path(sys.argv[1])).__enter__()
run(node, pod("left", container(SLEEP)))
print(node.link.number, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_pods_run_in_containers_of_their_own(node: Node) -> None:
    """A pod has its own name, address, processes and files, and gets to the API of the cluster by its service."""
    run(node, pod("guest", container(SLEEP)))
    try:
        said = kubectl(node, "exec", "guest", "--", "sh", "-c", "hostname; ps -o args; cat /etc/hostname; hostname -i")
        listening = kubectl(node, "exec", "guest", "--", "sh", "-c", "timeout 5 nc 10.96.0.1 443 </dev/null; echo $?")
    finally:
        kubectl(node, "delete", "pod", "guest", "--now", "--wait=false")
    lines = said.splitlines()
    assert (lines[0], lines[-2]) == ("guest", "guest")
    assert any(SLEEP in line for line in lines)
    assert lines[-1].startswith("10.244.0.")
    assert listening == "0\n"


def test_the_node_says_what_it_is(node: Node) -> None:
    """It is Ready, run by a kubelet and containerd of the versions that are built."""
    seen = kubectl(node, "get", "node", NODE, "--no-headers", "-o", "wide").split()
    assert seen[:2] == [NODE, "Ready"]
    assert seen[4] == "v1.36.3"
    assert seen[-1].startswith("containerd://")


def left_of(folder: Path, number: str) -> list[str]:
    """What there is of a node on this machine."""
    processes = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout
    found = [line for line in processes.splitlines() if f"{folder}/" in line]
    found += map(str, Path("/sys/fs/cgroup").glob(f"*/kube-audit-proxy-node-{number}"))
    found += map(str, Path("/sys/class/net").glob(f"kap-node-{number}"))
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]
    return found


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_nothing_is_left_of_a_node_whose_parent_was_killed(tmp_path: Path) -> None:
    """Kill -9 of the program that started a node ends its servers and pods; link and cgroups are gone, too."""
    folder = tmp_path / "node"
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    died = subprocess.run(
        [sys.executable, "-c", _START_AND_DIE, str(folder)], stdout=subprocess.PIPE, text=True, env=environ, check=False
    )
    assert died.returncode == -signal.SIGKILL
    number = died.stdout.split()[-1]
    wait_until(lambda: not left_of(folder, number), "nothing to be left")
