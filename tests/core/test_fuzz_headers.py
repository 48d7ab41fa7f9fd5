"""Header rules under any names and values: no identity but ours, one framing, no token in anything that passes."""

from __future__ import annotations

from base64 import urlsafe_b64encode

from hypothesis import given, settings
from hypothesis import strategies as st

from kube_audit_proxy.gateway.headers import BEARER_SUBPROTOCOL, RawHeaders, client_head, passes_whole, scrub

_TOKEN = b"kap_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
_ENCODED = urlsafe_b64encode(_TOKEN).rstrip(b"=")
_CARRIED = BEARER_SUBPROTOCOL + _ENCODED
_NEVER_PASS = frozenset(
    b"authorization audit-id host content-length transfer-encoding connection upgrade keep-alive te trailer expect "
    b"proxy-authorization proxy-authenticate proxy-connection x-forwarded-for x-forwarded-host x-forwarded-proto "
    b"x-forwarded-port x-real-ip forwarded via traceparent tracestate baggage cookie origin http2-settings".split()
)
_STEMS = sorted(
    _NEVER_PASS
    | frozenset(
        b"impersonate-user impersonate-group impersonate-uid impersonate-extra-scopes impersonate x-remote-user "
        b"x-remote-group x-remote-uid x-remote-extra-x sec-websocket-protocol user-agent kubectl-session accept "
        b"x-anything kubectl-command".split()
    )
)
_TOKEN_CHARACTERS = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@st.composite
def _spelled(draw: st.DrawFn) -> bytes:
    """Give a name that means something, in any case, with any of its dashes as underscores."""
    stem = draw(st.sampled_from(_STEMS)) + draw(st.sampled_from((b"", b"", b"", b"-x", b"_", b"s")))
    choices = draw(st.lists(st.booleans(), min_size=len(stem), max_size=len(stem)))
    spelled = bytes(
        ord("_") if byte == ord("-") and odd else byte ^ 0x20 if odd and chr(byte).isalpha() else byte
        for byte, odd in zip(stem, choices, strict=True)
    )
    return draw(st.sampled_from((stem, spelled)))


_NAMES = _spelled() | st.lists(st.sampled_from(_TOKEN_CHARACTERS), min_size=1, max_size=12).map(bytes)
_TEXT = st.lists(st.sampled_from(bytes({*range(0x20, 0x7F), *range(0x80, 0x100), 9})), max_size=20).map(bytes)
_VALUES = st.sampled_from((
    b"close", b"upgrade, keep-alive", b"Impersonate-User", b"chunked", b"4", b"websocket", b"SPDY/3.1", b"v5, v4",
    b"Bearer " + _TOKEN, b"bearer   " + _TOKEN, _CARRIED, _CARRIED + b", v5.channel.k8s.io",
    b"v5 ,\t" + _CARRIED.upper(),
)) | _TEXT.map(bytes.strip)  # fmt: skip
_HEADERS = st.lists(st.tuples(_NAMES, _VALUES), max_size=8)


def _passed(headers: RawHeaders, *, upgrading: bool = False) -> list[tuple[bytes, bytes]]:
    """Give name and value of each line that passes; the line has to be one."""
    found = []
    *lines, end = scrub(headers, upgrading=upgrading).passed.split(b"\r\n")
    assert end == b""
    for line in lines:
        assert line.count(b"\r") == line.count(b"\n") == 0
        name, _, value = line.partition(b": ")
        found.append((name, value))
    return found


@settings(max_examples=250)
@given(_HEADERS, st.booleans())
def test_no_identity_and_no_framing_of_a_client_passes(headers: RawHeaders, upgrading: bool) -> None:
    """Whatever the spelling, no claim of who, from where or how long passes; underscores count as dashes."""
    for name, _ in _passed(headers, upgrading=upgrading):
        plain = name.lower().replace(b"_", b"-")
        assert plain not in _NEVER_PASS
        assert not plain.startswith((b"impersonate", b"x-remote-"))


@settings(max_examples=250)
@given(_HEADERS)
def test_impersonation_always_ends_the_call(headers: RawHeaders) -> None:
    """A call with any header that begins with Impersonate is refused, whatever stands around it."""
    asks = any(name.lower().startswith(b"impersonate") for name, _ in headers)
    assert not asks or scrub(headers, upgrading=False).refused is not None


@settings(max_examples=250)
@given(_HEADERS)
def test_all_else_passes_byte_by_byte_and_in_order(headers: RawHeaders) -> None:
    """What the proxy has no part in goes on as it came."""
    passed = [pair for pair in _passed(headers) if not pair[0].lower().startswith(b"sec-websocket-protocol")]
    rest = iter(headers)
    assert all(pair in rest for pair in passed)
    others = [(name, value) for name, value in headers if name.lower() in {b"accept", b"x-anything", b"user-agent"}]
    assert [pair for pair in passed if pair in others] == others


@settings(max_examples=250)
@given(
    st.lists(st.tuples(_NAMES, _TEXT), max_size=3),
    st.sampled_from((
        (b"Authorization", b"Bearer " + _TOKEN),
        (b"authorization", b"bEARER   " + _TOKEN + b" "),
        (b"AUTHORIZATION", b"Basic " + _TOKEN),
        (b"Authorization", _TOKEN),
        (b"Proxy-Authorization", b"Bearer " + _TOKEN),
        (b"Proxy_Authorization", b"Bearer " + _TOKEN),
        (b"Cookie", b"token=" + _TOKEN),
        (b"Sec-WebSocket-Protocol", _CARRIED),
        (b"Sec-WebSocket-Protocol", b"v5," + _CARRIED),
        (b"SEC-WEBSOCKET-PROTOCOL", b" \t" + _CARRIED + b"\t, v5"),
        (b"sec-websocket-protocol", b"v5, Base64URL.Bearer.Authorization.k8s.io." + _ENCODED),
        (b"Sec_WebSocket_Protocol", b"v5, " + _CARRIED),
    )),
    st.integers(0, 3),
)  # fmt: skip
def test_no_credential_passes(others: RawHeaders, carrier: tuple[bytes, bytes], at: int) -> None:
    """A client's token, wherever a client can put one for the API server to find, is in no line that goes upstream."""
    headers = [*others[:at], carrier, *others[at:]]
    sent = scrub(headers, upgrading=True).passed
    assert _TOKEN not in sent
    assert _ENCODED not in sent


@settings(max_examples=250)
@given(st.lists(st.tuples(_NAMES, _VALUES), max_size=6), st.booleans())
def test_answers_are_framed_once(headers: RawHeaders, foreign: bool) -> None:
    """Of an answer's headers none about its framing or its connection is left, but ours; no cookies of strangers."""
    head = client_head(200, b"OK", headers, b"Content-Length: 3\r\n", prefix="/clusters/demo", foreign=foreign)
    first, *lines = head.split(b"\r\n")
    assert first == b"HTTP/1.1 200 OK"
    assert lines[-2:] == [b"", b""]
    names = [line.partition(b":")[0].lower() for line in lines[:-2]]
    assert names.count(b"content-length") == 1
    assert not {b"transfer-encoding", b"connection", b"upgrade", b"keep-alive", b"trailer"} & set(names)
    assert not (foreign and b"set-cookie" in names)
    block = b"\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in headers).lower()
    if passes_whole(block) and not foreign:
        kept = [pair for pair in headers if pair[0].lower() not in {b"content-length", b"transfer-encoding"}]
        assert lines[:-3] == [b"%b: %b" % pair for pair in kept]
