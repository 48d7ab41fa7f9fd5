"""A network that is cut: nobody says goodbye, and whoever vanished is missed all the same.

The kernel's own time, two minutes of it, goes by sixty times faster here (support/faults.py).
"""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.descriptors import borrowed
from support.far import Far
from support.faults import Faults
from support.proxies import Proxy, wait_until
from support.raw import CutError, Raw
from support.scripted import Asked, Connection, Scripted
from support.serving import kubeconfig, serving

_WATCH = "/api/v1/nodes"
_EXEC = "/api/v1/namespaces/shop/pods/web-0/exec"
_BEGIN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT = b"2\r\n{}\r\n"
_SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
_UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Protocol: v5.channel.k8s.io")
_PATIENCE = 60.0
_UNACKED = slice(24, 28)  # tcpi_unacked of struct tcp_info
_OFTEN = 0.4  # of an answer's timeout: sweeps come four times as often


@pytest.fixture
def far() -> Iterator[Far]:
    """Give a place that can be cut off."""
    with Far() as place:
        yield place


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    """Give a kernel in a hurry."""
    found = Faults(tmp_path)
    found.hurry(60)
    return found


class Watched:
    """An API server's side of watches: each gets one event, and another when told so."""

    def __init__(self) -> None:
        self.more = threading.Event()

    def script(self, connection: Connection, _asked: Asked) -> bool:
        """Serve one."""
        connection.send(_BEGIN + _EVENT)
        self.more.wait(_PATIENCE)
        connection.send(_EVENT)
        return bool(connection.count_rest())


def _watch(raw: Raw) -> None:
    raw.send(raw.head(f"GET /clusters/plain{_WATCH}?watch=1"))
    assert raw.answer_head()[0] == 200
    assert raw.exactly(len(_EVENT)) == _EVENT


def _until_acknowledged(proxy: Proxy, address: str) -> None:
    """Wait until nothing is under way from the proxy to there."""
    worker = proxy.children()["w0"]
    (found,) = [each for each in worker.net_connections("tcp") if getattr(each.raddr, "ip", "") == address]
    assert found.status == psutil.CONN_ESTABLISHED
    with borrowed(worker.pid, found.fd) as taken:
        wait_until(lambda: not any(taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)[_UNACKED]), "its ACK")


def _end(proxy: Proxy, path: str) -> dict[str, Any]:
    (end,) = proxy.ended(lambda call: call["requestURI"].startswith(path))
    return end


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "with events under way"])
def test_a_client_whose_network_is_cut(far: Far, faults: Faults, tmp_path: Path, busy: bool) -> None:
    """Its watch ends on record as one whose client is gone, and upstream too; a watch from elsewhere goes on."""
    watched = Watched()
    with Scripted() as upstream:
        upstream.on(_WATCH, watched.script)
        told = kubeconfig(tmp_path / "upstream", {"plain": (upstream.url, b"")})
        settings: dict[str, Any] = {"listen": f"{far.host}:0", "answer_timeout": _OFTEN}
        with serving(tmp_path, told, environ=faults.environ, **settings) as proxy:
            with far.inside():
                cut_off = Raw(proxy)
            with Raw(proxy) as near, cut_off:
                _watch(near)
                _watch(cut_off)
                _until_acknowledged(proxy, far.address)
                far.cut()
                if busy:
                    watched.more.set()
                end = _end(proxy, _WATCH)
                assert (end["outcome"], end["status"], end["sourceIPs"]) == ("client_gone", 200, [far.address])
                watched.more.set()
                assert near.exactly(len(_EVENT)) == _EVENT
                assert len(proxy.ended()) == 1


def test_an_api_server_whose_network_is_cut(far: Far, faults: Faults, tmp_path: Path) -> None:
    """A watch on it ends for its client, who gets no end that could be taken for the answer's, and on record."""
    with far.inside():
        upstream = Scripted(host=far.address)
    watched = Watched()
    with upstream:
        upstream.on(_WATCH, watched.script)
        told = kubeconfig(tmp_path / "upstream", {"plain": (upstream.url, b"")})
        with serving(tmp_path, told, environ=faults.environ) as proxy, Raw(proxy) as raw:
            _watch(raw)
            far.cut()
            assert raw.ended()
            end = _end(proxy, _WATCH)
            assert (end["outcome"], end["status"]) == ("upstream_gone", 200)
        watched.more.set()


def test_an_api_server_whose_network_is_cut_while_input_is_under_way(far: Far, faults: Faults, tmp_path: Path) -> None:
    """A session whose input the API server does not acknowledge any more ends, and its record says why."""
    with far.inside():
        upstream = Scripted(host=far.address)

    def session(connection: Connection, _asked: Asked) -> bool:
        connection.send(_SWITCH)
        return bool(connection.count_rest())

    with upstream:
        upstream.on(_EXEC, session)
        told = kubeconfig(tmp_path / "upstream", {"plain": (upstream.url, b"")})
        with serving(tmp_path, told, environ=faults.environ, answer_timeout=_OFTEN) as proxy, Raw(proxy) as raw:
            raw.send(raw.head(f"GET /clusters/plain{_EXEC}?command=cat&stdin=true", *_UPGRADE))
            assert raw.answer_head()[0] == 101
            far.cut()
            raw.send(b"\x82\x84\0\0\0\0\0ls\n")
            with pytest.raises(CutError):
                raw.exactly(1)
            end = _end(proxy, _EXEC)
            assert (end["outcome"], end["status"]) == ("upstream_gone", 101)
