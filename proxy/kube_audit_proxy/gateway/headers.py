"""Which headers pass, which end here, and which end the call.

Both directions in tables, by lower-cased name; every function is pure. Identity is decided here for good: what a
client says about who it is never goes upstream, whatever its spelling, and what we say is added after everything
else was filtered.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from kube_audit_proxy.kube import status
from kube_audit_proxy.kube.status import Status

RawHeaders = list[tuple[bytes, bytes]]

BEARER_SUBPROTOCOL = b"base64url.bearer.authorization.k8s.io."
"""A browser's way to send a token (kubernetes/apiserver pkg/authentication/request/websocket/protocol.go)."""

# Hop-by-hop (RFC 9110 7.6.1), made anew for each leg.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade content-length".split()
)
_REQUEST_ENDS_HERE = _HOP_BY_HOP | frozenset(
    # Who and where: said anew by us.
    b"host authorization audit-id x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-port x-real-ip "
    b"forwarded via "
    # A client neither steers our tracing nor lends a browser's ambient credentials to the API server.
    b"traceparent tracestate baggage cookie origin expect http2-settings sec-websocket-protocol".split()
)
_RESPONSE_ENDS_HERE = _HOP_BY_HOP | frozenset((b"alt-svc",))
# Who the API server takes the call to be from: Impersonate-*, anything new that begins so included, and X-Remote-*,
# which it believes of a connection with the front-proxy certificate.
_IDENTITY_PREFIXES = (b"impersonate", b"x-remote-")
_CLAIMS = frozenset((b"user-agent", b"kubectl-command", b"kubectl-session"))
_ENDS_OR_TELLS = _REQUEST_ENDS_HERE | _CLAIMS
_SINGLE = frozenset((b"host", b"authorization"))
_CONNECTION_TOKENS = frozenset((b"", b"close", b"keep-alive", b"upgrade", b"te", b"http2-settings"))
_UPGRADES = {b"websocket": "websocket", b"spdy/3.1": "SPDY/3.1"}
_KUBECTL_FLAG = {
    "impersonate-user": "--as",
    "impersonate-group": "--as-group",
    "impersonate-uid": "--as-uid",
}


@dataclass(frozen=True, eq=False)
class Scrubbed:
    """What is left of a request's headers, and what the proxy itself needs to know of them."""

    passed: bytes
    """Header lines that go upstream as they came, each with its CRLF."""
    token: str
    """The client's bearer token, empty if there is none."""
    upgrade: str
    """`websocket`, `SPDY/3.1` or empty."""
    origin: bytes
    """Which page opens a websocket, as its browser says; empty elsewhere."""
    user_agent: str
    kubectl_command: str
    kubectl_session: str
    expect_continue: bool
    has_host: bool
    refused: Status | None
    """Why the call may not pass, if a header says so."""


def scrub(headers: RawHeaders, *, upgrading: bool) -> Scrubbed:
    """Sort a request's headers. Never raises: what is to be refused is told, next to who sent it.

    `upgrading`: the head asks to switch protocols (Connection and Upgrade say so).
    """
    passed: list[bytes] = []
    ended: dict[bytes, bytes] = {}
    refused: Status | None = None
    for name, value in headers:
        lower = name.lower()
        if lower not in _ENDS_OR_TELLS:
            plain = lower.replace(b"_", b"-")  # as some hops read it: what ends here ends in that spelling as well
            if plain.startswith(_IDENTITY_PREFIXES):
                refused = refused or _identity_refused(plain)
            elif plain not in _REQUEST_ENDS_HERE:
                passed.append(b"%b: %b\r\n" % (name, value))
            continue
        if lower in _CLAIMS:
            passed.append(b"%b: %b\r\n" % (name, value))
            ended.setdefault(lower, value)  # of repeated ones the first counts, as in Go
            continue
        if lower in ended:
            if lower in _SINGLE:
                refused = refused or status.bad_request(f"the request repeats its {name.decode('latin-1')} header")
            ended[lower] += b"," + value
            continue
        ended[lower] = value
    told = ended.get
    scheme, _, rest = told(b"authorization", b"").partition(b" ")
    token = rest.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""
    if b"sec-websocket-protocol" in ended:
        token, subprotocols, wrong = _subprotocol_token(token, ended[b"sec-websocket-protocol"])
        refused = refused or wrong
        passed.append(b"Sec-WebSocket-Protocol: %b\r\n" % b", ".join(subprotocols))
    if b"connection" in ended:
        refused = refused or _connection_refused(ended[b"connection"])
    upgrade = _UPGRADES.get(told(b"upgrade", b"").lower(), "") if upgrading else ""
    return Scrubbed(
        passed=b"".join(passed),
        token=token,
        upgrade=upgrade,
        origin=told(b"origin", b"") if upgrade == "websocket" else b"",
        user_agent=told(b"user-agent", b"").decode("utf-8", "replace"),
        kubectl_command=told(b"kubectl-command", b"").decode("utf-8", "replace"),
        kubectl_session=told(b"kubectl-session", b"").decode("utf-8", "replace"),
        expect_continue=told(b"expect", b"").lower() == b"100-continue",
        has_host=b"host" in ended,
        refused=refused,
    )


def _subprotocol_token(token: str, value: bytes) -> tuple[str, list[bytes], Status | None]:
    """The token, the subprotocols without the entry that carries one, and what is wrong with them."""
    entries = [entry.strip() for entry in value.split(b",")]
    carried = [entry for entry in entries if entry.lower().startswith(BEARER_SUBPROTOCOL)]
    others = [entry for entry in entries if entry not in carried]
    if not carried:
        return token, others, None
    if len(carried) > 1 or not others:
        return token, others, status.bad_request("a token in Sec-WebSocket-Protocol has to be one, beside a protocol")
    encoded = carried[0][len(BEARER_SUBPROTOCOL) :]
    try:
        decoded = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return token, others, status.bad_request("the token in Sec-WebSocket-Protocol is not base64url")
    return token or decoded.decode("latin-1"), others, None


def _connection_refused(value: bytes) -> Status | None:
    # A hop behind us removes what Connection names: `Connection: Impersonate-User` would make the call the
    # proxy's own (CVE-2021-31999). We drop the header, and a client that tries is told so.
    if {token.strip(b" \t") for token in value.lower().split(b",")} <= _CONNECTION_TOKENS:
        return None
    return status.bad_request("the Connection header may only say close, keep-alive or upgrade")


def _identity_refused(plain: bytes) -> Status | None:
    name = plain.decode("latin-1")
    if name.startswith("x-remote"):
        return None  # dropped without a word: clients behind an authenticating hop send it in good faith
    flag = _KUBECTL_FLAG.get(name, "--as-user-extra")
    return Status(
        403,
        "Forbidden",
        f"this proxy does not pass on impersonation: leave out kubectl's {flag} (header {name}); "
        "ask for a kubeconfig of the user you want to act as",
    )


def upstream_head(method: str, target: str, fixed: bytes, passed: bytes, framing: bytes) -> bytes:
    """The request's head as sent upstream: what passed, then what we say (`fixed`), then the body's framing."""
    return b"".join((f"{method} {target} HTTP/1.1\r\n".encode("latin-1"), passed, fixed, framing, b"\r\n"))


def client_head(
    code: int, phrase: bytes, headers: RawHeaders, framing: bytes, *, prefix: str = "", foreign: bool = False
) -> bytes:
    """The answer's head as sent to the client.

    `prefix` (`/clusters/<name>`) is put before a root-relative Location, which the API server can only give without
    it. `foreign`: the content is not the API server's own (pods/proxy and its like), so its cookies stay behind.
    """
    lines = [b"HTTP/1.1 %d %b\r\n" % (code, phrase)]
    for name, value in headers:
        lower = name.lower()
        if lower in _RESPONSE_ENDS_HERE or (foreign and lower == b"set-cookie"):
            continue
        if lower == b"location" and value.startswith(b"/") and not value.startswith(b"//"):
            lines.append(b"%b: %b%b\r\n" % (name, prefix.encode(), value))
        else:
            lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(framing)
    lines.append(b"\r\n")
    return b"".join(lines)


_SORTED_OUT: Final = re.compile(
    rb"\r\n(?:%b):"
    % b"|".join(sorted(_RESPONSE_ENDS_HERE - {b"content-length", b"transfer-encoding"} | {b"location", b"set-cookie"}))
)


def passes_whole(lower: bytes) -> bool:
    """Whether an answer's header lines have nothing to sort out, save how long its body is.

    `lower`: the lines in lower case, with a CRLF before the first.
    """
    return _SORTED_OUT.search(lower) is None
