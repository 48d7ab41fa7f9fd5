"""Whoever has what a coroutine waits for resumes it: at once or in the next turn, with an error or without."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kube_audit_proxy.coroutine import Runner, Waiter


class Steps:
    """A coroutine that waits for one thing after the other, and notes what becomes of each wait."""

    def __init__(self, *waits: Callable[[], Awaitable[Any]]) -> None:
        self._waits = waits
        self.told: list[str] = []
        self.ended = asyncio.Event()

    async def run(self) -> None:
        """Wait for all; being cancelled ends it."""
        for wait in self._waits:
            try:
                await wait()
            except ValueError as error:
                self.told.append(str(error))
            except asyncio.CancelledError:
                self.told.append("cancelled")
                self.ended.set()
                raise
            else:
                self.told.append("done")
        self.ended.set()


def test_it_goes_on_within_resume() -> None:
    """What waits has gone on when `resume` returns, and further calls of it change nothing."""

    async def test() -> None:
        first, second = Waiter(), Waiter()
        steps = Steps(lambda: first, lambda: second)
        Runner(steps.run()).go_on()
        assert steps.told == []
        first.resume()
        assert steps.told == ["done"]
        first.resume()
        first.settle(ValueError("late"))
        second.resume()
        assert (steps.told, steps.ended.is_set()) == (["done", "done"], True)

    asyncio.run(test())


@pytest.mark.parametrize(("error", "told"), [(None, "done"), (ValueError("wrong"), "wrong")])
def test_it_goes_on_in_the_next_turn_after_settle(error: Exception | None, told: str) -> None:
    """`settle` returns before anything happens; in the next turn the wait ends, or raises what it was given."""

    async def test() -> None:
        waiter = Waiter()
        steps = Steps(lambda: waiter)
        Runner(steps.run()).go_on()
        waiter.settle(error)
        assert steps.told == []
        await asyncio.sleep(0)
        assert steps.told == [told]

    asyncio.run(test())


def test_what_came_before_the_wait_is_not_waited_for() -> None:
    """A wait for what is done, or has failed, ends at once."""

    async def test() -> None:
        done, failed = Waiter(), Waiter()
        done.resume()
        failed.settle(ValueError("wrong"))
        steps = Steps(lambda: done, lambda: failed)
        Runner(steps.run()).go_on()
        assert steps.told == ["done", "wrong"]

    asyncio.run(test())


def test_it_waits_for_tasks_as_well() -> None:
    """What needs a task of asyncio's, like a timeout, is awaited in one, and its errors arrive."""

    async def slow() -> None:
        async with asyncio.timeout(10):
            await asyncio.sleep(0)

    async def wrong() -> None:
        raise ValueError("wrong")

    async def test() -> None:
        steps = Steps(lambda: asyncio.create_task(slow()), lambda: asyncio.create_task(wrong()))
        Runner(steps.run()).go_on()
        await steps.ended.wait()
        assert steps.told == ["done", "wrong"]

    asyncio.run(test())


@pytest.mark.parametrize("wait", [Waiter, lambda: asyncio.create_task(asyncio.sleep(60))], ids=["waiter", "task"])
def test_it_is_cancelled_where_it_waits(wait: Callable[[], Awaitable[Any]]) -> None:
    """CancelledError is raised at the wait, whatever it is for, and ends the coroutine without a word."""

    async def test() -> None:
        steps = Steps(wait)
        runner = Runner(steps.run())
        runner.go_on()
        runner.cancel()
        assert steps.told == []
        await steps.ended.wait()
        assert steps.told == ["cancelled"]
        runner.cancel()  # changes nothing any more

    asyncio.run(test())


def test_what_nobody_expected_is_told() -> None:
    """An error that ends the coroutine is told to the loop, which logs it, and not to who resumed it."""

    async def test() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        waiter = Waiter()

        async def fail() -> None:
            await waiter
            raise RuntimeError("a fault of ours")

        Runner(fail()).go_on()
        waiter.resume()
        assert [str(context["exception"]) for context in told] == ["a fault of ours"]

    asyncio.run(test())
