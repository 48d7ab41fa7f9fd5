"""The telemetry stack that tests share, and how they send to it and ask it."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from kube_audit_proxy.demo.stack import TelemetryStack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CONFIGURATION = Path(__file__).parents[2] / "collector-config"
_HOUR = 3_600_000_000_000
_RESOURCE = {"service.name": "kube-audit-proxy", "service.version": "1", "host.name": "h"}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TelemetryStack]:
    """Give started Loki, Tempo and collector; all tests of a run share them."""
    with TelemetryStack(tmp_path_factory.mktemp("stack"), CONFIGURATION, progress=print) as running:
        yield running


def log_record(body: str, attributes: Mapping[str, str], *, nanoseconds: int | None = None) -> LogRecord:
    """Give an OTLP log record; of now unless nanoseconds say otherwise."""
    return LogRecord(
        time_unix_nano=time.time_ns() if nanoseconds is None else nanoseconds,
        severity_number=SeverityNumber.SEVERITY_NUMBER_INFO,
        severity_text="INFO",
        body=AnyValue(string_value=body),
        attributes=_key_values(attributes),
    )


def send_logs(base: str, records: Sequence[LogRecord], *, timeout: float = 60.0) -> None:
    """Send log records as OTLP over HTTP to the collector at base. Raises OSError unless it answered success."""
    scope = ScopeLogs(log_records=records)
    resource = Resource(attributes=_key_values(_RESOURCE))
    request = ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=resource, scope_logs=[scope])])
    _post(f"{base}/v1/logs", request.SerializeToString(), timeout)


def send_spans(base: str, spans: Sequence[Span]) -> None:
    """Send spans as OTLP over HTTP to the collector at base. Raises OSError unless it answered success."""
    scope = ScopeSpans(spans=spans)
    resource = Resource(attributes=_key_values(_RESOURCE))
    request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=resource, scope_spans=[scope])])
    _post(f"{base}/v1/traces", request.SerializeToString(), 60.0)


def span(name: str, trace_id: str, span_id: str, attributes: Mapping[str, str], *, hours_ago: int = 0) -> Span:
    """Give a server span that ended now, or some hours ago, and took 40 ms; ids are in hexadecimal."""
    end = time.time_ns() - hours_ago * _HOUR
    return Span(
        name=name,
        trace_id=bytes.fromhex(trace_id),
        span_id=bytes.fromhex(span_id),
        kind=Span.SpanKind.SPAN_KIND_SERVER,
        start_time_unix_nano=end - 40_000_000,
        end_time_unix_nano=end,
        attributes=_key_values(attributes),
    )


def loki_streams(base: str, query: str, *, hours: int = 48, limit: int = 5000) -> list[dict[str, Any]]:
    """Give Loki's streams of a log query over the last hours; labels and structured metadata are kept apart."""
    now = time.time_ns()
    parameters = {"query": query, "limit": limit, "start": now - hours * _HOUR, "end": now + 60_000_000_000}
    answer = get(f"{base}/loki/api/v1/query_range", parameters, {"X-Loki-Response-Encoding-Flags": "categorize-labels"})
    streams: list[dict[str, Any]] = answer["data"]["result"]
    return streams


def loki_lines(base: str, query: str, *, hours: int = 48) -> list[str]:
    """Give the lines of a log query over the last hours."""
    return [value[1] for one in loki_streams(base, query, hours=hours) for value in one["values"]]


def loki_number(base: str, query: str) -> float | None:
    """Give the only number of an instant metric query, None if there is none."""
    result = get(f"{base}/loki/api/v1/query", {"query": query})["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def get(url: str, parameters: Mapping[str, object], headers: Mapping[str, str] | None = None) -> Any:
    """Give the JSON that a GET answers. Raises OSError unless it is a success."""
    request = urllib.request.Request(f"{url}?{urllib.parse.urlencode(parameters)}", headers=dict(headers or {}))
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def _post(url: str, body: bytes, timeout: float) -> None:
    headers = {"Content-Type": "application/x-protobuf"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=timeout):
        pass


def _key_values(attributes: Mapping[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in attributes.items()]
