"""Keeps a number of connections busy: `python -m benchmarks.load URL CONNECTIONS CALLS [HEADER...]`.

Prints one line of JSON: calls, seconds, and latencies in milliseconds (p50, p99).
"""

import asyncio
import json
import ssl
import sys
import time
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop


class _Caller(asyncio.Protocol):
    """One connection: asks again as soon as it has its answer."""

    def __init__(self, request: bytes, left: list[int], latencies: list[float], done: "asyncio.Future[None]") -> None:
        self._request = request
        self._left = left
        self._latencies = latencies
        self._done = done
        self._parser = httptools.HttpResponseParser(self)
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            self._done.set_exception(ValueError(f"answer {self._parser.get_status_code()}"))
            return
        self._latencies.append(time.perf_counter() - self._sent)
        self._ask()

    def _ask(self) -> None:
        if self._left[0] <= 0:
            if not self._done.done():
                self._done.set_result(None)
            return
        self._left[0] -= 1
        self._sent = time.perf_counter()
        self._transport.write(self._request)


async def _run(url: str, connections: int, calls: int, headers: list[str]) -> dict[str, float]:
    parts = urlsplit(url)
    tls = None
    if parts.scheme == "https":
        tls = ssl.create_default_context()
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}", "Accept: application/json", *headers]
    request = "\r\n".join([*lines, "", ""]).encode()
    loop = asyncio.get_running_loop()
    left, latencies = [calls], list[float]()
    ends = [loop.create_future() for _ in range(connections)]
    started = time.perf_counter()
    for end in ends:
        await loop.create_connection(
            lambda end=end: _Caller(request, left, latencies, end),
            parts.hostname or "",
            parts.port or 443,
            ssl=tls,
        )
    await asyncio.gather(*ends)
    seconds = time.perf_counter() - started
    latencies.sort()
    return {
        "calls": len(latencies),
        "seconds": seconds,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))))
