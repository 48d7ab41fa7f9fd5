"""How requests travel: TLS, headers and compression as OpenTelemetry's variables say, and what answers mean."""

import gzip
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)

from kube_audit_proxy.demo.stack import TelemetryStack
from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.telemetry import lines, spans
from kube_audit_proxy.telemetry.transport import TransportError, Verdict, connect
from kube_audit_proxy.tls import ensure_certificates
from servers.stack import CONFIGURATION
from support.shipping import clear_environment

EMPTY = {Signal.LOGS: lines.request([]), Signal.TRACES: spans.request([], "1")}
TLS = """
receivers:
  otlp:
    protocols:
      grpc: {{tls: {{cert_file: {certificate}, key_file: {key}}}}}
      http: {{tls: {{cert_file: {certificate}, key_file: {key}}}}}
"""


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)


@contextmanager
def grpc_side(
    answer: ExportLogsServiceResponse | None, code: grpc.StatusCode = grpc.StatusCode.OK, details: str = ""
) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Run a gRPC server that gives one answer, or fails with a code; give its URL and the metadata it was sent."""
    seen: list[Mapping[str, Any]] = []

    def export(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append({**dict(context.invocation_metadata()), "request": request})
        if code is not grpc.StatusCode.OK:
            context.abort(code, details)
        return (answer or ExportLogsServiceResponse()).SerializeToString()

    class Everything(grpc.GenericRpcHandler):
        def service(self, _details: grpc.HandlerCallDetails) -> Any:
            return grpc.unary_unary_rpc_method_handler(export)

    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Everything(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}", seen
    finally:
        server.stop(None).wait()


@contextmanager
def http_side(status: int, body: bytes = b"", **headers: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run an HTTP server that gives one answer; give its URL and what it was sent."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(
                {**{name.lower(): value for name, value in self.headers.items()}, "path": self.path, "body": sent}
            )
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_grpc_headers_and_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers of the variables are sent with each request, such as a token that a gateway asks for."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc,x-tenant=t1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    with grpc_side(None) as (url, seen):
        transport = connect(Signal.LOGS, endpoint=url)
        assert transport.send(EMPTY[Signal.LOGS]).verdict is Verdict.TAKEN
        transport.close()
    (sent,) = seen
    assert (sent["authorization"], sent["x-tenant"]) == ("Bearer abc", "t1")
    assert sent["request"] == EMPTY[Signal.LOGS]


@pytest.mark.parametrize(("signal", "path"), [(Signal.LOGS, "/v1/logs"), (Signal.TRACES, "/v1/traces")])
def test_http_headers_and_compression(monkeypatch: pytest.MonkeyPatch, signal: Signal, path: str) -> None:
    """Over HTTP too; each signal goes to its own path below the endpoint."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    with http_side(200) as (url, seen):
        transport = connect(signal, endpoint=url, protocol="http/protobuf")
        assert transport.send(EMPTY[signal]).verdict is Verdict.TAKEN
        transport.close()
    (sent,) = seen
    assert (sent["path"], sent["authorization"], sent["content-type"]) == (path, "Bearer abc", "application/x-protobuf")
    assert gzip.decompress(sent["body"]) == EMPTY[signal]


def test_variables_win_over_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a variable names another place or protocol than the configuration, the variable counts."""
    with http_side(200) as (url, seen):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", f"{url}/somewhere/else")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf")
        transport = connect(Signal.LOGS, endpoint="http://127.0.0.1:1", protocol="grpc")
        assert transport.send(b"").verdict is Verdict.TAKEN
        transport.close()
    assert [sent["path"] for sent in seen] == ["/somewhere/else"]


@pytest.mark.parametrize(
    ("status", "verdict", "wait"),
    [
        (204, Verdict.TAKEN, None),
        (400, Verdict.REFUSED, None),
        (413, Verdict.REFUSED, None),
        (401, Verdict.LATER, None),
        (404, Verdict.LATER, None),
        (429, Verdict.TOO_MUCH, 7.0),
        (500, Verdict.LATER, None),
        (503, Verdict.LATER, 7.0),
    ],
)
def test_what_http_answers_mean(status: int, verdict: Verdict, wait: float | None) -> None:
    """Only what says that the records themselves are wrong is final; a pause that is asked for is kept."""
    headers = {"Retry_After": "7"} if wait else {}
    with http_side(status, b"because" if status != 204 else b"", **headers) as (url, _):
        transport = connect(Signal.LOGS, endpoint=url, protocol="http/protobuf")
        answer = transport.send(EMPTY[Signal.LOGS])
        transport.close()
    assert (answer.verdict, answer.wait) == (verdict, wait)
    assert ("because" in answer.reason) == (verdict is not Verdict.TAKEN)


@pytest.mark.parametrize(
    ("code", "details", "verdict"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "no", Verdict.REFUSED),
        (grpc.StatusCode.UNAVAILABLE, "away", Verdict.LATER),
        (grpc.StatusCode.UNAUTHENTICATED, "who?", Verdict.LATER),
        (grpc.StatusCode.INTERNAL, "broken", Verdict.LATER),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down", Verdict.TOO_MUCH),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (5 vs. 4)", Verdict.REFUSED),
    ],
)
def test_what_grpc_codes_mean(code: grpc.StatusCode, details: str, verdict: Verdict) -> None:
    """Over gRPC as well; of two meanings of RESOURCE_EXHAUSTED the right one is told."""
    with grpc_side(None, code, details) as (url, _):
        transport = connect(Signal.LOGS, endpoint=url)
        answer = transport.send(EMPTY[Signal.LOGS])
        transport.close()
    assert answer.verdict is verdict
    assert details in answer.reason


def test_a_part_is_refused() -> None:
    """An answer of success that says that some records were rejected is none."""
    partial = ExportLogsPartialSuccess(rejected_log_records=2, error_message="too old")
    with grpc_side(ExportLogsServiceResponse(partial_success=partial)) as (url, _):
        transport = connect(Signal.LOGS, endpoint=url)
        answer = transport.send(EMPTY[Signal.LOGS])
        transport.close()
    assert answer.verdict is Verdict.REFUSED
    assert "too old" in answer.reason


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_nobody_there(protocol: str) -> None:
    """Where nobody listens the request may be sent again later."""
    transport = connect(Signal.LOGS, endpoint="http://127.0.0.1:1", protocol=protocol)
    assert transport.send(EMPTY[Signal.LOGS]).verdict is Verdict.LATER
    transport.close()


def test_a_protocol_that_is_not_spoken() -> None:
    """A protocol that is not spoken is told at the start, with those that are."""
    with pytest.raises(TransportError, match="use grpc or http/protobuf"):
        connect(Signal.LOGS, protocol="http/json")


@pytest.mark.servers
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """A real collector with TLS is believed if its authority is the one that is named, and not otherwise."""
    certificates = ensure_certificates(tmp_path / "tls", ["127.0.0.1"])
    configuration = tmp_path / "tls.yaml"
    configuration.write_text(TLS.format(certificate=certificates.certificate, key=certificates.key))
    with TelemetryStack(
        tmp_path / "stack", CONFIGURATION, parts=("collector",), collector_configurations=[configuration]
    ) as stack:
        plain = stack.otlp_grpc if protocol == "grpc" else stack.otlp_http
        endpoint = plain.replace("http://", "https://")
        stranger = connect(Signal.TRACES, endpoint=endpoint, protocol=protocol)
        assert stranger.send(EMPTY[Signal.TRACES]).verdict is Verdict.LATER
        stranger.close()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificates.authority))
        for signal in Signal:
            transport = connect(signal, endpoint=endpoint, protocol=protocol)
            assert transport.send(EMPTY[signal]).verdict is Verdict.TAKEN
            transport.close()
