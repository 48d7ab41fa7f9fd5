"""A Kubernetes cluster on loopback for the demo and the tests: real control plane, simulated nodes.

Commands that pods are asked to execute run on this machine, as the user who started the cluster. Nobody gets in without
a token of the cluster or a certificate of its authority.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import secrets
import shutil
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from kube_audit_proxy.demo import files, servers
from kube_audit_proxy.demo.build import ensure
from kube_audit_proxy.demo.child import Child, free_ports
from kube_audit_proxy.demo.pki import write_pki
from kube_audit_proxy.demo.private import write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

_MANIFESTS = Path(__file__).with_name("manifests")
_MODULES = ("etcd", "kubernetes", "kwok", "kubelet")
_DEADLINE = 90.0
_POLL = 0.05
_PORT_TAKEN = "address already in use"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ClusterError(Exception):
    """The demo cluster cannot start or go on; the message names the reason and the log to read."""


class _PortTakenError(ClusterError):
    """Somebody else took a port between the choice of it and its use."""


@dataclass(frozen=True, slots=True)
class DemoAddresses:
    """Where a running demo cluster is and how to get in as its owner, an administrator."""

    server: str
    token: str
    ca_file: Path
    kubeconfig: Path
    audit_log: Path
    kubectl: Path


class DemoCluster:
    """A cluster in a directory; a context manager that starts and stops it.

    The directory is created if need be; what a cluster left there before is thrown away at start. progress gets lines
    for a person to read. apiserver_flags are added to kube-apiserver's own and win over them.

    Nothing of it survives this process, however it ends. Not for use by several threads at once.
    """

    def __init__(
        self,
        directory: Path,
        *,
        apiserver_flags: Sequence[str] = (),
        progress: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._layout = servers.Layout(directory.absolute())
        self._apiserver_flags = tuple(apiserver_flags)
        self._progress = progress
        self._children: list[Child] = []
        self._lock: IO[str] | None = None
        self._site: servers.Site | None = None
        self._addresses: DemoAddresses | None = None
        self._setup_token = ""

    def __enter__(self) -> Self:
        """Start; see start()."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; see stop()."""
        self.stop()

    @property
    def addresses(self) -> DemoAddresses:
        """Where it is; raises ClusterError before start() has returned and after stop()."""
        if self._addresses is None:
            raise ClusterError("The demo cluster is not running.")
        return self._addresses

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return self.addresses.server

    @property
    def token(self) -> str:
        """The bearer token of the owner."""
        return self.addresses.token

    @property
    def ca_file(self) -> Path:
        """The certificate of the authority that signed every certificate of the cluster."""
        return self.addresses.ca_file

    @property
    def kubeconfig(self) -> Path:
        """The owner's kubeconfig: context and cluster demo."""
        return self.addresses.kubeconfig

    @property
    def audit_log(self) -> Path:
        """The API server's own audit log: metadata of every call at every stage, written before the answer."""
        return self.addresses.audit_log

    @property
    def kubectl(self) -> Path:
        """A kubectl of the cluster's version."""
        return self.addresses.kubectl

    def start(self) -> DemoAddresses:
        """Start afresh; return once the API answers, the nodes are Ready and the pods of the demo run.

        Builds the servers first if they are not built yet, which takes minutes. Raises BuildError if that fails,
        ClusterError if a server ends or is not ready in time, OSError if the directory cannot be used; in each case
        nothing is left running.
        """
        if self._children:
            raise ClusterError("The demo cluster is running already.")
        programs: dict[str, Path] = {}
        for name in _MODULES:
            programs |= ensure(name, self._progress)
        try:
            self._take_directory()
            try:
                return self._start_once(programs)
            except _PortTakenError:
                self._stop_children()
                return self._start_once(programs)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all servers, last started first; does nothing if none runs. The directory stays for a look at it."""
        self._stop_children()
        self._addresses = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def stop_apiserver(self, *, patience: float = 5.0) -> None:
        """End the API server and leave the rest running; with patience 0 kill it at once."""
        child = self._apiserver()
        child.stop(patience=patience)
        self._children.remove(child)

    def start_apiserver(self) -> None:
        """Start the API server again, on the same port and data; return once it is ready. Raises ClusterError."""
        if self._site is None or not self._children:
            raise ClusterError("The demo cluster is not running.")
        if any(child.name == "kube-apiserver" for child in self._children):
            raise ClusterError("The API server of the demo cluster is running already.")
        # after etcd: the order of the list is the order of the start
        self._run("kube-apiserver", servers.apiserver(self._site), at=1)
        self._wait("kube-apiserver", self._api_ready)

    def _take_directory(self) -> None:
        root = self._layout.root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = (root / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(f"Another demo cluster runs in {root}: stop it or choose another directory.") from None

    def _start_once(self, programs: dict[str, Path]) -> DemoAddresses:
        layout = self._layout
        for old in (layout.etcd, layout.logs, layout.pki, layout.control, layout.pods):
            shutil.rmtree(old, ignore_errors=True)
        for new in (layout.logs, layout.pki, layout.control):
            new.mkdir(mode=0o700)
        pki = write_pki(layout.pki)
        ports = servers.Ports(*free_ports(4))
        site = self._site = servers.Site(programs, layout, ports, pki, self._apiserver_flags)
        server = f"https://127.0.0.1:{ports.apiserver}"
        tokens = {name: secrets.token_urlsafe(32) for name in files.IDENTITIES}
        self._setup_token = tokens[files.SETUP]
        authority = pki.ca.read_bytes()
        for user, token in tokens.items():
            path = layout.kubeconfig if user == files.OWNER else layout.kubeconfig_of(user)
            files.write_kubeconfig(path, server=server, ca=authority, user=user, token=token)
        files.write_tokens(layout.tokens, tokens)
        files.write_audit_policy(layout.audit_policy)
        write_private(layout.audit_log, "")
        files.write_stages(layout.stages, kubelet_port=ports.kubelet)
        pods = files.write_pods(layout.pods)

        self._progress("starting etcd and kube-apiserver ...")
        self._run("etcd", servers.etcd(site))
        self._run("kube-apiserver", servers.apiserver(site))
        self._wait("kube-apiserver", self._api_ready)
        self._progress("starting kube-controller-manager, kube-scheduler and two simulated nodes ...")
        self._run("kube-controller-manager", servers.controller_manager(site, files.CONTROLLER_MANAGER))
        self._run("kube-scheduler", servers.scheduler(site, files.SCHEDULER))
        self._run("kwok", servers.kwok(site, files.KUBELETS))
        self._run("demo-kubelet", servers.kubelet(site, pods))
        self._apply_manifests(programs["kubectl"])
        self._progress("waiting for nodes and pods ...")
        self._wait("the nodes", self._nodes_ready)
        self._wait("the pods", self._pods_running)
        self._wait("the roles", self._roles_filled)
        self._wait("the kubelet", self._kubelet_listens)
        self._progress(f"the demo cluster is ready at {server}")
        self._addresses = DemoAddresses(
            server=server,
            token=tokens[files.OWNER],
            ca_file=pki.ca,
            kubeconfig=layout.kubeconfig,
            audit_log=layout.audit_log,
            kubectl=programs["kubectl"],
        )
        return self._addresses

    def _run(self, name: str, argv: Sequence[str], *, at: int | None = None) -> None:
        child = Child(name, argv, log=self._layout.logs / f"{name}.log", environ=self._environ())
        self._children.insert(len(self._children) if at is None else at, child)

    def _environ(self) -> dict[str, str]:
        # not the caller's: exec in a pod must not show it, and a proxy variable would send loopback calls elsewhere
        home = str(self._layout.pods / "work")
        return {"PATH": _PATH, "HOME": home, "TERM": "xterm", "LANG": "C.UTF-8", "PS1": "$ "}

    def _apiserver(self) -> Child:
        for child in self._children:
            if child.name == "kube-apiserver":
                return child
        raise ClusterError("The API server of the demo cluster is not running.")

    def _stop_children(self) -> None:
        while self._children:
            self._children[-1].stop()
            self._children.pop()

    def _check_children(self) -> None:
        for child in self._children:
            if child.exit_code is None:
                continue
            last = child.last_lines()
            kind = _PortTakenError if _PORT_TAKEN in last else ClusterError
            raise kind(
                f"{child.name} ended with code {child.exit_code}. Its log is {child.log}; the end of it:\n{last}"
            )

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _DEADLINE
        while not ready():
            self._check_children()
            if time.monotonic() > deadline:
                raise ClusterError(f"Not ready after {_DEADLINE:.0f} s: {what}. The logs are in {self._layout.logs}.")
            time.sleep(_POLL)

    def _apply_manifests(self, kubectl: Path) -> None:
        config = self._layout.kubeconfig_of(files.SETUP)
        flags = [f"--kubeconfig={config}", f"--cache-dir={self._layout.control / 'kubectl-cache'}"]
        # server-side: what a controller made in the meantime, such as service accounts, is no conflict
        apply = ["apply", "--server-side", "--force-conflicts", "--validate=ignore", "-f", str(_MANIFESTS)]
        try:
            done = subprocess.run(
                [str(kubectl), *flags, *apply],
                capture_output=True,
                text=True,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                timeout=_DEADLINE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ClusterError(f"Not ready after {_DEADLINE:.0f} s: the demo's objects.") from None
        if done.returncode:
            self._check_children()
            raise ClusterError(f"The demo's objects could not be created: {done.stderr.strip()}")

    def _get(self, path: str) -> bytes | None:
        """Return what is at path, or None if there is no answer of status 200."""
        site = self._site
        if site is None:
            return None
        context = ssl.create_default_context(cafile=str(site.pki.ca))
        connection = http.client.HTTPSConnection("127.0.0.1", site.ports.apiserver, context=context, timeout=10)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._setup_token}"})
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return body if response.status == 200 else None

    def _object(self, path: str) -> dict[str, Any]:
        found = json.loads(self._get(path) or "{}")
        return found if isinstance(found, dict) else {}

    def _items(self, path: str) -> list[Any]:
        return list(self._object(path).get("items", ()))

    def _api_ready(self) -> bool:
        # the default namespace is made a moment after the API server says that it is ready
        return self._get("/readyz") is not None and self._get("/api/v1/namespaces/default") is not None

    def _nodes_ready(self) -> bool:
        return _all(self._items("/api/v1/nodes"), _is_ready)

    def _pods_running(self) -> bool:
        deployments = self._items("/apis/apps/v1/deployments")
        return _all(deployments, _is_complete) and _all(self._items("/api/v1/pods"), _is_ready)

    def _roles_filled(self) -> bool:
        # a controller puts together what is in them
        roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
        return all(self._object(f"{roles}/{name}").get("rules") for name in ("admin", "edit", "view"))

    def _kubelet_listens(self) -> bool:
        if self._site is None:
            return False
        try:
            socket.create_connection(("127.0.0.1", self._site.ports.kubelet), timeout=10).close()
        except OSError:
            return False
        return True


def _all(items: Sequence[Any], good: Callable[[Any], bool]) -> bool:
    return bool(items) and all(good(item) for item in items)


def _is_ready(item: Any) -> bool:
    conditions = item.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _is_complete(deployment: Any) -> bool:
    return bool(deployment.get("status", {}).get("readyReplicas", 0) == deployment["spec"]["replicas"])
