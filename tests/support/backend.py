"""A web server for the API server to take for a pod's or a service's.

The API server connects to no loopback address on anybody's behalf: it takes another address of this machine, such as
our end of a real node's link.
"""

from __future__ import annotations

import gzip
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = bytes(range(256)) * 1024
_PLACES = {"root": "/echo?a=1", "beside": "echo", "dots": "../e", "elsewhere": "http://example.invalid/x"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        match path.strip("/").split("/"):
            case ["to", place]:
                self._send(302, b"", Location=_PLACES[place])
            case ["status", code]:
                self._send(int(code), b"of the pod's own", **{"WWW-Authenticate": "Basic realm=pod"})
            case ["cookie"]:
                self._send(200, b"", **{"Set-Cookie": "a=b"})
            case ["part"]:
                first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
                span = f"bytes {first}-{last}/{len(CONTENT)}"
                self._send(206, CONTENT[int(first) : int(last) + 1], **{"Content-Range": span})
            case ["zipped"]:
                self._send(200, gzip.compress(CONTENT, mtime=0), **{"Content-Encoding": "gzip"})
            case ["trailers"]:
                self._trailers()
            case _:
                told = {"method": self.command, "path": self.path, "body": body.decode("latin-1")}
                self._send(200, json.dumps(told | {"headers": dict(self.headers.items())}).encode())

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = _answer  # noqa: N815 - http.server's names

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        return self.rfile.read(size + 2)[:-2]

    def _send(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _trailers(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Trailer", "X-Sum")
        self.end_headers()
        self.wfile.write(b"4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n")


@contextmanager
def backend(address: str) -> Iterator[int]:
    """Run it at an address of this machine, and give its port."""
    with ThreadingHTTPServer((address, 0), _Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
