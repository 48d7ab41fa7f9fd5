"""Which headers pass the gateway, which end in it, and which end the call."""

from base64 import urlsafe_b64encode
from dataclasses import astuple

import pytest

from kube_audit_proxy.gateway.headers import BEARER_SUBPROTOCOL, RawHeaders, client_head, scrub, upstream_head

CARRIED = BEARER_SUBPROTOCOL + urlsafe_b64encode(b"sec?ret>>").rstrip(b"=")


def passed(*headers: tuple[bytes, bytes]) -> list[bytes]:
    """Give the lines that are left of these headers."""
    return scrub(list(headers), upgrading=False).passed.splitlines(keepends=True)


def refusal(*headers: tuple[bytes, bytes]) -> tuple[int, str]:
    """Give code and message of the refusal of these headers; (0, "") where they are not refused."""
    refused = scrub(list(headers), upgrading=False).refused
    return (refused.code, refused.message) if refused else (0, "")


# What passes.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"Accept", b"application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
        (b"Accept-Encoding", b"gzip"),
        (b"Content-Type", b"application/apply-patch+yaml"),
        (b"If-None-Match", b'"A1B2"'),
        (b"If-Match", b"*"),
        (b"Range", b"bytes=0-1"),
        (b"User-Agent", b"kubectl/v1.35.0 (linux/amd64) kubernetes/6645204"),
        (b"Kubectl-Command", b"kubectl get"),
        (b"Kubectl-Session", b"5b0efac0-9c8f-4b6f-9a44-38c5f1a1b6a2"),
        (b"Kubectl-Anything", b"1"),
        (b"X-Stream-Protocol-Version", b"v5.channel.k8s.io"),
        (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Extensions", b"permessage-deflate"),
        (b"X-Requested-With", b""),
        (b"X-Remotely-Related", b"1"),
        (b"x-lower-CASE", b"A  b\tc,d"),
        (b"X-Bytes", b"\xff\xc3\xa9\x80"),
        (b"Authorization-Hint", b"not the header"),
        (b"X-Impersonate-User", b"not the header either"),
    ],
    ids=lambda part: part.decode("latin-1")[:30],
)
def test_what_passes_is_byte_identical(name: bytes, value: bytes) -> None:
    """A header the proxy has no part in goes upstream as it came, spelling and value, and is no reason to refuse."""
    scrubbed = scrub([(name, value)], upgrading=False)
    assert scrubbed.passed == name + b": " + value + b"\r\n"
    assert scrubbed.refused is None


def test_repeated_lines_stay_repeated_and_in_order() -> None:
    """Stream protocols are offered in lines of their own; joined or reordered, the kubelet reads another offer."""
    offered = [b"v4.channel.k8s.io", b"v3.channel.k8s.io", b"v2.channel.k8s.io", b"channel.k8s.io"]
    lines = passed((b"A", b"1"), *((b"X-Stream-Protocol-Version", one) for one in offered), (b"a", b"2"), (b"A", b"3"))
    assert lines == [
        b"A: 1\r\n",
        *(b"X-Stream-Protocol-Version: " + one + b"\r\n" for one in offered),
        b"a: 2\r\n",
        b"A: 3\r\n",
    ]


# What ends here.

ENDS = """connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding
upgrade content-length host authorization audit-id x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-port
x-real-ip forwarded via traceparent tracestate baggage cookie origin expect http2-settings"""


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title], ids=["lower", "upper", "title"])
@pytest.mark.parametrize("name", ENDS.split())
def test_what_ends_here(name: str, spell: type[str]) -> None:
    """Hop-by-hop headers, credentials and claims of origin go no further, in whatever case they are written."""
    scrubbed = scrub([(spell(name).encode(), b"close"), (b"Accept", b"*/*")], upgrading=False)
    assert scrubbed.passed == b"Accept: */*\r\n"
    assert scrubbed.refused is None


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("Impersonate-User", "--as "),
        ("impersonate-user", "--as "),
        ("IMPERSONATE-USER", "--as "),
        ("iMpErSoNaTe-UsEr", "--as "),
        ("Impersonate_User", "--as "),
        ("Impersonate-Group", "--as-group "),
        ("impersonate_group", "--as-group "),
        ("Impersonate-Uid", "--as-uid "),
        ("IMPERSONATE_UID", "--as-uid "),
        ("Impersonate-Extra-Example.com%2fk", "--as-user-extra "),
        ("impersonate_extra_scopes", "--as-user-extra "),
        ("Impersonate-Foo", ""),
        ("Impersonate", ""),
        ("Impersonated-By", ""),
    ],
)
@pytest.mark.parametrize("value", [b"", b"admin"], ids=["empty", "admin"])
def test_impersonation_is_refused(name: str, flag: str, value: bytes) -> None:
    """Whatever begins with Impersonate is refused with 403, naming kubectl's flag, and does not pass either way."""
    headers = [(b"Accept", b"*/*"), (name.encode(), value), (b"B", b"1")]
    scrubbed = scrub(headers, upgrading=False)
    assert scrubbed.passed == b"Accept: */*\r\nB: 1\r\n"
    assert scrubbed.refused is not None
    assert (scrubbed.refused.code, scrubbed.refused.reason) == (403, "Forbidden")
    assert flag in scrubbed.refused.message
    assert name.lower().replace("_", "-") in scrubbed.refused.message


@pytest.mark.parametrize(
    "name",
    [
        "X-Remote-User",
        "x-remote-user",
        "X-REMOTE-GROUP",
        "X-Remote-Uid",
        "X-Remote-Extra-Scopes",
        "X-Remote-Anything",
        "X_Remote_User",
        "x_remote_group",
        "X_Remote-User",
        pytest.param("X-Remote_User"),
    ],
)
def test_front_proxy_headers_are_dropped(name: str) -> None:
    """X-Remote-* is what the API server believes of a front proxy: it never passes, and is no reason to refuse."""
    scrubbed = scrub([(name.encode(), b"admin")], upgrading=False)
    assert scrubbed.passed == b""
    assert scrubbed.refused is None


# What ends the call.


@pytest.mark.parametrize(
    "value",
    ["close", "keep-alive", "Upgrade", "KEEP-ALIVE, Upgrade", "close,,te", "Upgrade, HTTP2-Settings", "", " , close "],
)
def test_connection_may_say_what_it_is_for(value: str) -> None:
    """Connection tokens about the connection itself are no reason to refuse, and the header ends here."""
    assert refusal((b"Connection", value.encode())) == (0, "")
    assert passed((b"Connection", value.encode())) == []


@pytest.mark.parametrize(
    "values",
    [
        ["Impersonate-User"],
        ["close, impersonate-group"],
        ["keep-alive", "Authorization"],
        ["X-Anything", "close"],
        ["closed"],
        ["close;q=1"],
        ["upgrade\x0b"],
        ["\xa0close"],
    ],
    ids=repr,
)
def test_connection_may_not_name_headers(values: list[str]) -> None:
    """A header named in Connection would be removed by the next hop (CVE-2021-31999): 400, on whichever line it is."""
    code, message = refusal(*((b"Connection", value.encode("latin-1")) for value in values))
    assert code == 400
    assert "Connection" in message


@pytest.mark.parametrize("name", [b"Host", b"Authorization"])
@pytest.mark.parametrize("second", [b"same", b"other"], ids=["same", "other"])
def test_single_headers_may_not_repeat(name: bytes, second: bytes) -> None:
    """Two hosts or credentials are refused, equal ones too: which of them counts would be for each hop to choose."""
    code, message = refusal((name, b"same"), (name.upper(), second))
    assert code == 400
    assert name.lower() in message.lower().encode()
    assert refusal((name, b"same")) == (0, "")


def test_the_first_reason_is_told_and_the_rest_is_known() -> None:
    """A refused request is still sorted to its end: the record needs to know who sent it."""
    scrubbed = scrub(
        [
            (b"Impersonate-User", b"a"),
            (b"Connection", b"x-y"),
            (b"Authorization", b"Bearer t"),
            (b"User-Agent", b"ua"),
            (b"Host", b"h"),
        ],
        upgrading=False,
    )
    assert scrubbed.refused is not None
    assert scrubbed.refused.code == 403
    assert (scrubbed.token, scrubbed.user_agent, scrubbed.has_host) == ("t", "ua", True)


@pytest.mark.parametrize("later", [b"X-Remote-User", b"Impersonate-Group", b"Accept", b"Connection"])
def test_nothing_takes_a_refusal_back(later: bytes) -> None:
    """A header after the one that was refused, dropped, passed or refused itself, leaves the refusal as it is."""
    code, message = refusal((b"Impersonate-User", b"a"), (later, b"x"))
    assert code == 403
    assert "--as " in message
    assert refusal((b"Host", b"a"), (b"Host", b"b"), (later, b"x"))[0] == 400


# What the proxy learns.


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (b"Bearer kap_abc", "kap_abc"),
        (b"bearer kap_abc", "kap_abc"),
        (b"BEARER   kap_abc ", "kap_abc"),
        (b"Bearer", ""),
        (b"Bearer ", ""),
        (b"Basic YTpi", ""),
        (b"kap_abc", ""),
        (b"Bearers kap_abc", ""),
        (b"", ""),
        (b"Bearer \xe9", "\xe9"),
    ],
)
def test_bearer_token(value: bytes, token: str) -> None:
    """The token is what follows the scheme Bearer, in any case; other schemes give none, and none of it passes."""
    scrubbed = scrub([(b"Authorization", value)], upgrading=False)
    assert scrubbed.token == token
    assert scrubbed.passed == b""


@pytest.mark.parametrize(
    ("values", "token", "line"),
    [
        ([b"v5.channel.k8s.io"], "", b"v5.channel.k8s.io"),
        ([b"v5.channel.k8s.io,v4.channel.k8s.io"], "", b"v5.channel.k8s.io, v4.channel.k8s.io"),
        ([b"v5.channel.k8s.io, " + CARRIED], "sec?ret>>", b"v5.channel.k8s.io"),
        ([CARRIED + b" ,\tv5.channel.k8s.io"], "sec?ret>>", b"v5.channel.k8s.io"),
        ([CARRIED, b"v5.channel.k8s.io", b"v4.channel.k8s.io"], "sec?ret>>", b"v5.channel.k8s.io, v4.channel.k8s.io"),
        ([BEARER_SUBPROTOCOL + b"YQ==, v5"], "a", b"v5"),
    ],
    ids=["one", "two", "after", "before", "lines", "padded"],
)
def test_subprotocol_token(values: list[bytes], token: str, line: bytes) -> None:
    """A browser's token is taken out of the subprotocols; the others pass in order."""
    scrubbed = scrub([(b"Sec-WebSocket-Protocol", value) for value in values], upgrading=True)
    assert scrubbed.token == token
    assert scrubbed.passed == b"Sec-WebSocket-Protocol: " + line + b"\r\n"
    assert scrubbed.refused is None


@pytest.mark.parametrize(
    "value",
    [
        CARRIED,
        CARRIED + b", " + CARRIED,
        CARRIED + b", v5, " + BEARER_SUBPROTOCOL + b"YQ",
        BEARER_SUBPROTOCOL + b"YQ*, v5",
        BEARER_SUBPROTOCOL + b"YWJjZ, v5",
        BEARER_SUBPROTOCOL + b"\xe9\xe9, v5",
    ],
    ids=["alone", "twice", "two", "alphabet", "length", "not-ascii"],
)
def test_wrong_subprotocol_token(value: bytes) -> None:
    """A token that is alone, one of two or not base64url is refused with 400; it neither passes nor counts."""
    scrubbed = scrub([(b"Sec-WebSocket-Protocol", value)], upgrading=True)
    assert scrubbed.refused is not None
    assert scrubbed.refused.code == 400
    assert scrubbed.token == ""
    assert b"bearer" not in scrubbed.passed.lower()
    assert "YWJj" not in scrubbed.refused.message


def test_a_token_does_not_pass_in_another_case() -> None:
    """A token in a subprotocol whose prefix is written differently does not reach the API server either."""
    scrubbed = scrub([(b"Sec-WebSocket-Protocol", CARRIED.replace(b"bearer", b"Bearer") + b", v5")], upgrading=True)
    assert b"earer" not in scrubbed.passed


def test_the_authorization_header_comes_before_a_subprotocol() -> None:
    """With both, the header's token counts, and the other is removed all the same."""
    both = [(b"Authorization", b"Bearer a"), (b"Sec-WebSocket-Protocol", CARRIED + b", v5")]
    scrubbed = scrub(both, upgrading=True)
    assert scrubbed.token == "a"
    assert scrubbed.passed == b"Sec-WebSocket-Protocol: v5\r\n"


@pytest.mark.parametrize(
    ("value", "upgrading", "expected"),
    [
        (b"websocket", True, "websocket"),
        (b"WebSocket", True, "websocket"),
        (b"SPDY/3.1", True, "SPDY/3.1"),
        (b"spdy/3.1", True, "SPDY/3.1"),
        (b"h2c", True, ""),
        (b"SPDY/3", True, ""),
        (b"websocket", False, ""),
        (b"", True, ""),
    ],
)
def test_upgrade(value: bytes, upgrading: bool, expected: str) -> None:
    """The protocols of Kubernetes are known in any case, others are not, and only where the request asks to switch."""
    assert scrub([(b"Upgrade", value)], upgrading=upgrading).upgrade == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(b"100-continue", True), (b"100-Continue", True), (b"", False), (b"200-ok", False)]
)
def test_expect(value: bytes, expected: bool) -> None:
    """Expect is answered by the proxy and ends here."""
    scrubbed = scrub([(b"Expect", value)], upgrading=False)
    assert scrubbed.expect_continue is expected
    assert scrubbed.passed == b""


def test_claims_are_told_and_pass() -> None:
    """What the client says of itself is recorded as text, wrong UTF-8 replaced, and passes byte for byte."""
    headers: RawHeaders = [
        (b"user-agent", b"caf\xc3\xa9\xff"),
        (b"KUBECTL-COMMAND", b"kubectl \xe2\x98\x83"),
        (b"Kubectl-session", b"s"),
    ]
    scrubbed = scrub(headers, upgrading=False)
    assert scrubbed.user_agent == "caf\xe9\N{REPLACEMENT CHARACTER}"
    assert (scrubbed.kubectl_command, scrubbed.kubectl_session) == ("kubectl \N{SNOWMAN}", "s")
    assert scrubbed.passed == b"".join(name + b": " + value + b"\r\n" for name, value in headers)


def test_the_first_of_repeated_claims_is_recorded() -> None:
    """Of two User-Agents the trail has the one that the API server's own audit log has."""
    assert scrub([(b"User-Agent", b"a"), (b"User-Agent", b"b")], upgrading=False).user_agent == "a"


def test_nothing_said_is_nothing_known() -> None:
    """A request without headers gives empty values."""
    assert astuple(scrub([], upgrading=True)) == (b"", "", "", b"", "", "", "", False, False, None)


# The heads.


def test_upstream_head() -> None:
    """The head is the request line, what passed, what we say, the framing and an empty line, in that order."""
    head = upstream_head("GET", "/api?x=\xe9", b"Host: h\r\nAudit-ID: 1\r\n", b"A: 1\r\nB: 2\r\n", b"L: 3\r\n")
    assert head == b"GET /api?x=\xe9 HTTP/1.1\r\nA: 1\r\nB: 2\r\nHost: h\r\nAudit-ID: 1\r\nL: 3\r\n\r\n"


def head_lines(*headers: tuple[bytes, bytes], prefix: str = "", foreign: bool = False) -> list[bytes]:
    """Give the lines of a client's head for these headers of an answer, without the first and the framing."""
    head = client_head(200, b"OK", list(headers), b"F: 1\r\n", prefix=prefix, foreign=foreign)
    first, *lines, framing, nothing, end = head.split(b"\r\n")
    assert (first, framing, nothing, end) == (b"HTTP/1.1 200 OK", b"F: 1", b"", b"")
    return lines


def test_client_head_passes_what_the_server_says() -> None:
    """An answer's headers stay as they are and in order; repeated Warnings stay repeated."""
    headers: RawHeaders = [
        (b"Audit-Id", b"x"),
        (b"Cache-Control", b"no-cache, private"),
        (b"Warning", b'299 - "one"'),
        (b"warning", b'299 - "tw\xc3\xb6"'),
        (b"Warning", b'299 - "one"'),
        (b"Content-Encoding", b"gzip"),
        (b"Vary", b"Accept"),
        (b"X-Kubernetes-Pf-Flowschema-Uid", b"1"),
        (b"Retry-After", b"1"),
        (b"X-Empty", b""),
    ]
    assert head_lines(*headers, foreign=True) == [name + b": " + value for name, value in headers]


def test_client_head_has_code_and_phrase() -> None:
    """The status line is the API server's, an empty phrase included."""
    assert client_head(404, b"Not Found", [], b"") == b"HTTP/1.1 404 Not Found\r\n\r\n"
    assert client_head(299, b"", [], b"") == b"HTTP/1.1 299 \r\n\r\n"


@pytest.mark.parametrize(
    "name",
    [
        b"Connection",
        b"KEEP-ALIVE",
        b"Proxy-Authenticate",
        b"Proxy-Connection",
        b"te",
        b"Trailer",
        b"transfer-encoding",
        b"Upgrade",
        b"Content-Length",
        b"Alt-Svc",
    ],
)
def test_client_head_leaves_out_hop_by_hop(name: bytes) -> None:
    """What is about the connection to the API server does not reach the client."""
    assert head_lines((name, b"1"), (b"A", b"1")) == [b"A: 1"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"/api/v1/namespaces/n/pods/p/proxy/", b"/clusters/c/api/v1/namespaces/n/pods/p/proxy/"),
        (b"/", b"/clusters/c/"),
        (b"https://elsewhere/x", b"https://elsewhere/x"),
        (b"//elsewhere/x", b"//elsewhere/x"),
        (b"relative", b"relative"),
        (b"../up", b"../up"),
        (b"?q", b"?q"),
        (b"", b""),
    ],
)
@pytest.mark.parametrize("name", [b"Location", b"location"])
def test_location_gets_the_prefix(name: bytes, value: bytes, expected: bytes) -> None:
    """A root-relative Location is prefixed with the cluster's path; all else stays, other headers always."""
    lines = head_lines((name, value), (b"Content-Location", b"/x"), prefix="/clusters/c", foreign=True)
    assert lines == [name + b": " + expected, b"Content-Location: /x"]


@pytest.mark.parametrize("name", [b"Set-Cookie", b"set-cookie"])
def test_cookies_of_strangers_stay_behind(name: bytes) -> None:
    """Set-Cookie is dropped from a pod's own answers, each line of it, and from those only."""
    cookies = ((name, b"a=1"), (name, b"b=2"))
    assert head_lines(*cookies, (b"A", b"1"), foreign=True) == [b"A: 1"]
    assert head_lines(*cookies) == [name + b": a=1", name + b": b=2"]
