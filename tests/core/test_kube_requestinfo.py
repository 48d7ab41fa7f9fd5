"""What a request means to Kubernetes, row by row, against the rules of apiserver's requestinfo.go."""

from dataclasses import asdict

import pytest

from kube_audit_proxy.kube.requestinfo import RequestInfo, request_info
from kube_audit_proxy.kube.targets import BadTarget, decode_path, first_values, query_bool, query_pairs

SELECTED = "fieldSelector=metadata.name%3Dn"

# Method, target, verb, group, version, namespace, resource, subresource, name.
RESOURCES = [
    # Where resource and namespace stand.
    ("GET", "/api/v1/namespaces", "list", "", "v1", "", "namespaces", "", ""),
    ("GET", "/api/v1/namespaces/x", "get", "", "v1", "x", "namespaces", "", "x"),
    ("DELETE", "/api/v1/namespaces/x", "delete", "", "v1", "x", "namespaces", "", "x"),
    ("PUT", "/api/v1/namespaces/x/finalize", "update", "", "v1", "x", "namespaces", "finalize", "x"),
    ("PUT", "/api/v1/namespaces/x/status", "update", "", "v1", "x", "namespaces", "status", "x"),
    ("GET", "/api/v1/namespaces/x/pods", "list", "", "v1", "x", "pods", "", ""),
    ("GET", "/api/v1/namespaces/x/pods/p", "get", "", "v1", "x", "pods", "", "p"),
    ("HEAD", "/api/v1/namespaces/x/pods/p", "get", "", "v1", "x", "pods", "", "p"),
    ("GET", "/api/v1/pods", "list", "", "v1", "", "pods", "", ""),
    ("HEAD", "/api/v1/pods", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/nodes/n", "get", "", "v1", "", "nodes", "", "n"),
    ("GET", "/apis/batch/v1/jobs", "list", "batch", "v1", "", "jobs", "", ""),
    ("GET", "/apis/apps/v1/namespaces/x/deployments/d", "get", "apps", "v1", "x", "deployments", "", "d"),
    ("GET", "/apis/g/v/namespaces/x", "get", "g", "v", "x", "namespaces", "", "x"),
    ("GET", "/api/v1/namespaces/x/namespaces/y", "get", "", "v1", "x", "namespaces", "", "y"),
    ("GET", "/api/v1/namespaces/x/status/y", "get", "", "v1", "x", "namespaces", "status", "x"),
    # Subresources; what follows them is not looked at.
    ("GET", "/api/v1/namespaces/x/pods/p/status", "get", "", "v1", "x", "pods", "status", "p"),
    ("GET", "/api/v1/namespaces/x/pods/p/log?follow=true", "get", "", "v1", "x", "pods", "log", "p"),
    ("GET", "/api/v1/namespaces/x/pods/p/proxy/a/b", "get", "", "v1", "x", "pods", "proxy", "p"),
    (
        "GET",
        "/api/v1/namespaces/x/services/https:w:443/proxy/a",
        "get",
        "",
        "v1",
        "x",
        "services",
        "proxy",
        "https:w:443",
    ),
    ("GET", "/api/v1/nodes/n/proxy/pods", "get", "", "v1", "", "nodes", "proxy", "n"),
    ("POST", "/api/v1/namespaces/x/pods/p/exec?command=sh", "create", "", "v1", "x", "pods", "exec", "p"),
    ("GET", "/api/v1/namespaces/x/pods/p/exec?command=sh", "get", "", "v1", "x", "pods", "exec", "p"),
    ("POST", "/api/v1/namespaces/x/pods/p/eviction", "create", "", "v1", "x", "pods", "eviction", "p"),
    ("POST", "/api/v1/namespaces/x/serviceaccounts/s/token", "create", "", "v1", "x", "serviceaccounts", "token", "s"),
    (
        "PATCH",
        "/api/v1/namespaces/x/pods/p/ephemeralcontainers",
        "patch",
        "",
        "v1",
        "x",
        "pods",
        "ephemeralcontainers",
        "p",
    ),
    ("GET", "/apis/apps/v1/namespaces/x/deployments/d/scale", "get", "apps", "v1", "x", "deployments", "scale", "d"),
    # Verbs by method: exact, else none.
    ("POST", "/api/v1/namespaces/x/pods", "create", "", "v1", "x", "pods", "", ""),
    ("PUT", "/api/v1/namespaces/x/pods/p", "update", "", "v1", "x", "pods", "", "p"),
    ("PATCH", "/api/v1/namespaces/x/pods/p", "patch", "", "v1", "x", "pods", "", "p"),
    ("DELETE", "/api/v1/namespaces/x/pods/p", "delete", "", "v1", "x", "pods", "", "p"),
    ("DELETE", "/api/v1/nodes", "deletecollection", "", "v1", "", "nodes", "", ""),
    ("DELETE", "/api/v1/namespaces", "deletecollection", "", "v1", "", "namespaces", "", ""),
    ("DELETE", "/apis/g/v/namespaces/x/pods", "deletecollection", "g", "v", "x", "pods", "", ""),
    ("OPTIONS", "/api/v1/pods", "", "", "v1", "", "pods", "", ""),
    ("get", "/api/v1/pods", "", "", "v1", "", "pods", "", ""),
    # Verbs by path.
    ("GET", "/api/v1/watch/pods", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/watch/namespaces/x/pods", "watch", "", "v1", "x", "pods", "", ""),
    ("GET", "/api/v1/watch/namespaces/x/pods/p", "watch", "", "v1", "x", "pods", "", "p"),
    ("DELETE", "/api/v1/watch/pods", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/apis/g/v/watch/things", "watch", "g", "v", "", "things", "", ""),
    ("GET", "/api/v1/proxy/namespaces/x/pods/p", "proxy", "", "v1", "x", "pods", "", "p"),
    ("GET", "/api/v1/proxy/namespaces/x/pods/p/a/b", "proxy", "", "v1", "x", "pods", "", "p"),
    ("GET", "/api/v1/proxy/watch", "proxy", "", "v1", "", "watch", "", ""),
    # Watch by query: the first value counts, and only `0` and `false` say no.
    ("GET", "/api/v1/namespaces/x/pods?watch=1", "watch", "", "v1", "x", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=true", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=yes", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=00", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?%77atch=1", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=1?", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=0", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=false", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=FaLse", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=0&watch=1", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=1;x=1", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=%zz", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?watch=%zz&watch=1", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?Watch=1", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?+watch=1", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?allowWatchBookmarks=true&limit=500", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/namespaces/x/pods/p?watch=1", "get", "", "v1", "x", "pods", "", "p"),
    ("POST", "/api/v1/pods?watch=1", "create", "", "v1", "", "pods", "", ""),
    # The name by field selector: of lists and watches, if all options can be decoded.
    ("GET", "/api/v1/pods?fieldSelector=metadata.name=n", "list", "", "v1", "", "pods", "", "n"),
    ("GET", f"/api/v1/pods?{SELECTED}&watch=1", "watch", "", "v1", "", "pods", "", "n"),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name%3D%3Dn", "list", "", "v1", "", "pods", "", "n"),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name!=n", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?fieldSelector=spec.nodeName=n", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name=a/b", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name=a%25b", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name=..", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name=.", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name=n,foo", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name=n,foo&watch=1", "watch", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name=n,foo&watch=false", "list", "", "v1", "", "pods", "", ""),
    ("GET", f"/api/v1/pods?{SELECTED}&limit=500&timeoutSeconds=-1", "list", "", "v1", "", "pods", "", "n"),
    ("GET", f"/api/v1/pods?{SELECTED}&limit=", "list", "", "v1", "", "pods", "", ""),
    ("GET", f"/api/v1/pods?{SELECTED}&limit=9223372036854775808", "list", "", "v1", "", "pods", "", ""),
    ("GET", f"/api/v1/pods?{SELECTED}&timeoutSeconds=1s", "list", "", "v1", "", "pods", "", ""),
    ("GET", f"/api/v1/pods?{SELECTED}&labelSelector=a%3Db", "list", "", "v1", "", "pods", "", "n"),
    ("GET", f"/api/v1/pods?{SELECTED}&labelSelector=-a", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods?fieldSelector=a=b&fieldSelector=metadata.name=n", "list", "", "v1", "", "pods", "", ""),
    ("GET", f"/api/v1/watch/pods?{SELECTED}", "watch", "", "v1", "", "pods", "", ""),
    ("DELETE", f"/api/v1/pods?{SELECTED}", "deletecollection", "", "v1", "", "pods", "", ""),
    # Oddities of paths: escapes come before the segments, outer slashes fall away, inner ones do not.
    ("GET", "/api/v1/namespaces/x/pods/p%2Fexec", "get", "", "v1", "x", "pods", "exec", "p"),
    ("GET", "/%61pi/v1/pods", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/pods/", "list", "", "v1", "", "pods", "", ""),
    ("GET", "//api/v1/pods//", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1//pods", "get", "", "v1", "", "", "", "pods"),
    ("GET", "/api/v1/namespaces//pods", "list", "", "v1", "", "pods", "", ""),
    ("GET", "/api/v1/namespaces/x/pods//exec", "list", "", "v1", "x", "pods", "exec", ""),
    ("GET", "/api//pods", "list", "", "", "", "pods", "", ""),
    ("GET", "/api/v1/../pods", "get", "", "v1", "", "..", "", "pods"),
    ("GET", "/api/v1/namespaces/x/pods/a+b", "get", "", "v1", "x", "pods", "", "a+b"),
    ("GET", "/api/v1/namespaces/x/pods/%C3%A9", "get", "", "v1", "x", "pods", "", "é"),
    ("GET", "/api/v1/namespaces/x/pods/%FF", "get", "", "v1", "x", "pods", "", "\ufffd"),
]


@pytest.mark.parametrize("row", RESOURCES, ids=lambda row: f"{row[0]} {row[1]}")
def test_resource_requests(row: tuple[str, ...]) -> None:
    """Verb, resource, namespace and name of a request are those that requestinfo.go computes."""
    method, target, *expected = row
    info = request_info(method, target)
    assert info.is_resource
    found = [info.verb, info.group, info.version, info.namespace, info.resource, info.subresource, info.name]
    assert found == expected


@pytest.mark.parametrize(
    ("method", "target", "verb", "path"),
    [
        ("GET", "/", "get", "/"),
        ("GET", "", "get", ""),
        ("GET", "/api", "get", "/api"),
        ("GET", "/api/v1", "get", "/api/v1"),
        ("GET", "/api/v1/", "get", "/api/v1/"),
        ("GET", "/apis", "get", "/apis"),
        ("GET", "/apis/apps", "get", "/apis/apps"),
        ("GET", "/apis/apps/v1", "get", "/apis/apps/v1"),
        ("GET", "/apis/apps/v1/", "get", "/apis/apps/v1/"),
        ("GET", "/apis/version/resource", "get", "/apis/version/resource"),
        ("GET", "/badprefix/version/resource", "get", "/badprefix/version/resource"),
        ("GET", "/API/v1/pods", "get", "/API/v1/pods"),
        ("GET", "/openapi/v3/apis/apps/v1?hash=A", "get", "/openapi/v3/apis/apps/v1"),
        ("HEAD", "/healthz", "head", "/healthz"),
        ("POST", "/x%20y", "post", "/x y"),
        ("PROPFIND", "/metrics", "propfind", "/metrics"),
    ],
)
def test_non_resource_requests(method: str, target: str, verb: str, path: str) -> None:
    """What is no resource request has its decoded path and its lower-cased method, and nothing else."""
    assert request_info(method, target) == RequestInfo(is_resource=False, verb=verb, path=path)


@pytest.mark.parametrize(
    ("method", "target", "field_selector", "label_selector"),
    [
        ("GET", "/apis/g/v/r?fieldSelector=foo=bar&labelSelector=baz=qux", "foo=bar", "baz=qux"),
        ("GET", "/apis/g/v/r?watch=1&fieldSelector=a%3Db%2Cc%3Dd", "a=b,c=d", ""),
        ("GET", "/apis/g/v/r?fieldSelector=a=1&fieldSelector=b=2&labelSelector=c&labelSelector=d", "a=1", "c"),
        ("GET", "/apis/g/v/r?fieldSelector=bad,&labelSelector=-", "bad,", "-"),
        ("GET", "/apis/g/v/r?labelSelector=a+in+(b)", "", "a in (b)"),
        ("DELETE", "/apis/g/v/r?fieldSelector=foo=bar&labelSelector=baz=qux", "foo=bar", "baz=qux"),
        ("GET", "/apis/g/v/r/name?fieldSelector=foo=bar&labelSelector=foo=bar", "", ""),
        ("POST", "/apis/g/v/r?fieldSelector=foo=bar&labelSelector=foo=bar", "", ""),
        ("GET", "/apis/g/v/watch/r?fieldSelector=foo=bar&labelSelector=foo=bar", "", ""),
        ("GET", "/apis/g/v/r?labelSelector=a;b", "", ""),
    ],
)
def test_selectors(method: str, target: str, field_selector: str, label_selector: str) -> None:
    """Selectors are kept as they came for list, watch and deletecollection, and for nothing else."""
    info = request_info(method, target)
    assert (info.field_selector, info.label_selector) == (field_selector, label_selector)


@pytest.mark.parametrize(
    "target",
    ["/api/v1/watch", "/api/v1/proxy/", "/apis/g/v/watch", "/api/v1/pods/%", "/api/v1/pods/%2", "/x%zz", "/%G0?a"],
)
def test_bad_targets(target: str) -> None:
    """A path that the API server answers with an error in any case raises BadTarget."""
    with pytest.raises(BadTarget):
        request_info("GET", target)


def test_path_is_decoded() -> None:
    """The path of a resource request is decoded once, and has no query."""
    assert request_info("GET", "/api/v1/pods/a%2525b?x=%20").path == "/api/v1/pods/a%25b"


def test_long_targets_mean_the_same() -> None:
    """A target too long to be remembered is understood as a short one."""
    short = request_info("GET", "/api/v1/pods?watch=1")
    long = request_info("GET", f"/api/v1/pods?watch=1&continue={'c' * 5000}")
    assert asdict(long) == asdict(short)


@pytest.mark.parametrize(
    ("query", "pairs"),
    [
        ("", []),
        ("&&a=1&", [("a", "1")]),
        ("a", [("a", "")]),
        ("=1", [("", "1")]),
        ("a=b=c", [("a", "b=c")]),
        ("a+b=c+d%20e%2B", [("a b", "c d e+")]),
        ("a=1;b=2&c=3", [("c", "3")]),
        ("a=%3B", [("a", ";")]),
        ("%3D=%26", [("=", "&")]),
        ("a=%&b=%2&c=%2x&d=%20", [("d", " ")]),
        ("a=%C3%A9&b=%FF", [("a", "é"), ("b", "\ufffd")]),
    ],
)
def test_query_pairs(query: str, pairs: list[tuple[str, str]]) -> None:
    """A query is read as net/url reads it: wrong pairs fall away, the rest stays in order."""
    assert query_pairs(query) == pairs


def test_first_values() -> None:
    """Of a repeated key the first value counts, empty or not."""
    assert first_values("a=&a=1&b=2") == {"a": "", "b": "2"}


@pytest.mark.parametrize(("value", "meaning"), [("0", False), ("False", False), ("", True), ("no", True), ("00", True)])
def test_query_bool(value: str, meaning: bool) -> None:
    """Only `0` and `false` are false."""
    assert query_bool(value) is meaning


def test_decode_path_keeps_plus() -> None:
    """A plus sign in a path is a plus sign."""
    assert decode_path("/a+b%2B%20") == "/a+b+ "
