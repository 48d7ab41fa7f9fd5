"""What the proxy does when the API server, or what stands in its place, does not do as it should."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from kube_audit_proxy.identity.tokens import Grant, issue
from kube_audit_proxy.tls import ensure_certificates, server_context
from support.proxies import PROGRAM, Proxy, proxy, wait_until
from support.raw import CutError, Raw
from support.scripted import Asked, Connection, Scripted

MIB = 1 << 20
_ROOM = 30 * MIB
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Rig:
    """A proxy in front of scripted servers, as the clusters `plain`, `tls`, `untrusted` and `refusing`."""

    proxy: Proxy
    plain: Scripted
    tls: Scripted
    refusing_port: int

    def end_of(self, path: str) -> dict[str, Any]:
        """The end of the call of that path (without query)."""
        return self.proxy.ended(lambda call: call.get("requestURI", "").partition("?")[0] == path)[-1]

    def let_it_read(self) -> None:
        """Return once the gateway, which has one thread, has read all that has been sent to it and that it wants."""
        self.plain.on("/test/meanwhile", lambda connection, _asked: connection.answer())
        for _ in range(4):
            with Raw(self.proxy) as raw:
                assert raw.ask("GET /clusters/plain/test/meanwhile").code == 200

    def worker(self) -> psutil.Process:
        """The gateway's process."""
        return self.proxy.children()["w0"]


def _kubeconfig(path: Path, servers: dict[str, tuple[str, bytes]]) -> Path:
    clusters = [
        {"name": name, "cluster": {"server": url} | ({"certificate-authority-data": _base64(ca)} if ca else {})}
        for name, (url, ca) in servers.items()
    ]
    content = {
        "clusters": clusters,
        "users": [{"name": "own", "user": {"token": "own-credential"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "own"}} for name in servers],
        "current-context": next(iter(servers)),
    }
    path.write_text(yaml.safe_dump(content))
    return path


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Give the proxy and its servers; all tests of this file share them."""
    home = tmp_path_factory.mktemp("faults")
    own = ensure_certificates(home / "tls", ["127.0.0.1"])
    with ExitStack() as stack:
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))
        port: int = closed.getsockname()[1]
        plain = stack.enter_context(Scripted())
        tls = stack.enter_context(Scripted(server_context(own.certificate, own.key)))
        servers = {
            "plain": (plain.url, b""),
            "tls": (tls.url, own.authority.read_bytes()),
            "untrusted": (tls.url, b""),
            "refusing": (f"http://127.0.0.1:{port}", b""),
        }
        command = ["--kubeconfig", str(_kubeconfig(home / "clusters", servers)), "--context", "*"]
        running = stack.enter_context(proxy(command, home / "data", home / "proxy.log"))
        yield Rig(running, plain, tls, port)


@dataclass(slots=True)
class Seen:
    """What a script has seen, for the test to look at."""

    numbers: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)


def test_refused_connection_is_a_502_with_the_address(rig: Rig) -> None:
    """An API server that is not there is told by its address, and is on record as unreachable."""
    path = "/test/refused"
    with Raw(rig.proxy) as raw:
        answer = raw.ask(f"GET /clusters/refusing{path}")
        assert answer.code == 502
        assert f"127.0.0.1:{rig.refusing_port}" in answer.message()
        assert raw.ask(f"GET /clusters/refusing{path}").code == 502
    end = rig.end_of(path)
    assert (end["outcome"], end["decision"], end["decided_by"]) == ("upstream_unreachable", "error", "proxy")
    assert (end["status"], end["reason"]) == (502, "BadGateway")


def test_untrusted_certificate_is_told(rig: Rig) -> None:
    """An API server whose certificate nobody vouches for gets no request, and the message says so."""
    path = "/test/untrusted"
    with Raw(rig.proxy) as raw:
        answer = raw.ask(f"GET /clusters/untrusted{path}")
    assert answer.code == 502
    assert f"the certificate of 127.0.0.1:{rig.tls.port} is not trusted" in answer.message()
    assert rig.end_of(path)["outcome"] == "upstream_unreachable"


@pytest.mark.parametrize("cluster", ["plain", "tls"])
def test_closing_before_the_answer_is_a_502(rig: Rig, cluster: str) -> None:
    """An API server that hangs up without a word gives a Status, and the client's connection goes on."""
    path = f"/test/closes-{cluster}"
    server = rig.plain if cluster == "plain" else rig.tls
    server.on(path, lambda _connection, _asked: False)
    server.on(f"{path}/next", lambda connection, _asked: connection.answer())
    with Raw(rig.proxy) as raw:
        answer = raw.ask(f"GET /clusters/{cluster}{path}")
        assert (answer.code, answer.closes) == (502, False)
        assert answer.message() == "the API server closed the connection before it answered"
        assert raw.ask(f"GET /clusters/{cluster}{path}/next").code == 200
    end = rig.end_of(path)
    assert (end["outcome"], end["status"], end["decided_by"]) == ("upstream_gone", 502, "proxy")


def _closes_at_reuse(rig: Rig, path: str) -> tuple[Seen, int]:
    """Have a kept connection that is closed as soon as the next request of `path` comes over it."""
    seen = Seen()

    def script(connection: Connection, asked: Asked) -> bool:
        seen.numbers.append(connection.number)
        seen.bodies.append(connection.exactly(int(asked.header("content-length") or 0)))
        if connection.requests > 1:
            connection.reset()
            return False
        return connection.answer(asked.method.encode())

    rig.plain.on(path, script)
    rig.plain.on(f"{path}/first", lambda connection, _asked: connection.answer(str(connection.number).encode()))
    with Raw(rig.proxy) as raw:
        answer = raw.ask(f"GET /clusters/plain{path}/first")
    return seen, int(answer.body)


def test_a_read_is_repeated_where_a_kept_connection_was_closed(rig: Rig) -> None:
    """A GET that meets a connection about to close is sent once more, on a new one, and nobody notices."""
    path = "/test/reuse-get"
    seen, kept = _closes_at_reuse(rig, path)
    with Raw(rig.proxy) as raw:
        assert raw.ask(f"GET /clusters/plain{path}").body == b"GET"
    assert seen.numbers[0] == kept
    assert len(seen.numbers) == len(set(seen.numbers)) == 2
    assert rig.end_of(path)["outcome"] == "complete"


def test_a_write_is_not_repeated(rig: Rig) -> None:
    """A POST that meets a connection about to close is sent once: it may have run, and the answer says so."""
    path = "/test/reuse-post"
    seen, kept = _closes_at_reuse(rig, path)
    with Raw(rig.proxy) as raw:
        answer = raw.ask(f"POST /clusters/plain{path}", body=b"once")
    assert answer.code == 502
    assert "it may have acted on the call" in answer.message()
    assert (seen.numbers, seen.bodies) == ([kept], [b"once"])
    assert rig.end_of(path)["outcome"] == "upstream_gone"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"HTTP/1.1 abc Nope\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
    ],
    ids=["bytes", "code", "two lengths", "length and chunked", "folded header"],
)
def test_garbage_is_a_502(rig: Rig, garbage: bytes) -> None:
    """An answer that is not HTTP does not get to the client."""
    path = "/test/garbage"

    def script(connection: Connection, _asked: Asked) -> None:
        connection.send(garbage)
        connection.count_rest()

    rig.plain.on(path, script)
    with Raw(rig.proxy) as raw:
        answer = raw.ask(f"GET /clusters/plain{path}")
    assert answer.code == 502
    assert "is not valid HTTP" in answer.message()
    assert rig.end_of(path)["outcome"] == "upstream_gone"


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    ("framing", "cut"),
    [
        ("Content-Length: 10", b"12345"),
        ("Transfer-Encoding: chunked", b"5\r\n12345\r\n"),
        ("Transfer-Encoding: chunked", b"a\r\n12345"),
    ],
    ids=["length", "between chunks", "in a chunk"],
)
def test_a_cut_answer_looks_cut(rig: Rig, framing: str, cut: bytes, *, reset: bool) -> None:
    """Half an answer ends in a way that no client takes for the whole."""
    path = "/test/cut"
    seen = Seen()

    def script(connection: Connection, _asked: Asked) -> None:
        connection.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + cut)
        seen.go.wait(_PATIENCE)
        if reset:
            connection.reset()

    rig.plain.on(path, script)
    with Raw(rig.proxy) as raw:
        raw.send(raw.head(f"GET /clusters/plain{path}"))
        raw.answer_head()
        raw.until(b"12345")
        seen.go.set()
        with pytest.raises(CutError):
            raw.exactly(MIB)
        assert not raw.was_closed_in_order
    end = rig.end_of(path)
    assert (end["outcome"], end["status"], end["decided_by"]) == ("upstream_gone", 200, "apiserver")
    assert end["response_bytes"] == 5


@pytest.mark.parametrize("cluster", ["plain", "tls"])
def test_an_answer_up_to_the_end_of_the_connection(rig: Rig, cluster: str) -> None:
    """An answer that ends with its connection is whole, and gets a framing that says so."""
    path = "/test/until-close"

    def script(connection: Connection, _asked: Asked) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")

    (rig.plain if cluster == "plain" else rig.tls).on(path, script)
    with Raw(rig.proxy) as raw:
        answer = raw.ask(f"GET /clusters/{cluster}{path}")
    assert (answer.code, answer.body, answer.header("transfer-encoding")) == (200, b"all of it", "chunked")
    assert rig.end_of(path)["outcome"] == "complete"


def test_the_proxys_own_credential_refused_is_no_401(rig: Rig) -> None:
    """A 401 is about the proxy, not the client, who must not be asked for another token."""
    path = "/test/own-credential"
    rig.plain.on(path, lambda connection, _asked: connection.answer(code=401))
    with Raw(rig.proxy) as raw:
        answer = raw.ask(f"GET /clusters/plain{path}")
    assert answer.code == 502
    assert answer.message() == "cluster 'plain' does not accept this proxy's own credential (401)"
    end = rig.end_of(path)
    assert (end["status"], end["decision"], end["outcome"]) == (502, "error", "upstream_gone")


def test_interim_answers_are_not_the_answer(rig: Rig) -> None:
    """What comes before the answer (100, 103) is left out, its headers too."""
    path = "/test/interim"

    def script(connection: Connection, _asked: Asked) -> bool:
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        return connection.answer(b"final", "X-Final: yes")

    rig.plain.on(path, script)
    with Raw(rig.proxy) as raw:
        answer = raw.ask(f"GET /clusters/plain{path}")
        assert (answer.code, answer.body, answer.header("x-final"), answer.header("link")) == (200, b"final", "yes", "")
        assert raw.ask(f"GET /clusters/plain{path}").body == b"final"


@pytest.mark.parametrize("code", [204, 304])
def test_an_answer_without_a_body(rig: Rig, code: int) -> None:
    """204 and 304 have no body and no chunks, and both connections serve the next call."""
    path = f"/test/empty-{code}"
    numbers: list[int] = []

    def script(connection: Connection, _asked: Asked) -> bool:
        numbers.append(connection.number)
        connection.send(f"HTTP/1.1 {code} Nothing\r\nETag: x\r\n\r\n".encode())
        return True

    rig.plain.on(path, script)
    with Raw(rig.proxy) as raw:
        for _ in range(3):
            answer = raw.ask(f"GET /clusters/plain{path}")
            assert (answer.code, answer.header("transfer-encoding"), answer.header("etag")) == (code, "", "x")
    assert len(set(numbers)) <= 2  # one of them serves on, whoever comes first


def test_head_of_a_long_object(rig: Rig) -> None:
    """The answer to HEAD tells a length and has no body; both connections serve the next call."""
    path = "/test/head"
    numbers: list[int] = []

    def script(connection: Connection, asked: Asked) -> bool:
        numbers.append(connection.number)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + (b"hello" if asked.method == "GET" else b""))
        return True

    rig.plain.on(path, script)
    with Raw(rig.proxy) as raw:
        for method, body in (("HEAD", b""), ("GET", b"hello"), ("HEAD", b""), ("GET", b"hello")):
            answer = raw.ask(f"{method} /clusters/plain{path}")
            assert (answer.header("content-length"), answer.body) == ("5", body)
    assert len(set(numbers)) <= 2  # one of them serves on, whoever comes first


def test_trailers_stay_behind(rig: Rig) -> None:
    """Trailers of an answer do not reach the client, and the connections go on."""
    path = "/test/trailers"

    def script(connection: Connection, _asked: Asked) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
        connection.send(b"4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n")
        return True

    rig.plain.on(path, script)
    with Raw(rig.proxy) as raw:
        for _ in range(2):
            answer = raw.ask(f"GET /clusters/plain{path}")
            assert (answer.body, answer.header("trailer"), answer.header("x-sum")) == (b"body", "", "")


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"\x00garbage"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_more_than_an_answer_is_nobodys(rig: Rig, method: str, extra: bytes) -> None:
    """What follows an answer reaches nobody, the answer is whole all the same, and its connection is not used again."""
    path = "/test/more"
    seen = Seen()

    def script(connection: Connection, asked: Asked) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
        if asked.method == "HEAD":
            connection.send(head + extra)
        else:
            connection.send(head)
            seen.go.wait(_PATIENCE)
            connection.send(b"right" + extra)
        connection.count_rest()

    rig.plain.on(path, script)
    rig.plain.on(f"{path}/next", lambda connection, _asked: connection.answer(b"next"))
    with Raw(rig.proxy) as raw:
        raw.send(raw.head(f"{method} /clusters/plain{path}"))
        code, _, _ = raw.answer_head()
        seen.go.set()
        assert (code, raw.exactly(5) if method == "GET" else b"right") == (200, b"right")
        assert raw.ask(f"GET /clusters/plain{path}/next").body == b"next"


@pytest.mark.parametrize("cluster", ["plain", "tls"])
def test_a_client_that_asks_on_without_reading(rig: Rig, cluster: str) -> None:
    """Answers do not pile up for it, and the connection that its last one came over serves others."""
    path = f"/test/piled-{cluster}"
    body = b"x" * 60_000
    count = 1000
    numbers: list[int] = []

    def script(connection: Connection, _asked: Asked) -> bool:
        numbers.append(connection.number)
        return connection.answer(body)

    (rig.plain if cluster == "plain" else rig.tls).on(path, script)
    before = rig.worker().memory_info().rss
    with Raw(rig.proxy, receive_buffer=65536) as raw, Raw(rig.proxy) as other:
        sender = threading.Thread(target=raw.send, args=(raw.head(f"GET /clusters/{cluster}{path}") * count,))
        sender.start()
        _until_still(lambda: len(numbers))
        assert len(numbers) < count
        assert rig.worker().memory_info().rss - before < _ROOM
        assert other.ask(f"GET /clusters/{cluster}{path}").body == body
        sender.join(_PATIENCE)
        for _ in range(count):
            assert raw.answer().body == body
    assert len(set(numbers)) <= 2  # one of them serves on, whoever comes first


def _until_still(measure: Callable[[], int]) -> None:
    """Wait until a count has stopped growing."""
    count, since = measure(), time.monotonic()

    def still() -> bool:
        nonlocal count, since
        if measure() != count:
            count, since = measure(), time.monotonic()
        return time.monotonic() - since > 1.0

    wait_until(still, "a count to stand still")


def test_an_api_server_that_does_not_read_does_not_fill_the_proxy(rig: Rig) -> None:
    """While the API server does not take a body, neither does the proxy; later all of it arrives."""
    path = "/test/unread"
    size = 64 * MIB
    seen = Seen()

    def script(connection: Connection, _asked: Asked) -> bool:
        seen.go.wait(_PATIENCE)
        seen.counts.append(connection.exactly(size).count(b"y"))
        return connection.answer()

    rig.plain.on(path, script)
    before = rig.worker().memory_info().rss
    with Raw(rig.proxy) as raw:
        raw.send(raw.head(f"POST /clusters/plain{path}", f"Content-Length: {size}"))
        sent: list[int] = [0]
        sender = threading.Thread(target=_send_counting, args=(raw, b"y" * size, sent))
        sender.start()
        try:
            _until_still(lambda: sent[0])
            assert sent[0] < size
            assert rig.worker().memory_info().rss - before < _ROOM
        finally:
            seen.go.set()
            sender.join(_PATIENCE)
        assert raw.answer().code == 200
    assert seen.counts == [size]
    assert rig.end_of(path)["request_bytes"] == size


def _send_counting(raw: Raw, data: bytes, sent: list[int]) -> None:
    view = memoryview(data)
    while view:
        raw.send(bytes(view[:65536]))
        view = view[65536:]
        sent[0] += 65536


@pytest.mark.parametrize(
    "unread",
    [b"0\r\nX-Trailer: ", b"1;extension="],
    ids=["trailer", "chunk extension"],
)
@pytest.mark.parametrize("known", [True, False], ids=["authenticated", "unauthenticated"])
def test_an_endless_trailer_does_not_fill_the_proxy(rig: Rig, unread: bytes, *, known: bool) -> None:
    """A body's framing is limited like a head: who sends more of it is cut off."""
    path = "/test/trailer"
    rig.plain.on(path, lambda connection, _asked: bool(connection.count_rest()))
    before = rig.worker().memory_info().rss
    with Raw(rig.proxy) as raw:
        token = None if known else "kap_none"
        raw.send(raw.head(f"POST /clusters/plain{path}", "Transfer-Encoding: chunked", token=token) + unread)
        with suppress(OSError):
            raw.send(b"x" * 64 * MIB)
        assert rig.worker().memory_info().rss - before < _ROOM


@pytest.mark.parametrize("cluster", ["plain", "tls"])
def test_a_client_that_vanishes_ends_its_call_upstream(rig: Rig, cluster: str) -> None:
    """The API server sees the end of a call's connection as soon as nobody waits for the answer."""
    path = f"/test/vanishes-{cluster}"
    seen = Seen()

    def script(connection: Connection, _asked: Asked) -> None:
        seen.reached.set()
        seen.counts.append(connection.count_rest())
        seen.go.set()

    (rig.plain if cluster == "plain" else rig.tls).on(path, script)
    with Raw(rig.proxy) as raw:
        raw.send(raw.head(f"GET /clusters/{cluster}{path}"))
        assert seen.reached.wait(_PATIENCE)
    assert seen.go.wait(_PATIENCE)
    end = rig.end_of(path)
    assert (end["outcome"], end["decision"], end.get("status", 0)) == ("client_gone", "error", 0)


def test_a_body_that_breaks_off_is_not_made_whole(rig: Rig) -> None:
    """A client that goes in the middle of a body ends the call; the API server never sees a whole request."""
    path = "/test/half-body"
    seen = Seen()

    def script(connection: Connection, _asked: Asked) -> None:
        seen.bodies.append(connection.exactly(10))
        seen.reached.set()
        seen.bodies.append(connection.exactly(10))
        seen.go.set()

    rig.plain.on(path, script)
    with Raw(rig.proxy) as raw:
        raw.send(raw.head(f"POST /clusters/plain{path}", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n")
        assert seen.reached.wait(_PATIENCE)
    assert seen.go.wait(_PATIENCE)
    assert b"".join(seen.bodies) == b"5\r\nhello\r\n"
    assert rig.end_of(path)["outcome"] == "client_gone"


def _let_the_proxy_read(rig: Rig) -> None:
    """Return once the proxy, which does one thing after the other, has read what it was sent before."""
    Raw(rig.proxy).socket.close()


def test_a_body_that_turns_bad_ends_the_call(rig: Rig) -> None:
    """A wrong chunk is a 400 at any moment, also while the call's start is being written."""
    path = "/test/bad-chunk"
    rig.plain.on(path, lambda connection, _asked: bool(connection.count_rest()))
    committer = rig.proxy.children()["w0 committer"]
    for held in (False, True):
        with Raw(rig.proxy) as raw:
            try:
                if held:
                    committer.suspend()
                raw.send(raw.head(f"POST /clusters/plain{path}", "Transfer-Encoding: chunked"))
                _let_the_proxy_read(rig)
                raw.send(b"3\r\nabc\r\nxyz\r\n")
                _let_the_proxy_read(rig)
            finally:
                committer.resume()
            answer = raw.answer()
            assert (answer.code, answer.closes) == (400, True)
            assert "not valid HTTP" in answer.message()
            assert raw.ended()
    ends = rig.proxy.ended(lambda call: call.get("requestURI") == path, count=2)
    assert {(end["outcome"], end["status"]) for end in ends} == {("refused", 400)}


def test_switching_protocols_unasked_is_a_502(rig: Rig) -> None:
    """A 101 that nobody asked for opens no tunnel, whether the client asked for nothing or for something else."""
    path = "/test/unasked"

    def script(connection: Connection, _asked: Asked) -> None:
        connection.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nraw")
        connection.count_rest()

    rig.plain.on(path, script)
    for headers in ([], ["Connection: Upgrade", "Upgrade: h2c"]):
        with Raw(rig.proxy) as raw:
            answer = raw.ask(f"GET /clusters/plain{path}", *headers)
        assert answer.code == 502
        assert "nobody had asked for" in answer.message()
        end = rig.end_of(path)
        assert (end["status"], end["outcome"]) == (502, "upstream_gone")


@pytest.mark.parametrize("cluster", ["plain", "tls"])
def test_an_answer_before_the_body_is_whole(rig: Rig, cluster: str) -> None:
    """An API server that says no in the middle of a body is heard, though the client is still sending."""
    path = f"/test/early-{cluster}"
    server = rig.plain if cluster == "plain" else rig.tls

    def script(connection: Connection, _asked: Asked) -> None:
        connection.exactly(1000)
        connection.answer(b"too large", "Connection: close", code=413)
        connection.count_rest()

    server.on(path, script)
    with Raw(rig.proxy) as raw:
        raw.send(raw.head(f"POST /clusters/{cluster}{path}", f"Content-Length: {8 * MIB}") + b"z" * 1000)
        answer = raw.answer("POST")
        assert (answer.code, answer.body, answer.closes) == (413, b"too large", True)
    end = rig.end_of(path)
    assert (end["status"], end["outcome"], end["decided_by"]) == (413, "complete", "apiserver")


def test_an_early_answer_survives_a_client_that_only_sends(rig: Rig) -> None:
    """A client that reads only after it has sent all gets the early answer too."""
    path = "/test/early-deaf"

    def script(connection: Connection, _asked: Asked) -> None:
        connection.exactly(1000)
        connection.answer(b"too large", "Connection: close", code=413)
        connection.count_rest()

    rig.plain.on(path, script)
    with Raw(rig.proxy) as raw:
        raw.send(raw.head(f"POST /clusters/plain{path}", f"Content-Length: {8 * MIB}") + b"z" * 8 * MIB)
        assert raw.answer("POST").code == 413


def test_upgrade_with_a_body_owes_the_api_server_nothing(rig: Rig) -> None:
    """A request that offers another protocol and has a body goes nowhere: its bytes cannot begin somebody's call."""
    path = "/test/owing"
    seen = Seen()

    def script(connection: Connection, asked: Asked) -> bool:
        seen.bodies.append(asked.path.encode())
        return connection.answer()

    rig.plain.on(path, script)
    for upgrade in ("h2c", "websocket", "SPDY/3.1"):
        for framing, body in (("Content-Length: 5", b"hello"), ("Transfer-Encoding: chunked", b"0\r\n\r\n")):
            with Raw(rig.proxy) as raw:
                head = raw.head(f"POST /clusters/plain{path}", "Connection: Upgrade", f"Upgrade: {upgrade}", framing)
                raw.send(head + body)
                answer = raw.answer()
                assert (answer.code, answer.closes) == (400, True)
                assert "may not have a body" in answer.message()
                assert raw.ended()
    assert seen.bodies == []


def _message(channel: int, text: bytes) -> bytes:
    payload = bytes([channel]) + text
    assert 125 < len(payload) < 65536
    return b"\x82\x7e" + len(payload).to_bytes(2, "big") + payload


_FAILED = json.dumps({
    "metadata": {},
    "status": "Failure",
    "reason": "NonZeroExitCode",
    "message": "command terminated with non-zero exit code",
    "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
}).encode()  # fmt: skip
_SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
_V5 = b"Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"


def _exec(raw: Raw, cluster: str, pod: str, early: bytes = b"") -> str:
    path = f"/api/v1/namespaces/n/pods/{pod}/exec"
    asks = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Protocol: v5.channel.k8s.io")
    raw.send(raw.head(f"GET /clusters/{cluster}{path}?command=x", *asks) + early)
    return path


@pytest.mark.parametrize("cluster", ["plain", "tls"])
def test_a_stream_is_spliced_byte_for_byte(rig: Rig, cluster: str) -> None:
    """Both directions pass unchanged, what was sent before the 101 and right with it included."""
    up, down = os.urandom(MIB), os.urandom(MIB)
    seen = Seen()

    def script(connection: Connection, _asked: Asked) -> None:
        seen.reached.set()
        seen.go.wait(_PATIENCE)
        connection.send(_SWITCH + _V5 + b"first")
        seen.bodies.append(connection.exactly(5))
        for _ in range(4):
            seen.bodies.append(connection.exactly(MIB))
            connection.send(down)
        connection.send(b"last")

    server = rig.plain if cluster == "plain" else rig.tls
    server.on("/api/v1/namespaces/n/pods/spliced/exec", script)
    with Raw(rig.proxy) as raw:
        path = _exec(raw, cluster, "spliced", early=b"ear")
        assert seen.reached.wait(_PATIENCE)
        raw.send(b"ly")
        seen.go.set()
        code, _, headers = raw.answer_head()
        assert code == 101
        assert dict(headers) == {
            "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-protocol": "v5.channel.k8s.io",
        }  # fmt: skip
        assert raw.exactly(5) == b"first"
        for _ in range(4):
            raw.send(up)
            assert raw.exactly(MIB) == down
        assert raw.exactly(4) == b"last"
        assert raw.ended()
    assert seen.bodies == [b"early", *[up] * 4]
    end = rig.end_of(path)
    assert (end["status"], end["outcome"], end["subprotocol"]) == (101, "complete", "v5.channel.k8s.io")
    assert (end["request_bytes"], end["response_bytes"]) == (4 * MIB + 5, 4 * MIB + 9)


_SIZES = [size * 192 << 10 for size in range(1, 33)]
"""Bytes: so little that the kernel holds it all, to more than it does; in steps small enough that some of them leave
between nothing and the 256 KiB of one read in the proxy."""


@pytest.mark.parametrize("cluster", ["plain", "tls"])
def test_what_a_leaving_client_sent_arrives(rig: Rig, cluster: str) -> None:
    """A stream's input is delivered to its last byte, though the client is gone before any of it was wanted."""
    server = rig.plain if cluster == "plain" else rig.tls
    counts = []
    for size in _SIZES:
        seen = Seen()

        def script(connection: Connection, _asked: Asked, seen: Seen = seen) -> None:
            connection.send(_SWITCH + _V5)
            seen.go.wait(_PATIENCE)
            seen.counts.append(connection.count_rest())
            seen.reached.set()

        pod = f"input-{cluster}-{size}"
        server.on(f"/api/v1/namespaces/n/pods/{pod}/exec", script)
        with Raw(rig.proxy) as raw:
            path = _exec(raw, cluster, pod)
            raw.answer_head()
            raw.send(b"i" * size)
        rig.let_it_read()
        seen.go.set()
        assert seen.reached.wait(_PATIENCE)
        counts += seen.counts
    assert counts == _SIZES
    end = rig.end_of(path)
    assert (end["outcome"], end["request_bytes"]) == ("client_gone", _SIZES[-1])


@pytest.mark.parametrize("cluster", ["plain", "tls"])
def test_what_a_leaving_server_sent_arrives(rig: Rig, cluster: str) -> None:
    """A stream's output is delivered to its last byte, and then ends, though the API server left before it was read."""
    server = rig.plain if cluster == "plain" else rig.tls
    counts = []
    for size in _SIZES:
        seen = Seen()

        def script(connection: Connection, _asked: Asked, size: int = size, seen: Seen = seen) -> None:
            frame = b"\x82\x7f" + (size - 10).to_bytes(8, "big")
            connection.send(_SWITCH + _V5 + frame + b"o" * (size - 10))
            connection.finish_sending()
            seen.reached.set()
            connection.count_rest()

        pod = f"output-{cluster}-{size}"
        server.on(f"/api/v1/namespaces/n/pods/{pod}/exec", script)
        with Raw(rig.proxy, receive_buffer=65536) as raw:
            path = _exec(raw, cluster, pod)
            raw.answer_head()
            assert seen.reached.wait(_PATIENCE)
            rig.let_it_read()
            counts.append(len(raw.rest()))
    assert counts == _SIZES
    end = rig.end_of(path)
    assert (end["outcome"], end["response_bytes"]) == ("complete", _SIZES[-1])


@pytest.mark.parametrize(("told", "outcome"), [(True, "complete"), (False, "client_gone")])
def test_who_hangs_up_after_the_exit_code_does_not_matter(rig: Rig, outcome: str, *, told: bool) -> None:
    """Once the exit code has passed, the call is complete even if the client goes first; before, it is not."""
    pod = f"exits-{told}".lower()
    seen = Seen()

    def script(connection: Connection, _asked: Asked) -> None:
        connection.send(_SWITCH + _V5 + (_message(3, _FAILED) if told else b"\x82\x01\x01"))
        connection.count_rest()
        seen.go.set()

    rig.plain.on(f"/api/v1/namespaces/n/pods/{pod}/exec", script)
    with Raw(rig.proxy) as raw:
        path = _exec(raw, "plain", pod)
        raw.answer_head()
        raw.exactly(len(_message(3, _FAILED)) if told else 3)
    assert seen.go.wait(_PATIENCE)
    end = rig.end_of(path)
    assert (end["outcome"], end.get("exit_code")) == (outcome, 3 if told else None)


def test_a_refused_upgrade_goes_on_as_http(rig: Rig) -> None:
    """What a client sent ahead for a stream that it does not get is its next request, and gets an answer of its own."""
    seen = Seen()

    def script(connection: Connection, asked: Asked) -> bool:
        assert asked.header("upgrade") == "websocket"
        seen.reached.set()
        seen.go.wait(_PATIENCE)
        return connection.answer(b"no stream", code=403)

    rig.plain.on("/api/v1/namespaces/n/pods/refused/exec", script)
    rig.plain.on("/test/ahead", lambda connection, asked: connection.answer(asked.header("x-ahead").encode()))
    with Raw(rig.proxy) as raw:
        path = _exec(raw, "plain", "refused")
        assert seen.reached.wait(_PATIENCE)
        raw.send(raw.head("GET /clusters/plain/test/ahead", "X-Ahead: yes"))
        seen.go.set()
        answer = raw.answer()
        assert (answer.code, answer.body) == (403, b"no stream")
        assert raw.answer().body == b"yes"
        assert raw.ask("GET /clusters/plain/test/ahead").code == 200
    assert rig.end_of(path)["status"] == 403
    ends = rig.proxy.ended(lambda call: call.get("requestURI") == "/test/ahead", count=2)
    assert [end["outcome"] for end in ends] == ["complete", "complete"]


@contextmanager
def _impatient(server: Scripted, home: Path) -> Iterator[Proxy]:
    """`serve` with an answer_timeout of 0.3 s."""
    config = {
        "data_dir": "data",
        "listen": "127.0.0.1:0",
        "answer_timeout": 0.3,
        "clusters": [
            {"name": "plain", "kubeconfig": str(_kubeconfig(home / "clusters", {"plain": (server.url, b"")}))}
        ],
    }
    path = home / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    log = home / "proxy.log"
    with log.open("wb") as errors:
        process = subprocess.Popen([*PROGRAM, "serve", "--config", str(path)], stderr=errors)
    try:
        found = wait_until(lambda: re.search(r"ready at (\S+)", log.read_text()), "the proxy to be ready")
        assert found is not None
        token = issue(home / "data" / "tokens", Grant("jane", (), ("*",), impersonated=False, expires=2**40))
        kubeconfig = home / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump({"users": [{"user": {"token": token}}]}))
        yield Proxy(process, found[1], home / "data", kubeconfig, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_PATIENCE)


def test_an_api_server_that_stalls_is_a_504(tmp_path: Path) -> None:
    """A call is given up once the API server has not begun to answer in time; a watch may wait for ever."""
    seen = Seen()

    def stall(connection: Connection, _asked: Asked) -> None:
        seen.counts.append(connection.count_rest())
        seen.reached.set()

    def watch(connection: Connection, _asked: Asked) -> bool:
        seen.reached.wait(_PATIENCE)
        return connection.answer(b"late")

    with Scripted() as server, _impatient(server, tmp_path) as running:
        server.on("/test/stalls", stall)
        server.on("/api/v1/pods", watch)
        with Raw(running) as watching, Raw(running) as raw:
            watching.send(watching.head("GET /clusters/plain/api/v1/pods?watch=1"))
            answer = raw.ask("GET /clusters/plain/test/stalls")
            assert (answer.code, answer.json()["reason"]) == (504, "Timeout")
            assert answer.message() == "Timeout: the API server did not begin to answer in time"
            assert watching.answer().body == b"late"
        end = running.ended(lambda call: call.get("requestURI") == "/test/stalls")[-1]
        assert (end["outcome"], end["status"], end["decision"]) == ("upstream_gone", 504, "error")
        assert end["duration_ms"] >= 300
