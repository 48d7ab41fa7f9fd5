"""Any bytes at all from a client: read the same however they are cut, and never more upstream than one request each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_audit_proxy.gateway.client import MAX_HEAD, ClientConnection, Request
from kube_audit_proxy.gateway.errors import ClientGoneError
from kube_audit_proxy.gateway.framing import request_framing
from kube_audit_proxy.gateway.headers import Scrubbed, scrub, upstream_head
from kube_audit_proxy.gateway.refusals import shape_refused
from kube_audit_proxy.gateway.route import split_target
from kube_audit_proxy.gateway.tls import RECEIVED
from kube_audit_proxy.kube.requestinfo import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FIXED = b"Host: api\r\nAuthorization: Bearer own\r\nAudit-ID: ours\r\nX-Forwarded-For: 192.0.2.7\r\n"
_OURS_ALONE = (b"host", b"authorization", b"audit-id", b"x-forwarded-for", b"impersonate-user")
_WHOLE_ENDS = b"\r\n\r\n"


class Wire(asyncio.Transport):
    """The transport of a connection whose bytes the test hands over itself."""

    def __init__(self) -> None:
        super().__init__()
        self.held = False
        self._closing = False

    def is_closing(self) -> bool:
        """Tell whether the connection was given up."""
        return self._closing

    def pause_reading(self) -> None:
        """Note that the client is to wait."""
        self.held = True

    def resume_reading(self) -> None:
        """Note that the client may go on."""
        self.held = False

    def close(self) -> None:
        """Give the connection up."""
        self._closing = True


def requests_in(pieces: Iterable[bytes]) -> list[Request]:
    """Let a connection read these pieces, one after the other, and give its requests."""
    found: list[Request] = []
    ended = asyncio.Event()

    async def serve(client: ClientConnection) -> None:
        try:
            while not found or not (found[-1].broken or found[-1].method == "CONNECT"):
                found.append(await client.next_request())
                if found[-1].upgrading:
                    client.as_http_again()
        except ClientGoneError:
            pass
        ended.set()

    async def feed() -> None:
        client = ClientConnection(serve, lambda: 1.0)
        client.connection_made(Wire())
        for piece in pieces:
            RECEIVED[: len(piece)] = piece
            client.buffer_updated(len(piece))
        client.connection_lost(None)
        await ended.wait()

    asyncio.run(feed())
    return found


def read(pieces: Iterable[bytes]) -> list[tuple[object, ...]]:
    """Give what was read of these pieces as values that can be compared; of what is refused, what is recorded of it."""
    return [
        (request.method, request.target if request.method else "", "refused")
        if request.broken is not None
        else (
            *(request.method, request.target, request.headers, b"".join(request.body), request.body_done),
            *(request.chunked, request.content_length),
            *(request.http_1_0, request.keep_alive, request.upgrading),
        )
        for request in requests_in(pieces)
    ]


# Requests as clients make them, and as nobody should.

_METHODS = (
    b"GET",
    b"GET",
    b"GET",
    b"POST",
    b"PUT",
    b"DELETE",
    b"HEAD",
    b"OPTIONS",
    b"CONNECT",
    b"PRI",
    b"M-SEARCH",
    b"",
)
_TARGETS = (
    b"/clusters/demo/api/v1/pods", b"/clusters/demo/api/v1/pods", b"/clusters/demo/version?a=b", b"/", b"*", b"",
    b"http://other/clusters/demo/version", b"other:443", b"/clusters/demo/a b", b"/clusters/demo/\xc3\xa9",
    b"/clusters/demo/a#b", b"/clusters/demo/\0", b"//", b"/clusters/demo/a\r\nX: y",
)  # fmt: skip
_VERSIONS = (b"HTTP/1.1",) * 6 + (b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"RTSP/1.0", b"")
_HEADERS = (
    b"Host: a", b"Host: a", b"Host: b", b"host:a", b"Authorization: Bearer t", b"Authorization:Bearer other",
    b"Content-Length: 0", b"Content-Length: 4", b"Content-Length: 4", b"Content-Length: 5", b"content-length:4 ",
    b"Content-Length: +4", b"Content-Length: 0x4", b"Content-Length: 4, 4", b"Content-Length : 4", b"Content_Length: 4",
    b"Content-Length: 99999999999999999999", b"Content-Length:", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked", b"transfer-encoding:Chunked", b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding : chunked", b"Transfer_Encoding: chunked",
    b"Transfer-Encoding: xchunked", b"Transfer-Encoding:", b"Connection: close", b"Connection: keep-alive",
    b"Connection: Upgrade", b"Connection: Transfer-Encoding", b"Connection: Impersonate-User", b"Upgrade: websocket",
    b"Upgrade: SPDY/3.1", b"Upgrade: h2c", b"Expect: 100-continue", b"Impersonate-User: x", b"impersonate_user: x",
    b"X-Remote-User: x", b"Audit-ID: x", b"Audit_ID: x", b"X-Forwarded-For: x", b"TE: trailers", b"Trailer: X",
    b"X: a\r\n b", b"X: a\n", b"X: a\rY: b", b"X: a\0b", b"X Y: a", b": a", b"X", b" X: a", b"X: \xff\xc2\x9b",
    b"Sec-WebSocket-Protocol: v5.channel.k8s.io", b"Accept: */*", b"",
)  # fmt: skip
_BODIES = (
    b"", b"", b"", b"abcd", b"4\r\nabcd\r\n0\r\n\r\n", b"4\r\nabcd\r\n0\r\n\r\n", b"0\r\n\r\n",
    b"4;x=y\r\nabcd\r\n0\r\n\r\n",
    b'4;x="\r\nabcd\r\n0\r\n\r\n', b"4 \r\nabcd\r\n0\r\n\r\n", b"4\nabcd\n0\n\n", b"0x4\r\nabcd\r\n0\r\n\r\n",
    b"-4\r\nabcd\r\n0\r\n\r\n", b"fffffffffffffffff\r\nabcd", b"ffffffffffffffff\r\nabcd", b"3\r\nabcd\r\n0\r\n\r\n",
    b"4\r\nabcd\r\n0\r\nX: y\r\n\r\n", b"0\r\nContent-Length: 4\r\n\r\nabcd",
    b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"0\r\nConnection: close\r\n\r\n", b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n", b"\r\n", b"\n", b"\r",
)  # fmt: skip
_PLAIN = b"GET /clusters/demo/api/v1/pods HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer t\r\n\r\n"
_LINE_ENDS = st.sampled_from((b"\r\n",) * 20 + (b"\n", b"\r", b"\r\r\n", b"\n\n", b"\t\r\n", b"\0\r\n"))
_BLANKS = st.sampled_from((b" ",) * 20 + (b"  ", b"\t", b"", b"\x0b"))


@st.composite
def _made(draw: st.DrawFn) -> bytes:
    line = draw(_BLANKS).join(draw(st.sampled_from(parts)) for parts in (_METHODS, _TARGETS, _VERSIONS))
    headers = draw(st.lists(st.sampled_from(_HEADERS), max_size=6))
    parts = [piece for part in (line, *headers, b"") for piece in (part, draw(_LINE_ENDS))]
    return b"".join(parts) + draw(st.sampled_from(_BODIES))


def _good(line: bytes, body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([line + b" /clusters/demo/api/v1/pods?x=1 HTTP/1.1", b"Host: a", *headers, b"", b""]) + body


_SOUND = st.sampled_from((
    _PLAIN,
    _PLAIN,
    _good(b"POST", b"abcd", b"Content-Length: 4"),
    _good(b"POST", b"4;a=b\r\nabcd\r\n0\r\nX: y\r\n\r\n", b"Transfer-Encoding: chunked"),
    _good(b"GET", b"", b"Connection: Upgrade", b"Upgrade: websocket"),
    _good(b"GET", b"", b"Connection: Upgrade", b"Upgrade: h2c"),
    _good(b"POST", b"", b"Connection: Upgrade", b"Upgrade: SPDY/3.1", b"Content-Length: 0"),
    b"\r\n",
))  # fmt: skip


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Give what a client could send: sound requests, odd ones and bytes, with a few bytes of it changed."""
    stream = bytearray(
        b"".join(draw(st.lists(_SOUND | _SOUND | _made() | st.binary(max_size=20), min_size=1, max_size=5)))
    )
    for _ in range(draw(st.sampled_from((0, 0, 1, 3)))):
        at = draw(st.integers(0, len(stream)))
        stream[at : at + draw(st.integers(0, 2))] = draw(st.sampled_from((b"", b"\r", b"\n", b"\0", b" ", b":", b"0")))
    return bytes(stream)


def cut(stream: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Cut a stream into pieces of these sizes, over and over."""
    pieces, at, turn = [], 0, 0
    while at < len(stream):
        pieces.append(stream[at : at + sizes[turn % len(sizes)]])
        at, turn = at + sizes[turn % len(sizes)], turn + 1
    return pieces


@settings(max_examples=300)
@given(streams(), st.lists(st.integers(1, 90), min_size=1, max_size=5))
def test_it_does_not_matter_how_bytes_arrive(stream: bytes, sizes: list[int]) -> None:
    """Whatever a client sends is read as the same requests in one piece and in many, and nothing raises."""
    assert read(cut(stream, sizes)) == read([stream])


_BLOCK = _PLAIN.partition(b"\r\n")[2]
_ALIKE = st.sampled_from((
    *(_PLAIN, _PLAIN, _PLAIN, _PLAIN + _PLAIN, _PLAIN.replace(b"Host: a", b"Host: b"), _PLAIN[:40], b"\r\n", b"x"),
    b"HEAD /clusters/demo/api/v1/pods?limit=500&x=%20 HTTP/1.1\r\n" + _BLOCK,
    b"GET /x HTTP/1.1\r\nX: y\r\n" + _BLOCK,
    b"GET /x HTTP/1.1\r\nContent-Length: 4\r\n" + _BLOCK + b"abcd",
    b"GET /x HTTP/1.0\r\n" + _BLOCK,
    b"GET /a b HTTP/1.1\r\n" + _BLOCK,
    b"POST /x HTTP/1.1\r\n" + _BLOCK,
    b"GET http://a/x HTTP/1.1\r\n" + _BLOCK,
    b"GET /x HTTP/1.1\n" + _BLOCK,
))  # fmt: skip


@settings(max_examples=300)
@given(st.lists(_ALIKE, max_size=6))
def test_a_repeated_head_is_read_as_the_parser_reads_it(pieces: list[bytes]) -> None:
    """Heads that repeat the one before, which are not parsed again, are the requests that they are byte by byte."""
    assert read(pieces) == read(cut(b"".join(pieces), [1]))


@settings(max_examples=300)
@given(streams())
def test_upstream_sees_one_request_for_each_that_passes(stream: bytes) -> None:
    """Another HTTP parser finds in what is sent upstream exactly one request: the one that was judged, framed once."""
    for request in requests_in([stream]):
        scrubbed = scrub(request.headers, upgrading=request.upgrading)
        _, target = split_target(request.target)
        refused = shape_refused(request, scrubbed, refusal(target) or "") or scrubbed.refused
        if not refused and request.broken is None and request.body_done:
            _check_upstream(request, scrubbed, target)


def _check_upstream(request: Request, scrubbed: Scrubbed, target: str) -> None:
    body = b"".join(request.body)
    head = upstream_head(request.method, target, _FIXED, scrubbed.passed, request_framing(request, scrubbed))
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if request.chunked and body else body
    sent = b"0\r\n\r\n" if request.chunked and not body else sent
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(head + sent)
    reader.receive_data(b"")
    seen = reader.next_event()
    assert isinstance(seen, h11.Request)
    assert (seen.method.decode(), seen.target.decode("latin-1")) == (request.method, target)
    names = [name for name, _ in seen.headers]
    assert [names.count(name) for name in _OURS_ALONE] == [1, 1, 1, 1, 0]
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    assert not [name for name in names if name.startswith((b"impersonate", b"x-remote"))]
    assert (b"upgrade" in names, b"connection" in names) == (bool(scrubbed.upgrade), bool(scrubbed.upgrade))
    got = b""
    while isinstance(event := reader.next_event(), h11.Data):
        got += bytes(event.data)
    assert got == body
    if not scrubbed.upgrade:
        assert isinstance(event, h11.EndOfMessage)
        assert reader.trailing_data == (b"", True)


@settings(max_examples=20)
@given(
    st.sampled_from((b"X: y\r\n", b"x" * 4096, b"X: " + b"y" * 5000 + b"\r\n")), st.booleans(), st.integers(1, 60_000)
)
def test_no_head_and_no_trailer_is_endless(part: bytes, trailer: bool, size: int) -> None:
    """A head, a chunk extension or a trailer without an end is refused before much of it is held."""
    begin = _good(b"POST", b"0\r\n", b"Transfer-Encoding: chunked") if trailer else b"GET / HTTP/1.1\r\n"
    endless = begin + b"".join([part] * (MAX_HEAD // len(part) + 20))
    pieces = cut(endless, [size + 30_000])
    last = requests_in(pieces)[-1]
    assert last.broken
    assert sum(len(name) + len(value) for name, value in last.headers) <= MAX_HEAD + (size + 30_000)
