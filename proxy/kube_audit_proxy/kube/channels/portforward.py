"""Observes port-forward: which ports of the pod were connected to."""

from kube_audit_proxy.kube.channels.base import StreamObserver
from kube_audit_proxy.kube.channels.payload import Payload
from kube_audit_proxy.kube.channels.spdy import SpdyReader, StreamOpened
from kube_audit_proxy.kube.channels.websocket import Opcode, WebSocketReader
from kube_audit_proxy.kube.query import parse_port, portforward_ports

TUNNEL_SUBPROTOCOL = "SPDY/3.1+portforward.k8s.io"
"""The websocket subprotocol whose binary messages are a SPDY connection, cut anywhere (KEP-4006)."""


class SpdyPortForwardObserver(StreamObserver):
    """Observes port-forward over SPDY/3.1 (client-go, tools/portforward/portforward.go).

    Each connection is a pair of streams with a header `port`, `streamtype: data` and `streamtype: error`. They come at
    any time, so that the client's side matters to the end.
    """

    def __init__(self) -> None:
        self._spdy = SpdyReader()
        self._ports: dict[int, None] = {}

    @property
    def wants_client(self) -> bool:
        """Whether further connections could be read."""
        return not self.fault

    @property
    def fault(self) -> str:
        """What is wrong with the client's bytes, or the empty string."""
        return self._spdy.fault

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports connected to, in the order of their first connection."""
        return tuple(self._ports)

    def client_data(self, data: bytes) -> None:
        """Take bytes that the client sent after its request."""
        self._receive(Payload(memoryview(data)))

    def _receive(self, payload: Payload) -> None:
        for event in self._spdy.receive(payload):
            if isinstance(event, StreamOpened) and event.headers.get("streamtype") == "data":
                port = parse_port(event.headers.get("port", ""))
                if port is not None:
                    self._ports[port] = None


class TunnelPortForwardObserver(SpdyPortForwardObserver):
    """Observes port-forward over SPDY/3.1 in the binary messages of a websocket."""

    def __init__(self) -> None:
        super().__init__()
        self._websocket = WebSocketReader()

    @property
    def fault(self) -> str:
        """What is wrong with the client's bytes, as a websocket or as SPDY, or the empty string."""
        return self._websocket.fault or super().fault

    def client_data(self, data: bytes) -> None:
        """Take bytes that the client sent after its request."""
        if self.fault:
            return
        for piece in self._websocket.receive(data):
            if piece.opcode is Opcode.BINARY:
                self._receive(piece.payload)
                if self._spdy.fault:
                    return  # what comes after a fault is nobody's to judge, in this read as in the next


class QueryPortForwardObserver(StreamObserver):
    """Observes the older port-forward over a websocket, whose query names the ports."""

    def __init__(self, query: str) -> None:
        self._ports = portforward_ports(query)

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports that the query names; each has its channels from the beginning."""
        return self._ports
