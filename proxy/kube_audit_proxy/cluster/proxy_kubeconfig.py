"""Kubeconfigs that lead through the proxy."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Way:
    """One context to write: its name, the cluster it leads to, and the token that says whose it is."""

    context: str
    cluster: str
    token: str
    namespace: str = ""


def render(url: str, authority: bytes, ways: Sequence[Way]) -> str:
    """Give a kubeconfig with one context for each way; the first is the current one."""
    clusters = {way.cluster: _cluster(url, authority, way) for way in ways}
    content: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": ways[0].context,
        "clusters": [{"name": name, "cluster": cluster} for name, cluster in clusters.items()],
        "users": [{"name": way.context, "user": {"token": way.token}} for way in ways],
        "contexts": [{"name": way.context, "context": _context(way)} for way in ways],
    }
    return yaml.safe_dump(content, sort_keys=False)


def write(path: Path, content: str) -> None:
    """Write a file with credentials: readable by its owner only, and never half."""
    beside = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)
    beside.rename(path)


def _cluster(url: str, authority: bytes, way: Way) -> dict[str, Any]:
    cluster: dict[str, Any] = {"server": f"{url}/clusters/{way.cluster}"}
    if authority:
        cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
    return cluster


def _context(way: Way) -> dict[str, str]:
    context = {"cluster": way.cluster, "user": way.context}
    return context | {"namespace": way.namespace} if way.namespace else context
