"""What the tests of the journal share: records, an open writer, and how to look at what came of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import uvloop

from kube_audit_proxy.coroutine import Runner
from kube_audit_proxy.journal.chain import Chain
from kube_audit_proxy.journal.files import header
from kube_audit_proxy.journal.line import build, content, head
from kube_audit_proxy.journal.reader import read_batches, segment_name
from kube_audit_proxy.journal.verify import Report, verify
from kube_audit_proxy.journal.writer import JournalWriter

NOW = "2026-11-23T10:00:00.000000Z"
DEADLINE = 30.0  # seconds: far more than anything takes
SUPPORT = Path(__file__).parents[1] / "support"


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine as the gateway runs its own, and on the same loop."""

    async def main() -> None:
        await started(test())

    uvloop.run(main())


def started(coroutine: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
    """Start a coroutine that waits for commits; give its end, which raises what it does, and cancels it."""
    end = asyncio.get_running_loop().create_future()

    async def tell() -> None:
        try:
            await coroutine
        except BaseException as error:  # noqa: BLE001 - pytest's own ones, too: whoever waits for the end raises it
            if not end.done():
                end.set_exception(error)
        else:
            if not end.done():
                end.set_result(None)

    runner = Runner(tell())
    end.add_done_callback(lambda _: runner.cancel())
    runner.go_on()
    return end


def start(call: str, **fields: Any) -> bytes:
    """Return the body of a call's start."""
    return content({"kind": "call", "stage": "RequestReceived", "auditID": call, "user": "alice", **fields})


def end(call: str, **fields: Any) -> bytes:
    """Return the body of a call's end."""
    return content({"kind": "call", "stage": "ResponseComplete", "auditID": call, "user": "alice", **fields})


@asynccontextmanager
async def writing(journal: Path, name: str = "w0", **options: Any) -> AsyncIterator[JournalWriter]:
    """Have a journal open for writing."""
    writer = JournalWriter.open(journal, name, clock=lambda: NOW, product="kube-audit-proxy test", **options)
    try:
        yield writer
    finally:
        await writer.close()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until something is so; fail if it never is."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.005)


def records(journal: Path) -> list[dict[str, Any]]:
    """Return all records, in the order of the journal."""
    return [orjson.loads(line) for batch in read_batches(journal, {}) for line in batch.lines]


def stages(journal: Path) -> list[tuple[str, str]]:
    """Return audit ID and stage of all lines of calls."""
    return [(record["auditID"], record["stage"]) for record in records(journal) if record["kind"] == "call"]


def report(journal: Path, heads: dict[str, tuple[int, str]] | None = None) -> Report:
    """Verify a journal with one writer."""
    (only,) = verify(journal, heads)
    return only


def write_journal(journal: Path, *sizes: int, writer: str = "w0") -> list[Path]:
    """Write segments with so many lines each, by hand: the header, then whole calls, one after the other."""
    directory = journal / writer
    directory.mkdir(parents=True)
    chain = Chain(writer)
    paths = []
    for size in sizes:
        path = directory / segment_name(chain.seq + 1)
        with path.open("wb") as file:
            for body in _bodies(size, path.stem):
                line = build(head(writer), chain.seq + 1, str(chain.previous).encode(), body)
                assert chain.feed(line) is None
                file.write(line + b"\n")
        paths.append(path)
    return paths


def _bodies(size: int, segment: str) -> Iterator[bytes]:
    yield header("kube-audit-proxy test", NOW, None)
    for number in range(size - 1):
        call = f"{segment}-{number // 2}"
        yield end(call) if number % 2 else start(call)
