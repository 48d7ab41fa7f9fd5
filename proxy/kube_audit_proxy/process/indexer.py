"""The indexer's process: `python -m kube_audit_proxy.process.indexer`, started by the supervisor."""

import asyncio
import os
import threading
from pathlib import Path

from kube_audit_proxy.config import parse
from kube_audit_proxy.index.indexer import run
from kube_audit_proxy.process.child import read_settings, say_ready, set_up_logging, until_told_to_stop

_NICENESS = 5
"""It follows behind: where processors are short, they are the gateway's first."""


async def _until_stopped(stop: threading.Event) -> None:
    await until_told_to_stop()
    stop.set()


def main() -> None:
    """Follow the journal until the parent says stop."""
    set_up_logging("indexer")
    os.nice(_NICENESS)
    config = parse(read_settings(), Path())
    stop = threading.Event()
    following = threading.Thread(target=run, args=(config.journal, config.index, stop))
    following.start()
    say_ready()
    asyncio.run(_until_stopped(stop))
    following.join()


if __name__ == "__main__":
    main()
