"""An API server that remembers which calls have reached it: what the trail is compared with."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from support.proxies import Proxy, wait_until
from support.raw import Answer, Raw
from support.scripted import Asked, Connection, Scripted

MAPS = "/api/v1/namespaces/default/configmaps"
CALL = f"/clusters/plain{MAPS}"


class Witness:
    """Takes every call to `MAPS`, and says yes."""

    def __init__(self, server: Scripted) -> None:
        self.server = server
        self._lock = threading.Lock()
        self._seen: list[tuple[str, str]] = []
        server.on(MAPS, self._take)

    def _take(self, connection: Connection, asked: Asked) -> bool:
        connection.exactly(int(asked.header("content-length") or 0))
        with self._lock:
            self._seen.append((asked.method, asked.header("audit-id")))
        return connection.answer(b'{"kind":"ConfigMap"}', "Content-Type: application/json")

    def seen(self, method: str = "") -> list[str]:
        """The audit ids of the calls that have come, by one method or any."""
        with self._lock:
            return [audit_id for known, audit_id in self._seen if known == (method or known)]


@contextmanager
def witness() -> Iterator[Witness]:
    """Have one until the end of the block."""
    with Scripted() as server:
        yield Witness(server)


def post(raw: Raw) -> Answer:
    """Make a write."""
    return raw.ask(f"POST {CALL}", body=b"{}")


def make_calls(proxy: Proxy, count: int, method: str = "POST") -> list[int]:
    """Make so many calls, one after the other over one connection, and give the codes of their answers."""
    with Raw(proxy) as raw:
        return [(post(raw) if method == "POST" else raw.ask(f"{method} {CALL}")).code for _ in range(count)]


def until_served(proxy: Proxy) -> None:
    """Wait until a write is let through."""
    wait_until(lambda: make_calls(proxy, 1) == [200], "the proxy to make calls")


def ids(lines: Iterable[dict[str, Any]], **wanted: Any) -> list[str]:
    """The audit ids of the lines that have these values."""
    return [line["auditID"] for line in lines if all(line.get(name) == value for name, value in wanted.items())]


def check_trail(proxy: Proxy, upstream: Witness) -> None:
    """Every call that came to the API server has one start, before or at which it was; and every start one end."""
    lines = wait_until(lambda: _all_ended(proxy), "every call to have an end")
    starts, ends = ids(lines, stage="RequestReceived"), ids(lines, stage="ResponseComplete")
    seen = upstream.seen()
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(starts)
    assert len(starts) == len(set(starts))
    assert len(ends) == len(set(ends))


def _all_ended(proxy: Proxy) -> list[dict[str, Any]]:
    lines = proxy.lines()
    ended = set(ids(lines, stage="ResponseComplete"))
    return lines if set(ids(lines, stage="RequestReceived")) <= ended else []
