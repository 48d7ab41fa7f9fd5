"""TLS as it comes over the wire: in pieces, in large pieces, with new keys, damaged, and broken off."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import pytest

from kube_audit_proxy.tls import ensure_certificates, server_context
from support.proxies import Proxy
from support.raw import Raw
from support.scripted import Asked, Connection, Scripted
from support.serving import kubeconfig, serving

pytestmark = pytest.mark.servers

_PATIENCE = 60.0
_VERSIONS = {"tls12": ssl.TLSVersion.TLSv1_2, "tls13": ssl.TLSVersion.TLSv1_3}
_LARGE = bytes(range(256)) * 12_345  # more than one read takes, and no multiple of a record


@dataclass(frozen=True, slots=True)
class Rig:
    """A proxy in front of a server for each version of TLS, and of one that is no TLS server."""

    proxy: Proxy
    servers: dict[str, Scripted]
    log: Path

    def end_of(self, path: str) -> dict[str, Any]:
        """The end of the call of that path."""
        (end,) = self.proxy.ended(lambda call: call.get("requestURI") == path)
        return end

    def check_serves(self) -> None:
        """Make a call, by somebody whom none of this is to harm, and look for complaints in the log."""
        with Raw(self.proxy) as raw:
            assert raw.ask("GET /clusters/tls13/test/whole").body == b"whole"
        assert "Traceback" not in self.log.read_text("utf-8")


@contextmanager
def _saying(words: bytes) -> Iterator[str]:
    """Run a server that says the same to everybody and hangs up; give its URL."""

    def serve() -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            with accepted:
                accepted.recv(65536)
                accepted.sendall(words)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Give the proxy and its servers; all tests of this file share them."""
    home = tmp_path_factory.mktemp("tls")
    own = ensure_certificates(home / "certificates", ["127.0.0.1"])
    trusted = own.authority.read_bytes()
    with ExitStack() as stack:
        servers: dict[str, Scripted] = {}
        for name, version in _VERSIONS.items():
            context = server_context(own.certificate, own.key)
            context.maximum_version = version
            servers[name] = stack.enter_context(Scripted(context))
            servers[name].on("/test/whole", lambda connection, _asked: connection.answer(b"whole"))
        urls = {
            "plain": stack.enter_context(_saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
            "gone": stack.enter_context(_saying(b"")),
        }
        told = kubeconfig(
            home / "upstream",
            {name: (url, trusted) for name, url in {**urls, **{n: s.url for n, s in servers.items()}}.items()},
        )
        with serving(home, told, clusters=(*_VERSIONS, *urls)) as proxy:
            yield Rig(proxy, servers, home / "proxy.log")


class Sealed:
    """A client whose TLS records are in its hands before they are on the wire."""

    def __init__(self, proxy: Proxy, version: ssl.TLSVersion) -> None:
        address = urlsplit(proxy.url)
        context = ssl.create_default_context(cafile=str(proxy.authority))
        context.minimum_version = context.maximum_version = version
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=address.hostname)
        self.socket = socket.create_connection((address.hostname, address.port), timeout=_PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def shake(self) -> None:
        """Shake hands, a byte at a time."""
        while True:
            try:
                self._object.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.send_in_pieces(self._outgoing.read())
                self._incoming.write(self.socket.recv(65536))
        self.send_in_pieces(self._outgoing.read())

    def seal(self, *texts: bytes) -> bytes:
        """Give a record for each text."""
        for text in texts:
            self._object.write(text)
        return self._outgoing.read()

    def send_in_pieces(self, data: bytes) -> None:
        """Send each byte as a packet of its own."""
        for at in range(len(data)):
            self.socket.sendall(data[at : at + 1])

    def until(self, end: bytes) -> bytes:
        """Read up to these bytes."""
        got = b""
        while end not in got:
            try:
                got += self._object.read(65536)
            except ssl.SSLWantReadError:
                data = self.socket.recv(65536)
                assert data
                self._incoming.write(data)
        return got


@pytest.mark.parametrize("client", list(_VERSIONS))
@pytest.mark.parametrize("server", list(_VERSIONS))
def test_much_at_once_both_ways(rig: Rig, client: str, server: str) -> None:
    """What takes hundreds of records comes through whole, either version of TLS on either side."""
    path = f"/test/echo-{client}-{server}"

    def echo(connection: Connection, asked: Asked) -> bool:
        return connection.answer(connection.exactly(int(asked.header("content-length"))))

    rig.servers[server].on(path, echo)
    with Raw(rig.proxy, version=_VERSIONS[client]) as raw:
        assert raw.socket.version() == {"tls12": "TLSv1.2", "tls13": "TLSv1.3"}[client]
        assert raw.ask(f"POST /clusters/{server}{path}", body=_LARGE).body == _LARGE
    end = rig.end_of(path)
    assert (end["outcome"], end["request_bytes"], end["response_bytes"]) == ("complete", len(_LARGE), len(_LARGE))


@pytest.mark.parametrize("version", list(_VERSIONS))
def test_records_in_pieces(rig: Rig, version: str) -> None:
    """Handshake and records may come byte by byte, several records at once, and one with the end of another."""
    with Raw(rig.proxy) as raw:
        head = raw.head(f"GET /clusters/{version}/test/whole")
    client = Sealed(rig.proxy, _VERSIONS[version])
    with client.socket:
        client.shake()
        client.send_in_pieces(client.seal(head[:40], head[40:]))
        client.until(b"whole")
        sealed = client.seal(head, head[:-2], head[-2:])
        cut = len(sealed) - 10
        client.socket.sendall(sealed[:cut])
        client.until(b"whole")
        client.socket.sendall(sealed[cut:])
        client.until(b"whole")


@pytest.mark.parametrize("version", list(_VERSIONS))
def test_a_damaged_record(rig: Rig, version: str) -> None:
    """Of a client whose records do not add up nothing more is taken; its call ends, and nobody else's."""
    path = f"/test/damaged-{version}"
    reached = threading.Event()

    def script(connection: Connection, _asked: Asked) -> bool:
        reached.set()
        connection.count_rest()  # it waits for the proxy to go
        return False

    rig.servers[version].on(path, script)
    with Raw(rig.proxy) as raw:
        head = raw.head(f"GET /clusters/{version}{path}")
    client = Sealed(rig.proxy, _VERSIONS[version])
    with client.socket:
        client.shake()
        client.socket.sendall(client.seal(head))
        assert reached.wait(_PATIENCE)
        sealed = bytearray(client.seal(head))
        sealed[-1] ^= 1
        client.socket.sendall(sealed)
        assert rig.end_of(path)["outcome"] == "client_gone"
    rig.check_serves()


@pytest.mark.parametrize("version", list(_VERSIONS))
def test_a_server_that_does_not_begin_in_tls(rig: Rig, version: str) -> None:
    """An API server whose first record does not add up has not answered, and what is asked next is."""
    path = f"/test/not-begun-{version}"

    def script(connection: Connection, _asked: Asked) -> bool:
        connection.send_beneath(b"\x17\x03\x03\x00\x20" + bytes(32))
        connection.count_rest()
        return False

    rig.servers[version].on(path, script)
    with Raw(rig.proxy) as raw:
        assert raw.ask(f"GET /clusters/{version}{path}").code == 502
        assert raw.ask(f"GET /clusters/{version}/test/whole").body == b"whole"
    assert rig.end_of(path)["outcome"] == "upstream_gone"
    rig.check_serves()


@pytest.mark.parametrize("version", list(_VERSIONS))
def test_a_server_that_breaks_off_tls(rig: Rig, version: str) -> None:
    """What an API server said before its records did not add up any more arrives; then its answer has ended."""
    path = f"/test/broken-{version}"

    def script(connection: Connection, _asked: Asked) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        connection.send_beneath(b"\x17\x03\x03\x00\x20" + bytes(32))
        connection.count_rest()
        return False

    rig.servers[version].on(path, script)
    with Raw(rig.proxy) as raw:
        raw.send(raw.head(f"GET /clusters/{version}{path}"))
        assert raw.until(b"half").startswith(b"HTTP/1.1 200 ")
        assert raw.ended()
    assert rig.end_of(path)["outcome"] == "upstream_gone"
    rig.check_serves()


@pytest.mark.parametrize(
    ("cluster", "said"),
    [("gone", "it closed the connection during the TLS handshake"), ("plain", "wrong version number")],
)
def test_a_server_that_does_not_shake_hands(rig: Rig, cluster: str, said: str) -> None:
    """A server that hangs up in the handshake, or speaks no TLS, was not reached, and the message says why."""
    path = f"/test/no-handshake-{cluster}"
    with Raw(rig.proxy) as raw:
        answer = raw.ask(f"GET /clusters/{cluster}{path}")
    assert answer.code == 502
    assert said in answer.message()
    assert rig.end_of(path)["outcome"] == "upstream_unreachable"


@contextmanager
def _s_client(rig: Rig, *options: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Run OpenSSL's own client, which does at a letter what other clients do not; give its input and its output."""
    if shutil.which("openssl") is None:
        pytest.skip("what other clients do not do is done by OpenSSL's own: apt-get install openssl")
    command = ["openssl", "s_client", "-connect", urlsplit(rig.proxy.url).netloc, "-CAfile", str(rig.proxy.authority)]
    with subprocess.Popen(
        [*command, "-crlf", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as running:
        assert running.stdin is not None and running.stdout is not None  # noqa: PT018 - pipes
        try:
            yield running.stdin, running.stdout
        finally:
            running.kill()


def _until(output: IO[bytes], text: bytes) -> bytes:
    got = b""
    while text not in got:
        piece = output.read1(65536)  # type: ignore[attr-defined]
        assert piece, got.decode(errors="replace")
        got += piece
    return got


def test_new_keys_under_way(rig: Rig) -> None:
    """A client may change its keys, and ask for ours to be changed, between two requests (RFC 8446, 4.6.3)."""
    with Raw(rig.proxy) as raw:
        request = raw.head("GET /clusters/tls13/test/whole").replace(b"\r\n", b"\n")
    with _s_client(rig, "-tls1_3") as (stdin, stdout):
        for letter in b"Kk":
            stdin.write(b"%c\n" % letter)
            stdin.flush()
            _until(stdout, b"KEYUPDATE")
            stdin.write(request)
            stdin.flush()
            _until(stdout, b"\r\n\r\nwhole")


def test_renegotiation_is_refused(rig: Rig) -> None:
    """Who wants to begin TLS 1.2 anew in the middle is not followed, and harms nobody."""
    with _s_client(rig, "-tls1_2") as (stdin, stdout):
        _until(stdout, b"Verify return code: 0")
        stdin.write(b"R\n")
        stdin.flush()
        assert b"no renegotiation" in _until(stdout, b"no renegotiation")
    rig.check_serves()
