"""A disk of its own for a test: a small tmpfs, to be filled, freed, and made read-only while it is in use."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path

import pytest

_BALLAST = "ballast"


class SmallDisk:
    """A mounted disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / _BALLAST

    def fill(self) -> None:
        """Take all the room that is left."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 16, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    if error.errno != ENOSPC:
                        raise

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink()

    @contextmanager
    def full(self) -> Iterator[None]:
        """Have no room on it during the block."""
        self.fill()
        try:
            yield
        finally:
            self.free()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Have nothing written to it during the block, not even to files that are open for it."""
        _run("mount", "-o", "remount,ro", str(self.path))
        try:
            yield
        finally:
            _run("mount", "-o", "remount,rw", str(self.path))


@contextmanager
def small_disk(path: Path, size: str = "4m") -> Iterator[SmallDisk]:
    """Mount one at a path, which is made; whoever uses it has to be done with it by the end of the block."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a disk that can be filled is mounted by root, on Linux")
    path.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "kube-audit-proxy-test", str(path))
    try:
        yield SmallDisk(path)
    finally:
        _run("umount", str(path))


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)


class FailingDisk:
    """A mounted ext4 on a file, which the kernel makes read-only after an error, as most systems have it."""

    def __init__(self, path: Path, image: Path) -> None:
        self.path = path
        self._image = image
        self._devices: list[str] = []
        self.mount()

    def mount(self) -> None:
        """Mount the image."""
        device = _said("losetup", "--find", "--show", str(self._image))
        self._devices.append(device)
        _run("mount", "-t", "ext4", device, str(self.path))

    def fail(self) -> None:
        """Have the kernel meet an error: from here on nothing is written, not even to files that are open for it."""
        name = Path(self._devices[-1]).name
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("test\n")

    def replace(self) -> None:
        """Do as an operator does: have it repaired, and mounted at the same place."""
        repaired = self._image.with_name(f"{self._image.name}.repaired")
        shutil.copyfile(self._image, repaired)
        subprocess.run(["e2fsck", "-fy", str(repaired)], check=False, capture_output=True)
        self._image = repaired
        self.mount()

    def remove(self) -> None:
        """Leave nothing of it."""
        for device in reversed(self._devices):
            _run("umount", str(self.path))
            _run("losetup", "--detach", device)


@contextmanager
def failing_disk(path: Path) -> Iterator[FailingDisk]:
    """Mount one at a path, which is made; whoever uses it has to be done with it by the end of the block."""
    tools = ("mkfs.ext4", "e2fsck", "losetup")
    if sys.platform != "linux" or os.geteuid() != 0 or not all(map(shutil.which, tools)):
        pytest.skip("a disk that fails is an ext4 on a loop device, made by root, on Linux")
    image = path.parent.with_name(f"{path.name}.img")
    with image.open("wb") as file:
        file.truncate(16 << 20)
    _run("mkfs.ext4", "-q", "-e", "remount-ro", "-m", "0", str(image))
    path.mkdir()
    disk = FailingDisk(path, image)
    try:
        yield disk
    finally:
        disk.remove()


def _said(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
