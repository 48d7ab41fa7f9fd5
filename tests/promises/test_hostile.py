"""What is malformed or meant to mislead ends at the proxy: answered, on record, and never seen by the API server."""

from __future__ import annotations

import base64
import json
import socket
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

from support.proxies import Proxy, proxy, wait_until
from support.raw import Answer, Raw
from support.scripted import Asked, Connection, Scripted
from support.secrets import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_audit_proxy.demo.cluster import DemoCluster

pytestmark = pytest.mark.servers

_MAPS = "/api/v1/namespaces/default/configmaps"
_POST = f"POST /clusters/demo{_MAPS}?dryRun=All HTTP/1.1"
_SMUGGLED = b"GET /clusters/demo/api/v1/namespaces/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


def _seen_upstream(demo: DemoCluster, wanted: str) -> list[dict[str, Any]]:
    """The API server's own records that name `wanted`: an audit id, or a User-Agent."""
    with demo.audit_log.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if f'"{wanted}"' in line]


def _check_refused(demo: DemoCluster, fronted: Proxy, answer: Answer) -> dict[str, Any]:
    """A refusal of the proxy's own: on record as such, and the API server has no trace of it."""
    assert answer.message()
    record = fronted.ended(lambda call: call["auditID"] == answer.audit_id)[0]
    decision = "deny" if answer.code in {401, 403} else "error"
    assert (record["outcome"], record["decided_by"], record["decision"]) == ("refused", "proxy", decision)
    assert record["status"] == answer.code
    assert not _seen_upstream(demo, answer.audit_id)
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
        "TE with a tab behind": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\t\r\n\r\n0\r\n\r\n",
        "TE with a byte behind": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\xff\r\n\r\n0\r\n\r\n",
        "TE with a parameter": b"POST\r\nOURS\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
        "TE in quotes": b'POST\r\nOURS\r\nTransfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
        "TE identity": b"POST\r\nOURS\r\nTransfer-Encoding: identity\r\n\r\n",
        "TE list, other last": b"POST\r\nOURS\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "TE list with nothing first": b"POST\r\nOURS\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
        "TE over two lines": b"POST\r\nOURS\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "TE in HTTP/1.0": b"GET /clusters/demo/version HTTP/1.0\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two CL, different": b"POST\r\nOURS\r\nContent-Length: 0\r\nContent-Length: 4\r\n\r\nabcd",
        "two CL, the same": b"POST\r\nOURS\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
        "CL list": b"POST\r\nOURS\r\nContent-Length: 4, 4\r\n\r\nabcd",
        "CL with a sign": b"POST\r\nOURS\r\nContent-Length: +4\r\n\r\nabcd",
        "CL negative": b"POST\r\nOURS\r\nContent-Length: -4\r\n\r\nabcd",
        "CL hexadecimal": b"POST\r\nOURS\r\nContent-Length: 0x4\r\n\r\nabcd",
        "CL empty": b"POST\r\nOURS\r\nContent-Length:\r\n\r\nabcd",
        "CL too large": b"POST\r\nOURS\r\nContent-Length: 99999999999999999999999\r\n\r\nabcd",
        "two CL, the same, apart": b"POST\r\nContent-Length: 4\r\nOURS\r\ncontent-length: 4\r\n\r\nabcd",
        "CL with a blank in it": b"POST\r\nOURS\r\nContent-Length: 4 4\r\n\r\nabcd",
        "CL with a comma": b"POST\r\nOURS\r\nContent-Length: 4,\r\n\r\nabcd",
        "CL with a fraction": b"POST\r\nOURS\r\nContent-Length: 4.0\r\n\r\nabcd",
        "CL with an underscore": b"POST\r\nOURS\r\nContent-Length: 1_0\r\n\r\nabcd",
        "CL with a NUL": b"POST\r\nOURS\r\nContent-Length: 4\0\r\n\r\nabcd",
        "CL in other digits": "POST\r\nOURS\r\nContent-Length: \u0664\r\n\r\nabcd".encode(),
        "CL and a blank before its colon": b"POST\r\nOURS\r\nContent-Length : 4\r\n\r\nabcd",
        "CL and a tab before its colon": b"POST\r\nOURS\r\nContent-Length\t: 4\r\n\r\nabcd",
        "CL on the first line": b"POST\r\n Content-Length: 4\r\nOURS\r\n\r\nabcd",
        "obs-fold": b"POST\r\nOURS\r\nX-Long: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "obs-fold at once": b"POST\r\n OURS\r\n\r\n",
        "bare LF after the request line": b"POST\nOURS\r\n\r\n",
        "bare LF after a header": b"POST\r\nOURS\r\nX: a\nContent-Length: 0\r\n\r\n",
        "bare LF at the end": b"POST\r\nOURS\r\n\n",
        "bare CR in a header": b"POST\r\nOURS\r\nX: a\rContent-Length: 0\r\n\r\n",
        "NUL in a header": b"POST\r\nOURS\r\nX: a\0b\r\n\r\n",
        "NUL in a name": b"POST\r\nOURS\r\nX\0Y: a\r\n\r\n",
        "blank in a name": b"POST\r\nOURS\r\nX Y: a\r\n\r\n",
        "control character in a name": b"POST\r\nOURS\r\nX\x01Y: a\r\n\r\n",
        "escape in a value": b"POST\r\nOURS\r\nX: \x1b[31m\r\n\r\n",
        "DEL in a value": b"POST\r\nOURS\r\nX: \x7f\r\n\r\n",
        "name not ASCII": "POST\r\nOURS\r\n\u0406mpersonate-User: system:admin\r\n\r\n".encode(),
        "name in wide letters": "POST\r\nOURS\r\n\uff29mpersonate-User: system:admin\r\n\r\n".encode(),
        "name with an accent": b"POST\r\nOURS\r\n\xccmpersonate-User: system:admin\r\n\r\n",
        "name with a mark in it": "POST\r\nOURS\r\nImpersonate\u200b-User: system:admin\r\n\r\n".encode(),
        "no name": b"POST\r\nOURS\r\n: a\r\n\r\n",
        "no colon": b"POST\r\nOURS\r\nX\r\n\r\n",
        "chunk size overflow": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabcd",
        "chunk size no number": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabcd",
        "chunk size with a sign": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\n-4\r\nabcd\r\n0\r\n\r\n",
        "chunk size with 0x": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\n0x4\r\nabcd\r\n0\r\n\r\n",
        "chunk size and a blank": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\n4 \r\nabcd\r\n0\r\n\r\n",
        "chunk with bare LF": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\n4\nabcd\n0\n\n",
        "chunk longer than it says": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        "chunk without its end": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd0\r\n\r\n",
        "chunk size empty": b"POST\r\nOURS\r\nTransfer-Encoding: chunked\r\n\r\n\r\nabcd\r\n0\r\n\r\n",
        "chunk size with an underscore": _CHUNKED + b"\r\n1_0\r\nabcd\r\n0\r\n\r\n",
        "chunk extension with bare LF": _CHUNKED + b"\r\n4;a\nabcd\r\n0\r\n\r\n",
        "chunk extension with bare CR": _CHUNKED + b"\r\n4;a\rb\r\nabcd\r\n0\r\n\r\n",
        "chunk extension with a NUL": _CHUNKED + b"\r\n4;a\0b\r\nabcd\r\n0\r\n\r\n",
        "chunk extension with an open quote": _CHUNKED + b'\r\n4;a="b\r\nabcd\r\n0\r\n\r\n',
        "chunk extension after a blank": _CHUNKED + b"\r\n4 ;a\r\nabcd\r\n0\r\n\r\n",
        "last chunk with bare LF": _CHUNKED + b"\r\n4\r\nabcd\r\n0\r\n\n",
        "trailer with CL": _CHUNKED + b"\r\n4\r\nabcd\r\n0\r\nContent-Length: 50\r\n\r\n",
        "trailer with TE": _CHUNKED + b"\r\n4\r\nabcd\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "trailer with obs-fold": _CHUNKED + b"\r\n4\r\nabcd\r\n0\r\nX: a\r\n b\r\n\r\n",
        "trailer that is no header": _CHUNKED + b"\r\n4\r\nabcd\r\n0\r\nGET / HTTP/1.1\r\n\r\n",
        "tab after the method": b"GET\t/clusters/demo/version HTTP/1.1\r\nOURS\r\n\r\n",
        "blank before the method": b" GET /clusters/demo/version HTTP/1.1\r\nOURS\r\n\r\n",
        "blank after the version": b"GET /clusters/demo/version HTTP/1.1 \r\nOURS\r\n\r\n",
        "word after the version": b"GET /clusters/demo/version HTTP/1.1 x\r\nOURS\r\n\r\n",
        "version in small letters": b"GET /clusters/demo/version http/1.1\r\nOURS\r\n\r\n",
        "HTTP/01.1": b"GET /clusters/demo/version HTTP/01.1\r\nOURS\r\n\r\n",
        "HTTP/1.10": b"GET /clusters/demo/version HTTP/1.10\r\nOURS\r\n\r\n",
        "target without a slash": b"GET clusters/demo/version HTTP/1.1\r\nOURS\r\n\r\n",
        "no target": b"GET  HTTP/1.1\r\nOURS\r\n\r\n",
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
        ("GET /clusters/other/../demo/version", 400, "segment . or .."),
        ("GET /clusters/demo/api/v1/pods/%2E./x", 400, "segment . or .."),
        ("GET /clusters/demo;x/version", 403, "'demo;x'"),
        ("GET /clusters/demo%00/version", 403, "'demo%00'"),
        ("GET /clusters/%64emo/version", 403, "'%64emo'"),
        ("GET /clusters/demo./version", 403, "'demo.'"),
        ("GET /clusters/demo\\..\\x/version", 403, "'demo"),
        ("GET /clusters/demo#/version", 403, "'demo#'"),
        ("GET //other/clusters/demo/version", 400, "empty segment"),
        ("GET /clusters/demo/api/v1//pods", 400, "empty segment"),
        ("GET //", 400, "empty segment"),
        ("GET /%63lusters/demo/version", 403, "--raw"),
        ("GET /clusters%2fdemo/version", 400, "encoded slash"),
        ("GET /CLUSTERS/demo/version", 403, "--raw"),
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
        (["Host: a", "Connection: Audit-ID"], "Connection header"),
        (["Host: a", "Connection: traceparent, close"], "Connection header"),
        (["Host: a", "Connection: X-Forwarded-For"], "Connection header"),
        (["Host: a", "Connection: Impersonate_Group"], "Connection header"),
        (["Host: a", "Connection: Host, Content-Length, Transfer-Encoding"], "Connection header"),
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
    events = wait_until(lambda: _seen_upstream(demo, answer.audit_id), "the API server's record")
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
    [b"\x16\x03\x01\x00\x05\x01\x00", b"\0" * 10_000, b"", b"PATCH /clusters/demo/version HTTP/1.1\r\nHost: a\r\n\r\n"],
    ids=["half a handshake", "zeros", "nothing", "not one of the methods that OpenSSL knows"],
)
def test_what_is_no_tls_just_ends(fronted: Proxy, sent: bytes) -> None:
    """Who does not speak TLS is not answered, leaves no record, and does no harm."""
    before = _starts(fronted)
    assert not _answer_in_plain(fronted, sent).startswith(b"HTTP")
    assert _starts(fronted) == before
    _check_serves(fronted)


def test_plain_http_is_told_of_tls_and_not_served(fronted: Proxy) -> None:
    """A request without TLS is not read, whatever it asks and whoever it is from: one sentence, and no record."""
    before = _starts(fronted)
    with Raw(fronted) as raw:
        request = raw.head(f"POST /clusters/demo{_MAPS}", "Content-Length: 4") + b"{}  " + _SMUGGLED
    head, _, said = _answer_in_plain(fronted, request).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 ")
    assert said == b"this proxy speaks TLS only: write https:// where http:// stands\n"
    assert _starts(fronted) == before
    _check_serves(fronted)


def _answer_in_plain(fronted: Proxy, sent: bytes) -> bytes:
    """Send bytes without TLS, and give all that comes back."""
    address = urlsplit(fronted.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as plain:
        plain.sendall(sent)
        plain.shutdown(socket.SHUT_WR)
        received = b""
        with suppress(ConnectionError):
            while data := plain.recv(65536):
                received += data
    return received


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


_MAP = json.dumps(
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hostile"}, "data": {"a": "b"}}
).encode()
_SIZE = b"%x" % len(_MAP)
_JSON = b"POST\r\nOURS\r\nAGENT\r\nContent-Type: application/json\r\n"
_IN_CHUNKS = _JSON + b"Transfer-Encoding: chunked\r\n\r\n"
_LONG = _JSON + b"Content-Length: %d\r\n" % len(_MAP)


@pytest.mark.parametrize(
    "text",
    {
        "plain": _LONG + b"\r\n" + _MAP,
        "empty lines before": b"\r\n\r\n" + _LONG + b"\r\n" + _MAP,
        "CL with blanks around and zeros": _JSON + b"Content-Length: \t 00%d \t\r\n\r\n" % len(_MAP) + _MAP,
        "CL and an underscore beside it": _LONG + b"Content_Length: 1\r\n\r\n" + _MAP,
        "CL and TE with an underscore": _LONG + b"Transfer_Encoding: chunked\r\n\r\n" + _MAP,
        "one chunk": _IN_CHUNKS + _SIZE + b"\r\n" + _MAP + b"\r\n0\r\n\r\n",
        "TE in capitals, after a tab": _IN_CHUNKS.replace(b" chunked", b"\tCHUNKED ")
        + _SIZE + b"\r\n" + _MAP + b"\r\n0\r\n\r\n",
        "a chunk a byte": _IN_CHUNKS + b"".join(b"1\r\n%c\r\n" % byte for byte in _MAP) + b"0\r\n\r\n",
        "chunk size with zeros": _IN_CHUNKS + b"0" * 40 + _SIZE.upper() + b"\r\n" + _MAP + b"\r\n000\r\n\r\n",
        "chunk extension": _IN_CHUNKS + _SIZE + b";a=b;c\r\n" + _MAP + b"\r\n0;d\r\n\r\n",
        "chunk extension in quotes": _IN_CHUNKS + _SIZE + b';a="b;c \\" 0"\r\n' + _MAP + b"\r\n0\r\n\r\n",
        "trailers": _IN_CHUNKS + _SIZE + b"\r\n" + _MAP + b"\r\n0\r\nHost: other\r\nAuthorization: Bearer other\r\n"
        b"Upgrade: websocket\r\nAudit-ID: other\r\nX-Remote-User: other\r\n\r\n",
    }.items(),
    ids=lambda case: case[0],
)  # fmt: skip
def test_odd_requests_arrive_as_what_they_are(demo: DemoCluster, fronted: Proxy, text: tuple[str, bytes]) -> None:
    """What is odd and yet has one meaning arrives with its whole body, as one call, and so does what follows it."""
    agent = f"hostile-{uuid.uuid4()}"
    with Raw(fronted) as raw:
        first = _wire(raw, text[1]).replace(b"AGENT", b"User-Agent: " + agent.encode(), 1)
        raw.send(first + raw.head(f"GET /clusters/demo{_MAPS}?limit=1", f"User-Agent: {agent}"))
        made, listed = raw.answer("POST"), raw.answer()
        assert (made.code, made.closes, made.json()["data"]) == (201, False, {"a": "b"})
        assert (listed.code, listed.json()["kind"]) == (200, "ConfigMapList")
    ours = fronted.ended(lambda call: call.get("userAgent") == agent, count=2)
    assert [call["auditID"] for call in ours] == [made.audit_id, listed.audit_id]
    assert ours[0]["request_bytes"] == len(_MAP)
    theirs = {event["auditID"]: (event["verb"], event["requestURI"]) for event in _seen_upstream(demo, agent)}
    assert theirs == {call["auditID"]: (call["verb"], call["requestURI"]) for call in ours}


@pytest.mark.parametrize(
    "rest",
    [
        b"zz\r\n",
        b"2\r\n}}}\r\n0\r\n\r\n",
        b"0\r\nContent-Length: 4\r\n\r\n",
        b"0\r\nX Y\r\n\r\n",
        b"0\n\n",
        b"1;a\0\r\n}\r\n0\r\n\r\n",
    ],
    ids=["chunk size", "chunk length", "trailer CL", "trailer", "bare LF", "chunk extension"],
)
def test_a_body_that_turns_out_wrong_is_not_acted_on(demo: DemoCluster, fronted: Proxy, rest: bytes) -> None:
    """A create whose body is malformed after it has begun to go upstream is a 400, and creates nothing."""
    name = f"hostile-{uuid.uuid4()}"
    body = _MAP.replace(b"hostile", name.encode())
    with Raw(fronted) as raw:
        head = raw.head(f"POST /clusters/demo{_MAPS}", "Content-Type: application/json", "Transfer-Encoding: chunked")
        raw.send(head.replace(b"\r\n", f"\r\nUser-Agent: {name}\r\n".encode(), 1) + b"%x\r\n%b\r\n" % (len(body), body))
        wait_until(lambda: _seen_upstream(demo, name), "the call to have begun upstream")
        raw.send(rest + _SMUGGLED)
        answer = raw.answer("POST")
        assert (answer.code, answer.closes) == (400, True)
        assert raw.ended()
        record = fronted.ended(lambda call: call.get("userAgent") == name)[0]
        assert (record["auditID"], record["status"], record["outcome"]) == (answer.audit_id, 400, "refused")
    assert {event["auditID"] for event in _seen_upstream(demo, name)} == {answer.audit_id}
    with Raw(fronted) as raw:
        assert raw.ask(f"GET /clusters/demo{_MAPS}/{name}").code == 404
    assert "smuggled" not in demo.audit_log.read_text("utf-8")


def test_what_follows_a_trailer_that_closes_is_nobodys(demo: DemoCluster, fronted: Proxy) -> None:
    """A request after one whose trailer ends the connection is refused, and not recorded as one of the cluster's."""
    with Raw(fronted) as raw:
        first = _wire(raw, _IN_CHUNKS + _SIZE + b"\r\n" + _MAP + b"\r\n0\r\nConnection: close\r\n\r\n")
        raw.send(first.replace(b"AGENT", b"X: y", 1) + _SMUGGLED)
        assert raw.answer("POST").code == 201
        answer = raw.answer()
        assert (answer.code, answer.closes) == (400, True)
    assert "cluster" not in _check_refused(demo, fronted, answer)


@pytest.mark.parametrize(
    "rest",
    [
        "api/v1/namespaces/default/configmaps/..;", "api/v1/namespaces/default/configmaps/a;b=c",
        "api/v1/namespaces/DEFAULT/pods",
        "api/v1/namespaces/default/configmaps/%252f..%252f", "api/v1/namespaces/default/configmaps/%C0%AE%C0%AE",
        "api/v1/namespaces/default/configmaps/caf%C3%A9", "api/v1/namespaces/default/configmaps/cafe%CC%81",
        "API/v1/pods",
        "api/v1/namespaces/default/configmaps?x=/../..&y=%2f%00", "api/v1/namespaces/default/configmaps/...",
        "version/*",
        "api/v1/namespaces/default/configmaps/%E2%80%AEtxt", "api/v1/namespaces/default/configmaps/%EF%BC%8F",
    ],
)  # fmt: skip
def test_odd_targets_pass_byte_by_byte(demo: DemoCluster, fronted: Proxy, rest: str) -> None:
    """A target that is odd and yet has one meaning is not made any prettier: both trails have its bytes."""
    with Raw(fronted) as raw:
        answer = raw.ask(f"GET /clusters/demo/{rest}")
    record = fronted.ended(lambda call: call["auditID"] == answer.audit_id)[0]
    theirs = {event["requestURI"] for event in _seen_upstream(demo, answer.audit_id)}
    assert ({record["requestURI"]}, theirs) == ({f"/{rest}"}, {f"/{rest}"})
    assert record["decided_by"] == "apiserver"


# What a client says of who it is, and from where.

_FORGED = say(f"forged-{uuid.uuid4()}")
_CLAIMS = (
    "X-Remote-User: FORGED", "x-remote-group: FORGED", "X-REMOTE-EXTRA-SCOPES: FORGED", "X_Remote_User: FORGED",
    "X-Remote-Uid: FORGED", "X-Remote-Group: system:masters, FORGED", "Audit-ID: FORGED", "audit_id: FORGED",
    "X-Forwarded-For: 198.51.100.7, FORGED", "X_Forwarded_For: FORGED", "X-Forwarded-Host: FORGED",
    "X-Forwarded-Proto: FORGED",
    "X-Forwarded-Port: FORGED", "X-Real-Ip: FORGED", "X_Real_IP: FORGED", "Forwarded: for=FORGED", "Via: 1.1 FORGED",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-FORGED", "tracestate: a=FORGED",
    "baggage: a=FORGED",
    "Cookie: session=FORGED", "Proxy-Authorization: Basic FORGED", "Proxy_Authorization: Basic FORGED",
    "Origin: https://FORGED",
    "Proxy-Connection: FORGED", "Keep-Alive: FORGED", "TE: FORGED", "Trailer: FORGED", "HTTP2-Settings: FORGED",
    "Upgrade: FORGED",
    "Sec-WebSocket-Protocol: v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.ENCODED",
    "sec-websocket-protocol: Base64url.Bearer.Authorization.K8s.IO.ENCODED, v5.channel.k8s.io",
    "Sec_WebSocket_Protocol: base64url.bearer.authorization.k8s.io.ENCODED", "Expect: FORGED",
    "Transfer_Encoding: FORGED",
)  # fmt: skip
_ENCODED = base64.urlsafe_b64encode(_FORGED.encode()).rstrip(b"=").decode()


def _claim(line: str) -> str:
    return line.replace("FORGED", _FORGED).replace("ENCODED", _ENCODED)


@dataclass(frozen=True, slots=True)
class Recording:
    """A proxy in front of a server that keeps the head of what it was asked last."""

    proxy: Proxy
    heads: list[Asked]
    jane: str

    def sent(self, *headers: str, token: str | None = None) -> Asked:
        """Make a call with these headers, and give the head that went upstream for it."""
        with Raw(self.proxy) as raw:
            raw.send(raw.head("GET /clusters/demo/api/v1/pods", *headers, token=token))
            answer = raw.answer()
        assert answer.code == 200
        asked = self.heads[-1]
        self.proxy.ended(lambda call: call["auditID"] == asked.header("audit-id"))
        return asked


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    """Give the proxy and the server; the tests below share them."""
    home = tmp_path_factory.mktemp("recording")
    heads: list[Asked] = []

    def keep(connection: Connection, asked: Asked) -> bool:
        heads.append(asked)
        return connection.answer()

    with Scripted() as server:
        server.on("/api/v1/pods", keep)
        content = {
            "clusters": [{"name": "demo", "cluster": {"server": server.url}}],
            "users": [{"name": "own", "user": {"token": say("the-own-credential")}}],
            "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "own"}}],
            "current-context": "demo",
        }
        (home / "kubeconfig").write_text(yaml.safe_dump(content))
        with proxy(["--kubeconfig", str(home / "kubeconfig")], home / "data", home / "proxy.log") as running:
            jane = yaml.safe_load(running.kubeconfig_of("jane", ["shop"]).read_bytes())["users"][0]["user"]["token"]
            yield Recording(running, heads, jane)


@pytest.mark.parametrize("line", _CLAIMS)
def test_no_claim_of_a_client_goes_upstream(recording: Recording, line: str) -> None:
    """Whatever a client says of who it is, from where, and by whom it is traced, none of it leaves the proxy."""
    asked = recording.sent(_claim(line))
    said = "\n".join(f"{name}: {value}" for name, value in asked.headers)
    assert _FORGED not in said
    assert _ENCODED.lower() not in said.lower()
    names = [name for name, _ in asked.headers]
    assert [names.count(name) for name in ("authorization", "x-forwarded-for", "audit-id", "host")] == [1, 1, 1, 1]
    assert (asked.header("authorization"), asked.header("x-forwarded-for")) == (
        "Bearer the-own-credential",
        "127.0.0.1",
    )
    assert not [name for name in names if name.startswith(("impersonate", "x-remote", "x_remote"))]


def test_who_is_impersonated_is_said_once(recording: Recording) -> None:
    """A user is impersonated under the name and groups of their token, whatever else they say."""
    lines = [line for line in _CLAIMS if not line.lower().startswith(("sec", "upgrade", "expect"))]
    asked = recording.sent(*map(_claim, lines), token=recording.jane)
    impersonated = [(name, value) for name, value in asked.headers if name.startswith("impersonate")]
    assert impersonated == [("impersonate-user", "jane"), ("impersonate-group", "shop")]


def test_the_api_server_knows_the_caller_as_we_do(demo: DemoCluster, fronted: Proxy) -> None:
    """With every claim at once, the API server's own record names the user, address and audit id of ours."""
    lines = [line for line in _CLAIMS if not line.lower().startswith(("sec", "upgrade", "expect"))]
    with Raw(fronted) as raw:
        answer = raw.ask("GET /clusters/demo/version", *map(_claim, lines))
    assert answer.code == 200
    record = fronted.ended(lambda call: call["auditID"] == answer.audit_id)[0]
    event = _seen_upstream(demo, answer.audit_id)[0]
    assert event["user"]["username"] == record["upstream_user"]
    assert "impersonatedUser" not in event
    assert set(event["sourceIPs"]) == {"127.0.0.1"} == set(record["sourceIPs"])
    assert _FORGED not in demo.audit_log.read_text("utf-8")
    assert _FORGED not in json.dumps(record)
