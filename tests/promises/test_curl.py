"""curl, in all the ways it can ask: the same answers through the proxy as without it, and each on record."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from servers.node import Node
from support.backend import CONTENT, backend
from support.curl import Answer, argv, ask, curl
from support.proxies import proxy, wait_until
from support.trail import Trail, has, what
from support.ways import Way, alike, direct, through

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_audit_proxy.demo.cluster import DemoCluster
    from support.proxies import Proxy

pytestmark = pytest.mark.servers

_CORE = "/api/v1/namespaces/default"
_MAPS = f"{_CORE}/configmaps"
_SYSTEM_MAPS = "/api/v1/namespaces/kube-system/configmaps"
_ROOTS = f"{_SYSTEM_MAPS}/kube-root-ca.crt"  # always the same to the last byte: a list has the version of all of etcd
_ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles"  # a table of most others tells ages, which go on
_JSON = ("--header", "Content-Type: application/json")


@dataclass(frozen=True, slots=True)
class Ways:
    """Both ways to the cluster."""

    direct: Way
    fronted: Way


@pytest.fixture(scope="module")
def fronted(demo: DemoCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Give a proxy of these tests' own: what other clients never ask stands in its trail alone."""
    home = tmp_path_factory.mktemp("curl")
    with proxy(["--kubeconfig", str(demo.kubeconfig)], home / "data", home / "log") as own:
        yield own


@pytest.fixture(scope="module")
def ways(demo: DemoCluster, fronted: Proxy) -> Ways:
    """Give both ways to the demo cluster."""
    return Ways(direct(demo), through(fronted))


# Of one call only; Connection and the framing are each leg's own.
_OWN_HEADERS = frozenset({"audit-id", "date", "connection", "content-length", "transfer-encoding"})
_VERSIONS = frozenset({"--http1.0", "--http2", "--http2-prior-knowledge"})


def _ask_directly(ways: Ways, path: str, *arguments: str, stdin: bytes = b"") -> Answer:
    """Ask the API server itself, in the one version of HTTP that both speak."""
    return ask(ways.direct, path, "--http1.1", *(each for each in arguments if each not in _VERSIONS), stdin=stdin)


def _same(answer: Answer) -> tuple[object, ...]:
    """What has to be the same whichever way it came."""
    headers = {name: value for name, value in answer.headers.items() if name not in _OWN_HEADERS}
    body: Any = answer.body
    if body.startswith(b"{") and answer.code != 206:
        body = alike(answer.json())
    if "boundary=" in answer.header("content-type"):
        boundary = answer.header("content-type").partition("boundary=")[2]
        body, headers["content-type"] = body.replace(boundary.encode(), b"--"), []
    return answer.code, answer.failure, headers, body


@dataclass(frozen=True, slots=True)
class Case:
    """One request, and what its record has."""

    path: str
    arguments: tuple[str, ...] = ()
    verb: str = "get"
    resource: str = ""
    status: int = 200


_LONG = ",".join(f"n{number:06}" for number in range(8_000))

READS = {
    "list": Case(_SYSTEM_MAPS, (), "list", "configmaps"),
    "list over HTTP/1.0": Case(_SYSTEM_MAPS, ("--http1.0",), "list", "configmaps"),
    "large and over HTTP/1.0": Case("/openapi/v2", ("--http1.0",)),
    "HTTP/2 offered": Case(_SYSTEM_MAPS, ("--http2",), "list", "configmaps"),
    "HTTP/2 taken for granted": Case("/version", ("--http2-prior-knowledge",)),
    "closing": Case(_SYSTEM_MAPS, ("--header", "Connection: close"), "list", "configmaps"),
    "HEAD": Case(f"{_CORE}/pods/toolbox", ("--head",), "get", "pods", 405),
    "HEAD of a large one": Case("/openapi/v2", ("--head",), "head"),
    "OPTIONS": Case(_MAPS, ("--request", "OPTIONS"), "", "configmaps", 405),
    "compressed": Case("/openapi/v2", ("--compressed",)),
    "compressed and not unpacked": Case("/openapi/v2", ("--header", "Accept-Encoding: gzip")),
    "a range": Case("/openapi/v2", ("--range", "100-199"), status=206),
    "two ranges": Case("/openapi/v2", ("--range", "0-9,20-29"), status=206),
    "the end": Case("/openapi/v2", ("--range", "-50"), status=206),
    "beyond the end": Case("/openapi/v2", ("--range", "999999999-"), status=416),
    "a table": Case(_ROLES, ("--header", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io"), "list",
                    "clusterroles"),
    "yaml": Case(_ROOTS, ("--header", "Accept: application/yaml"), "get", "configmaps"),
    "protobuf": Case(_ROOTS, ("--header", "Accept: application/vnd.kubernetes.protobuf"), "get", "configmaps"),
    "a type nobody speaks": Case(_SYSTEM_MAPS, ("--header", "Accept: image/png"), "list", "configmaps", 406),
    "missing": Case(f"{_MAPS}/nobody", (), "get", "configmaps", 404),
    "no such path": Case("/nothing/here", status=404),
    "a method not for this": Case(_MAPS, ("--request", "PUT", "--data", "{}"), "update", "configmaps", 405),
    "a long URL": Case(f"{_MAPS}?labelSelector=app%20in%20({_LONG})", (), "list", "configmaps"),
    "logs": Case(f"{_CORE}/pods/toolbox/log?tailLines=2&timestamps=true", (), "get", "pods/log"),
    "health": Case("/readyz?verbose"),
    "a kubelet's own": Case("/api/v1/nodes/node-1/proxy/pods?limit=1", (), "get", "nodes/proxy", 400),
}  # fmt: skip


@pytest.mark.parametrize("case", READS)
def test_a_request_is_answered_as_without_the_proxy(ways: Ways, fronted: Proxy, case: str) -> None:
    """Code, headers and body are those of the API server; the record tells who asked for what, with what."""
    asked = READS[case]
    expected = _ask_directly(ways, asked.path, *asked.arguments)
    trail = Trail(fronted)
    answer = ask(ways.fronted, asked.path, *asked.arguments)
    assert _same(answer) == _same(expected)
    assert answer.version == "1.1"
    end = trail.end()
    assert answer.audit_id in {end["auditID"], ""}  # the kubelet's answers have none
    resource = asked.resource or asked.path.partition("?")[0]
    assert what({"verb": "", **end}) == (asked.verb, resource, asked.status)
    assert has(end, access_method="api", upstream_user="demo-owner", decided_by="apiserver", outcome="complete")
    assert end["userAgent"].startswith("curl/")
    assert end["requestURI"] == asked.path
    assert "command" not in end


def test_one_connection_serves_several_urls(ways: Ways, fronted: Proxy) -> None:
    """A connection is kept from URL to URL, a failure among them, and each is a call of its own."""
    paths = [_SYSTEM_MAPS, f"{_MAPS}/nobody", "/version", f"{_CORE}/pods/toolbox/log", "/openapi/v2", "/version"]
    trail = Trail(fronted)
    answers = curl(ways.fronted, paths)
    assert [answer.code for answer in answers] == [200, 404, 200, 200, 200, 200]
    assert [answer.connects for answer in answers] == [1, 0, 0, 0, 0, 0]
    assert [end["requestURI"] for end in trail.ends(len(paths))] == paths


def test_a_connection_is_closed_where_that_is_asked(ways: Ways) -> None:
    """Connection: close gets an answer that says so, and the next URL a connection of its own."""
    answers = curl(ways.fronted, ["/version", "/version"], "--header", "Connection: close")
    assert [(answer.code, answer.header("connection"), answer.connects) for answer in answers] == [
        (200, "close", 1)
    ] * 2


def test_what_is_known_is_not_sent_again(ways: Ways, fronted: Proxy) -> None:
    """If-None-Match gets a 304 without a body from both, and a stale tag the whole again."""
    path = "/openapi/v2"
    tag = ask(ways.direct, path).header("etag")
    trail = Trail(fronted)
    for sent, code in ((tag, 304), ('"stale"', 200)):
        asked = ("--header", f"If-None-Match: {sent}")
        answer = ask(ways.fronted, path, *asked)
        assert _same(answer) == _same(_ask_directly(ways, path, *asked))
        assert answer.code == code
    assert [end["status"] for end in trail.ends(2)] == [304, 200]


def test_a_method_nobody_knows(ways: Ways, fronted: Proxy) -> None:
    """What is no method of the API is refused with a Status, and on record."""
    for method in ("BREW", "TRACE", "PROPFIND"):
        trail = Trail(fronted)
        answer = ask(ways.fronted, _MAPS, "--request", method)
        end = trail.end()
        assert answer.code == end["status"] in {400, 405}
        assert answer.json()["message"] == end["message"]
        assert has(end, outcome="refused", decided_by="proxy", decision="error")


# Writes. Both ways write in turn, dry, so that each meets the same state.


@pytest.fixture(scope="module")
def config_map(ways: Ways) -> str:
    """Give the path of an object to be written to."""
    name = f"curl-{uuid.uuid4()}"
    made = ask(ways.direct, _MAPS, "--json", _config_map(name).decode())
    assert made.code == 201
    return f"{_MAPS}/{name}"


def _config_map(name: str, **data: str) -> bytes:
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}).encode()


_PATCHES = {
    "json": ("application/json-patch+json", '[{"op":"add","path":"/data","value":{"a":"1"}}]'),
    "merge": ("application/merge-patch+json", '{"data":{"a":"1"}}'),
    "strategic merge": ("application/strategic-merge-patch+json", '{"data":{"a":"1"}}'),
    "apply": ("application/apply-patch+yaml", "apiVersion: v1\nkind: ConfigMap\ndata: {a: '1'}\n"),
    "of no type": ("text/plain", "a"),
    "broken": ("application/json-patch+json", '[{"op":"move"'),
}


@pytest.mark.parametrize("kind", _PATCHES)
def test_a_patch_of_each_type(ways: Ways, fronted: Proxy, config_map: str, kind: str) -> None:
    """Every type of patch does what it does without the proxy, and is a patch in the record."""
    content_type, body = _PATCHES[kind]
    arguments = ("--request", "PATCH", "--header", f"Content-Type: {content_type}", "--data-binary", body)
    path = f"{config_map}?dryRun=All&fieldManager=curl"
    expected = _ask_directly(ways, path, *arguments)
    trail = Trail(fronted)
    assert _same(ask(ways.fronted, path, *arguments)) == _same(expected)
    end = trail.end()
    assert has(end, verb="patch", method="PATCH", resource="configmaps", status=expected.code)
    assert end["request_bytes"] == len(body)
    if kind in {"json", "merge", "strategic merge", "apply"}:
        assert expected.json()["data"] == {"a": "1"}


_CHUNKED = ("--header", "Transfer-Encoding: chunked")
_UPLOADS = {
    "a file": (("--request", "POST", *_JSON, "--data-binary", "@-"), 0),
    "in chunks": (("--request", "POST", *_JSON, *_CHUNKED, "--data-binary", "@-"), 0),
    "as it comes": (("--request", "POST", *_JSON, "--upload-file", "-"), 0),
    "large": (("--request", "POST", *_JSON, "--data-binary", "@-"), 2 << 20),
    "large, in chunks": (("--request", "POST", *_JSON, *_CHUNKED, "--data-binary", "@-"), 2 << 20),
    "large, as it comes": (("--request", "POST", *_JSON, "--upload-file", "-"), 2 << 20),
    "without asking first": (("--request", "POST", *_JSON, "--header", "Expect:", "--data-binary", "@-"), 2 << 20),
    "over HTTP/1.0": (("--http1.0", "--request", "POST", *_JSON, "--data-binary", "@-"), 0),
}


@pytest.mark.parametrize("kind", _UPLOADS)
def test_an_upload_arrives(ways: Ways, fronted: Proxy, kind: str) -> None:
    """A body arrives whole however it is sent: asked for by 100-continue, in chunks, from a pipe."""
    arguments, padding = _UPLOADS[kind]
    body = _config_map("curl-uploaded", text="é" * 100) + b" " * padding
    path = f"{_MAPS}?dryRun=All"
    expected = _ask_directly(ways, path, *arguments, stdin=body)
    trail = Trail(fronted)
    answer = ask(ways.fronted, path, *arguments, stdin=body)
    assert _same(answer) == _same(expected)
    end = trail.end()
    assert has(end, verb="create", resource="configmaps", status=expected.code, outcome="complete")
    assert answer.code == 201
    assert answer.json()["data"] == {"text": "é" * 100}
    assert end["request_bytes"] == len(body)


def test_a_large_body_is_asked_for(ways: Ways) -> None:
    """curl, which asks before it sends more than a mebibyte, is told to go on and does not have to lose patience."""
    body = _config_map("curl-asks") + b" " * (2 << 20)
    target = f"{ways.fronted.url}{_MAPS}?dryRun=All"
    patience = ("--expect100-timeout", "50")
    arguments = ("--verbose", *patience, *_JSON, "--data-binary", "@-", "-o", "/dev/null", target)
    done = subprocess.run(argv(ways.fronted, *arguments), input=body, capture_output=True, check=True)
    told = [line for line in done.stderr.decode().splitlines() if re.match(r"[<>] (HTTP|Expect)", line)]
    assert [line.strip() for line in told] == [
        "> Expect: 100-continue",
        "< HTTP/1.1 100 Continue",
        "< HTTP/1.1 201 Created",
    ]


def test_a_put_replaces(ways: Ways, fronted: Proxy, config_map: str) -> None:
    """An upload from a pipe replaces an object, and a stale version is a conflict as it is without the proxy."""
    name = config_map.rpartition("/")[2]
    replaced = json.loads(_config_map(name, a="2"))
    stale = {**replaced, "metadata": {"name": name, "resourceVersion": "1"}}
    for body, code in ((replaced, 200), (stale, 409)):
        asked, sent = (f"{config_map}?dryRun=All", *_JSON, "--upload-file", "-"), json.dumps(body).encode()
        expected = _ask_directly(ways, *asked, stdin=sent)
        trail = Trail(fronted)
        assert _same(ask(ways.fronted, *asked, stdin=sent)) == _same(expected)
        assert expected.code == code
        assert has(trail.end(), verb="update", method="PUT", status=code, decision="allow")


def test_a_delete_has_its_body(ways: Ways, fronted: Proxy, config_map: str) -> None:
    """What a DELETE says in its body is heeded: a precondition that fails keeps the object."""
    unmet = json.dumps({"preconditions": {"uid": str(uuid.UUID(int=0))}})
    trail = Trail(fronted)
    asked = ("--request", "DELETE", *_JSON, "--data", unmet)
    answer = ask(ways.fronted, config_map, *asked)
    assert _same(answer) == _same(_ask_directly(ways, config_map, *asked))
    assert answer.code == 409
    assert has(trail.end(), verb="delete", status=409, reason="Conflict", request_bytes=len(unmet))
    dry = json.dumps({"dryRun": ["All"], "propagationPolicy": "Background"})
    assert ask(ways.fronted, config_map, "--request", "DELETE", *_JSON, "--data", dry).code == 200
    assert ask(ways.direct, config_map).code == 200


def test_a_collection_is_deleted(ways: Ways, fronted: Proxy) -> None:
    """DELETE of a collection takes what its selector says, and has a verb of its own in the record."""
    for number in range(3):
        body = json.loads(_config_map(f"curl-many-{number}"))
        body["metadata"]["labels"] = {"made-by": "curl"}
        assert ask(ways.fronted, _MAPS, "--json", json.dumps(body)).code == 201
    selected = f"{_MAPS}?labelSelector=made-by%3Dcurl"
    assert len(ask(ways.direct, selected).json()["items"]) == 3
    trail = Trail(fronted)
    assert ask(ways.fronted, selected, "--request", "DELETE").code == 200
    assert has(trail.end(), verb="deletecollection", labelSelector="made-by=curl", status=200)
    assert ask(ways.direct, selected).json()["items"] == []


def test_a_watch_is_shown_as_it_happens(ways: Ways, fronted: Proxy) -> None:
    """Each event is shown when it happens; that it was stopped is on record."""
    name = f"curl-{uuid.uuid4()}"
    target = f"{ways.fronted.url}{_MAPS}?watch=1&fieldSelector=metadata.name%3D{name}"
    trail = Trail(fronted)
    with subprocess.Popen(argv(ways.fronted, "--no-buffer", target), stdout=subprocess.PIPE) as watching:
        try:
            assert watching.stdout is not None
            begun = trail.started(lambda call: call["verb"] == "watch")
            assert has(begun, status=200, name=name)
            assert ask(ways.direct, _MAPS, "--json", _config_map(name).decode()).code == 201
            assert json.loads(watching.stdout.readline())["type"] == "ADDED"
            assert ask(ways.direct, f"{_MAPS}/{name}", "--request", "DELETE").code == 200
            assert json.loads(watching.stdout.readline())["type"] == "DELETED"
        finally:
            watching.terminate()
    assert has(trail.end(), verb="watch", outcome="client_gone", status=200, decision="allow")


def test_logs_are_followed(ways: Ways, fronted: Proxy) -> None:
    """Logs that are followed come line by line, and no answer's end is made up."""
    target = f"{ways.fronted.url}{_CORE}/pods/toolbox/log?follow=true&tailLines=1"
    trail = Trail(fronted)
    with subprocess.Popen(argv(ways.fronted, "--no-buffer", target), stdout=subprocess.PIPE) as following:
        try:
            assert following.stdout is not None
            assert following.stdout.readline() == b"waiting for somebody to need a tool\n"
        finally:
            following.terminate()
    assert has(trail.end(), verb="get", subresource="log", outcome="client_gone", status=200)


# What pods and services serve themselves.


@dataclass(frozen=True, slots=True)
class Served:
    """A web server that the cluster knows as a pod's and as a service's."""

    pod: str
    service: str


@pytest.fixture(scope="module")
def served(ways: Ways, node: Node) -> Iterator[Served]:
    """Give where it is, as paths of the API server. It has the address of our end of the real node's link."""
    host = node.link.host
    name = f"curl-{uuid.uuid4().hex[:8]}"
    with backend(host) as port:
        made = {"name": name}
        containers = [{"name": "web", "image": "web"}]
        spec = {"containers": containers, "schedulerName": "nobody"}  # no kubelet has a say in its address
        address = {"ip": host, "targetRef": {"kind": "Pod", "name": name, "namespace": "default"}}
        subset = {"addresses": [address], "ports": [{"name": "http", "port": port}]}
        ports = [{"name": "http", "port": 80, "targetPort": port}]
        objects: dict[str, dict[str, Any]] = {
            "pods": {"metadata": made, "spec": spec},
            "services": {"metadata": made, "spec": {"ports": ports}},
            "endpoints": {"metadata": made, "subsets": [subset]},
        }
        try:
            for resource, body in objects.items():
                answer = ask(ways.direct, f"{_CORE}/{resource}", "--json", json.dumps(body))
                assert answer.code == 201, answer.body
            status = json.dumps({"status": {"podIP": host, "podIPs": [{"ip": host}]}})
            patch = ("--request", "PATCH", "--header", "Content-Type: application/merge-patch+json", "--data", status)
            answer = ask(ways.direct, f"{_CORE}/pods/{name}/status", *patch)
            assert answer.code == 200, answer.body
            yield Served(f"{_CORE}/pods/{name}:{port}/proxy", f"{_CORE}/services/{name}:http/proxy")
        finally:
            for resource in objects:
                ask(ways.direct, f"{_CORE}/{resource}/{name}", "--request", "DELETE")


@pytest.fixture(params=["pod", "service"])
def root(request: pytest.FixtureRequest, served: Served) -> str:
    """Give the path of the server by each of its names."""
    path: str = getattr(served, request.param)
    return path


_PASSED = {
    "a page": ("/", ()),
    "a query": ("/search?q=a+b%20c&q=d&empty=&%C3%A9=%2F", ()),
    "a long path": (f"/{'x' * 8000}/", ()),
    "escapes": ("/a%20b/%C3%A9/c%3Fd", ()),
    "a post": ("/form", ("--data", "a=1&b=2")),
    "in chunks": ("/form", ("--header", "Transfer-Encoding: chunked", "--data", "a" * 100_000)),
    "a put": ("/file", ("--request", "PUT", "--header", "Expect:", "--data-binary", "@-")),
    "DELETE": ("/file", ("--request", "DELETE")),
    "HEAD": ("/file", ("--head",)),
    "OPTIONS": ("/file", ("--request", "OPTIONS")),
    "401": ("/status/401", ()),
    "404": ("/status/404", ()),
    "418": ("/status/418", ()),
    "503": ("/status/503", ()),
    "a part": ("/part", ("--range", "1000-1999")),
    "zipped": ("/zipped", ("--header", "Accept-Encoding: gzip")),
    "trailers": ("/trailers", ()),
    "over HTTP/1.0": ("/old", ("--http1.0",)),
}


@pytest.mark.parametrize("case", _PASSED)
def test_what_a_pod_or_service_serves_is_its_own(ways: Ways, fronted: Proxy, root: str, case: str) -> None:
    """Requests arrive there as without the proxy, answers come back as they are; the record says pods/proxy."""
    path, arguments = _PASSED[case]
    sent = b"x" * 3_500_000 if "@-" in arguments else b""
    expected = _ask_directly(ways, root + path, *arguments, stdin=sent)
    trail = Trail(fronted)
    answer = ask(ways.fronted, root + path, *arguments, stdin=sent)
    assert _of_a_backend(answer) == _of_a_backend(expected)
    end = trail.end()
    assert has(end, subresource="proxy", namespace="default", status=expected.code, decided_by="apiserver")
    assert has(end, outcome="complete", requestURI=root + path, userAgent=end["userAgent"])
    assert end["name"] == root.split("/")[6]


def _of_a_backend(answer: Answer) -> tuple[object, ...]:
    headers = {name: value for name, value in answer.headers.items() if name not in _OWN_HEADERS}
    headers.pop("trailer", None)  # trailers end at the proxy, as they may
    body: Any = answer.body
    if body.startswith(b"{"):
        body = json.loads(body)
        for name in ("Audit-Id", "X-Forwarded-For"):  # the proxy's own
            body["headers"].pop(name, None)
    return answer.code, answer.failure, headers, body


def test_a_part_and_a_zipped_answer_are_whole(ways: Ways, served: Served) -> None:
    """A range of a file and a compressed one have the bytes that were asked for."""
    assert ask(ways.fronted, f"{served.pod}/part", "--range", "1000-1999").body == CONTENT[1000:2000]
    assert (
        gzip.decompress(ask(ways.fronted, f"{served.pod}/zipped", "--header", "Accept-Encoding: gzip").body) == CONTENT
    )
    assert ask(ways.fronted, f"{served.pod}/zipped", "--compressed").body == CONTENT


def test_a_redirect_is_followed_to_where_it_leads(ways: Ways, fronted: Proxy, root: str) -> None:
    """Who follows redirects gets through the proxy to the place that a redirect names, and both calls are on record."""
    trail = Trail(fronted)
    answer = ask(ways.fronted, f"{root}/to/root", "--location")
    assert (answer.code, answer.json()["path"]) == (200, "/echo?a=1")
    assert [end["requestURI"] for end in trail.ends(2)] == [f"{root}/to/root", f"{root}/echo?a=1"]


@pytest.mark.parametrize("place", ["root", "beside", "dots", "elsewhere"])
def test_a_redirect_names_the_same_place(ways: Ways, root: str, place: str) -> None:
    """Where a redirect leads is the same place of the cluster as without the proxy, or of the world."""
    locations = [ask(way, f"{root}/to/{place}").location.removeprefix(way.url) for way in (ways.direct, ways.fronted)]
    assert locations[0] == locations[1] != ""


def test_cookies_and_tokens_stay_with_whom_they_belong_to(ways: Ways, root: str) -> None:
    """A pod gets neither the client's token nor its cookies, and sets none: it shares its origin with the clusters."""
    answer = ask(ways.fronted, f"{root}/cookie")
    assert (answer.code, answer.header("set-cookie")) == (200, "")
    told = ask(ways.fronted, f"{root}/echo", "--cookie", "session=secret").json()
    assert not {"Cookie", "Authorization"} & told["headers"].keys()
    assert ways.fronted.token not in json.dumps(told)


def test_both_logs_agree_call_by_call(demo: DemoCluster, fronted: Proxy) -> None:
    """What the API server logs of all these calls is what the trail has: verbs, objects, URIs and codes."""
    ends = fronted.ended(lambda end: end["decided_by"] == "apiserver")
    ours = {end["auditID"]: end for end in ends}

    def logged() -> dict[str, Any]:
        events = map(json.loads, demo.audit_log.read_bytes().splitlines())
        found = {event["auditID"]: event for event in events if event["stage"] == "ResponseComplete"}
        return found if found.keys() >= ours.keys() else {}

    theirs = wait_until(logged, "the API server to have logged every call")
    for audit_id, end in ours.items():
        event = theirs[audit_id]
        named = event.get("objectRef", {})
        assert (end.get("verb", ""), end["status"]) == (event["verb"], event["responseStatus"]["code"])
        assert (end["requestURI"], end.get("userAgent")) == (event["requestURI"], event.get("userAgent"))
        for key in ("resource", "subresource", "namespace"):
            assert end.get(key) == named.get(key)
