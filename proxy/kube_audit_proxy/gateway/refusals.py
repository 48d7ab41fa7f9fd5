"""What the proxy answers itself, and how a call that failed is judged."""

from collections.abc import Iterable
from typing import Final

from kube_audit_proxy.audit.fields import Decision, Outcome
from kube_audit_proxy.gateway.client import Request
from kube_audit_proxy.gateway.errors import ClientGoneError, UpstreamConnectError, UpstreamError, UpstreamTimeoutError
from kube_audit_proxy.gateway.headers import Scrubbed
from kube_audit_proxy.identity.user import User
from kube_audit_proxy.kube import status
from kube_audit_proxy.kube.requestinfo import RequestInfo
from kube_audit_proxy.kube.status import Status

_ALLOW: Final = Decision.ALLOW
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

NO_PREFIX = Status(
    403,
    "Forbidden",
    "this proxy serves clusters under /clusters/<name>, and the request's path does not begin with one. "
    "kubectl up to 1.33 leaves the prefix out with --raw (use 1.34 or newer), and `kubectl proxy` without "
    "--append-server-path",
)


def shape_refused(request: Request, scrubbed: Scrubbed, bad_target: str) -> Status | None:
    """What a careful server does not take, although each part of it is valid."""
    if request.method not in _METHODS:
        return Status(405, "MethodNotAllowed", f"the method {request.method} is not served here")
    if bad_target:
        return status.bad_request(bad_target)
    if request.http_1_0:
        return status.bad_request("HTTP/1.0 knows no Transfer-Encoding") if request.chunked else None
    if not scrubbed.has_host:
        return status.bad_request("the request has no Host header")
    return None


def no_such_cluster(name: str, user: User, clusters: Iterable[str]) -> Status:
    """The same words whether the cluster is unknown or not the user's: neither tells of the other."""
    theirs = ", ".join(sorted(filter(user.may_call, clusters))) or "none"
    return Status(
        403, "Forbidden", f"cluster {name!r} is not one that user {user.name!r} may call (those are: {theirs})"
    )


def blame(error: ClientGoneError | UpstreamError, request: Request) -> tuple[Status | None, Outcome]:
    """What to answer, if anybody is left to hear it, and how the call ended."""
    match error:
        case ClientGoneError():
            return (request.broken.status, Outcome.REFUSED) if request.broken else (None, Outcome.CLIENT_GONE)
        case UpstreamConnectError():
            return status.bad_gateway(str(error)), Outcome.UPSTREAM_UNREACHABLE
        case UpstreamTimeoutError():
            return status.gateway_timeout(str(error)), Outcome.UPSTREAM_GONE
        case _:
            return status.bad_gateway(str(error)), Outcome.UPSTREAM_GONE


def decision(code: int, decided_by: str) -> Decision:
    """Whether the call was let through: by the proxy, and by the API server after it."""
    if code in {401, 403}:
        return Decision.DENY
    return _ALLOW if decided_by == "apiserver" else Decision.ERROR


def answer(failure: Status, audit_id: str, info: RequestInfo | None, request: Request) -> bytes:
    """The whole answer that tells a client of a failure."""
    # Of a failed discovery client-go tells people the server's words only if it is a 403 in plain text
    # (rest/request.go, newUnstructuredResponseError); elsewhere it reads the Status.
    plain = failure.code == 403 and (info is None or not info.is_resource)
    body = f"{failure.message}\n".encode() if plain else failure.body()
    lines = [
        f"HTTP/1.1 {failure.code} {failure.reason or 'Error'}",
        f"Content-Type: {'text/plain' if plain else 'application/json'}",
        "Cache-Control: no-cache, private",
        f"Audit-Id: {audit_id}",
        f"Content-Length: {len(body)}",
    ]
    if failure.code == 401:
        lines.append('WWW-Authenticate: Bearer realm="kube-audit-proxy"')
    if failure.retry_after_seconds:
        lines.append(f"Retry-After: {failure.retry_after_seconds}")
    if not request.keep_alive:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if request.method == "HEAD" else body)
