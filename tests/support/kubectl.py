"""One kubectl, run directly in front of a cluster and through the proxy at the same time, and what both ways show."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import yaml

from kube_audit_proxy.demo.private import write_private
from servers.kubectls import kubectl_of
from support.server_audit import Event, ServerAudit
from support.trail import Record, Trail
from support.ways import Way, direct, through

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from kube_audit_proxy.demo.cluster import DemoCluster
    from support.proxies import Proxy


@dataclass(frozen=True, slots=True)
class Said:
    """What a command has printed, and its exit code."""

    stdout: str
    stderr: str
    code: int

    @property
    def last(self) -> str:
        """The last line of its output."""
        return self.stdout.rstrip().rpartition("\n")[2]


@dataclass(frozen=True, slots=True)
class Shown:
    """One command on both ways: what each said, and the calls of each."""

    direct: Said
    fronted: Said
    records: list[Record]
    """The ends of the calls through the proxy, by its trail."""
    events: dict[str, Event]
    """The same calls by the API server's audit log, by audit ID."""
    calls: list[Event]
    """The calls of the direct command, by the API server's audit log."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command is run: a way to the cluster, and a namespace of its own."""

    way: Way
    kubeconfig: Path
    """The way's, with the namespace in its context."""
    folder: Path
    namespace: str

    def argv(self, arguments: Sequence[str]) -> list[str]:
        """The arguments; `{ns}` in them stands for the namespace, `{files}` for the folder of files."""
        told = (argument.replace("{ns}", self.namespace).replace("{files}", str(self.folder)) for argument in arguments)
        return [f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.folder / 'cache'}", *told]

    @contextmanager
    def changed(self) -> Iterator[Any]:
        """The kubeconfig, to be changed in the block."""
        config = yaml.safe_load(self.kubeconfig.read_bytes())
        yield config
        write_private(self.kubeconfig, yaml.safe_dump(config))

    def common(self, text: str) -> str:
        """A text without what tells this place from another."""
        for own, name in ((self.namespace, "NAMESPACE"), (self.way.url, "SERVER"), (str(self.folder), "FILES")):
            text = text.replace(own, name)
        return text


@dataclass(frozen=True, slots=True)
class Beside:
    """A command that runs."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]
    place: Place

    def text(self) -> str:
        """What it has printed so far, errors included."""
        # its place in the file is the program's as well
        size = os.fstat(self.output.fileno()).st_size
        return self.place.common(os.pread(self.output.fileno(), size, 0).decode())


@dataclass(frozen=True, slots=True)
class Kubectl:
    """A kubectl of some version, and the two places to run it in."""

    version: str
    binary: Path
    direct: Place
    fronted: Place
    home: Path
    client: str
    """Under which name it is run: that is the first word of its User-Agent, and nobody else's."""
    demo: DemoCluster = field(repr=False)
    proxy: Proxy = field(repr=False)

    def side_by_side(
        self, arguments: str | Sequence[str], stdin: str = "", environ: Mapping[str, str] | None = None
    ) -> Shown:
        """Run a command on both ways at once. Words of one text are split as a shell does."""
        words = shlex.split(arguments) if isinstance(arguments, str) else arguments
        trail, audit = Trail(self.proxy), ServerAudit(self.demo, self.client)
        with self._running(self.direct, words, environ) as one, self._running(self.fronted, words, environ) as other:
            # communicate() with both: a pipe that is not read would hold the other up
            said = [_said(process, place, stdin) for process, place in ((one, self.direct), (other, self.fronted))]
        # nothing goes upstream before its start is on disk: what is there now is all
        started = starts(trail)
        records = trail.ends(len(started)) if started else []
        made = audit.ended()
        events = {record["auditID"]: made[record["auditID"]] for record in records if record["auditID"] in made}
        return Shown(said[0], said[1], records, events, [made[audit_id] for audit_id in made if audit_id not in events])

    def run(self, place: Place, arguments: str | Sequence[str], *, stdin: str = "") -> Said:
        """Run a command on one way."""
        words = shlex.split(arguments) if isinstance(arguments, str) else arguments
        with self._running(place, words, None) as process:
            return _said(process, place, stdin)

    @contextmanager
    def beside(self, place: Place, arguments: str) -> Iterator[Beside]:
        """Run a command on one way while the block runs."""
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                [self.client, *place.argv(shlex.split(arguments))], executable=self.binary,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=self._environ({}),
            )  # fmt: skip
            try:
                yield Beside(process, output, place)
            finally:
                process.terminate()
                process.wait()

    def _running(self, place: Place, words: Sequence[str], environ: Mapping[str, str] | None) -> subprocess.Popen[str]:
        argv = [self.client, *place.argv(words)]
        pipe = subprocess.PIPE
        environ = self._environ(environ or {})
        return subprocess.Popen(
            argv, executable=self.binary, stdin=pipe, stdout=pipe, stderr=pipe, env=environ, text=True, encoding="utf-8"
        )

    def _environ(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(self.home), **more}


def _said(process: subprocess.Popen[str], place: Place, stdin: str) -> Said:
    stdout, stderr = process.communicate(stdin)
    return Said(place.common(stdout), place.common(stderr), process.returncode)


def on_two_ways(
    version: str,
    home: Path,
    proxy: Proxy,
    demo: DemoCluster,
    *,
    files: Mapping[str, str] | None = None,
    shared: str = "",
    user: str = "",
) -> Kubectl:
    """Give the kubectl of a version with its two places; both have the namespace `shared`, or each has its own.

    `files` are texts by name; `{ns}` in them stands for the namespace as well. `user`: somebody whom the proxy
    impersonates; the cluster's owner, if it is empty.
    """
    tag = uuid.uuid4().hex[:8]
    ways = {"plain": direct(demo), "front": through(proxy, user)}
    plainly, fronted = (_place(way, home / name, shared or f"{name}-{tag}", files or {}) for name, way in ways.items())
    if user:
        with plainly.changed() as config:
            config["users"][0]["user"]["as"] = user
    return Kubectl(version, kubectl_of(version), plainly, fronted, home, f"kubectl.{tag}", demo, proxy)


def _place(way: Way, folder: Path, namespace: str, files: Mapping[str, str]) -> Place:
    place = Place(way, folder / "kubeconfig", folder, namespace)
    folder.mkdir()
    write_private(place.kubeconfig, way.kubeconfig.read_text("utf-8"))
    with place.changed() as config:
        config["contexts"][0]["context"]["namespace"] = namespace
    for name, text in files.items():
        (folder / name).write_text(text.replace("{ns}", namespace), encoding="utf-8")
    return place


def starts(trail: Trail) -> list[Record]:
    """The calls that have begun; ends of calls that began before may still come to a trail."""
    return [line for line in trail.lines() if line["stage"] == "RequestReceived"]


def by_owner(demo: DemoCluster, *arguments: str) -> None:
    """Run the newest kubectl as the cluster's owner, directly."""
    argv = [str(demo.kubectl), f"--kubeconfig={demo.kubeconfig}", *arguments]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)


@contextmanager
def own_namespaces(kubectl: Kubectl) -> Iterator[None]:
    """Make the namespace of each way, and delete both at the end of the block."""
    names = sorted({kubectl.direct.namespace, kubectl.fronted.namespace})
    for name in names:
        by_owner(kubectl.demo, "create", "namespace", name)
    for name in names:  # controllers fill it
        for made in ("serviceaccount/default", "configmap/kube-root-ca.crt"):
            by_owner(kubectl.demo, "wait", "--for=create", "--timeout=60s", f"--namespace={name}", made)
    yield
    by_owner(kubectl.demo, "delete", "namespace", *names, "--wait=false")
