"""The parent: binds the ports, starts workers and what follows them, starts again what dies, and ends all of it."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tornado.netutil import bind_sockets

from kube_audit_proxy import PRODUCT
from kube_audit_proxy.clock import WallClock
from kube_audit_proxy.config import Config, dump
from kube_audit_proxy.journal.files import JournalError
from kube_audit_proxy.journal.reader import writers
from kube_audit_proxy.journal.recovery import recover
from kube_audit_proxy.process.child import READY

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a child that died is started again; doubled each time it dies before it is ready."""

_BEYOND_GRACE = 10.0
"""Seconds that a child gets after the grace period before it is killed."""


class StartError(Exception):
    """The proxy cannot start; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class _Child:
    """A process to keep running: what Python is told to run, and the sockets it inherits."""

    name: str
    command: tuple[str, ...]
    sockets: Sequence[socket.socket] = ()


def _workers(names: Sequence[str], sockets: Sequence[socket.socket]) -> Iterator[_Child]:
    descriptors = [str(each.fileno()) for each in sockets]
    for name in names:
        yield _Child(name, ("-m", "kube_audit_proxy.process.worker", name, *descriptors), sockets)


def _followers(config: Config, admin_sockets: Sequence[socket.socket]) -> Iterator[_Child]:
    yield _Child("indexer", ("-m", "kube_audit_proxy.process.indexer"))
    if config.telemetry is not None:
        yield _Child("shipper", ("-m", "kube_audit_proxy.process.shipper"))
    if admin_sockets:
        descriptors = [str(each.fileno()) for each in admin_sockets]
        yield _Child("admin", ("-m", "kube_audit_proxy.process.admin", *descriptors), admin_sockets)


class Supervisor:
    """The processes of one proxy. `config` has to name the certificate and key."""

    def __init__(self, config: Config) -> None:
        self.sockets = _bind(config.host, config.port)
        port = self.sockets[0].getsockname()[1]
        host = f"[{config.host}]" if ":" in config.host else config.host
        self.config = dataclasses.replace(config, port=port, url=config.url or f"https://{host}:{port}")
        self._admin_sockets: list[socket.socket] = []
        if config.admin is not None:
            self._admin_sockets = _bind(config.admin.host, config.admin.port, setting="admin.listen")
            admin = dataclasses.replace(config.admin, port=self._admin_sockets[0].getsockname()[1])
            self.config = dataclasses.replace(self.config, admin=admin)
        self._stopping = False
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._followers: list[str] = []
        """Children that read what the workers write, and end after them."""
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Return when every child is ready. Raises StartError if one cannot become so."""
        config = self.config
        config.journal.mkdir(mode=0o700, parents=True, exist_ok=True)
        workers = [f"w{number}" for number in range(config.workers)]
        self._recover_others(workers)
        children = [*_workers(workers, self.sockets), *_followers(config, self._admin_sockets)]
        self._followers = [child.name for child in children if child.name not in workers]
        ready = [asyncio.Event() for _ in children]
        for child, event in zip(children, ready, strict=True):
            self._keepers.append(asyncio.create_task(self._keep(child, event)))
        all_ready = asyncio.ensure_future(_wait_for(ready))
        await asyncio.wait({all_ready, *self._keepers}, return_when=asyncio.FIRST_COMPLETED)
        if not all_ready.done():
            all_ready.cancel()
            failures = [keeper.exception() for keeper in self._keepers if keeper.done()]
            await self.stop()
            raise StartError(str(failures[0] or "a process ended at the start"))

    async def stop(self) -> None:
        """End the workers, letting running calls end within the grace period, then the others once they have all."""
        self._stopping = True
        for each in (*self.sockets, *self._admin_sockets):
            each.close()
        await self._end([name for name in self._children if name not in self._followers])
        await self._end([name for name in self._children if name in self._followers])
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _end(self, names: Sequence[str]) -> None:
        ending = [self._children[name] for name in names]
        for child in ending:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
        if not ending:
            return
        waiting = [asyncio.ensure_future(child.wait()) for child in ending]
        _, late = await asyncio.wait(waiting, timeout=self.config.grace + _BEYOND_GRACE)
        if late:
            for child in ending:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
            await asyncio.wait(waiting)

    async def _keep(self, one: _Child, ready: asyncio.Event) -> None:
        name = one.name
        pause = _FIRST_PAUSE
        while True:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                *one.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=[each.fileno() for each in one.sockets],
            )
            self._children[name] = child
            assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018 - asked for above
            with contextlib.suppress(ConnectionError):
                child.stdin.write(json.dumps(dump(self.config)).encode() + b"\n")
                await child.stdin.drain()
            if await child.stdout.readline() == READY:
                ready.set()
                pause = _FIRST_PAUSE
            code = await child.wait()
            child.stdin.close()
            if self._stopping:
                return
            if not ready.is_set():
                raise StartError(f"{name} ended with {code} before it was ready; its log is above")
            log.error("%s ended with %d; starting it again in %.1f s", name, code, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _recover_others(self, own: Sequence[str]) -> None:
        """Close what workers left open that will not be started this time."""
        for name in writers(self.config.journal):
            if name not in own:
                try:
                    recover(self.config.journal, name, clock=WallClock(), product=PRODUCT)
                except JournalError as error:
                    raise StartError(f"another proxy uses {self.config.data_dir}: {error}") from error


async def _wait_for(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


def _bind(host: str, port: int, setting: str = "--listen") -> list[socket.socket]:
    try:
        sockets = bind_sockets(port, address=host, backlog=4096)
    except OSError as error:
        raise StartError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another address with {setting}"
        ) from error
    for each in sockets:
        _keep_alive(each)
    return sockets


def _keep_alive(listening: socket.socket) -> None:
    """Notice clients that vanished without a word during a watch; accepted sockets inherit it."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options: dict[str, Any] = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
    for option, value in options.items():
        if hasattr(socket, option):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
