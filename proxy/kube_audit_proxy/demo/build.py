"""Builds the servers of the demo from their Go modules, once, into a cache outside the checkout."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

NO_GO = (
    "The demo builds its Kubernetes servers from source once and found no Go: install Go 1.26 or newer from "
    "https://go.dev/dl/ and start again, or point KUBECONFIG at a cluster you already have."
)

_SECONDS_BETWEEN_REPORTS = 3.0


class BuildError(Exception):
    """A server could not be built; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Module:
    """One Go module of ours and the programs that it builds."""

    version: str
    packages: Mapping[str, str]
    minutes: int
    stamps: Mapping[str, str] = field(default_factory=dict)
    tags: Sequence[str] = ()
    use_assets: bool = True
    folder: str = ""
    """The folder of the Go module; empty if it is the name."""

    @property
    def ldflags(self) -> str:
        """The linker's flags: no symbols, and the version that the programs report."""
        return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in self.stamps.items())])

    @property
    def flags(self) -> list[str]:
        """The flags that decide which files of the packages are compiled."""
        return [f"-tags={','.join(self.tags)}"] if self.tags else []


def _kubernetes_stamps(minor: str, patch: str) -> dict[str, str]:
    package = "k8s.io/component-base/version"
    return {
        f"{package}.gitVersion": f"v1.{minor}.{patch}",
        f"{package}.gitMajor": "1",
        f"{package}.gitMinor": minor,
    }


_COMMANDS = "k8s.io/kubernetes/cmd"
_CONTAINERD = "github.com/containerd/containerd/v2/cmd"
MODULES: Mapping[str, Module] = {
    "etcd": Module(version="v3.6.14", packages={"etcd": "go.etcd.io/etcd/server/v3"}, minutes=1),
    "kubernetes": Module(
        version="v1.36.3",
        packages={
            name: f"{_COMMANDS}/{name}"
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
        },
        minutes=5,
        stamps=_kubernetes_stamps("36", "3"),
    ),
    "kwok": Module(
        version="v0.8.0",
        packages={"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
        minutes=1,
        stamps={"sigs.k8s.io/kwok/pkg/consts.Version": "v0.8.0"},
    ),
    "kubelet": Module(version="", packages={"demo-kubelet": "."}, minutes=1),
    "node": Module(
        version="v1.36.3",
        packages={name: f"{_COMMANDS}/{name}" for name in ("kubelet", "kube-proxy")},
        minutes=2,
        stamps=_kubernetes_stamps("36", "3"),
        folder="kubernetes",
    ),
    "containerd": Module(
        version="v2.3.7",
        packages={name: f"{_CONTAINERD}/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        minutes=2,
        tags=("no_btrfs", "no_devmapper", "no_zfs"),
    ),
    "helm": Module(
        version="v3.22.0",
        packages={"helm": "helm.sh/helm/v3/cmd/helm"},
        minutes=1,
        stamps={"helm.sh/helm/v3/internal/version.version": "v3.22.0"},
    ),
    **{
        f"kubectl-1.{minor}": Module(
            version=f"v1.{minor}.{patch}",
            packages={"kubectl": f"{_COMMANDS}/kubectl"},
            minutes=2,
            stamps=_kubernetes_stamps(minor, patch),
            use_assets=False,
        )
        for minor, patch in (("28", "15"), ("30", "14"), ("33", "13"))
    },
    "loki": Module(
        version="v3.7.6",
        packages={"loki": "github.com/grafana/loki/v3/cmd/loki"},
        minutes=6,
        stamps={"github.com/grafana/loki/v3/pkg/util/build.Version": "v3.7.6"},
        tags=("netgo",),
    ),
    "tempo": Module(
        version="v2.8",
        packages={"tempo": "github.com/grafana/tempo/cmd/tempo"},
        minutes=3,
        stamps={"main.Version": "v2.8"},
    ),
    "collector": Module(version="v0.155.0", packages={"otelcol": "."}, minutes=2),
}


def cache_root(environ: Mapping[str, str]) -> Path:
    """Return the folder of all builds: $KUBE_AUDIT_PROXY_CACHE, else below $XDG_CACHE_HOME, else below ~/.cache."""
    if own := environ.get("KUBE_AUDIT_PROXY_CACHE"):
        return Path(own).expanduser().absolute()
    caches = environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "kube-audit-proxy"


def module_folder(name: str) -> Path:
    """Return the folder of the Go module name in this package."""
    return Path(__file__).parent / "modules" / (MODULES[name].folder or name)


def cache_key(module: Module, folder: Path) -> str:
    """Return a name that changes with the module's files in folder, its linker flags, and the kind of machine."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    digest.update(" ".join([module.ldflags, *module.flags]).encode())
    digest.update(f"\x00{platform.system()}\x00{platform.machine()}".encode())
    return digest.hexdigest()[:16]


def ensure(name: str, progress: Callable[[str], None], *, environ: Mapping[str, str] | None = None) -> dict[str, Path]:
    """Return the programs of module name (a key of MODULES) by name; build what is neither in the cache nor installed.

    Programs in $KUBEBUILDER_ASSETS are taken as they are. A build takes minutes and says so through progress; of two
    processes that need the same one, the second waits. Raises BuildError.
    """
    environ = os.environ if environ is None else environ
    module = MODULES[name]
    folder = cache_root(environ) / f"{name}-{cache_key(module, module_folder(name))}"
    found = {program: _assets(module, program, environ) or folder / program for program in module.packages}
    if not _missing(found):
        return found
    if shutil.which("go", path=environ.get("PATH")) is None:
        raise BuildError(NO_GO)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, name, progress):
            if missing := _missing(found):  # nobody built it while we waited
                _build(name, missing, folder, progress, environ)
    except OSError as error:
        raise BuildError(f"Cannot build {name} in {folder}: {error}.") from error
    return found


def _assets(module: Module, program: str, environ: Mapping[str, str]) -> Path | None:
    folder = environ.get("KUBEBUILDER_ASSETS")
    if not folder or not module.use_assets:
        return None
    path = Path(folder) / program
    return path if os.access(path, os.X_OK) else None


def _missing(programs: Mapping[str, Path]) -> list[str]:
    return [program for program, path in programs.items() if not path.exists()]


@contextlib.contextmanager
def _alone(folder: Path, name: str, progress: Callable[[str], None]) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"another process is building {name}: waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(
    name: str, programs: Sequence[str], folder: Path, progress: Callable[[str], None], environ: Mapping[str, str]
) -> None:
    module = MODULES[name]
    title = " ".join([", ".join(programs), module.version]).rstrip()
    span = "a minute" if module.minutes == 1 else f"{module.minutes} minutes"
    progress(f"building {title} (about {span}, once) ...")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as scratch:
        # a copy, because the installed package may be read-only
        source = Path(scratch) / "source"
        source.mkdir()
        for file in module_folder(name).iterdir():
            shutil.copyfile(file, source / file.name)
        go = _Go(source=source, log=folder / "build.log", environ=environ, progress=progress, title=title)
        packages = [module.packages[program] for program in programs]
        total = len(go.run(["list", *module.flags, "-deps", *packages], expected=0).splitlines())
        for program in programs:
            progress(f"  {program} ...")
            built = Path(scratch) / program
            flags = ["-v", "-trimpath", "-buildvcs=false", *module.flags, "-ldflags", module.ldflags, "-o", str(built)]
            go.run(["build", *flags, module.packages[program]], expected=total)
            built.replace(folder / program)
    progress(f"built {title} in {time.monotonic() - started:.0f} s")


@dataclass(slots=True)
class _Go:
    """Runs the go command in a module and tells how far it is."""

    source: Path
    log: Path
    environ: Mapping[str, str]
    progress: Callable[[str], None]
    title: str
    compiled: int = 0
    fetched: int = 0
    reported: float = field(default_factory=time.monotonic)

    def run(self, arguments: Sequence[str], *, expected: int) -> str:
        """Return what go printed; raises BuildError with the end of what it complained about."""
        environ = {**self.environ, "CGO_ENABLED": "0", "GOWORK": "off", "PWD": str(self.source)}
        last: deque[str] = deque(maxlen=5)
        with (
            self.log.open("a", encoding="utf-8") as log,
            tempfile.TemporaryFile("w+", encoding="utf-8") as output,
            subprocess.Popen(
                ["go", *arguments],
                cwd=self.source,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            ) as process,
        ):
            try:
                for line in process.stderr or ():
                    log.write(line)
                    last.append(line.strip())
                    self._count(line, expected)
            except BaseException:  # such as Ctrl-C: leave no compiler behind
                process.terminate()
                raise
            if process.wait():
                raise BuildError(
                    f"Building {self.title} failed; {self.log} has it all. Last lines:\n" + "\n".join(last)
                )
            output.seek(0)
            return output.read()

    def _count(self, line: str, expected: int) -> None:
        if line.startswith("go: downloading"):
            self.fetched += 1
        elif not line.startswith(("go: ", "#", " ", "\t")):
            self.compiled += 1
        now = time.monotonic()
        if now - self.reported < _SECONDS_BETWEEN_REPORTS:
            return
        self.reported = now
        if self.compiled:
            self.progress(f"  compiled {self.compiled} of {expected} packages")
        else:
            self.progress(f"  fetched {self.fetched} modules")
