"""Websocket clients of every Kubernetes subprotocol: the same as without the proxy, and how it ended is on record."""

from __future__ import annotations

import base64
import json
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import yaml
from websocket import ABNF

from support.proxies import proxy
from support.raw import Raw
from support.scripted import Asked, Connection, Scripted
from support.trail import Trail, has
from support.ways import Way, direct, through
from support.websockets import RefusedError, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kube_audit_proxy.demo.cluster import DemoCluster
    from support.proxies import Proxy

pytestmark = pytest.mark.servers

_POD = "/api/v1/namespaces/default/pods/toolbox"
_MAPS = "/api/v1/namespaces/default/configmaps"
_BEARER = "base64url.bearer.authorization.k8s.io."
_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE = range(5)
_CLOSE_STDIN = b"\xff\x00"

_TELLING = ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"]
"""Those whose error channel says how a command ended in a Status."""

_PLAIN = ["base64.channel.k8s.io", "channel.k8s.io", ""]
"""Those that say it in plain words; the empty one asks for none."""


@dataclass(frozen=True, slots=True)
class Ways:
    """Both ways to the cluster."""

    direct: Way
    fronted: Way


@pytest.fixture(scope="module")
def ways(demo: DemoCluster, fronted: Proxy) -> Ways:
    """Give both ways to the demo cluster."""
    return Ways(direct(demo), through(fronted))


def _exec(script: str, **options: str) -> str:
    command = [("command", "sh"), ("command", "-c"), ("command", script)]
    return f"{_POD}/exec?{urlencode([*command, *({'stdout': 'true', 'container': 'toolbox'} | options).items()])}"


def _protocols(protocol: str) -> list[str]:
    return [protocol] if protocol else []


@pytest.mark.parametrize("protocol", _TELLING + _PLAIN)
def test_exec_is_the_same_and_is_recorded(ways: Ways, fronted: Proxy, protocol: str) -> None:
    """Each subprotocol carries the streams as without the proxy; the record has what ran and how it ended."""
    path = _exec("echo out; echo err >&2; exit 3", stderr="true")
    with Stream(ways.direct, path, _protocols(protocol)) as stream:
        expected = stream.to_the_end()
    trail = Trail(fronted)
    with Stream(ways.fronted, path, _protocols(protocol)) as stream:
        assert stream.protocol == protocol
        assert stream.to_the_end() == expected
    assert (expected.channels[_STDOUT], expected.channels[_STDERR]) == (b"out\n", b"err\n")
    end = trail.end()
    assert has(end, verb="get", resource="pods", subresource="exec", namespace="default", name="toolbox")
    assert has(end, exec_argv=["sh", "-c", "echo out; echo err >&2; exit 3"], exec_container="toolbox")
    assert has(end, exec_tty=False, exec_stdin=False, status=101, decision="allow", outcome="complete")
    assert has(end, access_method="api", upgrade="websocket", subprotocol=protocol or None)
    if protocol in _TELLING:
        assert has(end, exit_code=3, reason="NonZeroExitCode")
    else:
        assert "exit_code" not in end
        assert end["message"].encode() == expected.channels[_ERROR]


@pytest.mark.parametrize("protocol", _TELLING)
@pytest.mark.parametrize(("script", "code"), [("true", 0), ("kill -9 $$", 137)], ids=["well", "killed"])
def test_other_exit_codes_are_recorded(ways: Ways, fronted: Proxy, protocol: str, script: str, code: int) -> None:
    """A command that went well, and one that was killed, have their exit code in the record."""
    trail = Trail(fronted)
    with Stream(ways.fronted, _exec(script), [protocol]) as stream:
        stream.to_the_end()
    assert has(trail.end(), exit_code=code, outcome="complete")


@pytest.mark.parametrize("protocol", _TELLING + _PLAIN)
def test_input_arrives(ways: Ways, fronted: Proxy, protocol: str) -> None:
    """What a client sends on its input is the command's, whatever carries it."""
    data = bytes(range(256)) * 1024
    trail = Trail(fronted)
    with Stream(ways.fronted, _exec(f"head -c {len(data)} | md5sum", stdin="true"), _protocols(protocol)) as stream:
        for start in range(0, len(data), 10_000):
            stream.send(_STDIN, data[start : start + 10_000])
        heard = stream.to_the_end()
    import hashlib

    assert heard.channels[_STDOUT].split()[0].decode() == hashlib.md5(data, usedforsecurity=False).hexdigest()
    end = trail.end()
    assert has(end, exec_stdin=True, outcome="complete")
    assert end["request_bytes"] > len(data)


def test_input_ends_with_version_5(ways: Ways, fronted: Proxy) -> None:
    """The one subprotocol that can end an input does so through the proxy, and a ping in between has its pong."""
    trail = Trail(fronted)
    with Stream(ways.fronted, _exec("cat", stdin="true"), ["v5.channel.k8s.io"]) as stream:
        stream.send(_STDIN, b"in two ")
        stream.socket.ping("still there")
        stream.send(_STDIN, b"messages")
        stream.socket.send(_CLOSE_STDIN, ABNF.OPCODE_BINARY)
        heard = stream.to_the_end()
    assert heard.pongs == [b"still there"]
    assert heard.channels[_STDOUT] == b"in two messages"
    assert json.loads(heard.channels[_ERROR])["status"] == "Success"
    assert has(trail.end(), exit_code=0, outcome="complete")


@pytest.mark.parametrize("protocol", _TELLING[:2])
def test_a_terminal_is_resized(ways: Ways, fronted: Proxy, protocol: str) -> None:
    """A terminal has the size its client says, later sizes included, and the record says that it was one."""
    trail = Trail(fronted)
    until = 'until [ "$(stty size)" = "33 {0}" ]; do :; done; echo {0} columns; '
    path = _exec(f"{until.format(101)}{until.format(77)}exit 5", stdin="true", tty="true")
    with Stream(ways.fronted, path, [protocol]) as stream:
        for columns in (101, 77):
            stream.send(_RESIZE, json.dumps({"Width": columns, "Height": 33}).encode())
            assert stream.until(_STDOUT, f"{columns} columns".encode())
        stream.to_the_end()
    assert has(trail.end(), exec_tty=True, exec_stdin=True, exit_code=5)


def test_a_client_that_goes_is_on_record(ways: Ways, fronted: Proxy) -> None:
    """An exec whose client hangs up before its end has no exit code, and its record says why."""
    trail = Trail(fronted)
    stream = Stream(ways.fronted, _exec("echo begun; cat", stdin="true"), ["v5.channel.k8s.io"])
    stream.until(_STDOUT, b"begun")
    assert has(trail.started(lambda call: call["subresource"] == "exec"), status=101)
    stream.drop()
    end = trail.end()
    assert end["outcome"] == "client_gone"
    assert "exit_code" not in end


def test_attach_shows_what_comes(ways: Ways, fronted: Proxy, demo: DemoCluster) -> None:
    """An attach brings what the container writes from now on; no exit code is made up for it."""
    trail = Trail(fronted)
    log = demo.kubeconfig.parent / "pods" / "logs" / "toolbox.log"
    with Stream(ways.fronted, f"{_POD}/attach?stdout=true", ["v4.channel.k8s.io"]) as stream:
        trail.started(lambda call: call["subresource"] == "attach")
        before = log.read_bytes()
        try:
            with log.open("ab") as file:
                file.write(b"2026-01-01T00:00:00.000000000Z stdout F attached at last\n")
            assert stream.until(_STDOUT, b"attached at last\n")
        finally:
            log.write_bytes(before)
    end = trail.end()
    assert has(end, subresource="attach", status=101, subprotocol="v4.channel.k8s.io")
    assert not {"exit_code", "exec_argv"} & end.keys()


@pytest.mark.parametrize("protocol", ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"])
def test_port_forward_of_several_ports(ways: Ways, fronted: Proxy, protocol: str) -> None:
    """Two ports forwarded over one websocket answer each on its channels, and both are in the record."""
    trail = Trail(fronted)
    path = f"{_POD}/portforward?ports=80&ports=8081"
    pages = {}
    for way in (ways.direct, ways.fronted):
        with Stream(way, path, [protocol]) as stream:
            for channel in (0, 2):
                stream.send(channel, b"GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
            pages[way.url] = [_without_date(stream.until(channel, b"</h1>")) for channel in (0, 2)]
            # The first bytes of each channel, that of errors included, are its port.
            assert [stream.heard.channels[at][:2] for at in range(4)] == [b"P\0", b"P\0", b"\x91\x1f", b"\x91\x1f"]
    assert pages[ways.fronted.url] == pages[ways.direct.url]
    assert b"port 80<" in pages[ways.fronted.url][0]
    assert b"port 8081<" in pages[ways.fronted.url][1]
    end = trail.end()
    assert has(end, subresource="portforward", verb="get", status=101, ports=[80, 8081], subprotocol=protocol)


def _without_date(page: bytes) -> bytes:
    return b"\n".join(line for line in page.splitlines() if not line.startswith(b"Date:"))


@pytest.mark.parametrize("protocol", ["", "base64.binary.k8s.io", "binary.k8s.io"])
def test_logs_over_a_websocket(ways: Ways, fronted: Proxy, protocol: str) -> None:
    """Logs asked for over a websocket are those of the container, and on record as such."""
    path, lines = f"{_POD}/log?tailLines=2", {}
    trail = Trail(fronted)
    for way in (ways.direct, ways.fronted):
        with Stream(way, path, _protocols(protocol)) as stream:
            assert stream.protocol == protocol
            lines[way.url] = _log(stream)
    assert lines[ways.direct.url] == lines[ways.fronted.url]
    assert lines[ways.fronted.url].endswith(b"\nwaiting for somebody to need a tool\n")
    end = trail.end()
    assert has(end, subresource="log", verb="get", status=101, upgrade="websocket", subprotocol=protocol or None)


def _log(stream: Stream) -> bytes:
    """All messages together: how the lines are spread over them is chance."""
    log = b""
    while (message := stream.socket.recv_data(control_frame=True))[0] != ABNF.OPCODE_CLOSE:
        log += base64.b64decode(message[1]) if "base64" in stream.protocol else message[1]
    return log


def test_a_watch_over_a_websocket(ways: Ways, fronted: Proxy, demo: DemoCluster) -> None:
    """A watch over a websocket brings an event a message, as it happens, and is on record as a watch."""
    name = f"ws-{uuid.uuid4()}"
    trail = Trail(fronted)
    page = "https://console.example"
    with Stream(ways.fronted, f"{_MAPS}?watch=1&fieldSelector=metadata.name%3D{name}", origin=page) as stream:
        trail.started(lambda call: call["verb"] == "watch")
        import subprocess

        kubectl = [str(demo.kubectl), f"--kubeconfig={demo.kubeconfig}"]
        for arguments, expected in ((("create", "cm", name), "ADDED"), (("delete", "cm", name), "DELETED")):
            subprocess.run([*kubectl, *arguments], check=True, capture_output=True)
            event = json.loads(stream.socket.recv())
            assert (event["type"], event["object"]["metadata"]["name"]) == (expected, name)
    end = trail.end()
    assert has(end, verb="watch", resource="configmaps", name=name, upgrade="websocket", status=101, decision="allow")


@pytest.mark.parametrize(
    ("path", "protocols"),
    [
        (f"{_POD}/exec?command=true&stdout=true&container=nobody", ["v4.channel.k8s.io"]),
        ("/api/v1/namespaces/default/pods/nobody/exec?command=true&stdout=true", ["v5.channel.k8s.io"]),
        (f"{_POD}/portforward", ["v4.channel.k8s.io"]),
        (f"{_POD}/portforward?ports=no", ["v4.channel.k8s.io"]),
        (_exec("true"), ["v9.channel.k8s.io"]),
    ],
    ids=["no container", "no pod", "no ports", "bad port", "unknown protocol"],
)
def test_what_the_api_server_refuses_is_its_own_answer(
    ways: Ways, fronted: Proxy, path: str, protocols: list[str]
) -> None:
    """A stream that the API server will not open ends with its own words, which are on record too."""
    refusals = []
    trail = Trail(fronted)
    for way in (ways.direct, ways.fronted):
        with pytest.raises(RefusedError) as refused, Stream(way, path, protocols):
            pass
        refusals.append((refused.value.code, refused.value.body))
    assert refusals[0] == refusals[1]
    end = trail.end()
    code, body = refusals[1]
    assert has(end, status=code, decided_by="apiserver", outcome="complete")
    if body.startswith(b"{"):
        assert end["message"] == json.loads(body)["message"]


# Tokens in Sec-WebSocket-Protocol: a browser's way to send one.


def _entry(token: str) -> str:
    return _BEARER + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def _upstream_users(demo: DemoCluster, audit_id: str) -> set[tuple[str, str]]:
    """Who the API server took a call to be from: the credential's user, and the one who is impersonated."""
    events = map(json.loads, demo.audit_log.read_bytes().splitlines())
    return {
        (event["user"].get("username", ""), event.get("impersonatedUser", {}).get("username", ""))
        for event in events
        if event["auditID"] == audit_id and event["stage"] != "RequestReceived"  # which comes before impersonation
    }


def test_a_token_in_the_subprotocols_is_a_credential(ways: Ways, fronted: Proxy, demo: DemoCluster) -> None:
    """A token of the proxy may come among the subprotocols: the call is its user's, and only the others go on."""
    developer = through(fronted, "developer")
    trail = Trail(fronted)
    with Stream(ways.fronted, _exec("exit 4"), [_entry(developer.token), "v4.channel.k8s.io"], token="") as stream:
        assert stream.protocol == "v4.channel.k8s.io"
        stream.to_the_end()
    end = trail.end()
    assert has(end, user="developer", authenticator="token", impersonated=True, exit_code=4)
    assert _upstream_users(demo, end["auditID"]) == {("demo-owner", "developer")}


def test_rights_are_those_of_the_token(ways: Ways, fronted: Proxy) -> None:
    """Who may not exec may not by such a token either, and the record says so."""
    trail = Trail(fronted)
    token = through(fronted, "viewer").token
    with pytest.raises(RefusedError, match='User \\\\"viewer\\\\" cannot') as refused:
        Stream(ways.fronted, _exec("true"), ["v4.channel.k8s.io", _entry(token)], token="")
    assert refused.value.code == 403
    assert has(trail.end(), user="viewer", decision="deny", decided_by="apiserver", status=403)


def test_a_token_of_the_cluster_is_worthless(ways: Ways, fronted: Proxy, demo: DemoCluster) -> None:
    """A token that the API server knows, an administrator's, opens nothing: it never gets there."""
    trail = Trail(fronted)
    with pytest.raises(RefusedError) as refused:
        Stream(ways.fronted, _exec("true"), [_entry(demo.token), "v4.channel.k8s.io"], token="")
    assert refused.value.code == 401
    end = trail.end()
    assert has(end, outcome="refused", decided_by="proxy", decision="deny")
    assert "user" not in end
    assert _upstream_users(demo, end["auditID"]) == set()


def test_a_second_token_does_not_change_who_it_is(ways: Ways, fronted: Proxy, demo: DemoCluster) -> None:
    """Beside an Authorization header, a stronger token among the subprotocols is dropped."""
    viewer = through(fronted, "viewer")
    for entry in (_entry(demo.token), _entry(ways.fronted.token), _entry(demo.token).swapcase()):
        trail = Trail(fronted)
        with pytest.raises(RefusedError) as refused:
            Stream(viewer, _exec("true"), [entry, "v4.channel.k8s.io"])
        end = trail.end()
        assert has(end, user="viewer", decision="deny")
        assert refused.value.code == end["status"]
        assert _upstream_users(demo, end["auditID"]) <= {("demo-owner", "viewer")}


@pytest.mark.parametrize(
    "shape",
    [
        lambda entry: [entry],
        lambda entry: [entry, entry, "v4.channel.k8s.io"],
        lambda entry: [entry[:-4] + "!!!!", "v4.channel.k8s.io"],
        lambda entry: [entry.upper(), "v4.channel.k8s.io"],
    ],
    ids=["alone", "twice", "not base64url", "in capitals"],
)
def test_a_token_in_a_wrong_shape_opens_nothing(
    ways: Ways, fronted: Proxy, demo: DemoCluster, shape: Callable[[str], list[str]]
) -> None:
    """What the API server would not take for a token, or not like this, is refused and on record."""
    trail = Trail(fronted)
    with pytest.raises(RefusedError) as refused:
        Stream(ways.fronted, _exec("true"), shape(_entry(ways.fronted.token)), token="")
    end = trail.end()
    assert refused.value.code in {400, 401}
    assert has(end, status=refused.value.code, outcome="refused", decided_by="proxy")
    assert _upstream_users(demo, end["auditID"]) == set()


def _frame(payload: bytes) -> bytes:
    size = len(payload)
    return b"\x82" + (bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")) + payload


def test_each_message_has_a_record_of_its_own(tmp_path: Path) -> None:
    """Messages that come at once are written one by one: who waits for the socket and not for TLS misses none."""
    frames = [_frame(payload) for payload in (b"\1", b"\1first", b"", b"\1" + b"x" * 10_000, b"\3{}", b"\2last")]
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    def script(connection: Connection, _asked: Asked) -> bool:
        connection.send(switched + b"".join(frames))
        connection.count_rest()
        return False

    with _scripted(tmp_path, script) as own, Raw(own) as raw:
        upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
        raw.send(raw.head(f"GET /clusters/demo{_POD}/exec?command=true", *upgrade))
        received = [raw.socket.recv(1 << 20) for _ in range(1 + len(frames))]  # a record each, at most
        assert received[0].endswith(b"\r\n\r\n")
        assert received[1:] == frames


@contextmanager
def _scripted(tmp_path: Path, script: Callable[[Connection, Asked], bool]) -> Iterator[Proxy]:
    """Run a proxy in front of a server that does as the script says when asked for an exec."""
    with Scripted() as server:
        server.on(f"{_POD}/exec", script)
        content: dict[str, Any] = {
            "clusters": [{"name": "demo", "cluster": {"server": server.url}}],
            "users": [{"name": "own", "user": {"token": "own-credential"}}],
            "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "own"}}],
            "current-context": "demo",
        }
        kubeconfig = tmp_path / "cluster"
        kubeconfig.write_text(yaml.safe_dump(content))
        with proxy(["--kubeconfig", str(kubeconfig)], tmp_path / "data", tmp_path / "log") as own:
            yield own


def test_no_token_goes_on_or_is_kept(tmp_path: Path) -> None:
    """Neither spelling of a token is in what goes upstream, nor in any file or log of the proxy."""
    arrived: list[Asked] = []

    def script(connection: Connection, asked: Asked) -> bool:
        arrived.append(asked)
        return connection.answer(b'{"kind":"Status","code":400}', code=400)

    with _scripted(tmp_path, script) as own:
        way = through(own)
        foreign = "somebody-elses-token"
        for tried, token in ((way.token, ""), (foreign, way.token), (foreign, "")):
            with pytest.raises(RefusedError):
                Stream(way, _exec("true"), ["v4.channel.k8s.io", _entry(tried)], token=token)
        own.ended(count=3)
        files = [path for path in own.data_dir.rglob("*") if path.is_file() and path.suffix != ".kubeconfig"]
        files = [path for path in files if path != own.kubeconfig] + [own.log]
        kept = b"".join(path.read_bytes() for path in files)
    assert [asked.header("authorization") for asked in arrived] == ["Bearer own-credential"] * 2
    assert [asked.header("sec-websocket-protocol") for asked in arrived] == ["v4.channel.k8s.io"] * 2
    sent = json.dumps([asked.headers for asked in arrived]).encode()
    for token in (way.token, foreign):
        for spelling in (token, _entry(token).removeprefix(_BEARER)):
            assert spelling.encode() not in kept
            assert spelling.encode() not in sent
