"""The parent: binds the ports, has workers and what follows them run, replaces them, and ends all of it."""

import asyncio
import dataclasses
import logging
import socket
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice

from tornado.netutil import bind_sockets

from kube_audit_proxy import PRODUCT
from kube_audit_proxy.clock import WallClock
from kube_audit_proxy.config import Config, dump
from kube_audit_proxy.gateway.peer import keep_alive
from kube_audit_proxy.journal.files import JournalError
from kube_audit_proxy.journal.reader import writers
from kube_audit_proxy.journal.recovery import recover
from kube_audit_proxy.process import status
from kube_audit_proxy.process.keeper import Keeper, Program, StartError, all_ready

log = logging.getLogger(__name__)

_BEYOND_GRACE = 10.0
"""Seconds that a child gets after the grace period before it is killed."""


class Supervisor:
    """The processes of one proxy. `config` has to name the certificate and key.

    A worker that is to end drains: another one runs beside it meanwhile, under another name, for each name is that of
    a journal, which has one writer.
    """

    def __init__(self, config: Config) -> None:
        self._sockets = _bind(config.host, config.port)
        self._admin_sockets: list[socket.socket] = []
        if config.admin is not None:
            self._admin_sockets = _bind(config.admin.host, config.admin.port, setting="admin.listen")
        self.config = self._with_ports(config)
        self._workers: list[Keeper] = []
        self._draining: dict[Keeper, asyncio.Task[None]] = {}
        """Workers that take no new calls, and what waits for their end."""
        self._followers: list[Keeper] = []
        """Children that read what the workers write, and end after them."""

    async def start(self) -> None:
        """Return when every child is ready. Raises StartError if one cannot become so."""
        self.config.journal.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = list(self._free_names(self.config.workers))
        self._recover_others(names)
        self._workers = [self._make_worker(name, self.config) for name in names]
        self._followers = self._make_followers(self.config)
        self._tell_who_runs()
        try:
            await all_ready([*self._workers, *self._followers])
        except StartError:
            await self.stop()
            raise

    async def reload(self, config: Config) -> None:
        """Have new processes with this configuration take the place of the present ones, which then drain.

        Raises StartError if one of them cannot start; then everything goes on as before.
        """
        before, after = self.config, self._with_ports(config)
        workers = [self._make_worker(name, after) for name in self._free_names(after.workers)]
        self._workers += workers
        try:
            await all_ready(workers)
            await self._replace_followers(after)
        except StartError:
            self._drain(each for each in self._workers if each.config is after)
            raise
        self.config = after
        self._drain(each for each in self._workers if each.config is before)

    async def stop(self) -> None:
        """End the workers, letting running calls end within the grace period, then the others once they have all."""
        for each in (*self._sockets, *self._admin_sockets):
            each.close()
        self._drain(self._workers)
        await asyncio.gather(*self._draining.values())
        await _end(self._followers)

    def _make_worker(self, name: str, config: Config) -> Keeper:
        descriptors = [str(each.fileno()) for each in self._sockets]
        command = ("-m", "kube_audit_proxy.process.worker", name, *descriptors)
        return Keeper(Program(name, command, self._sockets), config, self._replace_worker)

    def _make_followers(self, config: Config) -> list[Keeper]:
        return [Keeper(program, config) for program in _followers(config, self._admin_sockets)]

    def _free_names(self, number: int) -> Iterator[str]:
        taken = {each.name for each in (*self._workers, *self._draining)}
        return islice((name for number in count() if (name := f"w{number}") not in taken), number)

    def _replace_worker(self, worker: Keeper) -> None:
        """Have another worker take the place of one that drains because somebody has told it to end."""
        (name,) = self._free_names(1)
        log.info("%s was told to end; %s takes its place", worker.name, name)
        self._workers.append(self._make_worker(name, worker.config))
        self._drain([worker])

    def _drain(self, workers: Iterable[Keeper]) -> None:
        for worker in tuple(workers):
            self._workers.remove(worker)
            self._draining[worker] = asyncio.create_task(self._see_out(worker))
        self._tell_who_runs()

    async def _see_out(self, worker: Keeper) -> None:
        """Wait for a worker's end. What it has left open, if it was killed meanwhile, is closed."""
        code = await worker.end(worker.config.grace + _BEYOND_GRACE)
        if code and worker.served:
            log.error("%s ended with %d before all of its calls had ended", worker.name, code)
            await asyncio.to_thread(self._close_journal, worker.name)
        del self._draining[worker]

    def _close_journal(self, name: str) -> None:
        try:
            recover(self.config.journal, name, clock=WallClock(), product=PRODUCT)
            status.remove(status.directory(self.config.data_dir), name)
        except (JournalError, OSError) as error:
            log.error("calls of %s stay open until the next start: %s", name, error)  # noqa: TRY400 - it says it all

    async def _replace_followers(self, config: Config) -> None:
        """End them first: there is to be one of each. Those that would be told nothing new stay."""
        before = self._followers[0].config
        own_certificate = config.admin is not None and config.admin.tls  # it may be a new one in the same file
        if dump(config) == dump(before) and not own_certificate:
            return
        await _end(self._followers)
        self._followers = self._make_followers(config)
        try:
            await all_ready(self._followers)
        except StartError:
            await _end(self._followers)
            self._followers = self._make_followers(before)
            raise

    def _recover_others(self, own: Sequence[str]) -> None:
        """Close what workers left open that will not be started this time."""
        for name in writers(self.config.journal):
            if name not in own:
                try:
                    recover(self.config.journal, name, clock=WallClock(), product=PRODUCT)
                except JournalError as error:
                    raise StartError(f"another proxy uses {self.config.data_dir}: {error}") from error

    def _tell_who_runs(self) -> None:
        names = [[each.name for each in some] for some in (self._workers, self._followers)]
        others = [name for name in names[1] if name != "admin"]  # whoever asks it sees that it lives
        status.expect(status.directory(self.config.data_dir), status.Expected(tuple(names[0]), tuple(others)))

    def _with_ports(self, config: Config) -> Config:
        """Put in the addresses that are listened on."""
        port = self._sockets[0].getsockname()[1]
        host = f"[{config.host}]" if ":" in config.host else config.host
        admin = config.admin
        if admin is not None:
            admin = dataclasses.replace(admin, port=self._admin_sockets[0].getsockname()[1])
        return dataclasses.replace(config, port=port, url=config.url or f"https://{host}:{port}", admin=admin)


async def _end(keepers: Iterable[Keeper]) -> None:
    await asyncio.gather(*(keeper.end(keeper.config.grace + _BEYOND_GRACE) for keeper in keepers))


def _followers(config: Config, admin_sockets: Sequence[socket.socket]) -> Iterator[Program]:
    yield Program("indexer", ("-m", "kube_audit_proxy.process.indexer"))
    if config.telemetry is not None:
        yield Program("shipper", ("-m", "kube_audit_proxy.process.shipper"))
    if admin_sockets:
        descriptors = [str(each.fileno()) for each in admin_sockets]
        yield Program("admin", ("-m", "kube_audit_proxy.process.admin", *descriptors), admin_sockets)


def _bind(host: str, port: int, setting: str = "--listen") -> list[socket.socket]:
    try:
        sockets = bind_sockets(port, address=host, backlog=4096)
    except OSError as error:
        raise StartError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another address with {setting}"
        ) from error
    for each in sockets:
        keep_alive(each)  # accepted sockets inherit it
    return sockets
