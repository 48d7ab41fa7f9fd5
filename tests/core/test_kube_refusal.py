"""Which request targets a careful gateway refuses, and which it must let pass."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_audit_proxy.kube.requestinfo import refusal, request_info
from kube_audit_proxy.kube.targets import BadTarget

PROXY = "/api/v1/namespaces/x/pods/p/proxy"
MANY = "&".join(["command=a"] * 10_000)


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/api/v1/pods",
        "/api/v1/pods/",
        "/api/v1/pods?limit=500&continue=a%2Fb/../c//d\\e",
        "/api/v1/namespaces/x/pods/p/exec?command=echo&command=a%0Ab%00",
        "/api/v1/namespaces/x/services/https:web:443/proxy",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node",
        "/api/v1/namespaces/x/pods/%C3%A9%20",
        "/openapi/v3/.well-known/...",
        "/.well-known/openid-configuration",
        "/a%2e%2eb?x=?",
        f"/api/v1/namespaces/x/pods/p/exec?{MANY}",
        f"{PROXY}/",
        f"{PROXY}//a/../b/./%2F%5c\\\u00e9#f",
        f"{PROXY}/a?b=%zz#//..",
        "/api/v1/namespaces/x/services/http:s:80/proxy/..%2f..",
        "/api/v1/nodes/n/proxy//logs/../x",
    ],
)
def test_passes(target: str) -> None:
    """A target that all readers understand alike passes, and after /proxy/ whatever the server behind it takes."""
    assert refusal(target) is None


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("", "begins with a slash"),
        ("*", "begins with a slash"),
        ("?a", "begins with a slash"),
        ("https://host/api/v1/pods", "begins with a slash"),
        ("host:443", "begins with a slash"),
        ("//host/api", "empty segment"),
        ("/api//v1/pods", "empty segment"),
        ("/api/v1/pods//", "empty segment"),
        ("/api/v1/pods/.", "segment . or .."),
        ("/api/./v1/pods", "segment . or .."),
        ("/api/v1/pods/..?a=1", "segment . or .."),
        ("/api/v1/pods/../secrets", "segment . or .."),
        ("/api/v1/pods/%2e%2E/secrets", "segment . or .."),
        ("/api/v1/pods/.%2e", "segment . or .."),
        ("/api/v1/pods/%2e", "segment . or .."),
        ("/api/v1/pods/a%2fexec", "encoded slash"),
        ("/api/v1/pods/a%2Fexec", "encoded slash"),
        ("/api/v1/pods/a%5Cb", "encoded slash"),
        ("/api/v1/pods/a\\b", "backslash"),
        ("/api/v1/pods/a\0", "control character"),
        ("/api/v1/pods?a=\x7f", "control character"),
        ("/api/v1/pods?a=b c", "control character"),
        ("/api/v1/pods\r\n", "control character"),
        ("/api/v1/pods/%00", "encoded control"),
        ("/api/v1/pods/%0d%0A", "encoded control"),
        ("/api/v1/pods/%7f", "encoded control"),
        ("/api/v1/pods/%", "percent escape"),
        ("/api/v1/pods/%4", "percent escape"),
        ("/api/v1/pods#a", "fragment"),
        ("/api/v1/pods?a#a", "fragment"),
        ("/api/v1/pods/\u00e9", "not ASCII"),
        ("/api/v1/pods?a=\u00e9", "not ASCII"),
        (f"/api/v1/namespaces/x/pods/p/exec?{MANY}&command=a", "10,000"),
        # After /proxy/ only what no server can take.
        (f"{PROXY}/a\nb", "control character"),
        (f"{PROXY}/a%0ab", "encoded control"),
        (f"{PROXY}/a%zz", "percent escape"),
        # In front of it, and where it is none, the rules hold.
        ("/api/v1/namespaces/x/pods/p%2f../proxy/a", "encoded slash"),
        ("/api/v1/namespaces/../pods/p/proxy/a", "segment . or .."),
        ("/api/v1/namespaces/x/pods/p#/proxy/a", "fragment"),
        ("/api/v1/namespaces/x/pods/\u00e9/proxy/a", "not ASCII"),
        ("/api/v1/namespaces/x/pods/p/proxyx/..", "segment . or .."),
        ("/api/v1/namespaces/x/pods/p?/proxy/a#", "fragment"),
        ("/api/v1/namespaces/x/secrets/p/proxy/..", "segment . or .."),
        ("/apis/g/v1/nodes/n/proxy/..", "segment . or .."),
        ("/api/v1/proxy/nodes/n/..", "segment . or .."),
        ("/x/api/v1/nodes/n/proxy/..", "segment . or .."),
    ],
)
def test_refused(target: str, named: str) -> None:
    """A target that two readers could understand differently is refused, and the sentence names what is wrong."""
    sentence = refusal(target)
    assert sentence is not None
    assert named in sentence
    assert sentence.endswith(".")


@settings(derandomize=True, max_examples=500)
@given(st.text(alphabet="/.%2eEfF5cC0aA?&#;=\\ é\0pods", max_size=24))
def test_what_passes_is_unambiguous(rest: str) -> None:
    """Whatever passes outside of proxies has the same segments before and after decoding, and none of them odd."""
    target = f"/api/v1/{rest}"
    if refusal(target) is not None:
        return
    raw = target.partition("?")[0]
    try:
        path = request_info("GET", target).path
    except BadTarget:
        return
    assert path.count("/") == raw.count("/")
    assert not {".", ".."} & set(path.split("/"))
    assert "" not in path.strip("/").split("/")
    assert not set("\\#\0 ") & set(raw)
