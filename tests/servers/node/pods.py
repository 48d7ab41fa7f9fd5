"""Pods for a node, and how tests put them there."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from servers.node.images import BUSYBOX

if TYPE_CHECKING:
    from servers.node import Node

IMAGE = BUSYBOX[0].removeprefix("docker.io/library/")
SLEEP = "sleep 1000000"


def container(script: str, name: str = "main", **more: Any) -> dict[str, Any]:
    """A container that runs a shell script."""
    return {"name": name, "image": IMAGE, "command": ["sh", "-c", script], **more}


def pod(name: str, *containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A pod that is gone at once when it is deleted."""
    spec = {"terminationGracePeriodSeconds": 0, "containers": list(containers), **more}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"run": name}}, "spec": spec}


def run(node: Node, *objects: dict[str, Any], until: str = "condition=Ready") -> None:
    """Put pods on the node, and return when they have come as far as `kubectl wait --for` says."""
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    kubectl(node, "create", "--validate=false", "-f", "-", given=everything)
    kubectl(node, "wait", f"--for={until}", "--timeout=60s", *(f"pod/{each['metadata']['name']}" for each in objects))


def kubectl(node: Node, *arguments: str, given: str = "", check: bool = True) -> str:
    """Run the node's own kubectl, as its owner and directly; return what it prints."""
    command = [str(node.kubectl), f"--kubeconfig={node.kubeconfig}", *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout
