"""A mixed load on a proxy: keep-alive clients and real kubectl, which go on whatever becomes of it."""

from __future__ import annotations

import json
import secrets
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Self

from kube_audit_proxy.identity.tokens import Grant, issue
from support.raw import Answer, CutError, Raw

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from kube_audit_proxy.demo.cluster import DemoCluster
    from support.proxies import Proxy

_GROUP = "load"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_PAUSE = 0.02
"""Seconds between two attempts of a client that finds nobody there."""


def place(demo: DemoCluster, purpose: str) -> str:
    """Make a namespace in the cluster, and give its name; the users of `user` may do everything there."""
    namespace = f"{purpose}-{secrets.token_hex(3)}"
    kubectl = [str(demo.kubectl), f"--kubeconfig={demo.kubeconfig}", "create"]
    subprocess.run([*kubectl, "namespace", namespace], check=True, capture_output=True)
    binding = ["clusterrolebinding", _GROUP, "--clusterrole=cluster-admin", f"--group={_GROUP}"]
    subprocess.run([*kubectl, *binding], check=False, capture_output=True)  # there from the first time on
    return namespace


def user(proxy: Proxy, name: str) -> Proxy:
    """The same proxy for a user, whose name tells the calls of a load in the API server's own audit log."""
    token = issue(proxy.data_dir / "tokens", Grant(name, (_GROUP,), ("*",), impersonated=True, expires=2**40))
    own = proxy.kubeconfig.with_name(f"{name}.kubeconfig")
    own.write_text(proxy.kubeconfig.read_text().replace(proxy.token, token))
    return replace(proxy, kubeconfig=own)


class Load:
    """Clients of a proxy, each in a thread of its own; a context manager that ends them.

    `refused` counts connections that nobody took, `broken` calls and connections that broke off.
    """

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.refused = 0
        self.broken: list[str] = []
        self._stop = Event()
        self._lock = Lock()
        self._open: set[Raw] = set()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._pool = ThreadPoolExecutor(64)
        self._clients: list[Future[None]] = []

    def __enter__(self) -> Self:
        """Give the load, without any client."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End all clients, each after its present call, and raise what one of them has failed with."""
        self._stop.set()
        with self._lock:
            for raw in self._open:
                with suppress(OSError):
                    raw.socket.shutdown(2)
            for process in self._running:
                process.kill()
        self._pool.shutdown()
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise what a client has failed with, if one has."""
        for client in self._clients:
            if client.done():
                client.result()

    def client(self, step: Callable[[Raw], Answer | None], pause: float = 0.0, *, endless: bool = False) -> None:
        """Have a client take this step again and again on a connection, and on another where that has ended.

        An `endless` step is one that has to be cut off at the end.
        """
        self._clients.append(self._pool.submit(self._keep_calling, step, pause, endless))

    def kubectl(self, binary: Path, commands: Sequence[Sequence[str]], stdin: bytes = b"") -> None:
        """Have somebody run these commands one after the other, again and again, whatever comes of them."""
        self._clients.append(self._pool.submit(self._keep_running, binary, commands, stdin))

    def _keep_calling(self, step: Callable[[Raw], Answer | None], pause: float, endless: bool) -> None:
        while not self._stop.is_set():
            try:
                with Raw(self.proxy) as raw, self._known(raw) if endless else nullcontext():
                    while not self._stop.is_set():
                        answer = step(raw)
                        if answer is not None and answer.closes:
                            break
                        self._stop.wait(pause)
            except ConnectionRefusedError:
                self._count_refused()
                self._stop.wait(_PAUSE)
            except (OSError, CutError) as error:
                if not self._stop.is_set():
                    self.broken.append(repr(error))
                self._stop.wait(_PAUSE)

    @contextmanager
    def _known(self, raw: Raw) -> Iterator[None]:
        with self._lock:
            self._open.add(raw)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(raw)

    def _count_refused(self) -> None:
        with self._lock:
            self.refused += 1

    def _keep_running(self, binary: Path, commands: Sequence[Sequence[str]], stdin: bytes) -> None:
        cache = self.proxy.data_dir.parent / "kubectl-cache"
        while not self._stop.is_set():
            for command in commands:
                argv = [str(binary), f"--kubeconfig={self.proxy.kubeconfig}", f"--cache-dir={cache}", *command]
                with self._lock:
                    if self._stop.is_set():
                        return
                    process = subprocess.Popen(
                        argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                    )
                    self._running.add(process)
                with process:
                    if stdin and process.stdin is not None:
                        with suppress(OSError):
                            process.stdin.write(stdin)
                            process.stdin.flush()
                        process.wait()
                    else:
                        process.communicate()
                with self._lock:
                    self._running.discard(process)
            self._stop.wait(_PAUSE)


@dataclass
class Objects:
    """What a client does with config maps of its own in a namespace: each create is remembered with its answer.

    `unanswered` has those of which the client does not know what has become.
    """

    namespace: str
    prefix: str
    created: dict[str, Answer] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)
    _number: count[int] = field(default_factory=count)

    @property
    def path(self) -> str:
        """Where they are."""
        return f"/clusters/demo/api/v1/namespaces/{self.namespace}/configmaps"

    def create(self, raw: Raw) -> Answer:
        """Create the next one."""
        name = f"{self.prefix}-{next(self._number)}"
        body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).encode()
        self.unanswered.add(name)
        answer = raw.ask(f"POST {self.path}", "Content-Type: application/json", f"Accept: {_METADATA}", body=body)
        self.created[name] = answer
        self.unanswered.remove(name)
        return answer

    def watch(self, raw: Raw) -> None:
        """Watch to the end. Raises CutError."""
        raw.send(raw.head(f"GET {self.path}?watch=1", f"Accept: {_METADATA}"))
        code, _, _ = raw.answer_head()
        if code != 200:
            raise CutError(b"")
        while raw.chunk():
            pass

    def something(self, rng: random.Random) -> Callable[[Raw], Answer]:
        """Give a step that gets, lists, creates and deletes by chance."""

        def step(raw: Raw) -> Answer:
            # A copy: others who take steps on these objects add to them meanwhile.
            made = sorted(name for name, answer in self.created.copy().items() if answer.code == 201)
            name = rng.choice(made) if made else f"{self.prefix}-0"
            match rng.choice(("get", "list", "create", "create", "delete")):
                case "get":
                    return raw.ask(f"GET {self.path}/{name}")
                case "list":
                    return raw.ask(f"GET {self.path}?limit=20", f"Accept: {_LIST}")
                case "create":
                    return self.create(raw)
                case _:
                    return raw.ask(f"DELETE {self.path}/{name}")

        return step


class Watch:
    """A client that watches config maps, and takes the watch up again where it was cut off.

    `seen` has the name of each object whose creation it was told of, as often as it was told.
    """

    def __init__(self, proxy: Proxy, objects: Objects, version: str) -> None:
        self._path = objects.path
        self._version = version
        self._rest = b""
        self.seen: list[str] = []
        self.connect(proxy)

    def connect(self, proxy: Proxy) -> None:
        """Begin to watch, or go on after what was seen last."""
        self._raw, self._rest = Raw(proxy), b""
        line = f"GET {self._path}?watch=1&allowWatchBookmarks=true&resourceVersion={self._version}"
        self._raw.send(self._raw.head(line, f"Accept: {_METADATA}"))
        code, _, _ = self._raw.answer_head()
        assert code == 200

    def close(self) -> None:
        """Hang up."""
        self._raw.socket.close()

    def to_its_end(self) -> None:
        """Read all that comes until it is cut off, or ends."""
        with suppress(CutError):
            while piece := self._raw.chunk():
                self._take(piece)
        self.close()

    def until(self, names: set[str]) -> None:
        """Read until all of these have been seen. Raises CutError."""
        missing = names - set(self.seen)
        while missing:
            piece = self._raw.chunk()
            assert piece, "the watch has ended"
            missing -= self._take(piece)

    def _take(self, piece: bytes) -> set[str]:
        found: set[str] = set()
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            event: dict[str, Any] = json.loads(line)
            metadata = event["object"]["metadata"]
            self._version = metadata["resourceVersion"]
            if event["type"] == "ADDED":
                self.seen.append(metadata["name"])
                found.add(metadata["name"])
        return found


def version(proxy: Proxy, objects: Objects) -> str:
    """The resource version that the objects are at."""
    with Raw(proxy) as raw:
        answer = raw.ask(f"GET {objects.path}?limit=1", f"Accept: {_LIST}")
    found: str = answer.json()["metadata"]["resourceVersion"]
    return found


class Reached:
    """The calls of a user that have reached the API server since this was made, by its own audit log.

    `calls` has the last event of each by audit ID.
    """

    def __init__(self, demo: DemoCluster, name: str) -> None:
        self._log = demo.audit_log
        self._name = name
        self._offset = self._log.stat().st_size
        self.calls: dict[str, dict[str, Any]] = {}

    def look(self) -> dict[str, dict[str, Any]]:
        """Take in what was logged meanwhile, and give `calls`."""
        with self._log.open("rb") as log:
            log.seek(self._offset)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        for event in map(json.loads, whole.splitlines()):
            if event.get("impersonatedUser", {}).get("username") == self._name:
                self.calls[event["auditID"]] = event
        return self.calls
