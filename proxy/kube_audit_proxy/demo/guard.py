"""Runs one server and ends it, with all it started, as soon as the parent is gone.

Run as a script with the server's command line as arguments. Standard input is a pipe that only the parent holds open:
its end, however the parent died, kills the server's process group. SIGTERM is passed on to the server.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM of a group of zombies
        os.killpg(leader, signal.SIGKILL)


def main(argv: Sequence[str]) -> int:
    """Run argv to its end and return its exit code (128 + N if signal N ended it)."""
    asked_to_stop = threading.Event()
    server: subprocess.Popen[bytes] | None = None

    def stop(_signal: int, _frame: FrameType | None) -> None:
        asked_to_stop.set()
        if server is not None:
            server.terminate()

    signal.signal(signal.SIGTERM, stop)
    server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, process_group=0)
    if asked_to_stop.is_set():  # the signal came while the server was being started
        server.terminate()

    def end_with_parent() -> None:
        os.read(0, 1)
        _kill_group(server.pid)

    threading.Thread(target=end_with_parent, daemon=True).start()
    code = server.wait()
    _kill_group(server.pid)  # what it started itself, such as a shell
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
