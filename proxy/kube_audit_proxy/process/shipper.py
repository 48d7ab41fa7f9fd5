"""The shipper's process: `python -m kube_audit_proxy.process.shipper`, started by the supervisor."""

import asyncio
import gc
import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

from kube_audit_proxy.config import Config, parse
from kube_audit_proxy.process import status
from kube_audit_proxy.process.child import read_settings, say_ready, set_up_logging, until_told_to_stop
from kube_audit_proxy.telemetry.merge import Parsed
from kube_audit_proxy.telemetry.report import snapshot
from kube_audit_proxy.telemetry.shipped import PROCESS
from kube_audit_proxy.telemetry.shipper import RewoundError, Settings, Shipper
from kube_audit_proxy.telemetry.state import opened_for_writing, set_aside_if_damaged
from kube_audit_proxy.telemetry.transport import TransportError, connect

log = logging.getLogger(__name__)

_NICENESS = 19
"""It follows behind: where processors are short, they are the gateway's first, whose calls would wait for its turns."""

_LAST_SECONDS = 5.0
"""What is not delivered so long after the end of the workers is delivered after the next start."""


def make_shippers(config: Config, stack: ExitStack, stop: Event) -> list[Shipper]:
    """Make the shippers of a configuration; `stack` closes what they use. Raises TransportError, sqlite3.Error."""
    telemetry = config.telemetry
    assert telemetry is not None  # noqa: S101 - otherwise nobody ships
    settings = Settings(tuple(each.name for each in config.clusters), telemetry.command_idle, telemetry.sample)
    if (aside := set_aside_if_damaged(config.shipped)) is not None:
        log.error("how far shipping had come cannot be read (%s is what it was): all is shipped again", aside)
    shippers = []
    parsed = Parsed()
    for signal in telemetry.signals:
        transport = connect(signal, endpoint=telemetry.endpoint, protocol=telemetry.protocol)
        stack.callback(transport.close)
        state = stack.enter_context(opened_for_writing(config.shipped))
        shippers.append(
            Shipper(
                signal,
                journal=config.journal,
                state=state,
                transport=transport,
                settings=settings,
                stop=stop,
                parsed=parsed,
            )
        )
        log.info("shipping %s to %s", signal, transport.where)
    return shippers


async def _run(shippers: list[Shipper], directory: Path, stop: Event) -> None:
    threads = [Thread(target=_ship, args=(each,), name=each.signal) for each in shippers]
    for thread in threads:
        thread.start()
    told = asyncio.ensure_future(until_told_to_stop())
    say_ready()
    while not told.done():
        status.write(directory, snapshot(shippers))
        await asyncio.wait({told}, timeout=status.WRITE_EVERY)
    for each in shippers:
        each.finish()
    await asyncio.wait({asyncio.ensure_future(asyncio.to_thread(_join, threads))}, timeout=_LAST_SECONDS)
    stop.set()
    await asyncio.to_thread(_join, threads)
    status.remove(directory, PROCESS)


def _ship(shipper: Shipper) -> None:
    # Either way the parent starts this process again, from where it is to go on.
    try:
        shipper.run()
    except RewoundError:
        log.warning("%s are shipped again from an earlier place", shipper.signal)
        os._exit(0)
    except BaseException:
        log.exception("shipping %s failed", shipper.signal)
        os._exit(1)


def _join(threads: list[Thread]) -> None:
    for thread in threads:
        thread.join()


def tune() -> None:
    """Look for cycles rarely, of which records make none, and let a thread work for longer before the next one may."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    sys.setswitchinterval(0.05)


def main() -> None:
    """Ship until the parent says stop, and then what is left."""
    set_up_logging(PROCESS)
    os.nice(_NICENESS)
    config = parse(read_settings(), Path())
    tune()
    stop = Event()
    with ExitStack() as stack:
        try:
            shippers = make_shippers(config, stack, stop)
        except TransportError as error:
            raise SystemExit(f"{PROCESS}: {error}") from error
        asyncio.run(_run(shippers, status.directory(config.data_dir), stop))


if __name__ == "__main__":
    main()
