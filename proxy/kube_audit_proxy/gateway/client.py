"""The client's side of a connection: bytes to requests, answers to bytes, with back-pressure both ways.

llhttp judges the syntax (httptools, without leniencies): obs-fold, bare line ends, Content-Length together with
Transfer-Encoding and their duplicates never get past it. Requests are handed out one at a time; what a pipelining
client sent ahead waits, parsed but untouched, and reading stops while it does.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import httptools

from kube_audit_proxy.coroutine import Runner, Waiter
from kube_audit_proxy.gateway.errors import ClientGoneError, Refusal
from kube_audit_proxy.gateway.headers import RawHeaders
from kube_audit_proxy.gateway.peer import has_hung_up, has_vanished
from kube_audit_proxy.gateway.repeat import LONGEST, header_block, repeated
from kube_audit_proxy.gateway.tls import RECEIVED
from kube_audit_proxy.gateway.transport import GONE, Transport, over
from kube_audit_proxy.kube import status

if TYPE_CHECKING:
    from kube_audit_proxy.gateway.exchange import Caller

MAX_HEAD: Final = (1 << 20) + (64 << 10)
"""Bytes of a request's head: the API server's 1 MiB and some room, so that it is the API server that says no."""

READ_AHEAD: Final = 256 << 10
"""Bytes of a body, or sent ahead of a 101, that are held before reading stops."""

_VERSIONS: Final = frozenset({"1.0", "1.1"})
_NO_PARSER = httptools.HttpRequestParser(None)
"""For a connection that is lost: its own one refers to it in a circle, see `GONE`."""

HEAD_TIMEOUT = 32.0
"""Seconds for a head that has begun (kubernetes/apiserver pkg/server/secure_serving.go, ReadHeaderTimeout)."""

IDLE_TIMEOUT = 90.0
"""Seconds between two requests (the same file, IdleTimeout)."""


ABANDONED_TIMEOUT = 30.0
"""Seconds in which something has to be taken of what a client has left behind that is gone."""

DISCARD_TIMEOUT = 5.0
"""Seconds in which the rest of a refused request's body is taken in."""


class Request:
    """One request as it arrives: its head is whole when it is handed out, its body may still be on the way."""

    method = ""
    target = ""
    http_1_0 = False
    keep_alive = True
    upgrading = False
    chunked = False
    content_length = -1
    received = 0.0
    """Monotonic seconds at which the head was whole; 0 before."""
    body_held = 0
    body_done = False
    awaits_continue = False
    """Whether the client holds its body back until it is told to go on."""
    broken: Refusal | None = None

    def __init__(self) -> None:
        self.headers: RawHeaders = []
        self.body: list[bytes] = []
        self.early: list[bytes] = []
        """What an upgrading client sent after its head, before the answer."""


class Upstream(Protocol):
    """What the connection tells its counterpart while a call runs."""

    def client_body(self, piece: bytes) -> None:
        """Take a piece of the request's body."""

    def client_body_done(self) -> None:
        """The request is whole."""

    def client_stream(self, data: bytes) -> None:
        """Take bytes of an upgraded connection."""

    def client_failed(self, *, patient: bool = True) -> None:
        """The client is gone, or sends nonsense: end the call; not `patient`: nor deliver what a stream has left."""

    def client_writable(self, writable: bool) -> None:
        """Whether the client takes more of the answer at present."""

    def miss_server(self) -> None:
        """End the call if the API server has vanished."""


class _Discarded:
    """An upstream for what is not wanted any more."""

    def __init__(self) -> None:
        self.end = Waiter()

    def client_body(self, piece: bytes) -> None:
        """Drop it."""

    def client_body_done(self) -> None:
        """End."""
        self.end.settle()

    def client_stream(self, data: bytes) -> None:
        """Drop it."""

    def client_failed(self, *, patient: bool = True) -> None:  # noqa: ARG002 - nothing is left
        """End."""
        self.client_body_done()

    def client_writable(self, writable: bool) -> None:
        """Nothing is being written."""

    def miss_server(self) -> None:
        """Nothing is asked of it."""


class ClientConnection(asyncio.BufferedProtocol):
    """One accepted connection; `serve(connection)` is run until it ends."""

    def __init__(
        self, serve: "Callable[[ClientConnection], Coroutine[Any, Any, None]]", clock: Callable[[], float]
    ) -> None:
        self._serve = serve
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._parsing: Request | None = None
        self._queue: list[Request] = []  # of one, nearly always: a deque would take 600 bytes for each idle watch
        self._current: Request | None = None
        self._waiter: Waiter | None = None
        self._url: list[bytes] = []
        self._head_bytes = 0
        self._since = clock()
        self._raw = False
        self._deaf = False
        self._repeatable: tuple[bytes, RawHeaders] | None = None
        """The header fields of the last request, as bytes and parsed, if it was a plain one."""
        self._holding = False
        self._gone_since = 0.0
        """When the client was found gone while nothing was read from it; 0 if it was not."""
        self._runner: Runner | None = None
        self.transport: Transport = GONE
        self.upstream: Upstream | None = None
        self.caller: Caller | None = None
        """What the call before has told of who is there."""
        self.writable = True
        self.lost = False
        self.address = ""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve."""
        self.transport = over(transport)
        peername = transport.get_extra_info("peername")
        self.address = peername[0] if peername else ""
        self._runner = Runner(self._serve(self))
        self._runner.go_on()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell whoever waits for this client."""
        self.lost = True
        if self.upstream is not None:
            self.upstream.client_failed()
        if self._waiter is not None:
            self._waiter.settle(ClientGoneError())
        self.transport, self._parser = GONE, _NO_PARSER

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Lend the loop its buffer."""
        return RECEIVED

    def buffer_updated(self, nbytes: int) -> None:
        """Parse, or pass on where the connection has become a stream."""
        if self._raw:
            self._raw_received(bytes(RECEIVED[:nbytes]))
        elif not self._deaf:
            if not self._is_repeated(nbytes):
                self._parse(RECEIVED[:nbytes])
            if self._queue and self._waiter is not None:
                self._waiter.resume()

    def pause_writing(self) -> None:
        """Have the upstream send no more than this client takes."""
        self.writable = False
        if self.upstream is not None:
            self.upstream.client_writable(False)

    def resume_writing(self) -> None:
        """Let the upstream go on."""
        self.writable = True
        if self.upstream is not None:
            self.upstream.client_writable(True)
        if self._waiter is not None:
            self._waiter.settle()

    # llhttp

    def on_message_begin(self) -> None:
        """Start a request."""
        self._parsing = Request()

    def on_url(self, url: bytes) -> None:
        """Gather the target, which may come in pieces."""
        self._url.append(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; the trailers of a chunked body end here."""
        request = cast("Request", self._parsing)
        if not request.received:
            request.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Hand the request out."""
        request, parser = cast("Request", self._parsing), self._parser
        request.method = parser.get_method().decode("latin-1")
        request.target = b"".join(self._url).decode("latin-1")
        self._url.clear()
        version = parser.get_http_version()
        request.http_1_0 = version == "1.0"
        request.keep_alive = parser.should_keep_alive() and not request.http_1_0
        request.upgrading = parser.should_upgrade()
        for name, value in request.headers:
            length = len(name)
            if length == 14 and name.lower() == b"content-length":
                request.content_length = int(value)
            elif length == 17 and name.lower() == b"transfer-encoding":
                if request.chunked or value.lower() != b"chunked":
                    raise Refusal(status.bad_request("of all transfer codings only chunked is served, and only once"))
                request.chunked = True
        if version not in _VERSIONS:
            raise Refusal(status.bad_request(f"HTTP/{version} is not served here, only HTTP/1.1 and 1.0"))
        if request.upgrading and (request.chunked or request.content_length > 0):
            # llhttp takes what follows such a head for the new protocol: the body would be missing upstream.
            raise Refusal(status.bad_request("a request that asks to switch protocols may not have a body"))
        request.received = self._clock()
        self._head_bytes = 0
        self._queue.append(request)

    def on_body(self, piece: bytes) -> None:
        """Pass a piece of the body on, or keep it until the call is on record."""
        self._head_bytes = 0
        request = cast("Request", self._parsing)
        if self.upstream is not None and request is self._current:
            self.upstream.client_body(piece)
        else:
            request.body.append(piece)
            request.body_held += len(piece)

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        request = cast("Request", self._parsing)
        request.body_done = True
        if self.upstream is not None and request is self._current:
            self.upstream.client_body_done()
        self._parsing = None

    def _parse(self, data: bytes | memoryview) -> None:
        between, waiting = self._parsing is None, len(self._queue)
        if between:
            self._since = self._clock()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # What follows the head belongs to the new protocol, if the API server agrees to it.
            self._raw = True
            self._raw_received(bytes(data[upgrade.args[0] :]))
        except httptools.HttpParserError as error:
            refused = error.__context__
            if isinstance(refused, Refusal):
                self._break(refused.status)
            else:
                self._break(status.bad_request(f"this is not valid HTTP/1.1: {error}"))
        else:
            self._limit_head(len(data))
            if between and self._parsing is None and len(self._queue) == waiting + 1:
                self._remember(data, self._queue[-1])
        self._hold_back()

    def _is_repeated(self, nbytes: int) -> bool:
        """Take a request that repeats the head before, if that is what has arrived."""
        if self._repeatable is None or self._parsing is not None or nbytes > LONGEST:
            return False
        block, headers = self._repeatable
        line = repeated(bytes(RECEIVED[:nbytes]), block)
        if line is None:
            return False
        request = Request()
        request.method, request.target = line
        request.headers = headers
        request.body_done = True
        request.received = self._since = self._clock()
        self._queue.append(request)
        self._hold_back()
        return True

    def _remember(self, data: bytes | memoryview, request: Request) -> None:
        """Remember the head of a request that was all of `data`."""
        plain = request.keep_alive and not request.upgrading and not request.chunked and request.content_length < 0
        block = header_block(bytes(data)) if plain and len(data) <= LONGEST else b""
        self._repeatable = (block, request.headers) if block else None

    def _limit_head(self, arrived: int) -> None:
        """Limit a head, and what comes of trailers and chunk extensions between two pieces of a body."""
        if self._parsing is None:
            self._head_bytes = 0
            return
        self._head_bytes += arrived
        if self._head_bytes > MAX_HEAD:
            self._break(status.header_too_large(MAX_HEAD))

    def _break(self, answer: status.Status) -> None:
        """Take nothing more from this client; the request at fault is refused in its turn."""
        self._deaf = True
        request = self._parsing or Request()
        request.broken = Refusal(answer)
        request.keep_alive = False
        if not request.received:
            request.received = self._clock()
            request.target = b"".join(self._url).decode("latin-1")
            self._queue.append(request)
        elif request is self._current and self.upstream is not None:
            self.upstream.client_failed()

    def _raw_received(self, data: bytes) -> None:
        if self.upstream is not None and not self._queue:
            self.upstream.client_stream(data)
        elif data:
            request = self._queue[-1] if self._queue else cast("Request", self._current)
            request.early.append(data)
            request.body_held += len(data)
            self._hold_back()

    def _hold_back(self) -> None:
        request = self._parsing or self._current
        if not self._holding and (len(self._queue) > 1 or (request is not None and request.body_held > READ_AHEAD)):
            self.hold(True)

    # for `serve` and the upstream

    async def next_request(self) -> Request:
        """Give the next request as soon as its head is whole; raise ClientGoneError when there is none to come."""
        self._current = None
        # Answers are not piled up for a client that asks on and on without reading any.
        while not (self._queue and self.writable):
            if self.lost:
                raise ClientGoneError
            if self._holding and self.writable:
                self.hold(False)
            self._since = self._clock()
            self._waiter = Waiter()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._current = self._queue.pop(0)
        return self._current

    def hold(self, holding: bool) -> None:
        """Stop or go on reading from the client."""
        if holding != self._holding and not self.transport.is_closing():
            self._holding = holding
            self._gone_since = 0.0
            if holding:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def attach(self, upstream: Upstream) -> None:
        """From now on tell `upstream` what arrives; what was held so far is the caller's to send."""
        self.upstream = upstream
        if self._holding:
            self.hold(False)

    def detach(self) -> None:
        """The call is over: keep what arrives."""
        self.upstream = None

    async def discard_body(self) -> None:
        """Take in the rest of a body nobody wants, for a while: closing on it would cost the client its answer."""
        rest = _Discarded()
        self.attach(rest)
        timer = self._loop.call_later(DISCARD_TIMEOUT, rest.end.settle)
        await rest.end
        timer.cancel()
        self.detach()

    def as_http_again(self) -> None:
        """Go back to parsing after an upgrade that was not agreed to."""
        self._raw = False
        self._parser = httptools.HttpRequestParser(self)
        early, request = b"".join(cast("Request", self._current).early), cast("Request", self._current)
        request.early.clear()
        if early:
            self._parse(early)

    def waits_too_long(self, now: float) -> bool:
        """Whether the client takes too long to send a request's head, to begin with one, or to take the last answer."""
        if self._parsing is not None and not self._parsing.received:
            return now - self._since > HEAD_TIMEOUT
        return self._waiter is not None and self._parsing is None and now - self._since > IDLE_TIMEOUT

    def idle_for(self, now: float) -> float:
        """Seconds since the client had its last answer; 0 while a request is being served or has begun to arrive."""
        busy = self._current is not None or self._queue or self._parsing is not None
        return 0.0 if busy else now - self._since

    def is_abandoned(self, now: float) -> bool:
        """Whether the client is gone, unseen because nothing is read from it, and what it has sent is not wanted."""
        if not self._holding or self.transport.is_closing() or not has_hung_up(self.transport):
            return False
        self._gone_since = self._gone_since or now
        return now - self._gone_since > ABANDONED_TIMEOUT

    def miss_peers(self) -> None:
        """End the call if the client or the API server has vanished while something was being sent to it."""
        if has_vanished(self.transport):
            self.give_up()
        elif self.upstream is not None:
            self.upstream.miss_server()

    def give_up(self) -> None:
        """End the connection, and the call that runs on it, at once."""
        if self.upstream is not None:
            self.upstream.client_failed(patient=False)
        self.transport.abort()

    def cancel(self) -> None:
        """Have the call that runs end where it waits, if it does."""
        if self._runner is not None:
            self._runner.cancel()

    def close(self) -> None:
        """Close once everything written has been sent."""
        if not self.transport.is_closing():
            self.transport.close()
