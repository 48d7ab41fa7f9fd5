"""What is malformed or meant to mislead ends at the proxy: answered, on record, and never seen by the API server."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from support.proxies import wait_until
from support.raw import Answer, Raw

if TYPE_CHECKING:
    from kube_audit_proxy.demo.cluster import DemoCluster
    from support.proxies import Proxy

pytestmark = pytest.mark.servers

_MAPS = "/api/v1/namespaces/default/configmaps"
_POST = f"POST /clusters/demo{_MAPS}?dryRun=All HTTP/1.1"
_SMUGGLED = b"GET /clusters/demo/api/v1/namespaces/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


def _seen_upstream(demo: DemoCluster) -> list[dict[str, Any]]:
    return [json.loads(line) for line in demo.audit_log.read_text("utf-8").splitlines()]


def _check_refused(demo: DemoCluster, fronted: Proxy, answer: Answer) -> dict[str, Any]:
    """A refusal of the proxy's own: on record as such, and the API server has no trace of it."""
    assert answer.message()
    record = fronted.ended(lambda call: call["auditID"] == answer.audit_id)[0]
    decision = "deny" if answer.code in {401, 403} else "error"
    assert (record["outcome"], record["decided_by"], record["decision"]) == ("refused", "proxy", decision)
    assert record["status"] == answer.code
    assert not [event for event in _seen_upstream(demo) if event["auditID"] == answer.audit_id]
    return record


def _starts(fronted: Proxy) -> set[str]:
    """The calls that have been made; each is on record by the time it is answered."""
    return {line["auditID"] for line in fronted.lines() if line.get("stage") == "RequestReceived"}


def _check_serves(fronted: Proxy) -> None:
    with Raw(fronted) as other:
        assert other.ask("GET /clusters/demo/version").code == 200


def _wire(raw: Raw, text: bytes) -> bytes:
    """Fill in what every request has to have; `text` is the rest, as it goes over the wire."""
    ours = f"Host: {raw.host}\r\nAuthorization: Bearer {raw.token}".encode()
    return text.replace(b"OURS", ours).replace(b"POST", _POST.encode(), 1)


_CHUNKED = b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n"
_UPGRADE = b"POST\r\nOURS\r\nConnection: Upgrade\r\nUpgrade: "


@pytest.mark.parametrize(
    "text",
    {
        "CL.TE": b"POST\r\nOURS\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "TE.CL": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "TE.TE, other last": _CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "TE.TE, other first": _CHUNKED.replace(b"Transfer", b"Transfer-Encoding: identity\r\nTransfer")
        + b"\r\n0\r\n\r\n",
        "TE twice": _CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "TE list": b"POST\r\nOURS\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "TE unknown": b"POST\r\nOURS\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "TE with a control character": b"POST\r\nOURS\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "TE empty, and CL": b"POST\r\nOURS\r\nTransfer-Encoding:\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "TE and a blank before its colon": b"POST\r\nOURS\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "TE in HTTP/1.0": b"GET /clusters/demo/version HTTP/1.0\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two CL, different": b"POST\r\nOURS\r\nContent-Length: 0\r\nContent-Length: 4\r\n\r\nabcd",
        "two CL, the same": b"POST\r\nOURS\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
        "CL list": b"POST\r\nOURS\r\nContent-Length: 4, 4\r\n\r\nabcd",
        "CL with a sign": b"POST\r\nOURS\r\nContent-Length: +4\r\n\r\nabcd",
        "CL negative": b"POST\r\nOURS\r\nContent-Length: -4\r\n\r\nabcd",
        "CL hexadecimal": b"POST\r\nOURS\r\nContent-Length: 0x4\r\n\r\nabcd",
        "CL empty": b"POST\r\nOURS\r\nContent-Length:\r\n\r\nabcd",
        "CL too large": b"POST\r\nOURS\r\nContent-Length: 99999999999999999999999\r\n\r\nabcd",
        "obs-fold": b"POST\r\nOURS\r\nX-Long: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "obs-fold at once": b"POST\r\n OURS\r\n\r\n",
        "bare LF after the request line": b"POST\nOURS\r\n\r\n",
        "bare LF after a header": b"POST\r\nOURS\r\nX: a\nContent-Length: 0\r\n\r\n",
        "bare LF at the end": b"POST\r\nOURS\r\n\n",
        "bare CR in a header": b"POST\r\nOURS\r\nX: a\rContent-Length: 0\r\n\r\n",
        "NUL in a header": b"POST\r\nOURS\r\nX: a\0b\r\n\r\n",
        "NUL in a name": b"POST\r\nOURS\r\nX\0Y: a\r\n\r\n",
        "blank in a name": b"POST\r\nOURS\r\nX Y: a\r\n\r\n",
        "no name": b"POST\r\nOURS\r\n: a\r\n\r\n",
        "no colon": b"POST\r\nOURS\r\nX\r\n\r\n",
        "chunk size overflow": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabcd",
        "chunk size no number": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabcd",
        "chunk size with a sign": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\n-4\r\nabcd\r\n0\r\n\r\n",
        "chunk size with 0x": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\n0x4\r\nabcd\r\n0\r\n\r\n",
        "chunk size and a blank": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\n4 \r\nabcd\r\n0\r\n\r\n",
        "chunk with bare LF": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\n4\nabcd\n0\n\n",
        "chunk longer than it says": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/2.0": b"GET /clusters/demo/version HTTP/2.0\r\nOURS\r\n\r\n",
        "HTTP/1.2": b"GET /clusters/demo/version HTTP/1.2\r\nOURS\r\n\r\n",
        "HTTP/0.9": b"GET /clusters/demo/version HTTP/0.9\r\nOURS\r\n\r\n",
        "no version": b"GET /clusters/demo/version\r\n",
        "no method": b"/clusters/demo/version HTTP/1.1\r\nOURS\r\n\r\n",
        "unknown method": b"STEAL /clusters/demo/version HTTP/1.1\r\nOURS\r\n\r\n",
        "method in small letters": b"get /clusters/demo/version HTTP/1.1\r\nOURS\r\n\r\n",
        "target not ASCII": "GET /clusters/demo/é HTTP/1.1\r\nOURS\r\n\r\n".encode(),
        "target with a NUL": b"GET /clusters/demo/\0 HTTP/1.1\r\nOURS\r\n\r\n",
        "target with a blank": b"GET /clusters/demo/a b HTTP/1.1\r\nOURS\r\n\r\n",
        "TLS in TLS": b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        "upgrade and a length": _UPGRADE + b"websocket\r\nContent-Length: 4\r\n\r\nabcd",
        "upgrade and chunks": _UPGRADE + b"SPDY/3.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "h2c and a length": _UPGRADE + b"h2c\r\nContent-Length: 4\r\n\r\nabcd",
    }.items(),
    ids=lambda case: case[0],
)
def test_malformed_requests_end_the_connection(demo: DemoCluster, fronted: Proxy, text: tuple[str, bytes]) -> None:
    """A request two readers could read in two ways is a 400; what follows it is not read at all."""
    before = _starts(fronted)
    with Raw(fronted) as raw:
        raw.send(_wire(raw, text[1]) + _SMUGGLED)
        answer = raw.answer()
        assert (answer.code, answer.closes) == (400, True)
        assert raw.ended()
    _check_refused(demo, fronted, answer)
    assert _starts(fronted) - before == {answer.audit_id}
    assert "smuggled" not in demo.audit_log.read_text("utf-8")
    _check_serves(fronted)


def test_malformed_after_good_is_refused_in_its_turn(demo: DemoCluster, fronted: Proxy) -> None:
    """A good request that was sent together with a malformed one gets its answer first."""
    with Raw(fronted) as raw:
        good = raw.head("GET /clusters/demo/version")
        raw.send(good + good + b"GARBAGE\r\n\r\n" + good)
        assert [raw.answer().code, raw.answer().code] == [200, 200]
        answer = raw.answer()
        assert (answer.code, answer.closes) == (400, True)
        assert raw.ended()
    _check_refused(demo, fronted, answer)


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("GET https://{host}/clusters/demo/version", 400, "not a path"),
        ("GET http://other.example/clusters/demo/version", 400, "not a path"),
        ("CONNECT {host}", 405, "CONNECT"),
        ("CONNECT kubernetes.default:443", 405, "CONNECT"),
        ("OPTIONS *", 400, "not a path"),
        ("TRACE /clusters/demo/version", 405, "TRACE"),
        ("PURGE /clusters/demo/version", 405, "PURGE"),
        ("PROPFIND /clusters/demo/version", 405, "PROPFIND"),
        ("GET /clusters/demo/api%2Fv1/pods", 400, "encoded slash"),
        ("GET /clusters/demo/api/v1/namespaces/default/pods/x%2fexec", 400, "encoded slash"),
        ("GET /clusters/demo/api/v1/pods%5C..", 400, "encoded slash or backslash"),
        ("GET /clusters/demo/api/v1\\pods", 400, "backslash"),
        ("GET /clusters/demo/../other", 400, "segment . or .."),
        ("GET /clusters/demo/%2e%2e/other", 400, "segment . or .."),
        ("GET /clusters/demo/api/./v1", 400, "segment . or .."),
        ("GET /clusters/demo//api/v1", 400, "empty segment"),
        ("GET /clusters/demo/api/v1/pods#x", 400, "fragment"),
        ("GET /clusters/demo/api/%zz", 400, "percent"),
        ("GET /clusters/demo/api/%00", 400, "control character"),
        ("GET /clusters/demo/api/v1/watch", 400, "names no resource to watch"),
        ("GET /clusters//x", 400, "empty segment"),
        ("GET /clusters/", 403, "kubectl proxy"),
        ("GET /api/v1/pods", 403, "--raw"),
        ("GET /version", 403, "kubectl proxy"),
        ("GET /", 403, "--raw"),
        ("GET /Clusters/demo/version", 403, "--raw"),
        ("GET /clusters/other/version", 403, "'other'"),
        ("GET /clusters/other/api/v1/pods", 403, "'other'"),
        ("GET /clusters/DEMO/version", 403, "'DEMO'"),
        ("GET /clusters/demo%2fx/version", 403, "'demo%2fx'"),
        ("GET /clusters/..", 403, "'..'"),
    ],
)
def test_targets_and_methods_that_are_not_served(
    demo: DemoCluster, fronted: Proxy, line: str, code: int, told: str
) -> None:
    """Every other form of target, every other method and every other cluster is refused, and the message says why."""
    with Raw(fronted) as raw:
        answer = raw.ask(line.format(host=raw.host))
        assert answer.code == code
        assert told in answer.message()
        if not answer.closes:
            assert raw.ask("GET /clusters/demo/version").code == 200
        else:
            assert raw.ended()
        assert answer.closes == line.startswith("CONNECT")
    record = _check_refused(demo, fronted, answer)
    assert record["user"]
    _check_serves(fronted)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "no Host"),
        (["Host: a", "Host: a"], "repeats its Host"),
        (["Host: a", "host: b"], "repeats its host"),
        (["Host: a", "Authorization: Bearer other"], "token is not known"),
        (["Host: a", "Connection: Impersonate-User"], "Connection header"),
        (["Host: a", "Connection: keep-alive, authorization"], "Connection header"),
        (["Host: a", "Connection: close", "Connection: X-Anything"], "Connection header"),
    ],
    ids=lambda case: ", ".join(case) if isinstance(case, list) else "",
)
def test_heads_that_are_not_served(demo: DemoCluster, fronted: Proxy, lines: list[str], told: str) -> None:
    """No Host, two of what may be there once, and headers named for removal are refused."""
    with Raw(fronted) as raw:
        head = ["GET /clusters/demo/version HTTP/1.1", f"Authorization: Bearer {raw.token}", *lines, "", ""]
        raw.send("\r\n".join(head).encode())
        answer = raw.answer()
    assert answer.code in {400, 401}
    assert told in answer.message()
    _check_refused(demo, fronted, answer)


@pytest.mark.parametrize(
    "name",
    [
        "Impersonate-User",
        "impersonate-user",
        "IMPERSONATE-USER",
        "iMpErSoNaTe-UsEr",
        "Impersonate_User",
        "Impersonate-Group",
        "Impersonate-Uid",
        "Impersonate-Extra-scopes",
        "Impersonate-Extra-x%2fy",
        "Impersonate-New-Thing",
        "ImpersonateUser",
        "Impersonate",
    ],
)
@pytest.mark.parametrize("value", ["system:admin", ""])
def test_impersonation_is_refused_in_every_spelling(demo: DemoCluster, fronted: Proxy, name: str, value: str) -> None:
    """A client does not say whom it acts as, however it writes it; the answer names the flag."""
    with Raw(fronted) as raw:
        answer = raw.ask(f"GET /clusters/demo{_MAPS}", f"{name}: {value}")
        assert (answer.code, answer.closes) == (403, False)
        assert "does not pass on impersonation" in answer.message()
        assert "--as" in answer.message()
        assert raw.ask("GET /clusters/demo/version").code == 200
    _check_refused(demo, fronted, answer)


def test_impersonation_in_a_trailer_stays_behind(demo: DemoCluster, fronted: Proxy) -> None:
    """What follows the last chunk is no header, and does not reach the API server."""
    body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hostile-trailer"}}).encode()
    with Raw(fronted) as raw:
        head = raw.head(
            f"POST /clusters/demo{_MAPS}?dryRun=All",
            "Content-Type: application/json",
            "Transfer-Encoding: chunked",
            "Trailer: Impersonate-User",
        )
        raw.send(head + b"%x\r\n%b\r\n0\r\nImpersonate-User: system:admin\r\n\r\n" % (len(body), body))
        answer = raw.answer()
        assert answer.code == 201
    events = wait_until(
        lambda: [event for event in _seen_upstream(demo) if event["auditID"] == answer.audit_id],
        "the API server's record",
    )
    assert not [event for event in events if "impersonatedUser" in event]


@pytest.mark.parametrize("upgrade", ["h2c", "HTTP/2.0", "websocket/99", "foo"])
def test_an_upgrade_nobody_knows_is_ignored(fronted: Proxy, upgrade: str) -> None:
    """An offer of another protocol is answered in this one, and what follows is served as what it is."""
    with Raw(fronted) as raw:
        asks = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}", "HTTP2-Settings: AAMAAABkAAQAAP__")
        raw.send(raw.head("GET /clusters/demo/version", *asks) + raw.head(f"GET /clusters/demo{_MAPS}?limit=1"))
        first, second = raw.answer(), raw.answer()
        assert (first.code, first.closes, first.json()["major"]) == (200, False, "1")
        assert (second.code, second.json()["kind"]) == (200, "ConfigMapList")
        assert raw.ask("GET /clusters/demo/version").code == 200
    wanted = {first.audit_id, second.audit_id}
    for record in fronted.ended(lambda call: call["auditID"] in wanted, count=2):
        assert record["outcome"] == "complete"
        assert "upgrade" not in record


def test_what_follows_a_refused_upgrade_is_a_request_of_its_own(demo: DemoCluster, fronted: Proxy) -> None:
    """Bytes sent ahead for a stream that the API server refuses are served, and judged, as the next request."""
    path = "/api/v1/namespaces/default/pods/no-such-pod/exec"
    asks = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Protocol: v5.channel.k8s.io")
    with Raw(fronted) as raw:
        raw.send(
            raw.head(f"GET /clusters/demo{path}?command=x", *asks)
            + raw.head(f"GET /clusters/demo{_MAPS}?limit=2")
            + raw.head(f"GET /clusters/demo{_MAPS}?limit=3", "Impersonate-User: system:admin")
        )
        answers = [raw.answer() for _ in range(3)]
    assert [answer.code for answer in answers][1:] == [200, 403]
    assert answers[0].code in {400, 404}
    assert len({answer.audit_id for answer in answers}) == 3
    _check_refused(demo, fronted, answers[2])
    record = fronted.ended(lambda call: call["auditID"] == answers[1].audit_id)[0]
    assert (record["outcome"], record["requestURI"]) == ("complete", f"{_MAPS}?limit=2")


def test_what_follows_an_upgrade_the_proxy_refuses_is_not_served(demo: DemoCluster, fronted: Proxy) -> None:
    """Where the proxy itself refuses a stream, its connection ends, with whatever was sent ahead."""
    asks = ("Connection: Upgrade", "Upgrade: websocket", "Impersonate-User: system:admin")
    with Raw(fronted) as raw:
        raw.send(raw.head("GET /clusters/demo/api/v1/namespaces/default/pods/toolbox/exec", *asks) + _SMUGGLED)
        answer = raw.answer()
        assert (answer.code, answer.closes) == (403, True)
        assert raw.ended()
    _check_refused(demo, fronted, answer)
    assert "smuggled" not in demo.audit_log.read_text("utf-8")


@pytest.mark.parametrize(
    "sent",
    [b"GET /clusters/demo/version HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x00\x05\x01\x00", b"\0" * 10_000, b""],
    ids=["plain HTTP", "half a handshake", "zeros", "nothing"],
)
def test_what_is_no_tls_just_ends(fronted: Proxy, sent: bytes) -> None:
    """Who does not speak TLS is not answered, leaves no record, and does no harm."""
    address = urlsplit(fronted.url)
    before = _starts(fronted)
    with socket.create_connection((address.hostname, address.port), timeout=60) as plain:
        plain.sendall(sent)
        plain.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while data := plain.recv(65536):
                received += data
        except ConnectionError:
            pass
    assert not received.startswith(b"HTTP")
    assert _starts(fronted) == before
    _check_serves(fronted)


def test_connections_that_end_anywhere_do_no_harm(fronted: Proxy) -> None:
    """A client may go after any byte of a request: nothing half-sent is called."""
    before = [line for line in fronted.lines() if line.get("requestURI") == "/half"]
    with Raw(fronted) as whole:
        head = whole.head("GET /clusters/demo/half")
        for end in range(0, len(head), 9):
            with Raw(fronted) as raw:
                raw.send(head[:end])
        assert whole.ask("GET /clusters/demo/version").code == 200
    assert [line for line in fronted.lines() if line.get("requestURI") == "/half"] == before


@pytest.mark.parametrize("known", [True, False], ids=["authenticated", "unauthenticated"])
def test_a_refused_body_is_not_read_for_ever(demo: DemoCluster, fronted: Proxy, *, known: bool) -> None:
    """A refused call's answer comes while its body is still being sent, and then the connection ends."""
    with Raw(fronted) as raw:
        target = "/clusters/other/api/v1/pods" if known else f"/clusters/demo{_MAPS}"
        token = None if known else "kap_none"
        raw.send(raw.head(f"POST {target}", "Content-Length: 1000000000", token=token) + b"x" * 1000)
        answer = raw.answer("POST")
        assert (answer.code, answer.closes) == (403 if known else 401, True)
        assert raw.ended()
    record = _check_refused(demo, fronted, answer)
    assert ("user" in record) is known
