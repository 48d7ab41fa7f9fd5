"""The proxy speaks HTTP/1.1 as clients of a real API server need it, seen from the wire."""

from __future__ import annotations

import gzip
import json
import uuid
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from support.proxies import wait_until
from support.raw import Raw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_audit_proxy.demo.cluster import DemoCluster
    from support.proxies import Proxy

pytestmark = pytest.mark.servers

_MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
def raw(fronted: Proxy) -> Iterator[Raw]:
    """Give a connection to the proxy."""
    with Raw(fronted) as connection:
        yield connection


def _config_map(name: str = "", **data: str) -> bytes:
    name = name or f"http-{uuid.uuid4()}"
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}).encode()


def _end_of(proxy: Proxy, audit_id: str) -> dict[str, Any]:
    return proxy.ended(lambda call: call["auditID"] == audit_id)[0]


def _events(demo: DemoCluster, audit_id: str) -> list[dict[str, Any]]:
    """What the API server's own audit log says of a call."""
    events = map(json.loads, demo.audit_log.read_bytes().splitlines())
    return [event for event in events if event["auditID"] == audit_id]


def test_many_calls_on_one_connection(fronted: Proxy, raw: Raw) -> None:
    """A connection serves call after call; each has its own record, under the Audit-Id of its answer."""
    answers = [raw.ask(f"GET /clusters/demo{_MAPS}?limit={number}") for number in range(1, 51)]
    assert {(answer.code, answer.closes) for answer in answers} == {(200, False)}
    records = [_end_of(fronted, answer.audit_id) for answer in answers]
    assert [record["requestURI"] for record in records] == [f"{_MAPS}?limit={number}" for number in range(1, 51)]


def test_pipelined_requests_are_answered_in_order(fronted: Proxy, raw: Raw) -> None:
    """Requests sent without waiting are answered in their order, bodies and all, each with its own record."""
    created = _config_map("http-pipelined")
    post = raw.head(f"POST /clusters/demo{_MAPS}", "Content-Type: application/json", f"Content-Length: {len(created)}")
    raw.send(
        raw.head("GET /clusters/demo/version")
        + post
        + created
        + raw.head("GET /clusters/demo/nothing/here")
        + raw.head(f"GET /clusters/demo{_MAPS}/http-pipelined")
        + raw.head(f"DELETE /clusters/demo{_MAPS}/http-pipelined")
        + raw.head("GET /clusters/other/version")
        + raw.head("GET /clusters/demo/version")
    )
    answers = [raw.answer() for _ in range(7)]
    assert [answer.code for answer in answers] == [200, 201, 404, 200, 200, 403, 200]
    assert answers[3].json()["metadata"]["name"] == "http-pipelined"
    records = [_end_of(fronted, answer.audit_id) for answer in answers]
    assert [record["method"] for record in records] == ["GET", "POST", "GET", "GET", "DELETE", "GET", "GET"]
    assert [record["seq"] for record in records] == sorted(record["seq"] for record in records)


@pytest.mark.parametrize("size", [1, 7, 100_000], ids=["byte by byte", "in small chunks", "in one"])
def test_a_chunked_body_arrives(fronted: Proxy, raw: Raw, size: int) -> None:
    """An object sent in chunks is created as it is, however the chunks and packets are cut."""
    body = _config_map(text="é" * 50)
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    wire = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    head = raw.head(f"POST /clusters/demo{_MAPS}", "Content-Type: application/json", "Transfer-Encoding: chunked")
    if size == 1:
        for byte in head + wire:
            raw.send(bytes([byte]))
    else:
        raw.send(head + wire)
    answer = raw.answer()
    assert (answer.code, answer.json()["data"]) == (201, {"text": "é" * 50})
    assert _end_of(fronted, answer.audit_id)["request_bytes"] == len(body)
    assert raw.ask("GET /clusters/demo/version").code == 200


@pytest.mark.parametrize("cuts", [(1,), (10, 11, 12), (40, 200)], ids=str)
def test_a_body_split_anywhere_arrives(fronted: Proxy, raw: Raw, cuts: tuple[int, ...]) -> None:
    """A body of known length is whole wherever the packets end, in the head too."""
    body = _config_map(text="x" * 300)
    headers = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    wire = raw.head(f"POST /clusters/demo{_MAPS}", *headers) + body
    length = len(wire) - len(body)
    places = [0, *cuts, *(length + cut for cut in cuts), len(wire)]
    for start, end in pairwise(places):
        raw.send(wire[start:end])
    answer = raw.answer()
    assert (answer.code, answer.json()["data"]["text"]) == (201, "x" * 300)
    assert _end_of(fronted, answer.audit_id)["request_bytes"] == len(body)


def test_a_long_body_passes(fronted: Proxy, raw: Raw) -> None:
    """2 MiB go up, and it is the API server that says what is too large to be stored."""
    body = _config_map(text="x" * (2 << 20))
    answer = raw.ask(f"POST /clusters/demo{_MAPS}?dryRun=All", "Content-Type: application/json", body=body)
    record = _end_of(fronted, answer.audit_id)
    assert (record["decided_by"], record["request_bytes"]) == ("apiserver", len(body))
    assert answer.code == 422
    assert "may not be more than 1048576 bytes" in answer.message()


def test_a_body_over_the_api_servers_limit_is_its_413(fronted: Proxy, raw: Raw) -> None:
    """A body that the API server will not read to its end gets the API server's own answer."""
    body = _config_map(text="x" * (4 << 20))
    answer = raw.ask(f"POST /clusters/demo{_MAPS}", "Content-Type: application/json", body=body)
    assert (answer.code, answer.json()["reason"]) == (413, "RequestEntityTooLarge")
    assert _end_of(fronted, answer.audit_id)["decided_by"] == "apiserver"


def test_expect_continue(fronted: Proxy, raw: Raw) -> None:
    """Who asks before sending a body is told to go on, once, and then gets the answer."""
    body = _config_map()
    headers = ("Content-Type: application/json", f"Content-Length: {len(body)}", "Expect: 100-continue")
    raw.send(raw.head(f"POST /clusters/demo{_MAPS}", *headers))
    assert raw.answer().code == 100
    raw.send(body)
    answer = raw.answer()
    assert answer.code == 201
    assert _end_of(fronted, answer.audit_id)["outcome"] == "complete"


def test_expect_continue_of_a_refused_call(fronted: Proxy, raw: Raw) -> None:
    """Who asks before sending a body that nobody wants is told so at once."""
    raw.send(raw.head("POST /clusters/other/api", "Content-Length: 1000", "Expect: 100-continue"))
    answer = raw.answer()
    assert (answer.code, answer.closes) == (403, True)
    assert _end_of(fronted, answer.audit_id)["outcome"] == "refused"


@pytest.mark.parametrize("target", ["/version", _MAPS])
def test_http_1_0(fronted: Proxy, raw: Raw, target: str) -> None:
    """A client of HTTP/1.0 gets an answer without chunks that ends with its connection."""
    raw.send(
        f"GET /clusters/demo{target} HTTP/1.0\r\nAuthorization: Bearer {raw.token}\r\n"
        "Connection: keep-alive\r\n\r\n".encode()
    )
    answer = raw.answer()
    assert (answer.code, answer.header("transfer-encoding"), answer.closes) == (200, "", True)
    assert answer.json()
    assert raw.ended()
    assert raw.was_closed_in_order
    assert _end_of(fronted, answer.audit_id)["outcome"] == "complete"


def test_http_1_0_watch_ends_with_its_connection(fronted: Proxy, raw: Raw) -> None:
    """A stream of unknown length goes to a client of HTTP/1.0 without chunks, up to the end of the connection."""
    target = f"/clusters/demo{_MAPS}?watch=1&timeoutSeconds=1"
    raw.send(f"GET {target} HTTP/1.0\r\nAuthorization: Bearer {raw.token}\r\n\r\n".encode())
    answer = raw.answer()
    assert (answer.header("transfer-encoding"), answer.header("content-length")) == ("", "")
    assert all(json.loads(line)["type"] == "ADDED" for line in answer.body.splitlines())
    assert raw.was_closed_in_order
    assert _end_of(fronted, answer.audit_id)["outcome"] == "complete"


def test_head_has_no_body(fronted: Proxy, raw: Raw) -> None:
    """HEAD is answered by a head alone, and the connection goes on."""
    for _ in range(3):
        answer = raw.ask("HEAD /clusters/demo/healthz")
        assert answer.code == 200
        assert raw.ask("GET /clusters/demo/version").json()["major"]
    assert _end_of(fronted, answer.audit_id)["method"] == "HEAD"
    assert raw.ask("HEAD /clusters/other/version").code == 403
    assert raw.ask("GET /clusters/demo/version").code == 200


def test_discovery_is_revalidated(fronted: Proxy, raw: Raw) -> None:
    """If-None-Match gets its 304, without a body, and the connection goes on."""
    accept = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    first = raw.ask("GET /clusters/demo/apis", accept)
    tag = first.header("etag")
    again = raw.ask("GET /clusters/demo/apis", accept, f"If-None-Match: {tag}")
    assert (first.code, again.code, again.header("etag"), bool(tag)) == (200, 304, tag, True)
    assert raw.ask("GET /clusters/demo/version").code == 200
    assert _end_of(fronted, again.audit_id)["status"] == 304


def test_gzip_passes_as_it_is(fronted: Proxy, raw: Raw) -> None:
    """What the API server compresses arrives compressed, and what it does not arrives plain."""
    zipped = raw.ask("GET /clusters/demo/openapi/v2", "Accept-Encoding: gzip")
    plain = raw.ask("GET /clusters/demo/openapi/v2")
    assert (zipped.header("content-encoding"), plain.header("content-encoding")) == ("gzip", "")
    assert gzip.decompress(zipped.body) == plain.body
    assert _end_of(fronted, zipped.audit_id)["response_bytes"] == len(zipped.body) < len(plain.body)


def test_watch_events_arrive_one_by_one(fronted: Proxy, raw: Raw) -> None:
    """Each event is passed on as it happens; that the client leaves is on record as such."""
    version = raw.ask(f"GET /clusters/demo{_MAPS}?limit=1").json()["metadata"]["resourceVersion"]
    with Raw(fronted) as watching:
        watching.send(watching.head(f"GET /clusters/demo{_MAPS}?watch=1&resourceVersion={version}"))
        code, _, headers = watching.answer_head()
        assert (code, dict(headers)["transfer-encoding"]) == (200, "chunked")
        for name in ("http-watched-1", "http-watched-2"):
            created = raw.ask(f"POST /clusters/demo{_MAPS}", "Content-Type: application/json", body=_config_map(name))
            assert created.code == 201
            event: dict[str, Any] = {}
            while event.get("object", {}).get("metadata", {}).get("name") != name:
                event = json.loads(watching.chunk())
            assert event["type"] == "ADDED"
    record = _end_of(fronted, dict(headers)["audit-id"])
    assert (record["verb"], record["outcome"], record["status"]) == ("watch", "client_gone", 200)
    assert (record["decision"], record["decided_by"]) == ("allow", "apiserver")


def test_a_watch_that_ends_is_complete(fronted: Proxy, raw: Raw) -> None:
    """A watch ended by the API server ends in good order, and the connection goes on."""
    answer = raw.ask(f"GET /clusters/demo{_MAPS}?watch=1&timeoutSeconds=1")
    assert answer.code == 200
    assert raw.ask("GET /clusters/demo/version").code == 200
    record = _end_of(fronted, answer.audit_id)
    assert (record["verb"], record["outcome"]) == ("watch", "complete")
    stages = [line["stage"] for line in fronted.lines() if line.get("auditID") == answer.audit_id]
    assert stages == ["RequestReceived", "ResponseStarted", "ResponseComplete"]


def test_a_head_of_a_mebibyte_passes(demo: DemoCluster, fronted: Proxy, raw: Raw) -> None:
    """An argument almost as long as the API server allows goes through, and is recorded whole."""
    argument = "a" * ((1 << 20) - 4096)
    path = "/api/v1/namespaces/default/pods/toolbox/exec"
    answer = raw.ask(f"POST /clusters/demo{path}?command={argument}&container=toolbox&stdout=true")
    record = _end_of(fronted, answer.audit_id)
    assert (answer.code, record["decided_by"], record["exec_argv"]) == (400, "apiserver", [argument])
    assert _events(demo, answer.audit_id)


@pytest.mark.parametrize("size", [2 << 20, 8 << 20], ids=["over", "far over"])
@pytest.mark.parametrize("where", ["target", "header", "many headers"])
def test_a_head_over_the_limit_is_a_431(fronted: Proxy, where: str, size: int) -> None:
    """A head longer than anybody needs is refused as such, and its client is heard out."""
    long = {
        "target": ("GET /clusters/demo/" + "a" * size,),
        "header": ("GET /clusters/demo/version", "X-Long: " + "a" * size),
        "many headers": ("GET /clusters/demo/version", *(f"X-{number}: {'a' * 90}" for number in range(size // 100))),
    }[where]
    with Raw(fronted) as raw:
        raw.send(raw.head(*long))
        answer = raw.answer()
        assert (answer.code, answer.closes) == (431, True)
        assert "too large" in answer.message()
        assert raw.ended()
    record = _end_of(fronted, answer.audit_id)
    assert (record["outcome"], record["decided_by"]) == ("refused", "proxy")


def test_what_a_client_may_not_say_stays_behind(demo: DemoCluster, fronted: Proxy, raw: Raw) -> None:
    """A client names neither its call, nor its address, nor its user, nor a trace; its cookies stay with it."""
    theirs = str(uuid.uuid4())
    answer = raw.ask(
        f"GET /clusters/demo{_MAPS}?limit=7",
        f"Audit-ID: {theirs}",
        "X-Forwarded-For: 10.9.8.7",
        "X-Real-Ip: 10.9.8.7",
        "X-Remote-User: eve",
        "X-Remote-Group: system:masters",
        "X_Remote_User: eve",
        "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "Cookie: session=secret",
    )
    assert answer.code == 200
    assert answer.audit_id != theirs
    assert _events(demo, theirs) == []
    events = wait_until(lambda: _events(demo, answer.audit_id), "the API server's record")
    assert {event["user"]["username"] for event in events} == {"demo-owner"}
    assert {address for event in events for address in event["sourceIPs"]} == {"127.0.0.1"}
    record = _end_of(fronted, answer.audit_id)
    assert record["sourceIPs"] == ["127.0.0.1"]
    assert "secret" not in json.dumps(record)


def test_both_records_have_one_id(demo: DemoCluster, fronted: Proxy, raw: Raw) -> None:
    """The API server's audit log knows a call by the auditID of our record and the Audit-Id of the answer."""
    answer = raw.ask(f"GET /clusters/demo{_MAPS}?limit=3")
    record = _end_of(fronted, answer.audit_id)
    events = wait_until(lambda: _events(demo, answer.audit_id), "the API server's record")
    assert {event["requestURI"] for event in events} == {record["requestURI"]}
    assert len([line for line in fronted.lines() if line.get("auditID") == answer.audit_id]) == 2


def test_no_token_is_kept_anywhere(demo: DemoCluster, fronted: Proxy, raw: Raw) -> None:
    """Neither a client's token nor the proxy's own is in any file of the data directory but kubeconfigs."""
    assert raw.ask("GET /clusters/demo/version").code == 200
    unknown = "kap_nobodys-0123456789"
    raw.send(raw.head("GET /clusters/demo/version", token=unknown))
    assert raw.answer().code == 401
    raw.send(raw.head(f"GET /clusters/demo{_MAPS}?limit=9"))
    _end_of(fronted, raw.answer().audit_id)
    files = [path for path in fronted.data_dir.rglob("*") if path.is_file() and path.suffix != ".kubeconfig"]
    files = [path for path in files if path != fronted.kubeconfig] + [fronted.log]
    assert any(path.suffix == ".jsonl" for path in files)
    for path in files:
        content = path.read_bytes()
        for token in (raw.token, demo.token, unknown):
            assert token.encode() not in content, path
