"""The API server's own audit log, from a moment on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support.proxies import wait_until

if TYPE_CHECKING:
    from kube_audit_proxy.demo.cluster import DemoCluster

Event = dict[str, Any]


class ServerAudit:
    """The calls of a client that have reached the API server since this was made, whichever way they came.

    `client` is the first word of its User-Agent, without the version.
    """

    def __init__(self, demo: DemoCluster, client: str) -> None:
        self._log = demo.audit_log
        self._agent = f"{client}/"
        # from one byte before: whether a line begins there, or is just being written, is seen then
        self._from = max(self._log.stat().st_size - 1, 0)

    def ended(self) -> dict[str, Event]:
        """The last event of each call by its audit ID, in the order the calls came, once all of them have ended."""
        (ended,) = wait_until(self._all_ended, "the API server to log the end of every call")
        return dict(sorted(ended.items(), key=lambda item: str(item[1]["requestReceivedTimestamp"])))

    def watches(self) -> list[Event]:
        """The watches that have begun."""
        return [event for event in self._events() if (event["verb"], event["stage"]) == ("watch", "ResponseStarted")]

    def _all_ended(self) -> tuple[dict[str, Event], ...]:
        """Them, or nothing while a call runs."""
        begun: set[str] = set()
        ended: dict[str, Event] = {}
        for event in self._events():
            if event["stage"] == "RequestReceived":
                begun.add(event["auditID"])
            elif event["stage"] == "ResponseComplete" and event["auditID"] in begun:
                ended[event["auditID"]] = event
        return (ended,) if begun == set(ended) else ()

    def _events(self) -> list[Event]:
        with self._log.open("rb") as log:
            log.seek(self._from)
            text = log.read()
        begin = text.find(b"\n") + 1 if self._from else 0
        lines = text[begin : text.rfind(b"\n") + 1].splitlines()
        return [event for event in map(json.loads, lines) if event.get("userAgent", "").startswith(self._agent)]
