"""A gateway worker: `python -m kube_audit_proxy.process.worker NAME SOCKET...`, started by the supervisor."""

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvloop

from kube_audit_proxy import PRODUCT
from kube_audit_proxy.app import make_gateway
from kube_audit_proxy.clock import WallClock
from kube_audit_proxy.config import Config, parse
from kube_audit_proxy.journal.writer import JournalWriter, Limits
from kube_audit_proxy.process.child import read_settings, say_draining, say_ready, set_up_logging, told_to_stop
from kube_audit_proxy.process.health import WorkerHealth
from kube_audit_proxy.process.status import WRITE_EVERY
from kube_audit_proxy.process.tally import Tally
from kube_audit_proxy.tls import server_context

log = logging.getLogger(__name__)

_SWEEP_EVERY = 5.0
_BACKLOG = 4096


async def run(name: str, sockets: list[socket.socket], config: Config) -> None:
    """Serve until told to stop, then let running calls end for as long as the configuration grants."""
    loop = asyncio.get_running_loop()
    journal = JournalWriter.open(
        config.journal,
        name,
        clock=WallClock(),
        product=PRODUCT,
        limits=Limits(segment_bytes=config.segment_bytes, timeout=config.journal_timeout),
    )
    tally = Tally()
    gateway = make_gateway(config, journal, tally)
    assert config.certificate is not None and config.key is not None  # noqa: S101, PT018 - the supervisor sets both
    tls = server_context(config.certificate, config.key)
    servers = [await loop.create_server(lambda: gateway.accept(tls), sock=each, backlog=_BACKLOG) for each in sockets]
    health = WorkerHealth(name, config, gateway, journal)
    beside = [
        loop.create_task(_every(min(_SWEEP_EVERY, config.answer_timeout / 4), gateway.sweep)),
        loop.create_task(_every(WRITE_EVERY, health.write)),
        loop.create_task(_every(WRITE_EVERY, partial(loop.run_in_executor, None, health.measure))),
    ]
    if config.telemetry is not None:
        beside.append(loop.create_task(_every(config.telemetry.heartbeat, health.beat)))
    # What is there by now stays: the collector need not look at it again with every few calls.
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    health.measure()
    health.write()
    stop = await told_to_stop()
    say_ready()
    await stop.wait()
    for server in servers:
        server.close()
    say_draining()
    await gateway.drain(config.grace)
    for task in beside:
        task.cancel()
    if config.telemetry is not None:
        health.beat(ending=True)
    await journal.close()
    health.gone()


async def _every(seconds: float, chore: Callable[[], object]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            chore()
        except Exception:
            log.exception("%s failed, and is tried again", chore)


def main() -> None:
    """Run a worker as its parent says."""
    name, *descriptors = sys.argv[1:]
    set_up_logging(name)
    config = parse(read_settings(), Path())
    sockets = [socket.socket(fileno=int(descriptor)) for descriptor in descriptors]
    uvloop.run(run(name, sockets, config))


if __name__ == "__main__":
    main()
