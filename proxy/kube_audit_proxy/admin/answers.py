"""What all answers of the admin listener have in common."""

import logging
import socket
import struct
from types import TracebackType
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream
from tornado.web import HTTPError, RequestHandler

log = logging.getLogger(__name__)

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Content-Type": "text/plain; charset=utf-8",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_SENTENCES = {404: "There is nothing at this address.", 405: "Only GET and HEAD are answered here."}
_NO_SENTENCE = "Something went wrong here; the log of the proxy says what."
_QUIET = frozenset({"/metrics", "/healthz", "/readyz"})


class RefusedError(HTTPError):
    """A request that is not answered as asked; `sentence` is what its sender is told, beside some headers."""

    def __init__(self, code: int, sentence: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(code)
        self.sentence = sentence
        self.headers = headers


class Answer(RequestHandler):
    """Plain sentences, and no word of an address's query in any log: it may have the token in it."""

    SUPPORTED_METHODS = ("GET", "HEAD")

    def set_default_headers(self) -> None:
        """Say as little as possible of us, and let nobody make more of an answer than it is."""
        self.clear_header("Server")
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def compute_etag(self) -> None:
        """Give none: nothing here is to be kept."""

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answer with a sentence; break off where half of another answer is out, which must not look whole."""
        if self._headers_written:
            self.break_off()
        else:
            super().send_error(status_code, **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with a sentence."""
        error = kwargs.get("exc_info", (None, None))[1]
        sentence = _SENTENCES.get(status_code, _NO_SENTENCE)
        if isinstance(error, RefusedError):
            sentence = error.sentence
            for name, value in error.headers:
                self.add_header(name, value)
        if status_code == 405:
            self.set_header("Allow", ", ".join(self.SUPPORTED_METHODS))
        self.finish(f"{sentence}\n")

    def break_off(self) -> None:
        """Reset the connection: even a client of HTTP/1.0, for whom its end is the answer's end, then sees an error."""
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)  # noqa: S101 - the only kind there is
        stream = connection.stream
        assert isinstance(stream, IOStream)  # noqa: S101 - the same
        if not stream.closed():
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.close()

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log what nobody expected."""
        if typ is not None and value is not None and not isinstance(value, HTTPError):
            log.error("%s failed", ascii(self.request.path), exc_info=(typ, value, tb))


class Nothing(Answer):
    """There is nothing at this address."""

    def prepare(self) -> None:
        """Say so."""
        raise HTTPError(404)


def log_request(answer: RequestHandler) -> None:
    """Log an answer, without the address's query."""
    request = answer.request
    log.log(
        logging.DEBUG if request.path in _QUIET else logging.INFO,
        "%d %s %s %s %.0f ms",
        answer.get_status(),
        request.method,
        ascii(request.path),
        request.remote_ip,
        request.request_time() * 1000,
    )
