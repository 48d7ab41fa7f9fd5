"""How each side is told where a body ends: made anew for each leg."""

from typing import Final

from kube_audit_proxy.gateway.client import Request
from kube_audit_proxy.gateway.headers import Scrubbed
from kube_audit_proxy.gateway.upstream import Response

_NO_BODY: Final = frozenset({204, 304})


def request_framing(request: Request, scrubbed: Scrubbed) -> bytes:
    """Say how the API server is told where the request ends, or what to switch to."""
    if scrubbed.upgrade:
        length = b"Content-Length: 0\r\n" if request.content_length == 0 else b""
        # Part of a websocket's handshake: without it the API server opens no watch, and a pod cannot judge the page.
        origin = b"Origin: %b\r\n" % scrubbed.origin if scrubbed.origin else b""
        return b"Connection: Upgrade\r\nUpgrade: %b\r\n%b%b" % (scrubbed.upgrade.encode(), origin, length)
    if request.chunked:
        return b"Transfer-Encoding: chunked\r\n"
    return b"Content-Length: %d\r\n" % request.content_length if request.content_length >= 0 else b""


def answer_framing(request: Request, response: Response) -> tuple[bytes, bool]:
    """Say how the client is told where the answer ends, and whether its body is sent in chunks."""
    if response.content_length >= 0:
        return b"Content-Length: %d\r\n" % response.content_length, False
    if request.method == "HEAD" or response.code in _NO_BODY:
        return b"", False
    if request.http_1_0:
        return b"", False
    return b"Transfer-Encoding: chunked\r\n", True
