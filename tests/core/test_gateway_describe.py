"""What is recorded of a call, as members of a JSON object."""

import json
import tracemalloc
from typing import Any

import pytest

from kube_audit_proxy.audit.redaction import DEFAULT_PATTERNS, Redaction
from kube_audit_proxy.gateway.describe import (
    describe_client,
    describe_connection,
    describe_identity,
    describe_request,
    describe_user,
)
from kube_audit_proxy.identity.user import User

DEFAULT = Redaction.compile(DEFAULT_PATTERNS)
NONE = Redaction.compile(())
EXEC = "/api/v1/namespaces/shop/pods/web-0/exec"
POD = {"version": "v1", "resource": "pods", "namespace": "shop", "name": "web-0"}
HOSTILE = [
    'say "hi"',
    "back\\slash",
    "\x00\x01\x1f\x7f",
    "line\r\nend",
    '}{","user":"root',
    "\N{SNOWMAN}\N{PILE OF POO}",
    "\N{RIGHT-TO-LEFT OVERRIDE}\N{LINE SEPARATOR}",
    "caf\xc3\xa9\xff",
    "%s %(x)s %b",
]


def read(members: bytes) -> dict[str, Any]:
    """Read members back, none of them twice."""
    pairs: list[tuple[str, Any]] = json.loads(b"{" + members + b"}", object_pairs_hook=list)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        (
            "GET",
            "/api/v1/namespaces/shop/pods?limit=500",
            {"verb": "list", "version": "v1", "resource": "pods", "namespace": "shop"},
        ),
        ("GET", "/api/v1/namespaces/shop/pods/web-0", {"verb": "get", **POD}),
        ("HEAD", "/api/v1/namespaces/shop/pods/web-0", {"verb": "get", **POD}),
        ("DELETE", "/api/v1/namespaces/shop/pods/web-0", {"verb": "delete", **POD}),
        ("GET", "/api/v1/namespaces/shop/pods/web-0/log?follow=true", {"verb": "get", "subresource": "log", **POD}),
        (
            "PATCH",
            "/apis/apps/v1/namespaces/shop/deployments/web/scale",
            {
                "verb": "patch",
                "group": "apps",
                "version": "v1",
                "resource": "deployments",
                "subresource": "scale",
                "namespace": "shop",
                "name": "web",
            },
        ),
        (
            "GET",
            "/api/v1/pods?watch=1&labelSelector=a%3Db&fieldSelector=spec.nodeName%3Dn1",
            {
                "verb": "watch",
                "version": "v1",
                "resource": "pods",
                "fieldSelector": "spec.nodeName=n1",
                "labelSelector": "a=b",
            },
        ),
        ("POST", "/api/v1/nodes", {"verb": "create", "version": "v1", "resource": "nodes"}),
        ("OPTIONS", "/api/v1/nodes", {"version": "v1", "resource": "nodes"}),
        ("GET", "/healthz?verbose", {"verb": "get"}),
        ("POST", "/apis/apps/v1", {"verb": "post"}),
        ("GET", "/", {"verb": "get"}),
    ],
)
def test_what_a_request_asks_for(method: str, target: str, expected: dict[str, str]) -> None:
    """What does not apply is left out; method and target are always there."""
    asked = describe_request(method, target, DEFAULT)
    assert read(asked.members) == {"method": method, "requestURI": target, **expected}
    assert asked.refused == ""
    assert asked.info is not None


@pytest.mark.parametrize(
    ("target", "redaction", "expected"),
    [
        (
            f"{EXEC}?command=sh&command=-c&command=echo+hi&container=main&stdin=true&tty=true",
            DEFAULT,
            {"exec_argv": ["sh", "-c", "echo hi"], "exec_container": "main", "exec_tty": True, "exec_stdin": True},
        ),
        (f"{EXEC}?command=ls", DEFAULT, {"exec_argv": ["ls"], "exec_tty": False, "exec_stdin": False}),
        (f"{EXEC}?stdout=true", DEFAULT, {"exec_tty": False, "exec_stdin": False}),
        (
            f"{EXEC}?command=mysql&command=--password%3Dhunter2&stdout=true",
            DEFAULT,
            {
                "exec_argv": ["mysql", "--password=REDACTED"],
                "exec_tty": False,
                "exec_stdin": False,
                "requestURI": f"{EXEC}?command=mysql&command=--password%3DREDACTED&stdout=true",
            },
        ),
        (
            f"{EXEC}?container=c&command=login&tty=1&command=--token&command=hunter2",
            DEFAULT,
            {
                "exec_argv": ["login", "--token", "REDACTED"],
                "exec_container": "c",
                "exec_tty": True,
                "exec_stdin": False,
                "requestURI": f"{EXEC}?command=login&command=--token&command=REDACTED&container=c&tty=1",
            },
        ),
        (
            f"{EXEC}?command=--password%3Dhunter2",
            NONE,
            {"exec_argv": ["--password=hunter2"], "exec_tty": False, "exec_stdin": False},
        ),
    ],
    ids=["all", "plain", "no-command", "value", "option", "switched-off"],
)
def test_exec(target: str, redaction: Redaction, expected: dict[str, Any]) -> None:
    """An exec's record has its command line; what is redacted there is redacted in the target as well."""
    asked = describe_request("POST", target, redaction)
    common = {"method": "POST", "verb": "create", "subresource": "exec", "requestURI": target, **POD}
    assert read(asked.members) == {**common, **expected}


def test_websocket_exec_is_an_exec() -> None:
    """A GET of the subresource is recorded like a POST: that is how websockets ask."""
    found = read(describe_request("GET", f"{EXEC}?command=ls&tty=true", DEFAULT).members)
    assert (found["verb"], found["exec_argv"], found["exec_tty"]) == ("get", ["ls"], True)


def test_attach() -> None:
    """An attach has the container and what is connected, but runs nothing."""
    target = EXEC.replace("exec", "attach") + "?container=main&stdin=true"
    found = read(describe_request("POST", target, DEFAULT).members)
    assert {key: value for key, value in found.items() if key.startswith("exec_")} == {
        "exec_container": "main",
        "exec_tty": False,
        "exec_stdin": True,
    }


def test_an_attach_runs_nothing() -> None:
    """A command in an attach's query is not recorded as one that ran."""
    target = EXEC.replace("exec", "attach") + "?command=rm"
    assert "exec_argv" not in read(describe_request("POST", target, DEFAULT).members)


@pytest.mark.parametrize(
    "query",
    [
        "command=--password%3Dhunter2",
        "command=%2D%2Dpassword%3D%68unter2",
        "command=echo&command=Bearer+hunter2",
        "command=curl&command=https%3A%2F%2Fme%3Ahunter2%40host%2F",
        "token=hunter2",
        "command=ls&access_token=hunter2",
        pytest.param(
            "%63ommand=--password%3Dhunter2",
        ),
        pytest.param(
            "command=mysql&c%6Fmmand=--password%3Dhunter2&stdin=1",
        ),
    ],
)
def test_no_secret_is_left(query: str) -> None:
    """A secret is in no member, however its key is written."""
    members = describe_request("POST", f"{EXEC}?{query}", DEFAULT).members
    assert b"unter2" not in members
    assert b"REDACTED" in members


def test_secrets_of_queries_are_redacted_everywhere() -> None:
    """A token in any request's query is not recorded, a proxied one's neither."""
    found = read(describe_request("GET", "/api/v1/namespaces/n/services/s/proxy/x?token=abc&y=1", DEFAULT).members)
    assert found["requestURI"] == "/api/v1/namespaces/n/services/s/proxy/x?token=REDACTED&y=1"


@pytest.mark.parametrize("target", ["/api/v1/pods/%zz", "/api/v1/watch", "/api/v1/pods/a%", "/apis/apps/v1/proxy/"])
def test_targets_that_mean_nothing(target: str) -> None:
    """What the API server could make nothing of is refused, with its method and target on record."""
    asked = describe_request("GET", target, DEFAULT)
    assert asked.info is None
    assert asked.refused
    assert read(asked.members) == {"method": "GET", "requestURI": target}


@pytest.mark.parametrize(
    ("target", "resource"),
    [
        ("/api/v1//pods", ""),
        ("/api/v1/namespaces/a/../b/pods", ".."),
        ("/api/v1/pods/a%2Fb", "pods"),
        ("/api/v1/pods#x", "pods#x"),
        ("/api/v1/p\xf6ds", "p\xf6ds"),
    ],
)
def test_targets_that_could_mean_two_things(target: str, resource: str) -> None:
    """What two readers could take for different things is refused, and recorded as it came."""
    asked = describe_request("GET", target, DEFAULT)
    assert asked.refused
    found = read(asked.members)
    assert found["requestURI"] == target
    assert found.get("resource", "") == resource


@pytest.mark.parametrize("length", [10, 500, 600, 1100, 5000])
def test_long_targets_are_described_alike(length: int) -> None:
    """Whether a description is short enough to be remembered changes nothing in it, the second time neither."""
    target = f"{EXEC}?command={'x' * length}&command=--token%3Dabc"
    for _ in range(2):
        found = read(describe_request("POST", target, DEFAULT).members)
        assert found["exec_argv"] == ["x" * length, "--token=REDACTED"]
        assert found["requestURI"] == f"{EXEC}?command={'x' * length}&command=--token%3DREDACTED"


def test_what_is_remembered_depends_on_the_redaction() -> None:
    """Two proxies with other patterns do not share what they remember."""
    target = f"{EXEC}?command=--password%3Dx"
    shown = [read(describe_request("POST", target, one).members)["exec_argv"] for one in (NONE, DEFAULT, NONE)]
    assert shown == [["--password=x"], ["--password=REDACTED"], ["--password=x"]]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_characters_stay_data(text: str) -> None:
    """Whatever is in a name, a header or a path is read back as it was: it neither breaks the JSON nor adds to it."""
    assert read(describe_user(text, (text, text), text)) == {
        "user": text,
        "groups": [text, text],
        "authenticator": text,
    }
    assert read(describe_connection(text, text)) == {"cluster": text, "sourceIPs": [text]}
    assert read(describe_client(text, "", text))["userAgent"] == text
    user = User(text, (), "token", frozenset(), impersonated=True)
    assert read(describe_identity(user, "")) == {"impersonated": True, "upstream_user": text}
    raw = text.encode().decode("latin-1")
    found = read(describe_request("GET", f"/api/v1/pods/{raw}", NONE).members)
    assert found["requestURI"] == f"/api/v1/pods/{raw}"


@pytest.mark.parametrize(
    ("escaped", "name"),
    [("%22", '"'), ("%5C", "\\"), ("%0A", "\n"), ("%ff", "\N{REPLACEMENT CHARACTER}"), ("%ED%A0%80", "\ufffd" * 3)],
)
def test_escaped_names_are_decoded(escaped: str, name: str) -> None:
    """A name is what the API server reads, decoded, and the JSON is valid for wrong UTF-8 as well."""
    assert read(describe_request("GET", f"/api/v1/nodes/{escaped}", DEFAULT).members)["name"] == name


@pytest.mark.parametrize(
    ("cluster", "address", "expected"),
    [
        ("prod", "192.0.2.7", {"cluster": "prod", "sourceIPs": ["192.0.2.7"]}),
        ("", "::1", {"sourceIPs": ["::1"]}),
        ("a" * 300, "::1", {"cluster": "a" * 253, "sourceIPs": ["::1"]}),
        pytest.param(
            "prod",
            "",
            {"cluster": "prod"},
        ),
    ],
    ids=["both", "no-cluster", "long", "no-address"],
)
def test_connection(cluster: str, address: str, expected: dict[str, Any]) -> None:
    """The cluster as it was named, within limits, and the peer's address; absent where there is none."""
    assert read(describe_connection(cluster, address)) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (("", "", ""), {"access_method": "api"}),
        (("curl/8", "", ""), {"access_method": "api", "userAgent": "curl/8"}),
        (
            ("kubectl/v1.35", "kubectl exec", "websocket"),
            {
                "access_method": "kubectl",
                "userAgent": "kubectl/v1.35",
                "command": "kubectl exec",
                "command_source": "header",
                "upgrade": "websocket",
            },
        ),
        (
            ("x" * 2000, "kubectl\x1b[2J\n get", "SPDY/3.1"),
            {
                "access_method": "kubectl",
                "userAgent": "x" * 1024 + "...TRUNCATED",
                "command": "kubectl[2J get",
                "command_source": "header",
                "upgrade": "SPDY/3.1",
            },
        ),
        (("", "\x00", ""), {"access_method": "kubectl"}),
    ],
    ids=["nothing", "agent", "kubectl", "hostile", "unprintable"],
)
def test_client(said: tuple[str, str, str], expected: dict[str, str]) -> None:
    """What a client says of itself is cut to size; what it does not say is absent."""
    assert read(describe_client(*said)) == expected


@pytest.mark.parametrize(
    ("groups", "expected"), [((), {}), (("a",), {"groups": ["a"]}), (("b", "a,c", "b"), {"groups": ["b", "a,c", "b"]})]
)
def test_user(groups: tuple[str, ...], expected: dict[str, Any]) -> None:
    """A user has groups in their order, or none at all."""
    assert read(describe_user("alice", groups, "token")) == {"user": "alice", "authenticator": "token", **expected}


@pytest.mark.parametrize(
    ("impersonated", "own_user", "expected"),
    [
        (True, "proxy", {"impersonated": True, "upstream_user": "alice"}),
        (True, "", {"impersonated": True, "upstream_user": "alice"}),
        (False, "proxy", {"impersonated": False, "upstream_user": "proxy"}),
        (False, "", {"impersonated": False}),
    ],
)
def test_identity(impersonated: bool, own_user: str, expected: dict[str, Any]) -> None:
    """The name upstream is the user's where impersonated, else the credential's own, where that is known."""
    user = User("alice", ("g",), "token", frozenset(), impersonated=impersonated)
    assert read(describe_identity(user, own_user)) == expected


def test_a_broken_request_has_no_empty_fields() -> None:
    """A head that cannot be read leaves method and target absent, as all that is not known."""
    assert "" not in read(describe_request("", "", DEFAULT).members).values()


def test_long_claims_are_not_kept() -> None:
    """What strangers say at length is not held in memory afterwards: nobody had to log in to say it."""
    tracemalloc.start()
    try:
        for number in range(8):
            text = f"{number}{'x' * (1 << 18)}"
            describe_client(text, text, "")
            describe_connection(text, "192.0.2.1")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1 << 19
