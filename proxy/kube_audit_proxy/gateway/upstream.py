"""The API server's side of a call: one connection.

An answer's body goes to the client from within `buffer_updated`, re-framed but never gathered: a watch event is passed
on in the turn of the loop in which it came. A connection serves one call at a time and is kept only if both messages
of that call ended as they should.
"""

import asyncio
from collections.abc import Callable
from typing import Final, cast

import httptools

from kube_audit_proxy.coroutine import Waiter
from kube_audit_proxy.gateway.client import READ_AHEAD, ClientConnection, Request
from kube_audit_proxy.gateway.errors import (
    ClientGoneError,
    Refusal,
    UpstreamError,
    UpstreamIdleClosedError,
    UpstreamTimeoutError,
)
from kube_audit_proxy.gateway.headers import RawHeaders
from kube_audit_proxy.gateway.peer import has_vanished
from kube_audit_proxy.gateway.tls import RECEIVED
from kube_audit_proxy.gateway.transport import GONE, Transport, over
from kube_audit_proxy.kube import status
from kube_audit_proxy.kube.channels import StreamObserver
from kube_audit_proxy.kube.channels.frames import FrameCutter

_CONTENT_LENGTH: Final = b"\r\ncontent-length:"
_CAPTURE: Final = 16 << 10
"""Bytes of a failure's body that are kept to read its Status from."""

_NO_PARSER = httptools.HttpResponseParser(None)
"""For a connection that is lost: its own one refers to it in a circle, see `GONE`."""


class Response:
    """The head of an answer, as bytes that llhttp has judged; its header fields are sorted only where that matters."""

    code = 0
    content_length = -1
    chunked = False
    keep_alive = False
    upgraded = False
    phrase = b""
    block = b""
    """The header lines, each with its CRLF."""
    lower = b""
    """The same in lower case, after one CRLF, so that every name stands between a CRLF and a colon."""

    @property
    def headers(self) -> RawHeaders:
        """Names and values."""
        pairs = (line.partition(b":") for line in self.block.split(b"\r\n")[:-1])
        return [(name, value.strip(b" \t")) for name, _, value in pairs]

    def header(self, lower: bytes) -> str:
        """First value of a header, by its lower-case name; empty if it is not there."""
        at = self.lower.find(b"\r\n%b:" % lower)
        if at < 0:
            return ""
        # One CRLF less in front of the block than of its lower-case twin.
        end = self.block.find(b"\r\n", at)
        return self.block[at + len(lower) + 1 : end].strip(b" \t").decode("latin-1")

    def take(self, raw: bytes) -> int:
        """Take a head from the start of `raw`; give where it ends. Raises UpstreamError if there is none."""
        line, end = raw.find(b"\r\n"), raw.find(b"\r\n\r\n")
        if line <= 0 or end < 0:
            raise UpstreamError("a head without a status line or an end")
        self.phrase, self.block = raw[13:line], raw[line + 2 : end + 2]
        self.lower = raw[line : end + 2].lower()
        at = self.lower.find(_CONTENT_LENGTH)
        if at >= 0:
            start = at + len(_CONTENT_LENGTH)
            self.content_length = int(self.lower[start : self.lower.find(b"\r\n", start)])
        else:
            # Not `in`: for bytes, that makes and drops an exception first.
            self.chunked = self.lower.find(b"\r\ntransfer-encoding:") >= 0
        return end + 4


class UpstreamConnection(asyncio.BufferedProtocol):
    """One connection to an API server, and the call it carries at present."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._parser = httptools.HttpResponseParser(self)
        self._client: ClientConnection | None = None
        self._request: Request | None = None
        self.answer = Response()
        """The answer to the present call, once `answered` is done."""
        self._head_raw = b""
        self._head_whole = False
        self._head: Waiter | None = None
        self._end: Waiter | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._done = False
        self._error: Exception | None = None
        self._forwarding = False
        self._chunk_out = False
        self._writable = True
        self.observer: StreamObserver | None = None
        self._frames: FrameCutter | None = None
        self.transport: Transport = GONE
        self.served = 0
        self.idle_since = 0.0
        self.sent_at = 0.0
        self.first_byte_at = 0.0
        self.last_byte_at = 0.0
        self.request_bytes = 0
        self.response_bytes = 0
        self.failure_body = bytearray()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = over(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the call in the way the answer's framing says."""
        response = self.answer
        until_close = response.code and not response.chunked and response.content_length < 0
        whole = response.upgraded or (self._head is not None and self._head.done and until_close)
        if whole and exc is None:
            self._finish(None)
        elif self._head is not None and not self._head.done and not self.first_byte_at and self.served > 1:
            self._finish(
                UpstreamIdleClosedError(
                    "the API server closed a kept connection before it answered: it may have acted on the call"
                )
            )
        elif not self._done:
            when = "before it answered" if not response.code else "in the middle of its answer"
            self._finish(UpstreamError(f"the API server closed the connection {when}"))
        self.transport, self._parser = GONE, _NO_PARSER

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Lend the loop its buffer."""
        return RECEIVED

    def buffer_updated(self, nbytes: int) -> None:
        """Parse an answer and send it on, or pass on the bytes of a stream."""
        self.last_byte_at = self._clock()
        if not self.first_byte_at:
            self.first_byte_at = self.last_byte_at
        if self.answer.upgraded:
            self._stream_received(bytes(RECEIVED[:nbytes]))
            return
        data = RECEIVED[:nbytes]
        if not self._head_whole:
            self._head_raw += data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stream_received(bytes(data[upgrade.args[0] :]))
        except httptools.HttpParserError as error:
            self._not_http(error)
            return
        self._parsed()

    def _parsed(self) -> None:
        """Send on what has been parsed, and resume who waits for the head or the end."""
        if self._forwarding and self._held:
            self._flush()
        elif self._held_bytes > READ_AHEAD:
            self.transport.pause_reading()
        if self._head_whole and self._head is not None and not self._head.done:
            self._head.resume()
        elif self._done and self._end is not None:
            self._end.resume()

    def _not_http(self, error: httptools.HttpParserError) -> None:
        """End the call; where its answer is whole, what came after it costs only the connection."""
        if self._forwarding and self._held:
            self._flush()
        self._finish(UpstreamError(f"the API server's answer is not valid HTTP: {error}"))
        self.transport.abort()

    def pause_writing(self) -> None:
        """Have the client send no more than the API server takes."""
        self._writable = False
        if self._client is not None:
            self._client.hold(True)

    def resume_writing(self) -> None:
        """Let the client go on."""
        self._writable = True
        if self._client is not None:
            self._client.hold(False)

    # llhttp

    def on_message_begin(self) -> None:
        """Start an answer; after an interim one (100, 103) this is the next."""
        if self._done or self._client is None:
            raise UpstreamError("more than one answer to a request")
        self.answer = Response()

    def on_headers_complete(self) -> None:
        """Hand the head out, unless it is an interim one."""
        response = self.answer
        response.code = self._parser.get_status_code()
        end = response.take(self._head_raw)
        if response.code < 200 and response.code != 101:
            self._head_raw = self._head_raw[end:]
            return
        self._head_whole = True
        self._head_raw = b""  # a watch would keep it for hours
        response.keep_alive = self._parser.should_keep_alive()
        response.upgraded = response.code == 101
        if self._request is not None and self._request.method == "HEAD":
            # llhttp does not know the question and would wait for a body that HEAD never has.
            self._done = True
            self._parser = httptools.HttpResponseParser(self)

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        if self._done:
            raise UpstreamError("a body where none can be")  # the answer to HEAD
        self._held.append(piece)
        self._held_bytes += len(piece)
        if self.answer.code >= 400 and len(self.failure_body) < _CAPTURE:
            self.failure_body += piece[: _CAPTURE - len(self.failure_body)]

    def on_message_complete(self) -> None:
        """Note the end of the answer."""
        if self.answer.code >= 200:
            self._done = True

    # the answer on its way to the client

    def _flush(self) -> None:
        client, held = cast("ClientConnection", self._client), self._held
        body = held[0] if len(held) == 1 else b"".join(held)
        self.response_bytes += len(body)
        self._held = []
        self._held_bytes = 0
        if not client.lost:
            client.transport.write(b"%x\r\n%b\r\n" % (len(body), body) if self._chunk_out else body)

    def _stream_received(self, data: bytes) -> None:
        if not data:
            return
        self.response_bytes += len(data)
        if not self._forwarding:
            self._held.append(data)
            return
        client, observer = cast("ClientConnection", self._client), self.observer
        if not client.lost:
            # Each of the lines is a TLS record.
            client.transport.writelines(self._frames.cut(data) if self._frames is not None else (data,))
        if observer is not None and observer.wants_server:
            observer.server_data(data)

    def _finish(self, error: Exception | None) -> None:
        if self._error is None and not self._done:
            self._error = error
        self._done = True
        if self._head is not None:
            self._head.settle(None if self._head_whole else error)
        if self._end is not None:
            self._end.settle()

    # gateway.client.Upstream

    def client_body(self, piece: bytes) -> None:
        """Send a piece of the request's body."""
        self.request_bytes += len(piece)
        chunked = cast("Request", self._request).chunked
        self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)

    def client_body_done(self) -> None:
        """Send the end of the request's body."""
        if cast("Request", self._request).chunked:
            self.transport.write(b"0\r\n\r\n")

    def client_stream(self, data: bytes) -> None:
        """Send bytes of an upgraded connection; before the 101 they wait."""
        if not self._forwarding:
            early = cast("Request", self._request).early
            early.append(data)
            if sum(map(len, early)) > READ_AHEAD:
                cast("ClientConnection", self._client).hold(True)
            return
        self.request_bytes += len(data)
        observer = self.observer
        if observer is not None and observer.wants_client:
            observer.client_data(data)  # first: it tells which stream the answer to it will come on
        self.transport.write(data)

    def client_failed(self, *, patient: bool = True) -> None:
        """Give the call up at once: each watch costs the API server a watcher."""
        self._finish(ClientGoneError())
        if self.answer.upgraded and patient:
            self.transport.close()  # the last bytes of a stream's input are still to be sent
        else:
            self.transport.abort()

    def client_writable(self, writable: bool) -> None:
        """Read from the API server no faster than the client takes it."""
        if self.transport.is_closing():
            return
        if writable:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def miss_server(self) -> None:
        """End the call if the API server has vanished: it acknowledges nothing of what is sent to it."""
        if has_vanished(self.transport):
            self._finish(UpstreamError("the API server vanished: nothing that is sent to it is acknowledged"))
            self.transport.abort()

    # for the exchange

    def send(self, client: ClientConnection, request: Request, head: bytes) -> None:
        """Begin a call: send its head and what has arrived of its body."""
        self._client, self._request, self.answer = client, request, Response()
        self._head = self._end = self._error = self.observer = None
        self._held, self._held_bytes = [], 0
        self._done = self._forwarding = self._chunk_out = self._head_whole = False
        self._head_raw = b""
        self.first_byte_at = self.last_byte_at = 0.0
        self.request_bytes = self.response_bytes = 0
        if self.failure_body:
            self.failure_body = bytearray()
        self.served += 1
        self.sent_at = self._clock()
        if request.broken is not None:
            raise ClientGoneError  # its body turned out wrong while the call was put on record
        self._head = Waiter()
        client.attach(self)
        if not self._writable:
            client.hold(True)
        if not request.body and not request.chunked:
            self.transport.write(head)
            return
        body = b"".join(request.body)
        self.request_bytes = len(body)
        if request.chunked:
            last = b"0\r\n\r\n" if request.body_done else b""
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + last
        self.transport.write(head + body)
        if request.body_done:
            return  # kept: a read that met a closed connection is sent once more
        request.body = []
        request.body_held = 0

    def answered(self) -> Waiter:
        """Give what to wait for: the head of the `answer`. It fails with UpstreamError or ClientGoneError."""
        return cast("Waiter", self._head)

    @property
    def waiting(self) -> bool:
        """Whether a call has been sent whose answer has not begun."""
        return self._head is not None and not self._head.done

    def give_up(self) -> None:
        """End the call: the answer has not begun in time, or all of the body has not come from the client."""
        request = self._request
        if request is not None and not request.body_done:
            request.broken = Refusal(status.request_timeout("the body of the request did not arrive in time"))
            request.keep_alive = False
            self._finish(ClientGoneError())
        else:
            self._finish(UpstreamTimeoutError("the API server did not begin to answer in time"))
        self.transport.abort()

    async def relay(self, head: bytes, *, chunked: bool) -> None:
        """Send the answer's head, then its body as it comes; return when all of it is written to the client.

        Raises UpstreamError if the API server ends it too soon, ClientGoneError if the client goes.
        """
        client = cast("ClientConnection", self._client)
        self._chunk_out = chunked
        self._forwarding = True
        body = b"".join(self._held)
        self.response_bytes += len(body)
        self._held, self._held_bytes = [], 0
        if not client.lost:
            framed = b"%x\r\n%b\r\n" % (len(body), body) if chunked and body else body
            last = b"0\r\n\r\n" if chunked and self._done and self._error is None else b""
            client.transport.write(b"".join((head, framed, last)))
        if not self._done:
            if client.writable:
                self.transport.resume_reading()
            await self._until_end()
            if chunked and self._error is None and not client.lost:
                client.transport.write(b"0\r\n\r\n")
        if self._error is not None:
            raise self._error

    async def tunnel(self, head: bytes, observer: StreamObserver | None, *, framed: bool) -> None:
        """Send the 101, then splice both directions, byte for byte, until either side ends.

        `framed`: the stream is a websocket, whose frames the client gets one by one.
        """
        client, request = cast("ClientConnection", self._client), cast("Request", self._request)
        early_client, early_server = b"".join(request.early), b"".join(self._held)
        request.early.clear()
        self._held = []
        self._forwarding = True
        self.observer = observer
        self._frames = FrameCutter() if framed else None
        if not client.lost:
            client.transport.write(head)
        self.response_bytes -= len(early_server)  # counted as it came
        self._stream_received(early_server)
        if early_client:
            self.client_stream(early_client)
        if self._writable:
            client.hold(False)
        if not self._done:
            await self._until_end()
        if self._error is not None:
            raise self._error

    async def _until_end(self) -> None:
        self._end = Waiter()
        await self._end

    def release(self) -> bool:
        """End the call. True: the connection may serve another one."""
        client, request, response = self._client, self._request, self.answer
        if client is not None:
            client.detach()
        self._client = None
        self._held, self._held_bytes, self.observer = [], 0, None
        self._head = self._end = None
        error, self._error = self._error, None  # its traceback refers to whoever has waited for this connection
        if self.transport.is_closing():
            return False
        # The client may have been slow to the last: the next one must not wait for it, nor may the end go unseen.
        self.transport.resume_reading()
        return (
            self._done
            and error is None
            and request is not None
            and request.body_done
            and response.keep_alive
            and not response.upgraded
        )
