"""People at their kubectl, each with one program and one way to stream, in front of a cluster and of its proxy."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from support.proxies import Proxy
from support.trail import Record, Trail

_DEADLINE = 60.0
_NOISE = re.compile(r"E\d{4} .*v2\.go:\d+\] EOF")
"""kubectl up to 1.28 logs the end of a SPDY stream that is quicker than it expects, by chance."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended: what it printed, how it ended, and the ends of its calls where it made any of ours."""

    stdout: bytes
    stderr: str
    code: int
    calls: Sequence[Record] = ()

    def call(self, subresource: str, resource: str = "pods") -> Record:
        """The record of its only call of a kind."""
        (found,) = self.all_of(subresource, resource)
        return found

    def all_of(self, subresource: str, resource: str = "pods") -> list[Record]:
        """The records of its calls of a kind, in the order of their start."""
        wanted = (resource, subresource)
        return [call for call in self.calls if (call.get("resource"), call.get("subresource", "")) == wanted]


@dataclass(frozen=True, slots=True)
class Person:
    """One kubectl with one way to stream. The name is good for objects that are this person's own."""

    name: str
    program: Path
    direct: Path
    proxy: Proxy
    home: Path
    websockets: bool

    @property
    def fronted(self) -> Path:
        """The kubeconfig that leads through the proxy."""
        return self.proxy.kubeconfig

    @property
    def upgrade(self) -> str:
        """The `upgrade` of its streams."""
        return "websocket" if self.websockets else "SPDY/3.1"

    @property
    def command_subprotocol(self) -> str:
        """The `subprotocol` of its exec and attach."""
        return "v5.channel.k8s.io" if self.websockets else "v4.channel.k8s.io"

    @property
    def forward_subprotocol(self) -> str:
        """The `subprotocol` of its port-forward."""
        return "SPDY/3.1+portforward.k8s.io" if self.websockets else "portforward.k8s.io"

    @property
    def environ(self) -> dict[str, str]:
        """Its environment."""
        wanted = str(self.websockets).lower()
        chosen = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": wanted, "KUBECTL_PORT_FORWARD_WEBSOCKETS": wanted}
        return {**os.environ, **chosen, "TERM": "xterm"}

    def argv(self, kubeconfig: Path, arguments: Sequence[str]) -> list[str]:
        """The command line of a command; each kubeconfig has a discovery cache of its own."""
        cache = self.home / kubeconfig.parent.name
        return [str(self.program), f"--kubeconfig={kubeconfig}", f"--cache-dir={cache}", *arguments]

    def directly(self, *arguments: str, given: bytes = b"") -> Ran:
        """Run a command against the cluster itself."""
        done = subprocess.run(
            self.argv(self.direct, arguments),
            input=given, capture_output=True, check=False, env=self.environ, timeout=_DEADLINE,
        )  # fmt: skip
        return Ran(done.stdout, _without_noise(done.stderr), done.returncode)

    def through(self, *arguments: str, given: bytes = b"") -> Ran:
        """Run a command through the proxy; nothing else may run there."""
        trail = Trail(self.proxy)
        done = subprocess.run(
            self.argv(self.fronted, arguments),
            input=given, capture_output=True, check=False, env=self.environ, timeout=_DEADLINE,
        )  # fmt: skip
        return Ran(done.stdout, _without_noise(done.stderr), done.returncode, trail.ends())

    def both(self, *arguments: str, given: bytes = b"", clean: Callable[[str], str] = str) -> Ran:
        """Run a command directly and through the proxy: both show the same, apart from what is cleaned away."""
        direct, through = self.directly(*arguments, given=given), self.through(*arguments, given=given)
        told, expected = ((ran.stdout, clean(ran.stderr), ran.code) for ran in (through, direct))
        assert told == expected, f"through the proxy {told}, directly {expected}"
        return through

    @contextlib.contextmanager
    def running(self, kubeconfig: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command beside; it is asked to end at the end of the block, if it has not ended by then."""
        with subprocess.Popen(
            self.argv(kubeconfig, arguments),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environ,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.terminate()

    def terminal(self, kubeconfig: Path, *arguments: str, rows: int = 24, columns: int = 80) -> Terminal:
        """Run a command in a terminal."""
        return Terminal(self.argv(kubeconfig, arguments), self.environ, rows, columns)


class Terminal:
    """A command in a terminal of its own, and a person before it. A context manager; whatever runs is killed."""

    def __init__(self, argv: Sequence[str], environ: dict[str, str], rows: int, columns: int) -> None:
        self.shown = b""
        """All that the command has written so far."""
        self._own, theirs = os.openpty()
        self.resize(rows, columns)
        self._process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *argv], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        """Give the terminal."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it: what runs in it gets a hang-up."""
        os.close(self._own)
        try:
            self._process.wait(_DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def resize(self, rows: int, columns: int) -> None:
        """Change its size, of which the command is told by a signal."""
        fcntl.ioctl(self._own, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Type."""
        os.write(self._own, text.encode())

    def until(self, text: str) -> None:
        """Read until it shows a text, after what has been waited for before."""
        self._read_until(lambda: text.encode() in self.shown, text)
        self.shown = self.shown.partition(text.encode())[2]

    def type_until(self, typed: str, text: str) -> None:
        """Type the same at each prompt until it shows a text: what it shows may take a moment to become true."""

        def answered() -> bool:
            if text.encode() in self.shown:
                return True
            if b"# " in self.shown:  # the prompt of busybox, after which it may ask where the cursor is
                self.shown = b""
                self.type(typed)
            return False

        self._read_until(answered, text)
        self.until(text)

    def code(self) -> int:
        """The command's exit code, once it has ended."""
        self._read_until(lambda: self._process.poll() is not None, "its end")
        return self._process.returncode

    def _read_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _DEADLINE
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what!r}; it shows {self.shown.decode()!r}"
            if select.select([self._own], [], [], 0.05)[0]:
                with contextlib.suppress(OSError):  # EIO: nobody has it open on the other side any more
                    self.shown += os.read(self._own, 65536)


def _without_noise(stderr: bytes) -> str:
    return "\n".join(line for line in stderr.decode().splitlines() if not _NOISE.match(line))
