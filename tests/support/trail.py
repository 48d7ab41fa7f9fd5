"""What a proxy records while something is done through it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kube_audit_proxy.journal.reader import read_batches
from support.proxies import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.proxies import Proxy

Record = dict[str, Any]


def every(_: Record) -> bool:
    """Any call."""
    return True


class Trail:
    """The calls that a proxy has recorded since this was made."""

    def __init__(self, proxy: Proxy) -> None:
        self._journal = proxy.data_dir / "journal"
        self._from = {batch.writer: batch.cursor for batch in read_batches(self._journal, {})}

    def lines(self) -> list[Record]:
        """Every line about a call, as it stands now."""
        lines = [json.loads(line) for batch in read_batches(self._journal, self._from) for line in batch.lines]
        return [line for line in lines if line["kind"] == "call"]

    def ends(self, count: int = 1, wanted: Callable[[Record], bool] = every) -> list[Record]:
        """The ends of the calls that `wanted` says yes to, in the order they came, once all of them have ended.

        There are to be `count` of them at least; `wanted` can go by what is known at a call's start.
        """

        def found() -> list[list[Record]]:
            made = list(filter(wanted, self.lines()))
            started = {line["auditID"] for line in made if line["stage"] == "RequestReceived"}
            ends = [line for line in made if line["stage"] in {"ResponseComplete", "Panic"}]
            ends = [line for line in ends if line["auditID"] in started]
            return [ends] if len(ends) == len(started) >= count else []

        (ends,) = wait_until(found, f"{count} calls to end")
        return sorted(ends, key=lambda end: str(end["requestReceivedTimestamp"]))

    def end(self, wanted: Callable[[Record], bool] = every) -> Record:
        """The end of the only such call."""
        (end,) = self.ends(1, wanted)
        return end

    def started(self, wanted: Callable[[Record], bool]) -> Record:
        """The start of the answer to a long-running call."""

        def found() -> Record:
            lines = [line for line in self.lines() if line["stage"] == "ResponseStarted" and wanted(line)]
            return lines[0] if lines else {}

        return wait_until(found, "an answer to begin")


def what(record: Record) -> tuple[str, str, int]:
    """Verb, resource with subresource (or path), and status."""
    resource = "/".join(filter(None, (record.get("resource"), record.get("subresource"))))
    return record["verb"], resource or record["requestURI"].partition("?")[0], record["status"]


def has(record: Record, **members: Any) -> bool:
    """Whether a record has these members."""
    return all(record.get(key) == value for key, value in members.items())
