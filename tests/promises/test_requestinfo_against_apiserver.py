"""What a call is about, by our record and by the API server's own audit log, for thousands of generated requests."""

from __future__ import annotations

import json
import random
import ssl
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest

from kube_audit_proxy.kube.requestinfo import RequestInfo, refusal, request_info
from kube_audit_proxy.kube.targets import BadTarget
from support.proxies import Proxy, proxy
from support.raw import Raw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_audit_proxy.demo.cluster import DemoCluster

pytestmark = pytest.mark.servers

_REQUESTS = 4000
_CONNECTIONS = 4
_AHEAD = 20
"""Requests that a connection sends before it reads their answers."""

_FIELDS = {
    "verb": "verb", "resource": "resource", "subresource": "subresource", "group": "apiGroup", "version": "apiVersion",
    "namespace": "namespace", "name": "name",
}  # fmt: skip
"""Ours by theirs: all but the verb stand in an event's `objectRef`."""

# Nothing here exists or can be changed: writes are to groups that are not served or to a namespace that is not there.

_NOWHERE = "not-there"
_READABLE = (
    ("api/v1", ("pods", "services", "secrets", "configmaps", "events", "serviceaccounts", "nodes", "namespaces",
                "persistentvolumes", "componentstatuses", "endpoints", "replicationcontrollers", "limitranges",
                "bindings")),
    ("apis/apps/v1", ("deployments", "statefulsets", "daemonsets", "replicasets", "controllerrevisions")),
    ("apis/batch/v1", ("jobs", "cronjobs")),
    ("apis/rbac.authorization.k8s.io/v1", ("roles", "rolebindings", "clusterroles", "clusterrolebindings")),
    ("apis/networking.k8s.io/v1", ("ingresses", "networkpolicies", "ingressclasses")),
    ("apis/storage.k8s.io/v1", ("storageclasses", "volumeattachments", "csinodes")),
    ("apis/policy/v1", ("poddisruptionbudgets",)),
    ("apis/coordination.k8s.io/v1", ("leases",)),
    ("apis/apiextensions.k8s.io/v1", ("customresourcedefinitions",)),
    ("apis/autoscaling/v2", ("horizontalpodautoscalers",)),
    ("apis/authentication.k8s.io/v1", ("tokenreviews", "selfsubjectreviews")),
)  # fmt: skip
_UNSERVED = ("api/v9", "apis/example.com/v1", "apis/apps/v0", "apis/g", "apis", "api", "apis/a.b/v1alpha1")
_SUBRESOURCES = (
    "status", "scale", "finalize", "log", "exec", "attach", "portforward", "proxy", "proxy/a/b", "eviction", "binding",
    "ephemeralcontainers", "resize", "token", "approval", "status/more", "x", "proxy/",
)  # fmt: skip
_PREFIXES = ("",) * 8 + ("watch/", "proxy/", "watch/watch/", "proxy/watch/")
_NAMES = (
    "a", "web-1", "x.y", "a:b", "https:web:443", "a+b", "a@b", "A", "é", "e\u0301", "日本", "a b", "a;b", "a=b&c", "%",
    "a%2Fb",
    "~", "*", "(a)", "'", '"', "[a]", "{a}", "a,b", "$", "status", "watch", "namespaces", "proxy", "-", "_", "0",
    "x" * 253,
)  # fmt: skip
_ODD = (
    "",
    ".",
    "..",
    "%2e",
    "%2E%2e",
    "..;",
    "%2f",
    "a%2fexec",
    "%5c",
    "a%00",
    "%C0%AF",
    "%ff",
    "%zz",
    "%",
    ";a",
    "%252f",
    "%0a",
)
_SELECTORS = (
    "metadata.name=a", "metadata.name%3Da", "metadata.name==a", "metadata.name!=a", "metadata.name=a,metadata.name=b",
    "metadata.name=a,metadata.namespace=b", "metadata.namespace=b,metadata.name=a", "metadata.name=a\\,b",
    "metadata.name=a%2Fb", "metadata.name=", "metadata.name", "spec.nodeName=a", "metadata.name=..",
    "metadata.name=a%25b",
    "metadata.name%3D%C3%A9", "metadata.name=a,x", "+metadata.name=a", "metadata.name=+a", "x\\=y=z,metadata.name=a",
    ",",
)  # fmt: skip
_LABELS = (
    "a=b",
    "a%3Db,c!%3Dd",
    "a+in+(b,c)",
    "a+notin+()",
    "!a",
    "a,b",
    "=",
    "a=b=c",
    "a%3E1",
    "a<x",
    "-a",
    "a/b/c=d",
    "a==b",
    "",
)
_QUERIES = (
    "", "", "", "?", "?limit=1", "?limit=", "?limit=x", "?limit=9223372036854775808", "?pretty=true", "?dryRun=All",
    "?a;b",
    "?watch=false", "?watch=0", "?watch=0&watch=1", "?watch=%zz", "?Watch=1", "?timeoutSeconds=-1",
    "?resourceVersion=0",
    "?a=%zz&limit=1", "?limit=1&limit=x", "?command=a&command=b", "?watch=FALSE", "?watch=1;limit=1",
    "?allowWatchBookmarks=x",
)  # fmt: skip
_WATCHES = (
    "watch=1",
    "watch=true",
    "watch",
    "watch=",
    "watch=yes",
    "%77atch=1",
    "watch=00",
    "watch=+1",
    "watch=%31",
    "watch=f",
)
_PATHS = (
    "/", "/api", "/apis", "/api/", "/apis/", "/api/v1", "/apis/apps", "/apis/apps/v1", "/version", "/healthz",
    "/livez/ping",
    "/readyz?verbose", "/metrics/slis", "/openapi/v2/x", "/openapi/v3", "/logs/", "/debug/pprof/x", "/.well-known/x",
    "/x/api/v1/pods",
    "/apis/apps/v1/", "/api/v1/namespaces", "/api/v1/namespaces/", "/API/v1/pods", "/api/V1/pods", "/%61pi/v1/pods",
    "/api%2fv1/pods",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One request; its id is the User-Agent, by which the two records of it are found."""

    id: str
    method: str
    target: str


def _case(choose: random.Random, number: int) -> Case:
    kind = choose.random()
    if kind < 0.06:
        method, target = choose.choice(("GET", "HEAD", "OPTIONS", "POST")), choose.choice(_PATHS)
    else:
        method, target = _resource(choose)
    return Case(f"case-{number}", method, target)


def _resource(choose: random.Random) -> tuple[str, str]:
    """A request for a resource of any kind; what would change or last is asked of what is not there."""
    method = choose.choice(("GET",) * 8 + ("HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"))
    base, resources = choose.choice(_READABLE)
    prefix = choose.choice(_PREFIXES)
    query = choose.choice(_QUERIES)
    watches = choose.random() < 0.15
    namespace = choose.choice((_NOWHERE, _NOWHERE, "", "default", "é"))
    if choose.random() < 0.3:
        query = _with(query, f"fieldSelector={choose.choice(_SELECTORS)}")
    if choose.random() < 0.2:
        query = _with(query, f"labelSelector={choose.choice(_LABELS)}")
    if method not in {"GET", "HEAD", "OPTIONS"}:
        base, namespace = choose.choice(_UNSERVED) if choose.random() < 0.6 else base, _NOWHERE
    if watches or prefix:
        base = choose.choice(_UNSERVED)  # else it would last
        query = _with(query, choose.choice(_WATCHES)) if watches else query
    resource = choose.choice(resources) if choose.random() < 0.95 else quote(choose.choice(_NAMES))
    parts = [f"namespaces/{quote(namespace)}"] * bool(namespace) + [resource]
    if choose.random() < 0.6:
        parts.append(quote(choose.choice(_NAMES)))
        if choose.random() < 0.5:
            parts.append(choose.choice(_SUBRESOURCES))
    path = f"{base}/{prefix}{'/'.join(parts)}"
    if choose.random() < 0.15 and method in {"GET", "HEAD"}:
        at = choose.randrange(path.count("/") + 2)
        pieces = path.split("/")
        path = "/".join([*pieces[:at], choose.choice(_ODD), *pieces[at:]])
    return method, f"/{path}{choose.choice(('', '', '', '/'))}{query}"


def _with(query: str, parameter: str) -> str:
    return f"{query}{'&' if '?' in query else '?'}{parameter}"


def _known(info: RequestInfo) -> dict[str, str]:
    found = {field: getattr(info, field) for field in _FIELDS}
    return {field: value for field, value in found.items() if value}


def _by_the_api_server(event: dict[str, Any]) -> dict[str, str]:
    about = {**event.get("objectRef", {}), "verb": event["verb"]}
    return {ours: about[theirs] for ours, theirs in _FIELDS.items() if about.get(theirs)}


def _events(demo: DemoCluster, wanted: set[str]) -> dict[str, dict[str, str]]:
    """What the API server says that each of these calls is about, before it did anything with it."""
    found = {}
    with demo.audit_log.open(encoding="utf-8") as lines:
        for line in lines:
            if '"RequestReceived"' in line and (event := json.loads(line))["auditID"] in wanted:
                found[event["auditID"]] = _by_the_api_server(event)
    return found


@pytest.fixture(scope="module")
def own(demo: DemoCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Give a proxy of this file's own: thousands of calls are nothing for the trail of others."""
    home = tmp_path_factory.mktemp("requestinfo")
    with proxy(["--kubeconfig", str(demo.kubeconfig)], home / "data", home / "proxy.log") as running:
        yield running


def _cases() -> list[Case]:
    choose = random.Random(20261127)  # noqa: S311 - the same each time is what is wanted
    return [_case(choose, number) for number in range(_REQUESTS)]


def _ask(own: Proxy, cases: list[Case]) -> None:
    """Send these requests over one kept connection, many ahead of their answers."""
    with Raw(own) as raw:
        for at in range(0, len(cases), _AHEAD):
            some = cases[at : at + _AHEAD]
            raw.send(
                b"".join(
                    raw.head(f"{case.method} /clusters/demo{case.target}", f"User-Agent: {case.id}", *_body(case))
                    for case in some
                )
            )
            for case in some:
                raw.answer(case.method)


def _body(case: Case) -> tuple[str, ...]:
    return ("Content-Length: 0",) if case.method in {"POST", "PUT", "PATCH", "DELETE"} else ()


def test_our_record_and_the_api_servers_agree(demo: DemoCluster, own: Proxy) -> None:
    """Verb, resource, subresource, group, version, namespace and name of each call are the API server's own."""
    cases = [case for case in _cases() if _passes(case)]
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        list(pool.map(lambda some: _ask(own, some), (cases[at::_CONNECTIONS] for at in range(_CONNECTIONS))))
    ids = {case.id for case in cases}
    ends = own.ended(lambda call: call.get("userAgent") in ids, count=len(cases))
    assert {call["userAgent"] for call in ends} == ids
    assert {call["outcome"] for call in ends if call["status"] != 503} == {"complete"}  # a disk may be slow
    ends = [call for call in ends if call["decided_by"] == "apiserver"]
    assert len(ends) > len(cases) * 0.9
    events = _events(demo, {call["auditID"] for call in ends})
    ours = {call["auditID"]: {field: call[field] for field in _FIELDS if field in call} for call in ends}
    differing = [
        (call["method"], call["requestURI"], ours[call["auditID"]], events[call["auditID"]])
        for call in ends
        if ours[call["auditID"]] != events[call["auditID"]]
    ]
    assert not differing
    assert len({tuple(found.items()) for found in ours.values()}) > len(cases) // 4
    assert {found["verb"] for found in ours.values() if "verb" in found} >= {
        "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy", "options", "head",
    }  # fmt: skip


def _passes(case: Case) -> bool:
    try:
        request_info(case.method, case.target)
    except BadTarget:
        return False
    return refusal(case.target) is None


def test_what_the_proxy_refuses_is_understood_alike_too(demo: DemoCluster) -> None:
    """The targets that are refused for being ambiguous mean to the API server what our record of the refusal says."""
    refused = [case for case in _cases() if not _passes(case) and case.target.isascii() and _can_be_sent(case.target)]
    expected: dict[str, dict[str, str]] = {}
    address = urlsplit(demo.server)
    context = ssl.create_default_context(cafile=str(demo.ca_file))
    with ExitStack() as stack:
        connection = HTTPSConnection(str(address.hostname), address.port, context=context, timeout=60)
        stack.callback(connection.close)
        for case in refused:
            audit_id = str(uuid.uuid4())
            connection.putrequest(case.method, case.target, skip_accept_encoding=True)
            connection.putheader("Authorization", f"Bearer {demo.token}")
            connection.putheader("Audit-ID", audit_id)
            connection.endheaders()
            connection.getresponse().read()
            try:
                expected[audit_id] = _known(request_info(case.method, case.target))
            except BadTarget:
                expected[audit_id] = {}
    events = _events(demo, set(expected))
    assert len(refused) > _REQUESTS // 50
    assert [(expected[audit_id], event) for audit_id, event in events.items() if expected[audit_id] != event] == []
    unread = [audit_id for audit_id in expected if audit_id not in events]
    assert not [expected[audit_id] for audit_id in unread if expected[audit_id]]


def _can_be_sent(target: str) -> bool:
    return not set(target) & set(map(chr, range(0x21)))
