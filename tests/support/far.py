"""A place with a network of its own, and one link to this machine that can be cut without a word to either side."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import pytest

from servers.node import take_link

if TYPE_CHECKING:
    from collections.abc import Iterator

_OF_NETWORKS = 0x40000000  # CLONE_NEWNET of sched.h
_PROGRAMS = ("ip", "unshare", "nsenter")


class Far:
    """The place; a context manager. `host` is this machine's address on the link, `address` the other end's."""

    def __init__(self) -> None:
        if sys.platform != "linux" or os.geteuid() != 0 or not all(map(shutil.which, _PROGRAMS)):
            pytest.skip("a link that can be cut is made by root on Linux, with iproute2 and util-linux")
        self._lock, link = take_link()
        self._name, self.host, self.address = link.name, link.host, link.node

    def __enter__(self) -> Self:
        """Make it. It ends with this process, however that ends."""
        self._keeper = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo made; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert self._keeper.stdout is not None
            assert self._keeper.stdout.readline() == b"made\n"
            self._unlink()  # what a killed run may have left
            _ip("link", "add", self._name, "type", "veth", "peer", "name", "eth0", "netns", str(self._keeper.pid))
            _ip("address", "add", f"{self.host}/24", "dev", self._name)
            _ip("link", "set", self._name, "up")
            self._ip_there("address", "add", f"{self.address}/24", "dev", "eth0")
            self._ip_there("link", "set", "eth0", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away. The link would stay as long as a socket there waits for an answer."""
        self._unlink()
        self._keeper.communicate()
        self._lock.close()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be there: sockets that this thread makes during the block are of that network, and stay so."""
        here, there = (os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for pid in ("thread-self", self._keeper.pid))
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(here)
        finally:
            os.close(here)
            os.close(there)

    def cut(self) -> None:
        """Have everything that is sent there vanish, and nothing come from there."""
        self._ip_there("address", "flush", "dev", "eth0")

    def _unlink(self) -> None:
        subprocess.run(["ip", "link", "delete", self._name], capture_output=True, check=False)

    def _ip_there(self, *arguments: str) -> None:
        subprocess.run(["nsenter", f"--target={self._keeper.pid}", "--net", "ip", *arguments], check=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _enter(network: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(network, _OF_NETWORKS):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
