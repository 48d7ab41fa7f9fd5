"""Keeps one child of the parent running: starts it, starts it again when it dies, and ends it in good order."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kube_audit_proxy.config import Config, dump
from kube_audit_proxy.process.child import DRAINING, READY

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a child that died is started again; doubled each time it dies before it is ready."""


class StartError(Exception):
    """The proxy cannot start; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a child is: its name, what Python is told to run, and the sockets it inherits."""

    name: str
    command: tuple[str, ...]
    sockets: Sequence[socket.socket] = ()


class Keeper:
    """One child, from now on until `end`; made on a running loop.

    `drains` is called when the child says that it ends because somebody else has told it to: it is not started again.
    """

    def __init__(self, program: Program, config: Config, drains: Callable[["Keeper"], None] | None = None) -> None:
        self.name = program.name
        self.config = config
        self._program = program
        self._drains = drains
        self._child: asyncio.subprocess.Process | None = None
        self._code = 0
        self._ending = asyncio.Event()
        self._began: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """How the first attempt went: None once it is ready, the exit code if it ended before."""
        self._task = asyncio.create_task(self._keep())

    @property
    def served(self) -> bool:
        """Whether the child has done its work at any time."""
        return self._began.done() and self._began.result() is None

    async def ready(self) -> None:
        """Return once the child does its work. Raises StartError if it has ended before it came to that."""
        code = await asyncio.shield(self._began)
        if code is not None:
            raise StartError(f"{self.name} ended with {code} before it was ready; its log is above")

    async def end(self, patience: float) -> int:
        """Have the child end, kill it if that takes longer than `patience` seconds, and give its exit code."""
        if not self._ending.is_set():  # a child that ends already must not be told again while Python shuts down
            self._ending.set()
            self._signal(signal.SIGTERM)
        _, late = await asyncio.wait({self._task}, timeout=patience)
        if late:
            self._signal(signal.SIGKILL)
            await asyncio.wait({self._task})
        return self._code

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.returncode is None:
            # Not by asyncio's own means, which would take the exit code away from whoever waits for it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, number)

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while not self._ending.is_set():
            was_ready = await self._run()
            if not self._began.done():
                self._began.set_result(self._code)  # if there is to be a next attempt, nobody waits for it
            if self._ending.is_set():
                return
            pause = _FIRST_PAUSE if was_ready else pause
            log.error("%s ended with %d; starting it again in %.1f s", self.name, self._code, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _run(self) -> bool:
        """Run the child once, to its end; return whether it was ready."""
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._program.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[each.fileno() for each in self._program.sockets],
        )
        self._child = child
        if self._ending.is_set():
            self._signal(signal.SIGTERM)
        assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018 - asked for above
        with contextlib.suppress(ConnectionError):
            child.stdin.write(json.dumps(dump(self.config)).encode() + b"\n")
            await child.stdin.drain()
        was_ready = False
        async for line in child.stdout:
            was_ready = was_ready or line == READY
            self._heard(line)
        self._code = await child.wait()
        self._child = None
        child.stdin.close()
        return was_ready

    def _heard(self, line: bytes) -> None:
        if line == READY and not self._began.done():
            self._began.set_result(None)
        elif line == DRAINING and self._drains is not None and not self._ending.is_set():
            self._ending.set()
            self._drains(self)


async def all_ready(keepers: Iterable[Keeper]) -> None:
    """Return once every child does its work. Raises StartError as soon as one cannot."""
    waiting = [asyncio.ensure_future(keeper.ready()) for keeper in keepers]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for each in waiting:
            each.cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
    for result in results:
        if isinstance(result, StartError):
            raise result
