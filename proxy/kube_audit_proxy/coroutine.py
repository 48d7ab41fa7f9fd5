"""Runs a coroutine that goes on within the call that has what it waits for, and not in a later turn of the loop.

To resume a task asyncio makes a future, a handle and a context, puts them into a queue and comes back to them: three
times a call, which is a twentieth of all that a call costs. Here whoever has what is waited for resumes the coroutine
itself, as the last thing it does, since anything may have happened when it gets control back.
"""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Final


class Waiter:
    """One wait of a coroutine that a `Runner` runs; asyncio's tasks cannot await it."""

    __slots__ = ("_error", "done", "runner")

    def __init__(self) -> None:
        self.done = False
        self.runner: Runner | None = None
        """Whose coroutine waits; None before it does."""
        self._error: BaseException | None = None

    def __await__(self) -> Generator["Waiter", None, None]:
        """Wait. Raises what `settle` was given."""
        if not self.done:
            yield self
        if self._error is not None:
            raise self._error

    def resume(self) -> None:
        """Have the coroutine go on, now: it returns when that waits again, or has ended."""
        if not self.done:
            self.done = True
            if self.runner is not None:
                self.runner.go_on()

    def settle(self, error: BaseException | None = None) -> None:
        """Have the coroutine go on in the next turn of the loop, with this error if there is one."""
        if not self.done:
            self.done = True
            self._error = error
            if self.runner is not None:
                self.runner.go_on_soon()


class Runner:
    """Runs a coroutine, which waits for what is a `Waiter` or one of asyncio's futures.

    There is no current task in it. What needs one, as `asyncio.timeout` does, belongs in a task that it awaits.
    """

    __slots__ = ("_awaited", "_coroutine", "_loop", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._coroutine: Coroutine[Any, Any, None] | None = coroutine  # let go of at its end: it may refer to us
        self._waits_for: Waiter | None = None
        self._awaited: asyncio.Future[Any] | None = None

    def go_on(self) -> None:
        """Begin, or go on, until it waits or ends. What it raises, save that it was cancelled, goes to the loop."""
        coroutine = self._coroutine
        if coroutine is None:
            return
        self._waits_for = self._awaited = None
        try:
            waits_for: Any = coroutine.send(None)
        except (StopIteration, asyncio.CancelledError):
            self._coroutine = None
        except Exception as error:  # noqa: BLE001 - the loop logs it, as it does a task's
            self._coroutine = None
            self._loop.call_exception_handler({"message": "a connection was served no longer", "exception": error})
        else:
            if isinstance(waits_for, Waiter):
                self._waits_for = waits_for
                waits_for.runner = self
            else:
                self._wait_for_future(waits_for)

    def go_on_soon(self) -> None:
        """Go on in the next turn of the loop."""
        self._loop.call_soon(self.go_on)

    def cancel(self) -> None:
        """Raise CancelledError where the coroutine waits; it is for the caller to see whether it ended."""
        if self._awaited is not None:
            self._awaited.cancel()
        elif self._waits_for is not None:
            self._waits_for.settle(asyncio.CancelledError())

    def _wait_for_future(self, future: asyncio.Future[Any]) -> None:
        # As a task does (asyncio/tasks.py, Task.__step): it says that the future was yielded by `await`.
        future._asyncio_future_blocking = False  # noqa: SLF001
        self._awaited = future
        future.add_done_callback(self._future_done)

    def _future_done(self, _future: asyncio.Future[Any]) -> None:
        self.go_on()
