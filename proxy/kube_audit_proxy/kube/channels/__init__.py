"""Reads along with the streams of exec, attach and port-forward: exit codes and ports, from a copy of the bytes."""

from kube_audit_proxy.kube.channels.base import StreamObserver
from kube_audit_proxy.kube.channels.portforward import (
    TUNNEL_SUBPROTOCOL,
    QueryPortForwardObserver,
    SpdyPortForwardObserver,
    TunnelPortForwardObserver,
)
from kube_audit_proxy.kube.channels.remotecommand import (
    SPDY_JSON_VERSIONS,
    WEBSOCKET_SUBPROTOCOLS,
    SpdyCommandObserver,
    WebSocketCommandObserver,
)

__all__ = ["StreamObserver", "observer"]


def observer(upgrade: str, subprotocol: str, subresource: str, query: str) -> StreamObserver | None:
    """Return the observer of a stream, or None for a stream that nothing is known of.

    `upgrade` is the protocol that was switched to (`websocket`, `SPDY/3.1`, in any case), `subprotocol` what the
    server answered in Sec-WebSocket-Protocol or X-Stream-Protocol-Version, `query` that of the request.
    """
    protocol = upgrade.lower()
    if subresource == "portforward":
        if protocol == "spdy/3.1":
            return SpdyPortForwardObserver()
        if protocol == "websocket":
            tunnelled = subprotocol == TUNNEL_SUBPROTOCOL
            return TunnelPortForwardObserver() if tunnelled else QueryPortForwardObserver(query)
    elif subresource in {"exec", "attach"}:
        is_exec = subresource == "exec"
        if protocol == "spdy/3.1":
            return SpdyCommandObserver(is_json=subprotocol in SPDY_JSON_VERSIONS, is_exec=is_exec)
        if protocol == "websocket" and subprotocol in WEBSOCKET_SUBPROTOCOLS:
            return WebSocketCommandObserver(WEBSOCKET_SUBPROTOCOLS[subprotocol], is_exec=is_exec)
    return None
