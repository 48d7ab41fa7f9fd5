"""One server of the demo as a child process with a log of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_GUARD = Path(__file__).with_name("guard.py")


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody listened on a moment ago, all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


class Child:
    """A running server. It never outlives this process, not even if this process is killed.

    Its output goes to the file log. Neither the terminal's Ctrl-C nor the caller's environment reach it.
    Raises OSError if it cannot be started.
    """

    def __init__(self, name: str, argv: Sequence[str], *, log: Path, environ: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        reader, self._lifeline = os.pipe()
        try:
            with log.open("ab") as output:
                self._guard = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_GUARD), *argv],
                    stdin=reader,
                    stdout=output,
                    stderr=output,
                    env=dict(environ),
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(reader)

    @property
    def exit_code(self) -> int | None:
        """The code it ended with, None while it runs."""
        return self._guard.poll()

    def last_lines(self, count: int = 12) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-count:])

    def stop(self, *, patience: float = 5.0) -> None:
        """End it: ask, then after patience seconds kill it. Returns when it and all it started are gone."""
        if self._lifeline < 0:
            return
        self._guard.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(patience)
        os.close(self._lifeline)
        self._lifeline = -1
        self._guard.wait()
