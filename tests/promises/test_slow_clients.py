"""Clients that are slow, stuck or gone, at every stage of a call: on record as they were, and nothing is kept for them.

Minutes go by at once: time is what a library between the program and the system says it is (support/faults.py).
"""

import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fcntl import ioctl
from termios import FIONREAD
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from kube_audit_proxy.gateway.client import ABANDONED_TIMEOUT, HEAD_TIMEOUT, IDLE_TIMEOUT
from kube_audit_proxy.gateway.tls import LINGER
from support.descriptors import Borrowed, borrowed
from support.faults import Faults
from support.proxies import Proxy, wait_until
from support.raw import CutError, Raw
from support.scripted import Asked, Connection, Scripted
from support.serving import kubeconfig, serving

MIB = 1 << 20
_ROOM = 30 * MIB
_PATIENCE = 60.0
_ANSWER_TIMEOUT = 20.0
_SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
)
_UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Protocol: v5.channel.k8s.io")
_POKE = "/test/poke"


@dataclass(frozen=True, slots=True)
class Rig:
    """A proxy that lives by its own time, in front of a scripted server."""

    proxy: Proxy
    upstream: Scripted
    faults: Faults

    def worker(self) -> psutil.Process:
        """The gateway's process."""
        return self.proxy.children()["w0"]

    def poke(self) -> None:
        """Make a call, by somebody whom none of this is to harm."""
        with Raw(self.proxy) as raw:
            assert raw.ask(f"GET /clusters/plain{_POKE}").code == 200

    def let_pass(self, seconds: float) -> None:
        """Have time go by, and the proxy look at it."""
        self.faults.let_pass(seconds)
        self.poke()

    def ends(self, path: str, count: int = 1) -> list[dict[str, Any]]:
        """The ends of the calls of that path (without query)."""
        return self.proxy.ended(lambda call: call.get("requestURI", "").partition("?")[0] == path, count)

    def paths(self) -> set[str]:
        """What has been asked for so far."""
        return {line["requestURI"].partition("?")[0] for line in self.proxy.lines() if line["kind"] == "call"}

    def peers(self) -> list[int]:
        """The ports of whom the proxy has connections with, clients and the server."""
        found = self.worker().net_connections("tcp")
        return [each.raddr.port for each in found if each.status not in {psutil.CONN_LISTEN, psutil.CONN_NONE}]

    def connections(self) -> int:
        """How many connections of clients and to the server the proxy has open."""
        return len(self.peers())

    def until_freed(self, before: int) -> None:
        """Wait until no more connections are open than before; one kept for the next call may have come or gone."""
        wait_until(lambda: self.connections() <= before + 1, "the proxy to have let go of its connections")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Give the proxy and its server; all tests of this file share them."""
    home = tmp_path_factory.mktemp("slow")
    faults = Faults(home)
    with Scripted() as upstream:
        upstream.on(_POKE, lambda connection, _asked: connection.answer())
        told = kubeconfig(home / "upstream", {"plain": (upstream.url, b"")})
        with serving(home, told, environ=faults.environ, answer_timeout=_ANSWER_TIMEOUT) as proxy:
            yield Rig(proxy, upstream, faults)


def _tcp(proxy: Proxy) -> socket.socket:
    address = urlsplit(proxy.url)
    return socket.create_connection((address.hostname, address.port or 443), timeout=_PATIENCE)


def _client_hello() -> bytes:
    sent = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="127.0.0.1").do_handshake()
    return sent.read()


# Too slow.


@pytest.mark.parametrize("sent", [b"", _client_hello()[:40], _client_hello()], ids=["nothing", "a part", "its hello"])
def test_a_handshake_that_does_not_end(rig: Rig, sent: bytes) -> None:
    """Who connects and does not finish the TLS handshake is cut off after 10 s, without a record: it made no call."""
    with _tcp(rig.proxy) as client:
        client.sendall(sent)
        rig.poke()  # whose connection is accepted after this one
        rig.let_pass(11)
        with suppress(ConnectionError):
            while client.recv(65536):
                pass


def test_a_head_that_does_not_end(rig: Rig) -> None:
    """A head that comes drop by drop is cut off after the API server's 32 s, and no call of it is on record."""
    with Raw(rig.proxy) as raw:
        head = raw.head("GET /clusters/plain/test/slow-head")
        for byte in head[:20]:
            raw.send(bytes([byte]))
            rig.let_pass(1)
        raw.send(head[20:-2])
        rig.let_pass(HEAD_TIMEOUT - 15)
        assert raw.ended()
    assert "/test/slow-head" not in rig.paths()


def test_a_head_that_comes_slowly_but_in_time(rig: Rig) -> None:
    """The time is that of one head: a client that takes 20 s for each is served."""
    rig.upstream.on("/test/slow-enough", lambda connection, _asked: connection.answer())
    with Raw(rig.proxy) as raw:
        for _ in range(3):
            head = raw.head("GET /clusters/plain/test/slow-enough")
            raw.send(head[:20])
            rig.let_pass(20)
            raw.send(head[20:])
            assert raw.answer().code == 200
    assert {end["outcome"] for end in rig.ends("/test/slow-enough", 3)} == {"complete"}


def test_a_client_that_asks_nothing_more(rig: Rig) -> None:
    """A connection without a request is closed after 90 s."""
    with Raw(rig.proxy) as raw:
        assert raw.ask(f"GET /clusters/plain{_POKE}?last").code == 200
        rig.proxy.ended(lambda call: call.get("requestURI") == f"{_POKE}?last")  # only then is the connection idle
        rig.let_pass(IDLE_TIMEOUT + 1)
        assert raw.ended()


def test_a_client_that_does_not_close(rig: Rig) -> None:
    """Who has been told that the connection ends, and keeps his side of it open, is cut off after 30 s."""
    with Raw(rig.proxy) as raw:
        port = raw.socket.getsockname()[1]
        assert raw.ask(f"GET /clusters/plain{_POKE}", "Connection: close").closes
        assert raw.ended()
        assert raw.was_closed_in_order
        rig.let_pass(LINGER - 5)
        assert port in rig.peers()
        rig.let_pass(6)
        wait_until(lambda: port not in rig.peers(), "the proxy to have let go of the client")


def test_a_body_that_does_not_end(rig: Rig) -> None:
    """A body that stops on its way is a 408, told and recorded as the client's doing; the call is not made whole."""
    path, seen = "/test/slow-body", threading.Event()
    rest: list[int] = []

    def script(connection: Connection, _asked: Asked) -> None:
        connection.exactly(10)
        seen.set()
        rest.append(connection.count_rest())

    rig.upstream.on(path, script)
    before = rig.connections()
    with Raw(rig.proxy) as raw:
        raw.send(raw.head(f"POST /clusters/plain{path}", "Content-Length: 100") + b"0123456789")
        assert seen.wait(_PATIENCE)
        rig.let_pass(_ANSWER_TIMEOUT + 1)
        answer = raw.answer("POST")
        assert (answer.code, answer.json()["reason"], answer.closes) == (408, "RequestTimeout", True)
        assert answer.message() == "the body of the request did not arrive in time"
    (end,) = rig.ends(path)
    assert (end["outcome"], end["status"], end["decision"], end["decided_by"]) == ("refused", 408, "error", "proxy")
    assert end["request_bytes"] == 10
    wait_until(lambda: rest, "the API server to see the end")
    assert rest == [0]
    rig.until_freed(before)


def test_clients_that_come_and_go(rig: Rig) -> None:
    """No memory is kept for clients that were served and left: two thousand of them take no more than the first."""

    def come_and_go(count: int) -> int:
        for _ in range(count):
            rig.poke()
        return rig.worker().memory_info().rss

    before = come_and_go(200)
    assert come_and_go(2000) - before < _ROOM / 6


def test_a_reader_of_one_byte_at_a_time(rig: Rig) -> None:
    """A gigabyte waits behind a client that reads next to nothing: in the API server, not in the proxy."""
    path, stalled = "/test/list", threading.Event()
    sent: list[int] = []
    block = b"x" * MIB

    def script(connection: Connection, _asked: Asked) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1024 * MIB))
        for number in range(1024):
            sent.append(number)
            connection.send_until_stalled(block, stalled)

    rig.upstream.on(path, script)
    open_before, before = rig.connections(), rig.worker().memory_info().rss
    with Raw(rig.proxy, receive_buffer=4096) as raw:
        raw.send(raw.head(f"GET /clusters/plain{path}"))
        raw.answer_head()
        assert stalled.wait(_PATIENCE)
        for _ in range(20):
            raw.socket.recv(1)
            rig.let_pass(1)
            assert rig.worker().memory_info().rss - before < _ROOM
        assert len(sent) < 100
    (end,) = rig.ends(path)
    assert (end["outcome"], end["status"]) == ("client_gone", 200)
    assert end["response_bytes"] < 100 * MIB
    assert end["duration_ms"] >= 20_000
    rig.until_freed(open_before)


def test_an_answer_that_stalls_after_its_head(rig: Rig) -> None:
    """It is waited for as long as its client waits, as without a proxy: what comes after an hour is delivered."""
    path, more = "/test/stalls-half-way", threading.Event()

    def script(connection: Connection, _asked: Asked) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        more.wait(_PATIENCE)
        connection.send(b"world")

    rig.upstream.on(path, script)
    with Raw(rig.proxy) as raw:
        raw.send(raw.head(f"GET /clusters/plain{path}"))
        raw.answer_head()
        assert raw.exactly(5) == b"hello"
        for _ in range(4):
            rig.let_pass(900)
        more.set()
        assert raw.exactly(5) == b"world"
    (end,) = rig.ends(path)
    assert (end["outcome"], end["status"]) == ("complete", 200)
    assert end["duration_ms"] >= 3_600_000


# Gone.


class Stage:
    """Where a call is when its client goes: the script says that it has come so far."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.ended = threading.Event()

    def until_the_end(self, connection: Connection) -> None:
        """Say so, and wait for the end of the connection."""
        self.reached.set()
        connection.count_rest()
        self.ended.set()


def _head_only(stage: Stage, connection: Connection) -> None:
    stage.until_the_end(connection)


def _body_begun(stage: Stage, connection: Connection) -> None:
    connection.exactly(5)
    stage.until_the_end(connection)


def _answer_begun(stage: Stage, connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    stage.until_the_end(connection)


def _answer_half(stage: Stage, connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 50)
    stage.until_the_end(connection)


def _watch_begun(stage: Stage, connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
    stage.until_the_end(connection)


def _stream_begun(stage: Stage, connection: Connection) -> None:
    connection.send(_SWITCH + b"\x82\x01\x01")
    stage.until_the_end(connection)


_STAGES: dict[str, tuple[str, tuple[str, ...], bytes, Callable[[Stage, Connection], None], int]] = {
    "after its head": ("GET /test/gone-head", (), b"", _head_only, 0),
    "in its body": ("POST /test/gone-body", ("Content-Length: 10",), b"hello", _body_begun, 0),
    "in its chunked body": ("POST /test/gone-chunk", ("Transfer-Encoding: chunked",), b"a\r\nhello", _body_begun, 0),
    "after the answer's head": ("GET /test/gone-answer", (), b"", _answer_begun, 200),
    "in the answer": ("GET /test/gone-half", (), b"", _answer_half, 200),
    "in a watch": ("GET /api/v1/pods?watch=1", (), b"", _watch_begun, 200),
    "in a stream": ("GET /api/v1/namespaces/n/pods/gone/exec?command=x", _UPGRADE, b"", _stream_begun, 101),
}


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("name", list(_STAGES))
def test_a_client_that_goes(rig: Rig, name: str, *, reset: bool) -> None:
    """Whenever and however it goes: the record says so, with the status so far, and the API server sees an end."""
    line, headers, body, script, code = _STAGES[name]
    method, target = line.split(" ")
    path = target.partition("?")[0]
    stage = Stage()
    rig.upstream.on(path, lambda connection, _asked: script(stage, connection))
    before = rig.connections()
    known = len([each for each in rig.proxy.lines() if each.get("requestURI", "").startswith(path)])
    with Raw(rig.proxy) as raw:
        raw.send(raw.head(f"{method} /clusters/plain{target}", *headers) + body)
        assert stage.reached.wait(_PATIENCE)
        if code:
            raw.answer_head()
        if reset:
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert stage.ended.wait(_PATIENCE)
    (end,) = wait_until(lambda: _new_ends(rig, path, known), "the call to end")
    assert (end["outcome"], end.get("status", 0)) == ("client_gone", code)
    assert end["decision"] == ("allow" if code else "error")
    rig.until_freed(before)


def _new_ends(rig: Rig, path: str, known: int) -> list[dict[str, Any]]:
    found = [line for line in rig.proxy.lines() if line.get("requestURI", "").startswith(path)][known:]
    return [line for line in found if line["stage"] == "ResponseComplete"]


@pytest.mark.parametrize(
    "sent", [None, b"", b"GET /clusters/plain/test/no"], ids=["before TLS", "after TLS", "in a head"]
)
def test_a_client_that_goes_before_it_has_asked(rig: Rig, sent: bytes | None) -> None:
    """Without a whole head there is no call and no record, and nothing is kept."""
    before, calls = rig.connections(), rig.paths()
    if sent is None:
        _tcp(rig.proxy).close()
    else:
        with Raw(rig.proxy) as raw:
            raw.send(sent)
    rig.poke()
    rig.until_freed(before)
    assert rig.paths() <= calls | {_POKE}


def test_a_client_that_goes_while_its_input_is_held_back(rig: Rig) -> None:
    """`exec -i` into a process that does not read: that its client is gone is noticed all the same, and ends it."""
    path = "/api/v1/namespaces/n/pods/deaf/exec"
    go = threading.Event()

    def script(connection: Connection, _asked: Asked) -> None:
        connection.send(_SWITCH)
        go.wait(_PATIENCE * 5)

    rig.upstream.on(path, script)
    before = rig.connections()
    try:
        with Raw(rig.proxy) as raw:
            raw.send(raw.head(f"GET /clusters/plain{path}?command=x", *_UPGRADE))
            raw.answer_head()
            with _other(rig, {raw.socket.getsockname()[1]})[0] as of_proxy:
                while not _is_left(rig, of_proxy):
                    raw.send(b"i" * 16384)
        rig.poke()
        assert not _new_ends(rig, path, 0)

        def noticed() -> list[dict[str, Any]]:
            rig.let_pass(ABANDONED_TIMEOUT + 1)
            return _new_ends(rig, path, 0)

        (end,) = wait_until(noticed, "the client to be missed")
        assert (end["outcome"], end["status"]) == ("client_gone", 101)
        rig.until_freed(before)
    finally:
        go.set()


def _is_left(rig: Rig, received: socket.socket) -> bool:
    """Whether the proxy leaves something unread on a socket, though it has been through all that it had to do."""
    rig.poke()
    return bool(int.from_bytes(ioctl(received, FIONREAD, bytes(4)), sys.byteorder))


# Half-open.


def _other(rig: Rig, ports: set[int]) -> list[Borrowed]:
    """The proxy's sockets whose other end has one of these ports."""
    worker = rig.worker()
    return [
        borrowed(worker.pid, each.fd)
        for each in worker.net_connections("tcp")
        if each.status == psutil.CONN_ESTABLISHED and getattr(each.raddr, "port", 0) in ports
    ]


def test_both_sides_are_asked_whether_they_live(rig: Rig) -> None:
    """Sockets to clients and to the API server have keepalive on: who vanishes is missed within two minutes."""
    rig.upstream.on("/api/v1/nodes", lambda connection, _asked: bool(connection.count_rest()))
    with Raw(rig.proxy) as raw:
        raw.send(raw.head("GET /clusters/plain/api/v1/nodes?watch=1"))
        client: int = raw.socket.getsockname()[1]
        wait_until(lambda: len(_ports(rig, {client, rig.upstream.port})) == 2, "both connections to be open")
        sockets = _other(rig, {client, rig.upstream.port})
        assert len(sockets) >= 2
        for each in sockets:
            with each as taken:
                assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                told = [taken.getsockopt(socket.IPPROTO_TCP, option) for option in _KEEPALIVE]
                assert told[0] + told[1] * told[2] <= 120


_KEEPALIVE = (
    getattr(socket, "TCP_KEEPIDLE", 0),
    getattr(socket, "TCP_KEEPINTVL", 0),
    getattr(socket, "TCP_KEEPCNT", 0),
)


def _ports(rig: Rig, ports: set[int]) -> set[int]:
    found = rig.worker().net_connections("tcp")
    return {getattr(each.raddr, "port", 0) for each in found} & ports


def test_half_an_answer_is_not_a_whole_one(rig: Rig) -> None:
    """A client that is cut off while it reads slowly gets no end that it could take for the answer's."""
    path = "/test/cut-short"

    def script(connection: Connection, _asked: Asked) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 50)
        connection.reset()

    rig.upstream.on(path, script)
    with Raw(rig.proxy) as raw:
        raw.send(raw.head(f"GET /clusters/plain{path}"))
        raw.answer_head()
        with pytest.raises(CutError):
            raw.exactly(100)
    assert rig.ends(path)[0]["outcome"] == "upstream_gone"
