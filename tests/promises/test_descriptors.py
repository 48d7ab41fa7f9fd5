"""A worker that may open no more files: what runs goes on, what is new is refused, and all is well again afterwards."""

import resource
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.proxies import Proxy, wait_until
from support.raw import Raw
from support.scripted import Asked, Connection
from support.serving import kubeconfig, serving, verify
from support.witness import Witness, check_trail, make_calls, post, until_served, witness

LIMIT = 96
_WATCH = "/api/v1/pods"


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))


@contextmanager
def _limited(upstream: Witness, home: Path) -> Iterator[Proxy]:
    told = kubeconfig(home / "upstream", {"plain": (upstream.server.url, b"")})
    with serving(home, told, before=_limit, journal={"timeout": 1}) as proxy:
        yield proxy


@contextmanager
def _used_up(proxy: Proxy) -> Iterator[Raw]:
    """Have idle clients take every descriptor of the worker during the block; give one of them."""
    with ExitStack() as idle:
        clients = []
        refused = 0
        while refused < 5:
            try:
                clients.append(idle.enter_context(Raw(proxy)))
            except (ssl.SSLError, ConnectionError):  # not a time-out: it is told at once
                refused += 1
        assert proxy.children()["w0"].num_fds() == LIMIT
        yield clients[0]


def test_out_of_descriptors(tmp_path: Path) -> None:
    """New clients are turned away at once, a watch and calls of those who are in go on, and the log stays short."""
    seen, go = threading.Event(), threading.Event()

    def watch(connection: Connection, _asked: Asked) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        seen.set()
        go.wait(60)
        connection.send(b"6\r\nsecond\r\n0\r\n\r\n")
        return True

    with witness() as upstream, _limited(upstream, tmp_path) as proxy:
        upstream.server.on(_WATCH, watch)
        with Raw(proxy) as watching, Raw(proxy) as steady:
            watching.send(watching.head(f"GET /clusters/plain{_WATCH}?watch=1"))
            watching.until(b"first")
            assert post(steady).code == 200
            with _used_up(proxy) as other:
                # One connection to the API server is kept, and one call at a time can have it.
                assert [post(each).code for each in (steady, other, steady)] == [200] * 3
                worker = proxy.children()["w0"]
                go.set()
                watching.until(b"second")
                assert worker.is_running()
            until_served(proxy)
        assert make_calls(proxy, 3) == [200] * 3
        wait_until(lambda: worker.num_fds() < LIMIT / 2, "the descriptors to be free again")
        check_trail(proxy, upstream)
        assert verify(proxy.data_dir).returncode == 0
    told = proxy.log.read_text()
    assert len(told.splitlines()) < 20, told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("known", "code", "words", "outcome"),
    [
        (True, 502, "Too many open files", "upstream_unreachable"),
        (False, 503, "whose token it is cannot be looked up at present: Too many open files", "refused"),
    ],
    ids=["no connection to the API server", "no look at the token"],
)
def test_a_call_that_needs_a_descriptor(tmp_path: Path, code: int, words: str, outcome: str, *, known: bool) -> None:
    """A call for which there is none is refused with the reason, on record, and was not made."""

    def farewell(connection: Connection, _asked: Asked) -> bool:
        connection.answer(b"{}", "Connection: close")
        return False

    with witness() as upstream, _limited(upstream, tmp_path) as proxy:
        upstream.server.on("/test/farewell", farewell)
        if known:
            with Raw(proxy) as raw:
                assert raw.ask("GET /clusters/plain/test/farewell").code == 200
        with _used_up(proxy) as client:
            answer = post(client)
            assert (answer.code, words in answer.message()) == (code, True), answer.message()
            assert upstream.seen() == []
        until_served(proxy)
        (end,) = proxy.ended(lambda end: end.get("status") == code)
        assert (end["outcome"], end["decided_by"], end["auditID"]) == (outcome, "proxy", answer.audit_id)
        check_trail(proxy, upstream)


def test_a_committer_that_cannot_be_started_again(tmp_path: Path) -> None:
    """Calls are refused while there is no descriptor for another committer, and made once there is one."""
    with witness() as upstream, _limited(upstream, tmp_path) as proxy, Raw(proxy) as steady:
        assert post(steady).code == 200
        with _used_up(proxy):
            committer = proxy.children()["w0 committer"]
            committer.kill()
            assert post(steady).code == 503
            assert len(upstream.seen()) == 1
        until_served(proxy)
        assert proxy.children()["w0 committer"] != committer
        check_trail(proxy, upstream)
        assert verify(proxy.data_dir).returncode == 0
