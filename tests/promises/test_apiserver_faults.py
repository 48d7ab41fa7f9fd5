"""An API server that is sick, as kubectl sees it through the proxy: the sentence, the exit code, and the record."""

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kube_audit_proxy.demo.cluster import DemoCluster
from servers.kubectls import new_kubectl
from support.certificates import Authority
from support.proxies import Proxy, wait_until
from support.raw import CutError, Raw
from support.scripted import Asked, Connection, Scripted
from support.serving import kubeconfig, serving, verify
from support.witness import ids

pytestmark = pytest.mark.servers

_MAPS = "/api/v1/namespaces/default/configmaps"
_SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
)
_UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Protocol: v5.channel.k8s.io")


@dataclass(frozen=True, slots=True)
class Rig:
    """A proxy in front of servers that something is wrong with, each a cluster of its own."""

    proxy: Proxy
    servers: dict[str, Scripted]

    def kubectl(self, cluster: str, path: str) -> subprocess.CompletedProcess[str]:
        """Ask for a path with a real kubectl."""
        argv = [str(new_kubectl()), f"--kubeconfig={self.proxy.kubeconfig}", f"--context={cluster}", "get", "--raw"]
        return subprocess.run([*argv, path], check=False, capture_output=True, text=True)

    def end_of(self, path: str) -> dict[str, Any]:
        """The end of the call of that path."""
        return self.proxy.ended(lambda call: call.get("requestURI") == path)[-1]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Give the proxy and the servers; all tests of this file share them."""
    home = tmp_path_factory.mktemp("sick")
    authority = Authority(home)
    strict = authority.context("strict")
    strict.verify_mode = ssl.CERT_REQUIRED
    strict.load_verify_locations(authority.path)
    contexts: dict[str, ssl.SSLContext | None] = {
        "plain": None,
        "good": authority.context("good"),
        "expired": authority.context("expired", days=7),
        "early": authority.context("early", days_ago=-1),
        "other-host": authority.context("other-host", "kubernetes.example.com"),
        "strict": strict,
    }
    with ExitStack() as stack:
        servers = {name: stack.enter_context(Scripted(tls)) for name, tls in contexts.items()}
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))
        ca = authority.path.read_bytes()
        urls = {name: (server.url, ca if contexts[name] else b"") for name, server in servers.items()}
        urls["down"] = (f"http://127.0.0.1:{closed.getsockname()[1]}", b"")
        told = kubeconfig(home / "upstream", urls)
        yield Rig(stack.enter_context(serving(home, told, clusters=tuple(urls), answer_timeout=5)), servers)


def _closes(_connection: Connection, _asked: Asked) -> bool:
    return False


def _resets(connection: Connection, _asked: Asked) -> None:
    connection.reset()


def _garbage(connection: Connection, _asked: Asked) -> None:
    connection.send(b"SSH-2.0-OpenSSH_9.9\r\n")
    connection.count_rest()


def _stalls(connection: Connection, _asked: Asked) -> None:
    connection.count_rest()


def _half(connection: Connection, _asked: Asked) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")
    connection.reset()


_SICK: dict[str, tuple[str, Callable[[Connection, Asked], bool | None] | None, str, str, str, int]] = {
    "down": ("down", None, "(BadGateway)", "no connection to 127.0.0.1:", "upstream_unreachable", 502),
    "expired": ("expired", None, "(BadGateway)", "certificate has expired", "upstream_unreachable", 502),
    "not valid yet": ("early", None, "(BadGateway)", "certificate is not yet valid", "upstream_unreachable", 502),
    "another host's": ("other-host", None, "(BadGateway)", "IP address mismatch", "upstream_unreachable", 502),
    "wants a certificate": ("strict", None, "(BadGateway)", "closed the connection", "upstream_gone", 502),
    "closes": ("plain", _closes, "(BadGateway)", "closed the connection before it answered", "upstream_gone", 502),
    "resets": ("good", _resets, "(BadGateway)", "closed the connection before it answered", "upstream_gone", 502),
    "garbage": ("good", _garbage, "(BadGateway)", "is not valid HTTP", "upstream_gone", 502),
    "stalls": ("good", _stalls, "(Timeout)", "did not begin to answer in time", "upstream_gone", 504),
    "breaks off": ("good", _half, "", "unexpected EOF", "upstream_gone", 200),
}


@pytest.mark.parametrize("name", list(_SICK))
def test_kubectl_is_told_what_is_wrong(rig: Rig, name: str) -> None:
    """Its exit code is 1, it prints the cause, and the record has the same; a certificate is never looked past."""
    cluster, script, reason, words, outcome, status = _SICK[name]
    path = f"/test/{name.replace(' ', '-')}".replace("'", "")
    reached: list[str] = []

    def heard(connection: Connection, asked: Asked) -> bool | None:
        reached.append(asked.path)
        return script(connection, asked) if script else connection.answer()

    if cluster in rig.servers:
        rig.servers[cluster].on(path, heard)
    done = rig.kubectl(cluster, path)
    assert (done.returncode, reason in done.stderr, words in done.stderr) == (1, True, True), done.stderr
    end = rig.end_of(path)
    assert (end["outcome"], end["status"]) == (outcome, status)
    assert end["decision"] == ("allow" if status == 200 else "error")
    if script is None:
        assert reached == []


@pytest.mark.parametrize("told", [False, True], ids=["before its exit code", "after it"])
def test_a_stream_that_is_reset(rig: Rig, *, told: bool) -> None:
    """A stream cut by a reset is no complete one, and its client is cut off too; unless the command had ended."""
    path = f"/api/v1/namespaces/n/pods/reset-{told}/exec".lower()
    go = threading.Event()
    failed = json.dumps({
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": "command terminated with exit code 3",
        "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
    }).encode()  # fmt: skip
    ending = b"\x82\x7e" + (len(failed) + 1).to_bytes(2, "big") + b"\x03" + failed

    def script(connection: Connection, _asked: Asked) -> None:
        connection.send(_SWITCH + (ending if told else b"\x82\x02\x01x"))
        go.wait(60)
        connection.reset()

    rig.servers["good"].on(path, script)
    with Raw(rig.proxy) as raw:
        raw.send(raw.head(f"GET /clusters/good{path}?command=x", *_UPGRADE))
        raw.answer_head()
        raw.exactly(len(ending) if told else 4)
        go.set()
        if told:
            assert raw.ended()
        else:
            with pytest.raises(CutError):
                raw.rest()
    end = rig.proxy.ended(lambda call: call.get("requestURI", "").startswith(path))[-1]
    assert (end["outcome"], end["status"]) == ("complete" if told else "upstream_gone", 101)
    assert end.get("exit_code") == (3 if told else None)


def test_an_api_server_that_is_killed_under_load(demo: DemoCluster, tmp_path: Path) -> None:
    """While it is down calls are 502s that name it; once it is back the proxy goes on by itself, and nothing is twice.

    Each object that there is was asked for in one call, which is on record.
    """
    stop = threading.Event()
    answered: list[tuple[str, int, str]] = []

    def create(proxy: Proxy, caller: int) -> None:
        number = 0
        with ExitStack() as stack:
            raw = stack.enter_context(Raw(proxy))
            while not stop.is_set():
                number += 1
                name = f"killed-{caller}-{number}"
                body = json.dumps({"metadata": {"name": name}}).encode()
                try:
                    answer = raw.ask(f"POST /clusters/demo{_MAPS}", "Content-Type: application/json", body=body)
                except CutError:
                    raw = stack.enter_context(Raw(proxy))
                    continue
                answered.append((name, answer.code, answer.audit_id))

    def codes(since: int) -> set[int]:
        return {code for _, code, _ in answered[since:]}

    with serving(tmp_path, demo.kubeconfig, clusters=("demo",)) as proxy:
        callers = [threading.Thread(target=create, args=(proxy, caller)) for caller in range(2)]
        for each in callers:
            each.start()
        try:
            wait_until(lambda: 201 in codes(0), "objects to be made")
            demo.stop_apiserver(patience=0)
            wait_until(lambda: 502 in codes(0), "calls to fail")
            demo.start_apiserver()
            since = len(answered)
            wait_until(lambda: 201 in codes(since), "objects to be made again")
        finally:
            stop.set()
            for each in callers:
                each.join(60)
        ends = {end["auditID"]: end for end in proxy.ended(count=len(answered))}
        with Raw(proxy) as raw:
            listed = raw.ask(f"GET /clusters/demo{_MAPS}").json()["items"]
            there = {item["metadata"]["name"] for item in listed} & {name for name, _, _ in answered}
            for name in there:
                assert raw.ask(f"DELETE /clusters/demo{_MAPS}/{name}").code == 200
        starts = ids(proxy.lines(), stage="RequestReceived")
        assert verify(proxy.data_dir).returncode == 0
    made = {name for name, code, _ in answered if code == 201}
    unsure = {name for name, code, _ in answered if code == 502}
    assert made <= there <= made | unsure
    for _, code, audit_id in answered:
        assert ends[audit_id]["status"] == code
        outcomes = {"complete"} if code == 201 else {"upstream_gone", "upstream_unreachable"}
        assert ends[audit_id]["outcome"] in outcomes or code not in {201, 502}
    seen = [json.loads(line) for line in demo.audit_log.read_bytes().splitlines()]
    ours = {event["auditID"] for event in seen if (event.get("objectRef") or {}).get("name", "").startswith("killed-")}
    assert ours <= set(starts)
