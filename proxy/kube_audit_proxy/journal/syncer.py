"""The gateway's end of the committer: starts it, asks it, starts another one when it dies."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from kube_audit_proxy.journal import committer
from kube_audit_proxy.journal.committer import ANSWER, LENGTH

COMMAND = (sys.executable, "-I", "-S", committer.__file__)
PAUSE = 1.0  # seconds before another start of a committer that never answered


class Syncer:
    """Asks for one sync at a time; `done` is called with the errno, 0 for durable.

    A committer that dies is replaced and asked again; the caller only sees that it takes longer.
    """

    def __init__(self, done: Callable[[int], None], command: Sequence[str] = COMMAND) -> None:
        self._loop = asyncio.get_running_loop()
        self._done = done
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._asked: Path | None = None
        self._told: Path | None = None  # the file the present committer has open
        self._received = b""
        self._answered = True
        self._pause: asyncio.TimerHandle | None = None
        self._start()

    @property
    def process_id(self) -> int | None:
        """The process that syncs at present."""
        return self._process.pid if self._process else None

    def request(self, path: Path, *, new: bool) -> None:
        """Ask for everything written to this file to be made durable; `new`: not the file of the last good answer."""
        self._asked = path
        if new:
            self._told = None
        if self._connection is not None:
            self._send(self._connection)
        elif self._pause is None:
            self._start()

    async def close(self) -> None:
        """End the committer. A request that is not answered yet never will be."""
        self._asked = None
        if self._pause is not None:
            self._pause.cancel()
        self._disconnect()
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()  # it knows nothing that could be lost
        for _ in range(1000):  # not a blocking wait: a process stuck in a sick disk cannot be killed
            if process.poll() is not None:
                return
            await asyncio.sleep(0.001)

    def _start(self) -> None:
        self._pause = None
        try:
            ours, theirs = socket.socketpair()
        except OSError:  # out of descriptors, for one
            self._start_later()
            return
        try:
            with theirs:
                self._process = subprocess.Popen(self._command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL)
        except OSError:
            ours.close()
            self._start_later()
            return
        ours.setblocking(False)
        self._connection, self._told, self._received = ours, None, b""
        self._loop.add_reader(ours, self._readable, ours)
        if self._asked is not None:
            self._send(ours)

    def _start_later(self) -> None:
        self._pause = self._loop.call_later(PAUSE, self._start)

    def _send(self, connection: socket.socket) -> None:
        path = b"" if self._asked is None or self._asked is self._told else os.fsencode(self._asked)
        self._told = self._asked
        try:
            connection.send(LENGTH.pack(len(path)) + path)
        except OSError:
            self._died()

    def _readable(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(ANSWER.size - len(self._received))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._died()
            return
        self._received += data
        if len(self._received) == ANSWER.size:
            (number,) = ANSWER.unpack(self._received)
            self._received = b""
            self._answered = True
            self._asked = None
            self._done(number)

    def _died(self) -> None:
        self._disconnect()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._asked is None:
            return
        if self._answered:
            self._answered = False
            self._start()
        else:
            self._start_later()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._loop.remove_reader(self._connection)
            self._connection.close()
            self._connection = None
