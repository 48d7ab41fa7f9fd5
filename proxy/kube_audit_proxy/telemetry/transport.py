"""Sends serialized OTLP requests: over gRPC or HTTP, by the OpenTelemetry exporters' own means.

The exporters read the settings (endpoint, TLS, headers, compression, time-out: the OTEL_EXPORTER_OTLP_* variables) and
hold the connection. What is not theirs here is what to do about a failure: they give up after seconds, and the shipper
must not.
"""
# ruff: noqa: SLF001 - the exporters' transport is not theirs to offer; the version is pinned, and the tests send by it

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from kube_audit_proxy.export.names import Signal

MOST_BYTES = 3 << 20
"""Bytes of a request: gRPC servers take 4 MiB unless told otherwise."""

_PROTOCOLS = ("grpc", "http/protobuf")
_METHODS = {
    Signal.LOGS: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    Signal.TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
}
_PATHS = {Signal.LOGS: "/v1/logs", Signal.TRACES: "/v1/traces"}
_GRPC: Mapping[Signal, Any] = {Signal.LOGS: GrpcLogExporter, Signal.TRACES: GrpcSpanExporter}
_HTTP: Mapping[Signal, Any] = {Signal.LOGS: HttpLogExporter, Signal.TRACES: HttpSpanExporter}

# https://opentelemetry.io/docs/specs/otlp/: everything else is final. Refused credentials are not in its lists of what
# may be tried again, but an operator mends them, and nothing must be lost until then.
_TRY_AGAIN = frozenset((
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
))  # fmt: skip
_TOO_LARGE = "larger than max"


class TransportError(Exception):
    """Nothing can be sent with these settings; the text says which, and what to do."""


class Verdict(Enum):
    """What became of a request."""

    TAKEN = auto()
    LATER = auto()
    """Not taken, but the same request may be another time."""
    TOO_MUCH = auto()
    """Not taken, but less at a time may be: a limit on what comes at once would otherwise be met again for ever."""
    REFUSED = auto()
    """Not taken, in whole or in part, and never will be."""


_HTTP_VERDICTS = {
    400: Verdict.REFUSED,
    413: Verdict.REFUSED,
    422: Verdict.REFUSED,
    429: Verdict.TOO_MUCH,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request, in words too; `wait` is how many seconds the server asked for."""

    verdict: Verdict
    reason: str = ""
    wait: float | None = None


class Transport(Protocol):
    """A way to one place that takes one signal."""

    where: str
    """For people: the protocol and the address."""

    def send(self, request: bytes) -> Answer:
        """Send a serialized request. Never raises for what the other side does; takes as long as the time-out."""

    def close(self) -> None:
        """Let go of the connection."""


def connect(signal: Signal, *, endpoint: str = "", protocol: str = "") -> Transport:
    """Return the transport that the settings name. Raises TransportError.

    The OTEL_EXPORTER_OTLP_* variables of this process win over `endpoint` and `protocol`. `endpoint` is the base of
    both signals, as in OTEL_EXPORTER_OTLP_ENDPOINT.
    """
    spoken = _told(signal, "PROTOCOL") or protocol or "grpc"
    if spoken not in _PROTOCOLS:
        raise TransportError(f"the OTLP protocol {spoken!r} is not spoken here; use {' or '.join(_PROTOCOLS)}")
    base = endpoint if endpoint and not _told(signal, "ENDPOINT") else None
    try:
        if spoken == "grpc":
            return _Grpc(signal, _GRPC[signal](endpoint=base))
        return _Http(signal, _HTTP[signal](endpoint=base.rstrip("/") + _PATHS[signal] if base else None))
    except Exception as error:
        raise TransportError(f"{signal} cannot be sent: {error}") from error


def _told(signal: Signal, what: str) -> str | None:
    own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.name}_{what}")
    return own or os.environ.get(f"OTEL_EXPORTER_OTLP_{what}")


class _Grpc:
    """Sends over the channel of an exporter."""

    def __init__(self, signal: Signal, exporter: Any) -> None:
        self._exporter = exporter
        self._timeout: float = exporter._timeout
        # Bytes in, bytes out: the exporter's own stub would want objects, and serialize them.
        self._call = exporter._channel.unary_unary(_METHODS[signal])
        self._parse = _rejections(signal)
        self.where = f"{exporter._endpoint} (gRPC)"

    def send(self, request: bytes) -> Answer:
        """Send a request."""
        try:
            response = self._call(request, timeout=self._timeout, metadata=self._exporter._headers)
        except grpc.RpcError as error:
            return _grpc_failure(error)
        return self._parse(response)

    def close(self) -> None:
        """Close the channel."""
        self._exporter.shutdown()


class _Http:
    """Sends through the client of an exporter."""

    def __init__(self, signal: Signal, exporter: Any) -> None:
        self._client = exporter._client
        self._parse = _rejections(signal)
        if _told(signal, "CERTIFICATE"):
            # requests takes REQUESTS_CA_BUNDLE rather than what its session was told to trust (psf/requests #3829)
            self._client._transport._session.trust_env = False
        self.where = f"{exporter._endpoint} (HTTP)"

    def send(self, request: bytes) -> Answer:
        """Send a request."""
        client = self._client
        result = client._submit(client._compress(request), client._timeout)
        if result.status_code is None:
            return Answer(Verdict.LATER, str(result.error))
        if 200 <= result.status_code < 300:
            return self._parse(result.content())
        said = result.content()[:500].decode("utf-8", "replace").strip()
        reason = f"{result.status_code} {result.reason}: {said}"
        return Answer(
            _HTTP_VERDICTS.get(result.status_code, Verdict.LATER), reason, _seconds(result.headers().get("Retry-After"))
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.shutdown()


def _rejections(signal: Signal) -> Callable[[bytes], Answer]:
    """Return what reads an answer: it may say that a part was not taken."""
    if signal is Signal.LOGS:
        return lambda data: _partial(ExportLogsServiceResponse.FromString(data).partial_success, "rejected_log_records")
    return lambda data: _partial(ExportTraceServiceResponse.FromString(data).partial_success, "rejected_spans")


def _partial(success: Any, field: str) -> Answer:
    rejected = getattr(success, field)
    if not rejected:
        return Answer(Verdict.TAKEN)
    return Answer(Verdict.REFUSED, f"{rejected} rejected: {success.error_message}")


def _grpc_failure(error: Any) -> Answer:
    code, details = error.code(), error.details() or ""
    reason = f"{code.name}: {details}"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Too much of something for the moment, or a message that is too large for ever.
        return Answer(Verdict.REFUSED if _TOO_LARGE in details else Verdict.TOO_MUCH, reason, _retry_info(error))
    return Answer(Verdict.LATER if code in _TRY_AGAIN else Verdict.REFUSED, reason, _retry_info(error))


def _retry_info(error: Any) -> float | None:
    for key, value in error.trailing_metadata() or ():
        if key == "google.rpc.retryinfo-bin":
            delay = RetryInfo.FromString(value).retry_delay
            return float(delay.seconds) + float(delay.nanos) / 1e9
    return None


def _seconds(value: str | None) -> float | None:
    try:
        return max(float(value), 0.0) if value else None
    except ValueError:
        return None  # a date: our own pauses do as well
