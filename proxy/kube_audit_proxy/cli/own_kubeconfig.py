"""The kubeconfig of the person who runs `up`, and those of the demo's users."""

import getpass
import time
from pathlib import Path

import yaml

from kube_audit_proxy.cluster.proxy_kubeconfig import Way, render, write
from kube_audit_proxy.identity.tokens import Grant, issue, revoke
from kube_audit_proxy.identity.user import EVERY_CLUSTER
from kube_audit_proxy.process.service import Running

KUBECONFIG = "kubeconfig"
"""Its name in the data directory."""

DEMO_USERS = ("admin", "developer", "viewer")
"""Users whom the demo cluster's roles know."""

_LIFETIME = 30 * 86400.0


def issue_own_kubeconfig(running: Running, *, demo: bool) -> Path:
    """Write a kubeconfig with a context for each cluster, and with `demo` one for each of the demo's users.

    Whoever runs `up` acts upstream as their own kubeconfig does. The tokens of the run before are revoked.
    """
    config = running.config
    path = config.data_dir / KUBECONFIG
    for token in _tokens_in(path):
        revoke(config.tokens, token)
    expires = time.time() + _LIFETIME
    own = issue(config.tokens, Grant(getpass.getuser(), (), (EVERY_CLUSTER,), impersonated=False, expires=expires))
    ways = [Way(each.name, each.name, own, each.namespace) for each in running.clusters]
    if demo:
        cluster = running.clusters[0].name
        for user in DEMO_USERS:
            token = issue(config.tokens, Grant(user, (), (cluster,), impersonated=True, expires=expires))
            ways.append(Way(f"{cluster}-{user}", cluster, token))
    write(path, render(config.url, running.authority.read_bytes() if running.authority else b"", ways))
    return path


def _tokens_in(path: Path) -> list[str]:
    if not path.exists():
        return []
    users = (yaml.safe_load(path.read_bytes()) or {}).get("users") or []
    return [user["user"]["token"] for user in users]
