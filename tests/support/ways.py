"""The two ways to a cluster that tests compare: through the proxy, and directly."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

    from kube_audit_proxy.demo.cluster import DemoCluster
    from support.proxies import Proxy

_VOLATILE = frozenset({"uid", "resourceVersion", "creationTimestamp", "time", "lastTransitionTime"})


@dataclass(frozen=True, slots=True)
class Way:
    """How a client gets to an API server."""

    url: str
    """Where its paths begin, without a slash at the end."""
    authority: Path
    token: str
    kubeconfig: Path


def direct(demo: DemoCluster) -> Way:
    """Give the way without the proxy, of the cluster's owner."""
    return Way(demo.server, demo.ca_file, demo.token, demo.kubeconfig)


@functools.cache
def through(proxy: Proxy, user: str = "") -> Way:
    """Give the way through the proxy: of the cluster's owner, or of a user who is impersonated."""
    kubeconfig = proxy.kubeconfig_of(user) if user else proxy.kubeconfig
    token = yaml.safe_load(kubeconfig.read_bytes())["users"][0]["user"]["token"]
    return Way(f"{proxy.url}/clusters/demo", proxy.authority, token, kubeconfig)


def alike(value: Any) -> Any:
    """A JSON value without what differs from one object or time to the next."""
    if isinstance(value, dict):
        return {key: alike(each) for key, each in value.items() if key not in _VOLATILE}
    if isinstance(value, list):
        return [alike(each) for each in value]
    return value
