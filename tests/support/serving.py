"""Runs `kube-audit-proxy serve` with the settings that a test wants, in front of scripted servers or a real one."""

import base64
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from kube_audit_proxy.demo.child import free_ports
from kube_audit_proxy.identity.tokens import Grant, issue
from support.proxies import PROGRAM, Proxy, wait_until

_DEADLINE = 60.0


def kubeconfig(path: Path, servers: Mapping[str, tuple[str, bytes]], user: Mapping[str, Any] | None = None) -> Path:
    """Write a kubeconfig with a context for each server: its URL, and the certificate to trust it by, if any."""
    clusters = [
        {"name": name, "cluster": {"server": url} | ({"certificate-authority-data": _base64(ca)} if ca else {})}
        for name, (url, ca) in servers.items()
    ]
    content = {
        "clusters": clusters,
        "users": [{"name": "own", "user": dict(user or {"token": "own-credential"})}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "own"}} for name in servers],
        "current-context": next(iter(servers)),
    }
    path.write_text(yaml.safe_dump(content))
    return path


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@contextmanager
def serving(
    home: Path,
    upstream: Path,
    *,
    clusters: tuple[str, ...] = ("plain",),
    environ: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
    **settings: Any,
) -> Iterator[Proxy]:
    """Start it in `home`, in front of these contexts of a kubeconfig; stop it at the end of the block.

    `before` is run in the process before it becomes the program.
    """
    (admin,) = free_ports(1)
    config = {
        "data_dir": "data",
        "listen": "127.0.0.1:0",
        "admin": {"listen": f"127.0.0.1:{admin}"},
        "grace_period": 2,
        "clusters": [{"name": name, "kubeconfig": str(upstream), "context": name} for name in clusters],
    } | settings
    path, log = home / "config.yaml", home / "proxy.log"
    path.write_text(yaml.safe_dump(config))
    log.touch()
    size = log.stat().st_size
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*PROGRAM, "serve", "--config", str(path)],
            stderr=errors,
            env={**os.environ, **(environ or {})},
            preexec_fn=before,  # noqa: PLW1509 - these tests start processes from one thread
        )
    try:

        def ready() -> re.Match[bytes] | None:
            assert process.poll() is None, log.read_text()
            return re.search(rb"ready at (\S+)", log.read_bytes()[size:])

        found = wait_until(ready, "the proxy to be ready")
        assert found is not None
        data = home / "data"
        token = issue(data / "tokens", Grant("jane", ("shop",), ("*",), impersonated=False, expires=2**40))
        own = home / "kubeconfig"
        own.write_text(_own(found[1].decode(), clusters, token, (data / "tls" / "ca.pem").read_bytes()))
        yield Proxy(process, found[1].decode(), data, own, log, f"http://127.0.0.1:{admin}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_DEADLINE)


def _own(url: str, clusters: tuple[str, ...], token: str, authority: bytes) -> str:
    content = {
        "clusters": [
            {
                "name": name,
                "cluster": {"server": f"{url}/clusters/{name}", "certificate-authority-data": _base64(authority)},
            }
            for name in clusters
        ],
        "users": [{"name": "jane", "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "jane"}} for name in clusters],
        "current-context": clusters[0],
    }
    return yaml.safe_dump(content)


def health(proxy: Proxy, path: str = "readyz") -> tuple[int, str]:
    """Ask the admin listener how the proxy is: the code of its answer, and what it says."""
    try:
        with urllib.request.urlopen(f"{proxy.admin}/{path}", timeout=_DEADLINE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def verify(data_dir: Path) -> subprocess.CompletedProcess[str]:
    """Run `verify` on the trail."""
    argv = [*PROGRAM, "verify", "--data-dir", str(data_dir)]
    return subprocess.run(argv, check=False, capture_output=True, text=True)


def logged(data_dir: Path) -> set[str]:
    """The audit ids of all calls that `log` shows, which reads them from the index."""
    argv = [*PROGRAM, "log", "-o", "json", "--limit", "0", "--data-dir", str(data_dir)]
    output = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return set(re.findall(r'"auditID":"([^"]+)"', output))
