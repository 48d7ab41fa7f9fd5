"""Records as OTLP spans: one for each call, one for what it did upstream, one for each command. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kube_audit_proxy.audit.fields import Outcome
from kube_audit_proxy.audit.trace import client_span_id, command_span_id, server_span_id, trace_id
from kube_audit_proxy.export.names import SERVICE, attribute
from kube_audit_proxy.telemetry import attributes
from kube_audit_proxy.telemetry.attributes import Attributes
from kube_audit_proxy.telemetry.entries import Common
from kube_audit_proxy.telemetry.protobuf import enclosed, fixed64, key_value, message, number
from kube_audit_proxy.telemetry.route import route, span_name

# opentelemetry/proto/trace/v1/trace.proto
_RESOURCE_SPANS, _RESOURCE, _SCOPE_SPANS, _SPANS = 1, 1, 2, 2
_TRACE_ID, _SPAN_ID, _PARENT, _NAME, _KIND, _START, _END, _ATTRIBUTES, _STATUS = 1, 2, 4, 5, 6, 7, 8, 9, 15
_INTERNAL, _SERVER, _CLIENT = (number(_KIND, each) for each in (1, 2, 3))
_ERROR = number(3, 2)

_LEFT_OUT = ("kind", "stage", "prev", "stageTimestamp", "requestReceivedTimestamp", "duration_ms", "trace_id",
             "span_id", "export_seq")  # fmt: skip
_UNIQUE = ("auditID", "seq", "response_bytes")
_MEASURED = ("upstream_ms", "upstream_start_ms", "first_byte_ms")
_BROKEN = frozenset((Outcome.FAILED, Outcome.UPSTREAM_GONE, Outcome.UPSTREAM_UNREACHABLE, Outcome.INTERRUPTED))
_ENDED = ("status", "upstream_user", "decided_by", "outcome")
_OF_CLIENT = ("method", "cluster", *_ENDED)


class Times(NamedTuple):
    """When something began and ended, in nanoseconds since 1970."""

    start: int
    end: int


class SpanEncoder:
    """Makes spans, as fields of their scope."""

    def __init__(self) -> None:
        writers: dict[str, attributes.Writer] = {
            **{field: attributes.plain(_ATTRIBUTES, attribute(field)) for field in _UNIQUE},
            **{field: attributes.measured(_ATTRIBUTES, attribute(field)) for field in _MEASURED},
            "requestURI": attributes.remembered(_url),
            "sourceIPs": _address(),
            "groups": _by_items("groups"),
            "exec_argv": attributes.listed(_ATTRIBUTES, attribute("exec_argv")),
            "ports": attributes.listed(_ATTRIBUTES, attribute("ports")),
        }
        self._attributes = Attributes(writers, _remembered, _LEFT_OUT)
        self._trace = attributes.remembered(_trace)
        self._parent = attributes.remembered(_parent)
        self._client = attributes.remembered(_client)
        self._audit_id = writers["auditID"]

    def encode_call(self, record: Mapping[str, Any], times: Times, common: tuple[Common, ...]) -> bytes:
        """Return the spans of a call that has ended; its fields are in `record` or in `common`."""
        audit_id, command = record["auditID"], record.get("command_id")
        trace = self._trace(command) if command else _trace(audit_id)
        server = bytes.fromhex(server_span_id(audit_id))
        status, outcome = record.get("status", 0), record.get("outcome")
        failed = status >= 500 or outcome in _BROKEN
        content = b"".join((
            trace,
            message(_SPAN_ID, server),
            self._parent(command) if command else b"",
            *[part.span or self._common(part) for part in common],
            b"" if common else _name_and_route(record),
            _SERVER,
            fixed64(_START, times.start),
            fixed64(_END, times.end),
            self._attributes(record),
            _failure(status, outcome) if failed else b"",
        ))  # fmt: skip
        span = message(_SPANS, content)
        if "upstream_ms" in record:
            span += self._upstream(
                record, times, common[0].record if common else record, trace + message(_PARENT, server)
            )
        return span

    def encode_command(self, record: Mapping[str, Any], times: Times) -> bytes:
        """Return the span of a command that is over."""
        command = record["command_id"]
        content = b"".join((
            _trace(command),
            message(_SPAN_ID, bytes.fromhex(command_span_id(command))),
            message(_NAME, str(record.get("command", "command")).encode()),
            _INTERNAL,
            fixed64(_START, times.start),
            fixed64(_END, times.end),
            self._attributes(record),
            _failure(record.get("status", 0), None) if record.get("status", 0) >= 500 else b"",
        ))  # fmt: skip
        return message(_SPANS, content)

    def _common(self, part: Common) -> bytes:
        named = b"" if "userAgent" in part.record else _name_and_route(part.record)
        part.span = named + self._attributes(part.record)
        return part.span

    def _upstream(self, record: Mapping[str, Any], times: Times, asked: Mapping[str, Any], place: bytes) -> bytes:
        """Return the CLIENT span; `place` is its trace and its parent."""
        start = times.start + int(record.get("upstream_start_ms", 0.0) * 1e6)
        end = min(start + int(record["upstream_ms"] * 1e6), max(times.end, start))
        told = (asked.get("method"), asked.get("cluster"), *map(record.get, _ENDED))
        content = b"".join((
            place,
            message(_SPAN_ID, bytes.fromhex(client_span_id(record["auditID"]))),
            _CLIENT,
            fixed64(_START, start),
            fixed64(_END, end),
            self._audit_id(record["auditID"]),
            self._client(told),
        ))  # fmt: skip
        return message(_SPANS, content)


def _trace(uuid: str) -> bytes:
    return message(_TRACE_ID, bytes.fromhex(trace_id(uuid)))


def _parent(command: str) -> bytes:
    return message(_PARENT, bytes.fromhex(command_span_id(command)))


def _client(values: tuple[Any, ...]) -> bytes:
    """Return all of a CLIENT span that many calls have in common."""
    record = dict(zip(_OF_CLIENT, values, strict=True))
    answered = record["decided_by"] == "apiserver"
    status, outcome = record["status"] or 0, record["outcome"]
    told = ("method", "status", "cluster", "upstream_user") if answered else ("method", "cluster", "upstream_user")
    said = [message(_NAME, str(record["method"] or "HTTP").encode())]
    said += [key_value(_ATTRIBUTES, attribute(each), record[each]) for each in told if record[each] is not None]
    if not answered or status >= 400 or outcome in _BROKEN:  # of a client, 4xx is a failure too
        said.append(_failure(status, outcome))
    return b"".join(said)


def request(spans: Sequence[bytes], version: str) -> bytes:
    """Return an ExportTraceServiceRequest."""
    resource = key_value(1, "service.name", SERVICE) + key_value(1, "service.version", version)
    return enclosed((_RESOURCE_SPANS, _SCOPE_SPANS), message(_RESOURCE, resource), spans)


def _name_and_route(record: Mapping[str, Any]) -> bytes:
    template = route(record)
    said = key_value(_ATTRIBUTES, "http.route", template) if template else b""
    return message(_NAME, span_name(record).encode()) + said


def _failure(status: int, outcome: str | None) -> bytes:
    kind = outcome if outcome in _BROKEN else str(status)
    return message(_STATUS, _ERROR) + key_value(_ATTRIBUTES, "error.type", kind or "_OTHER")


def _remembered(field: str) -> attributes.Writer:
    return attributes.remembered(attributes.plain(_ATTRIBUTES, attribute(field)))


def _url(uri: str) -> bytes:
    path, _, query = uri.partition("?")
    said = key_value(_ATTRIBUTES, "url.path", path[: attributes.LONGEST_TEXT])
    return said + key_value(_ATTRIBUTES, "url.query", query[: attributes.LONGEST_TEXT]) if query else said


def _address() -> attributes.Writer:
    write = attributes.remembered(attributes.plain(_ATTRIBUTES, "client.address"))
    return lambda addresses: write(addresses[0]) if addresses else b""


def _by_items(field: str) -> attributes.Writer:
    write = attributes.remembered(attributes.listed(_ATTRIBUTES, attribute(field)))
    return lambda values: write(tuple(values))
