"""Statuses as the proxy makes them, and as it reads those of the API server."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_audit_proxy.kube import status
from kube_audit_proxy.kube.requestinfo import request_info
from kube_audit_proxy.kube.status import Status, parse_status

JSON, PROTOBUF = "application/json", "application/vnd.kubernetes.protobuf"
FORBIDDEN = Status(403, "Forbidden", 'pods is forbidden: User "ü"', kind="pods")


def field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited protobuf field."""
    assert len(content) < 1 << 14
    size = bytes([len(content)]) if len(content) < 0x80 else bytes([len(content) & 0x7F | 0x80, len(content) >> 7])
    return bytes([number << 3 | 2]) + size + content


def protobuf_status(kind: bytes = b"Status", state: bytes = b"Failure") -> bytes:
    """Encode a Status as the API server does, with details and code, which are of no interest."""
    type_meta = field(1, b"v1") + field(2, kind)
    details = field(1, b"web") + b"\x28\x05"
    raw = field(1, b"") + field(2, state) + field(3, b"pods is bad") + field(4, b"Invalid") + field(5, details)
    return b"k8s\0" + field(1, type_meta) + field(2, raw + b"\x30\xa6\x03") + field(3, b"") + field(4, b"")


def test_body() -> None:
    """A Status is the JSON that kubectl decodes; details hold what is known."""
    assert json.loads(Status(404, "NotFound", "no such cluster").body()) == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "no such cluster",
        "reason": "NotFound",
        "code": 404,
    }
    full = Status(503, "R", "m", group="g", kind="k", name="n", retry_after_seconds=5)
    details = {"name": "n", "group": "g", "kind": "k", "retryAfterSeconds": 5}
    assert json.loads(full.body())["details"] == details


@pytest.mark.parametrize(
    ("made", "code", "reason", "message"),
    [
        (status.bad_request("m"), 400, "BadRequest", "m"),
        (status.unauthorized("m"), 401, "Unauthorized", "m"),
        (
            status.header_too_large(3),
            431,
            "RequestHeaderFieldsTooLarge",
            "Request line and header fields too large: limit is 3",
        ),
        (status.internal_error("m"), 500, "InternalError", "Internal error occurred: m"),
        (status.bad_gateway("m"), 502, "BadGateway", "m"),
        (status.service_unavailable("m"), 503, "ServiceUnavailable", "m"),
        (status.gateway_timeout("m"), 504, "Timeout", "Timeout: m"),
    ],
)
def test_constructors(made: Status, code: int, reason: str, message: str) -> None:
    """Each error has its HTTP code, its reason and its message, and its body can be read back."""
    assert (made.code, made.reason, made.message) == (code, reason, message)
    assert parse_status(made.body(), JSON, "") == (reason, message)


def test_retry_after() -> None:
    """Only a Status with a time to retry says one."""
    assert status.service_unavailable("m", 7).retry_after_seconds == 7
    assert b"retryAfterSeconds" not in status.service_unavailable("m").body()


@pytest.mark.parametrize(
    ("user", "method", "target", "why", "message"),
    [
        (
            "u",
            "GET",
            "/api/v1/namespaces/n/pods",
            "",
            'pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "n"',
        ),
        (
            "u",
            "GET",
            "/api/v1/namespaces/n/pods/p",
            "",
            'pods "p" is forbidden: User "u" cannot get resource "pods" in API group "" in the namespace "n"',
        ),
        (
            "u",
            "PATCH",
            "/apis/g/v/namespaces/n/cats/c/s",
            "",
            'cats.g "c" is forbidden: User "u" cannot patch resource "cats/s" in API group "g" in the namespace "n"',
        ),
        (
            "u",
            "DELETE",
            "/api/v1/cats",
            "",
            'cats is forbidden: User "u" cannot deletecollection resource "cats" in API group "" at the cluster scope',
        ),
        ("u", "GET", "/metrics?x=1", "", 'forbidden: User "u" cannot get path "/metrics"'),
        (
            'a"\\<&>\n\x01\x7f\x80\u2028\U000e0001',
            "GET",
            "/x",
            "<why>",
            'forbidden: User "a\\"\\\\&lt;&amp;&gt;\\n\\x01\\x7f\\u0080\\u2028\\U000e0001" cannot get path "/x": <why>',
        ),
    ],
)
def test_forbidden(user: str, method: str, target: str, why: str, message: str) -> None:
    """A denial is in the API server's words, quoted as Go quotes."""
    made = status.forbidden(user, request_info(method, target), why)
    assert (made.code, made.reason, made.message) == (403, "Forbidden", message)


def test_forbidden_details() -> None:
    """The details of a denial name the object by group, resource and name."""
    made = status.forbidden("u", request_info("GET", "/apis/g/v/namespaces/n/things/t"))
    assert (made.group, made.kind, made.name) == ("g", "things", "t")


@pytest.mark.parametrize(
    ("body", "content_type", "encoding"),
    [
        (FORBIDDEN.body(), JSON, ""),
        (FORBIDDEN.body(), "Application/JSON; charset=utf-8", "identity"),
        (FORBIDDEN.body(), "", ""),
        (gzip.compress(FORBIDDEN.body()), JSON, "GZIP"),
        (json.dumps(json.loads(FORBIDDEN.body()), indent=2).encode(), JSON, ""),
        (FORBIDDEN.body()[:-3], JSON, ""),
        (gzip.compress(FORBIDDEN.body())[:-8], JSON, "gzip"),
    ],
)
def test_parse_json(body: bytes, content_type: str, encoding: str) -> None:
    """A failure is read from JSON: compact or indented, compressed, or cut off behind the reason."""
    assert parse_status(body, content_type, encoding) == (FORBIDDEN.reason, FORBIDDEN.message)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"kind":"Status","message":"a","reason":"Fo', ("Fo", "a")),
        (b'{"kind":"Status","message":"a \\"b', ("", 'a "b')),
        (b'{"kind":"Status","message":"a\\', ("", "a")),
        (b'{"kind":"Status","message":"a\\u00', ("", "a")),
        (b'{"kind":"Status","message":"a\xc3', ("", "a\ufffd")),
        (b'{ "kind" : "Status" , "metadata" : {"a": [1]} , "reason" : "R" , "details" : {"na', ("R", "")),
        (b'{"kind":"Status","reason":"R","code":4', ("R", "")),
        (b'{"kind":"Status","reason":"R","code"', ("R", "")),
        (b'{"kind":"Status","reason":"R",', ("R", "")),
        (b'{"kind":"Status","reason":"R","details":' + b"[" * 60_000, ("R", "")),
        (b'{"kind":"Status","reason":3,"message":"m"}', ("", "m")),
    ],
)
def test_parse_cut_off_json(body: bytes, found: tuple[str, str]) -> None:
    """Of a Status that is cut off, what stands before the cut is read."""
    assert parse_status(body, JSON, "") == found


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (protobuf_status(), ("Invalid", "pods is bad")),
        (protobuf_status(state=b"Success"), None),
        (protobuf_status(kind=b"Pod"), None),
        (protobuf_status()[4:], None),
        (b"k8s1" + protobuf_status()[4:], None),
        (protobuf_status()[: protobuf_status().index(b"Invalid") + 3], ("Inv", "pods is bad")),
        (protobuf_status()[: protobuf_status().index(b"pods")], None),
        (b"k8s\0", None),
        (b"k8s\0" + b"\xff" * 20, None),
        (b"k8s\0\x07", None),
    ],
)
def test_parse_protobuf(body: bytes, found: tuple[str, str] | None) -> None:
    """A failure is read from protobuf, whole or cut off; anything else is none."""
    assert parse_status(body, PROTOBUF, "") == found
    assert parse_status(gzip.compress(body), PROTOBUF, "gzip") == found


def test_parse_protobuf_of_other_fields() -> None:
    """Fixed-size fields and unknown ones are passed over."""
    other = b"\x39" + b"\x0a" * 8 + b"\x3d" + b"\x0a" * 4 + b"\x38\xff\x01"
    failure = other + field(4, b"R" * 128) + other + field(3, b"m" * 300)
    body = b"k8s\0" + other + field(1, field(2, b"Status")) + other + field(2, failure)
    assert parse_status(body, PROTOBUF, "") == ("R" * 128, "m" * 300)


@pytest.mark.parametrize(
    ("body", "content_type", "encoding"),
    [
        (b"", JSON, ""),
        (b"null", JSON, ""),
        (b"[1]", JSON, ""),
        (b"{", JSON, ""),
        (b"{}", JSON, ""),
        (b"{1:2}", JSON, ""),
        (b"{1:2", JSON, ""),
        (b'{"kind":"Status"}', JSON, ""),
        (b'{"kind":"Pod","reason":"R"}', JSON, ""),
        (b'{"kind":"Status","status":"Success","message":"m"}', JSON, ""),
        (FORBIDDEN.body(), "text/html", ""),
        (b'{"kind"="Status","reason"="R"', JSON, ""),
        (b'{"kind":"Status",3:"","reason":"R"', JSON, ""),
        (FORBIDDEN.body(), JSON, "br"),
        (gzip.compress(FORBIDDEN.body()), JSON, "br"),
        (FORBIDDEN.body(), JSON, "gzip"),
    ],
)
def test_parse_other_bodies(body: bytes, content_type: str, encoding: str) -> None:
    """What is no Status of a failure gives none."""
    assert parse_status(body, content_type, encoding) is None


def test_compressed_bodies_are_bounded() -> None:
    """A body that decompresses to far more than any Status does not do so in memory."""
    bomb = gzip.compress(b'{"kind":"Status","reason":"R","message":"' + bytes(16 << 20))
    found = parse_status(bomb, JSON, "gzip")
    assert found is None or len(found[1]) < 2 << 20


@settings(derandomize=True, max_examples=300)
@given(
    st.binary(max_size=80), st.sampled_from([JSON, PROTOBUF, ""]), st.sampled_from(["", "gzip"]), st.integers(0, 200)
)
def test_garbage_never_raises(garbage: bytes, content_type: str, encoding: str, cut: int) -> None:
    """Garbage, alone or behind the beginning of a Status, gives none or something, and raises nothing."""
    whole = protobuf_status() if content_type == PROTOBUF else FORBIDDEN.body()
    for body in (garbage, b"k8s\0" + garbage, whole[:cut] + garbage, gzip.compress(whole)[:cut] + garbage):
        found = parse_status(body, content_type, encoding)
        assert found is None or any(found)
