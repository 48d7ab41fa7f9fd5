"""The files that the servers of a demo cluster read: identities, audit policy, what pods have on disk."""

from __future__ import annotations

import base64
import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from kube_audit_proxy.demo.private import write_private

if TYPE_CHECKING:
    from collections.abc import Mapping

_STAGES = Path(__file__).with_name("stages.yaml")

OWNER = "demo-owner"
SETUP = "demo-setup"
CONTROLLER_MANAGER = "system:kube-controller-manager"
SCHEDULER = "system:kube-scheduler"
KUBELETS = "demo-kubelets"

# who is known by a token, and their groups
IDENTITIES: Mapping[str, str] = {
    OWNER: "system:masters",
    SETUP: "system:masters",  # not the owner: the audit log should show the owner's own calls only
    CONTROLLER_MANAGER: "",
    SCHEDULER: "",
    KUBELETS: "system:masters",
}

AUDIT_POLICY = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}

# by container name; "any" is every other container
_LOGS: Mapping[str, tuple[str, ...]] = {
    "toolbox": (
        "toolbox is ready",
        "mounted /work",
        "checked the connection to db.shop: ok",
        "waiting for somebody to need a tool",
    ),
    "web": (
        "listening on :8080",
        "settings from web-settings: LOG_LEVEL=info CURRENCY=EUR",
        "connected to db.shop:5432",
        "GET /healthz 200 1ms",
        "GET /products?page=1 200 14ms",
        "POST /cart 201 9ms",
        "GET /products/42 404 3ms",
        "GET /healthz 200 1ms",
    ),
    "db": (
        "starting PostgreSQL 18",
        'listening on IPv4 address "0.0.0.0", port 5432',
        "database system is ready to accept connections",
        "checkpoint starting: time",
        "checkpoint complete: wrote 44 buffers (0.3%)",
    ),
    "any": ("started", "ready"),
}


@dataclass(frozen=True, slots=True)
class Pods:
    """Where the simulated pods have their logs and their working directory."""

    logs: Path
    work: Path


def write_kubeconfig(path: Path, *, server: str, ca: bytes, user: str, token: str) -> None:
    """Write a kubeconfig with context and cluster demo, readable by the owner only. Raises OSError."""
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(ca).decode()}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "demo", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": user}}],
        "current-context": "demo",
    }
    write_private(path, yaml.safe_dump(config, sort_keys=False))


def write_tokens(path: Path, tokens: Mapping[str, str]) -> None:
    """Write the API server's token file for IDENTITIES. Raises OSError."""
    lines = (f'{tokens[name]},{name},{name},"{group}"\n' for name, group in IDENTITIES.items())
    write_private(path, "".join(lines))


def write_audit_policy(path: Path) -> None:
    """Write a policy that records the metadata of every call at every stage. Raises OSError."""
    write_private(path, json.dumps(AUDIT_POLICY))


def write_stages(path: Path, *, kubelet_port: int) -> None:
    """Write how kwok changes nodes and pods. Raises OSError."""
    write_private(path, _STAGES.read_text("utf-8").replace("KUBELET_PORT", str(kubelet_port)))


def write_pods(folder: Path) -> Pods:
    """Write what the pods answer: logs in the format of a container runtime, and a directory to work in.

    Raises OSError.
    """
    pods = Pods(logs=folder / "logs", work=folder / "work")
    for one in (pods.logs, pods.work):
        one.mkdir(parents=True)
    (pods.work / "README").write_text("This is the working directory of every pod of the demo.\n", encoding="utf-8")
    now = dt.datetime.now(dt.UTC)
    for container, lines in _LOGS.items():
        stamps = (now - dt.timedelta(seconds=7 * (len(lines) - at)) for at in range(len(lines)))
        text = (
            f"{stamp:%Y-%m-%dT%H:%M:%S.%f}000Z stdout F {line}\n" for stamp, line in zip(stamps, lines, strict=True)
        )
        (pods.logs / f"{container}.log").write_text("".join(text), encoding="utf-8")
    return pods
