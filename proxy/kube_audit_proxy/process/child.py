"""What the parent and its children say to each other.

A child reads its settings, one line of JSON, from its standard input, and says one line on its standard output when
it is ready; a worker says another one when it begins to drain. That its input ends means that the parent is gone,
however it went: the child then ends as well.
"""

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

from kube_audit_proxy.cli.text import visible

READY = b"ready\n"
DRAINING = b"draining\n"


def read_settings() -> dict[str, Any]:
    """Read what the parent has sent."""
    settings: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    return settings


def say_ready() -> None:
    """Tell the parent that this child does its work."""
    _say(READY)


def say_draining() -> None:
    """Tell the parent that this worker takes no new connections, so that another one is needed."""
    _say(DRAINING)


def _say(word: bytes) -> None:
    with contextlib.suppress(OSError):  # where the parent is gone, nobody has to be told
        sys.stdout.buffer.write(word)
        sys.stdout.buffer.flush()


def set_up_logging(name: str) -> None:
    """Log to standard error, with the process's name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(f"%(asctime)s {name} %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _OneLine(logging.Formatter):
    """Writes a message on one line: what others have put into it may not act on the terminal of who reads it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return visible(super().formatMessage(record))


async def until_told_to_stop() -> None:
    """Return when the parent says so (SIGTERM) or is gone. See `told_to_stop`."""
    await (await told_to_stop()).wait()


async def told_to_stop() -> asyncio.Event:
    """Begin to listen for the parent: give what is set once it says stop (SIGTERM) or is gone.

    Ctrl-C and SIGHUP, which go to whole groups of processes, are the parent's to act upon.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await loop.connect_read_pipe(lambda: _ParentWatch(stop.set), sys.stdin.buffer)
    return stop


class _ParentWatch(asyncio.Protocol):
    def __init__(self, gone: Callable[[], None]) -> None:
        self._gone = gone

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The parent is gone."""
        self._gone()
