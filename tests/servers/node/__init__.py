"""A real node for the tests: kubelet, containerd and runc, with a control plane, in namespaces of their own."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import secrets
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from kube_audit_proxy.demo import files
from kube_audit_proxy.demo import servers as control_plane
from kube_audit_proxy.demo.build import cache_root, ensure
from kube_audit_proxy.demo.pki import write_pki
from kube_audit_proxy.demo.private import write_private
from servers.node.images import packed
from servers.node.plan import KUBE_PROXY, KUBELET, NODE, PORTS, Link, apiserver_flags, write_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_KEEPER = Path(__file__).with_name("keeper.py")
_MODULES = ("etcd", "kubernetes", "node", "containerd")
_DEADLINE = 240.0
_LINKS = 200
_IDENTITIES: Mapping[str, str] = {
    files.OWNER: "system:masters",
    files.SETUP: "system:masters",  # not the owner: the audit log should show the owner's own calls only
    files.CONTROLLER_MANAGER: "",
    files.SCHEDULER: "",
    KUBELET: "system:nodes",
    KUBE_PROXY: "",
}
"""Who is known by a token, and their groups."""


class NodeError(Exception):
    """The node cannot start; the message names the reason and the logs to read."""


class Node:
    """A cluster of one real node in a directory; a context manager that starts and stops it.

    Nothing of it survives this process, however it ends, but what stands in the directory. It needs a machine of which
    `machine.why_not` has nothing to say. Images there are those of `images.BUSYBOX`.
    """

    def __init__(self, directory: Path) -> None:
        self._layout = control_plane.Layout(directory.absolute())
        self._keeper: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._lock: IO[str] | None = None
        self._tokens = {user: secrets.token_urlsafe(32) for user in _IDENTITIES}
        self.link = Link(0)
        self.kubectl = Path()

    def __enter__(self) -> Self:
        """Start, and return once pods can be run. Raises BuildError, NodeError, OSError or CalledProcessError."""
        programs: dict[str, Path] = {}
        for name in _MODULES:
            programs |= ensure(name, print)
        self.kubectl = programs["kubectl"]
        try:
            self._start(programs)
            self._wait("the API server", lambda: self._get("/readyz"))
            self._wait("the node", self._node_is_ready)
            self._wait("service accounts", lambda: self._get("/api/v1/namespaces/default/serviceaccounts/default"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; return when it and all it made is gone."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if self._keeper is not None:
            self._keeper.wait()
        if self._lock is not None:
            self._lock.close()

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return f"https://{self.link.node}:{PORTS.apiserver}"

    @property
    def kubeconfig(self) -> Path:
        """The owner's kubeconfig: context and cluster demo."""
        return self._layout.kubeconfig

    @property
    def audit_log(self) -> Path:
        """The API server's own audit log."""
        return self._layout.audit_log

    def _start(self, programs: Mapping[str, Path]) -> None:
        layout = self._layout
        for folder in (layout.root, layout.logs, layout.pki, layout.control):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._lock, self.link = take_link()
        pki = write_pki(layout.pki, addresses=[self.link.node])
        authority = pki.ca.read_bytes()
        for user, token in self._tokens.items():
            inside, path = f"https://127.0.0.1:{PORTS.apiserver}", layout.kubeconfig_of(user)
            files.write_kubeconfig(path, server=inside, ca=authority, user=user, token=token)
        owner = self._tokens[files.OWNER]
        files.write_kubeconfig(layout.kubeconfig, server=self.server, ca=authority, user=files.OWNER, token=owner)
        rows = (f'{self._tokens[user]},{user},{user},"{group}"\n' for user, group in _IDENTITIES.items())
        write_private(layout.tokens, "".join(rows))
        files.write_audit_policy(layout.audit_policy)
        site = control_plane.Site(programs, layout, PORTS, pki, apiserver_flags(self.link))
        plan = layout.control / "plan.json"
        write_plan(plan, site, packed(), self.link)
        reader, self._lifeline = os.pipe()
        with (layout.logs / "keeper.log").open("ab") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_KEEPER), str(plan)],
                stdin=reader, stdout=log, stderr=log, start_new_session=True, pass_fds=[self._lock.fileno()],
            )  # fmt: skip
        os.close(reader)

    def _wait(self, what: str, ready: Callable[[], object]) -> None:
        deadline = time.monotonic() + _DEADLINE
        while not ready():
            assert self._keeper is not None
            ended = self._keeper.poll() is not None
            if ended or time.monotonic() > deadline:
                said = (self._layout.logs / "keeper.log").read_text("utf-8", "replace")
                raise NodeError(f"Not there: {what}. The logs are in {self._layout.logs}. The keeper's:\n{said}")
            time.sleep(0.05)

    def _get(self, path: str) -> bytes | None:
        context = ssl.create_default_context(cafile=str(self._layout.pki / "ca.crt"))
        connection = http.client.HTTPSConnection(self.link.node, PORTS.apiserver, context=context, timeout=10)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._tokens[files.SETUP]}"})
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return body if response.status == 200 else None

    def _node_is_ready(self) -> bool:
        found = json.loads(self._get(f"/api/v1/nodes/{NODE}") or "{}")
        conditions = found.get("status", {}).get("conditions", ())
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def take_link() -> tuple[IO[str], Link]:
    """Take the lowest number that no other node of this machine has; it is ours until the file is closed."""
    folder = cache_root(os.environ)
    for number in range(_LINKS):
        lock = (folder / f".node-{number}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return lock, Link(number)
    raise NodeError("Too many nodes run on this machine.")
