"""Gives the processes of a proxy a sick disk or another time, while they run: see faults.c."""

import errno
import mmap
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("faults.c")
_FIELD = struct.Struct("=q")
_WALL, _MONOTONIC, _SYNC_ERRNO, _SYNC_MS, _SYNCS, _HURRY = range(6)
_SECOND = 1_000_000_000


class Faults:
    """What is wrong at present with whatever was started with `environ`; the attributes may be set at any time."""

    def __init__(self, home: Path) -> None:
        if sys.platform != "linux" or shutil.which("gcc") is None:
            pytest.skip("faults are put between a program and its C library, by LD_PRELOAD and gcc")
        library, told = home / "faults.so", home / "faults"
        argv = [
            "gcc",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-shared",
            "-fPIC",
            "-o",
            str(library),
            str(_SOURCE),
            "-ldl",
        ]
        subprocess.run(argv, check=True)
        told.write_bytes(bytes(6 * _FIELD.size))
        with told.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.environ = {"LD_PRELOAD": str(library), "KUBE_AUDIT_PROXY_FAULTS": str(told)}

    def __getitem__(self, field: int) -> int:
        """Read a number of the file's."""
        (value,) = _FIELD.unpack_from(self._map, field * _FIELD.size)
        return int(value)

    def __setitem__(self, field: int, value: int) -> None:
        """Write a number of the file's, in one step."""
        _FIELD.pack_into(self._map, field * _FIELD.size, value)

    def set_clock(self, seconds: float) -> None:
        """Have the time of day that much ahead of the true one; behind it if negative."""
        self[_WALL] = round(seconds * _SECOND)

    def let_pass(self, seconds: float) -> None:
        """Have that much time go by, at once and by both clocks."""
        self[_WALL] += round(seconds * _SECOND)
        self[_MONOTONIC] += round(seconds * _SECOND)

    def hurry(self, times: int) -> None:
        """Have the kernel's own time go by faster where it is about peers that say nothing: it is not ours to shift."""
        self[_HURRY] = times

    @property
    def syncs(self) -> int:
        """How many files were asked to be made durable so far."""
        return self[_SYNCS]

    @contextmanager
    def failing_sync(self, number: int = errno.EIO) -> Iterator[None]:
        """Have no file made durable during the block."""
        self[_SYNC_ERRNO] = number
        try:
            yield
        finally:
            self[_SYNC_ERRNO] = 0

    @contextmanager
    def slow_sync(self, seconds: float) -> Iterator[None]:
        """Have it take that much longer to make a file durable, during the block."""
        self[_SYNC_MS] = round(seconds * 1000)
        try:
            yield
        finally:
            self[_SYNC_MS] = 0
