"""The indexer's process: `python -m kube_audit_proxy.process.indexer`, started by the supervisor."""

import asyncio
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path

from kube_audit_proxy import __version__
from kube_audit_proxy.clock import WallClock, unhurried
from kube_audit_proxy.config import Config, parse
from kube_audit_proxy.index.indexer import run
from kube_audit_proxy.journal.retention import Policy
from kube_audit_proxy.process import status
from kube_audit_proxy.process.child import read_settings, say_ready, set_up_logging, until_told_to_stop
from kube_audit_proxy.process.retention import Retention, shipped_cursors

_NAME = "indexer"
_NICENESS = 19
"""It follows behind: where processors are short, they are the gateway's first, whose calls would wait for its turns."""


async def _until_stopped(following: threading.Thread, stop: threading.Event, directory: Path) -> bool:
    """Return True when told to stop, False where what there is to do came to an end of its own."""
    told = asyncio.ensure_future(until_told_to_stop())
    while not told.done() and following.is_alive():
        status.write(directory, status.Snapshot(_NAME, status.Kind.INDEXER, __version__, time.time(), ready=True))
        await asyncio.wait({told}, timeout=status.WRITE_EVERY)
    stop.set()
    return told.done()


def make_retention(config: Config) -> Retention:
    """Make what keeps the journal and the index within the configuration's limits."""
    limits = config.retention
    policy = Policy(keep_seconds=limits.keep, hard_limit_seconds=limits.hard_limit, keep_bytes=limits.keep_bytes)
    telemetry = config.telemetry
    shipped = partial(shipped_cursors, config.shipped, telemetry.signals) if telemetry else None
    return Retention(config.journal, policy, shipped=shipped, clock=WallClock(unhurried()))


def main() -> None:
    """Follow the journal, and delete from its old end what is not to be kept, until the parent says stop."""
    set_up_logging(_NAME)
    os.nice(_NICENESS)
    config = parse(read_settings(), Path())
    stop = threading.Event()
    following = threading.Thread(target=run, args=(config.journal, config.index, stop, make_retention(config).chores))
    following.start()
    say_ready()
    directory = status.directory(config.data_dir)
    if not asyncio.run(_until_stopped(following, stop, directory)):
        sys.exit(1)
    following.join()
    status.remove(directory, _NAME)


if __name__ == "__main__":
    main()
