"""Commits calls to a journal until it is killed: `journal_loop.py JOURNAL RUN`.

Prints the process id of the committer, then the audit ID of each call whose start is durable, and ends every other one.
"""

import asyncio
import os
import sys
from pathlib import Path

import uvloop

from kube_audit_proxy.coroutine import Runner
from kube_audit_proxy.journal.line import content
from kube_audit_proxy.journal.writer import JournalWriter, Limits

CALLERS = 8


async def call(writer: JournalWriter, name: str) -> None:
    """Make one caller's calls, one after the other."""
    number = 0
    while True:
        number += 1
        audit_id = f"{name}-{number}"
        record = {"kind": "call", "stage": "RequestReceived", "auditID": audit_id, "user": "alice", "pad": "x" * 700}
        await writer.commit(content(record), audit_id)
        os.write(1, f"{audit_id}\n".encode())
        if number % 2:
            writer.append(content(record | {"stage": "ResponseComplete"}), audit_id)


async def main(journal: Path, run: str) -> None:
    """Make calls in parallel, forever."""
    limits = Limits(segment_bytes=200_000)
    writer = JournalWriter.open(journal, "w0", clock=lambda: "2026-11-23T10:00:00.000000Z", product="x", limits=limits)
    os.write(1, f"{writer.committer_id}\n".encode())
    for caller in range(CALLERS):
        Runner(call(writer, f"{run}-{caller}")).go_on()
    await asyncio.Event().wait()


uvloop.run(main(Path(sys.argv[1]), sys.argv[2]))
