"""The images of a node, packed by hand: no registry is needed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kube_audit_proxy.demo.build import cache_root, module_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

PAUSE = "registry.k8s.io/pause:3.10"
BUSYBOX = ("docker.io/library/busybox:1.35", "docker.io/library/busybox:1.35-again")
"""The same image under two names, so that there is something to roll out."""
_BUSYBOX = Path("/bin/busybox")
_PAUSE_SOURCE = Path("build/pause/linux/pause.c")


def packed() -> list[Path]:
    """Return the archives of all images, packed at the first call into the cache of builds.

    Raises OSError, or CalledProcessError where Go or the C compiler fails.
    """
    key = hashlib.sha256(Path(__file__).read_bytes() + _BUSYBOX.read_bytes()).hexdigest()[:16]
    folder = cache_root(os.environ) / f"node-images-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    archives = [folder / "pause.tar", folder / "busybox.tar"]
    if not all(archive.exists() for archive in archives):
        with tempfile.TemporaryDirectory(prefix=".pack-", dir=folder) as scratch:
            for archive, content in zip(archives, (_pause(Path(scratch)), _busybox()), strict=True):
                made = Path(scratch, archive.name)
                made.write_bytes(content)
                made.replace(archive)
    return archives


def _pause(scratch: Path) -> bytes:
    module = module_folder("kubernetes")
    found = subprocess.run(
        ["go", "mod", "download", "-json", "k8s.io/kubernetes"], cwd=module, capture_output=True, check=True
    )
    source = Path(json.loads(found.stdout)["Dir"]) / _PAUSE_SOURCE
    program = scratch / "pause"
    subprocess.run(["gcc", "-Os", "-static", "-DVERSION=3.10", "-o", program, source], capture_output=True, check=True)
    with _Layer() as layer:
        layer.program("pause", program.read_bytes())
    return _archive((PAUSE,), layer.content, ["/pause"])


def _busybox() -> bytes:
    listed = subprocess.run([_BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with _Layer() as layer:
        for folder in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
            layer.folder(folder, 0o1777 if folder == "tmp" else 0o755)
        layer.program("bin/busybox", _BUSYBOX.read_bytes())
        layer.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
        layer.text("etc/group", "root:x:0:\n")
        for applet in listed:
            if applet != "busybox":
                layer.link(f"bin/{applet}", "busybox")
    return _archive(BUSYBOX, layer.content, ["/bin/sh"])


class _Layer:
    """A layer in the making; its content is there after the block."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    @property
    def content(self) -> bytes:
        """The layer as a tar."""
        return self._buffer.getvalue()

    def folder(self, name: str, mode: int) -> None:
        """Add a folder."""
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        self._tar.addfile(entry)

    def program(self, name: str, data: bytes) -> None:
        """Add a file that can be run."""
        _add(self._tar, name, data, 0o755)

    def text(self, name: str, text: str) -> None:
        """Add a file that can be read."""
        _add(self._tar, name, text.encode(), 0o644)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(entry)


def _archive(names: Sequence[str], layer: bytes, command: list[str]) -> bytes:
    """Pack an image of one layer as `docker save` does."""
    config = {
        "architecture": _architecture(),
        "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created_by": "kube-audit-proxy"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": list(names), "Layers": ["layer.tar"]}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add(archive, "config.json", json.dumps(config).encode(), 0o644)
        _add(archive, "layer.tar", layer, 0o644)
        _add(archive, "manifest.json", json.dumps(manifest).encode(), 0o644)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
