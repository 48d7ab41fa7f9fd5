"""Records as OTLP log records: the lines in Loki. Pure.

A line's body is the journal's line, byte for byte, so the chain of hashes can be checked in Loki too. The labels and
everything else that queries filter by stand beside it. The same record always becomes the same bytes: Loki drops what
it is sent a second time (labels, time, line and metadata are compared).
"""

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kube_audit_proxy.audit.fields import Decision
from kube_audit_proxy.audit.trace import command_span_id, server_span_id, trace_id
from kube_audit_proxy.export.names import SERVICE, Kind
from kube_audit_proxy.telemetry import attributes
from kube_audit_proxy.telemetry.attributes import Attributes
from kube_audit_proxy.telemetry.entries import Common
from kube_audit_proxy.telemetry.protobuf import enclosed, fixed64, key_value, message, number

OTHER = "other"
"""The label of what is none of the known values: strangers choose the cluster and the method of a refused call."""

# opentelemetry/proto/logs/v1/logs.proto
_RESOURCE_LOGS, _RESOURCE, _SCOPE_LOGS, _LOG_RECORDS = 1, 1, 2, 2
_SERVICE = message(_RESOURCE, key_value(1, "service.name", SERVICE))
_TIME, _SEVERITY, _SEVERITY_TEXT, _BODY, _ATTRIBUTES, _TRACE_ID, _SPAN_ID = 1, 2, 3, 5, 6, 9, 10

VERBS = frozenset(
    "get list watch create update patch delete deletecollection proxy post put head options".split()  # noqa: SIM905
)

_SEVERITIES = {
    None: number(_SEVERITY, 9) + message(_SEVERITY_TEXT, b"INFO"),
    Decision.ALLOW: number(_SEVERITY, 9) + message(_SEVERITY_TEXT, b"INFO"),
    Decision.DENY: number(_SEVERITY, 13) + message(_SEVERITY_TEXT, b"WARN"),
    Decision.ERROR: number(_SEVERITY, 17) + message(_SEVERITY_TEXT, b"ERROR"),
}

# Said by the log record itself, or of no use outside the journal.
_LEFT_OUT = ("kind", "prev", "stageTimestamp", "trace_id", "span_id")
_UNIQUE = ("auditID", "requestReceivedTimestamp", "seq", "response_bytes")
_MEASURED = ("duration_ms", "upstream_ms", "upstream_start_ms", "first_byte_ms", "lag_seconds")


class LineEncoder:
    """Makes log records. Clusters that are not among `clusters` are labelled `other`."""

    def __init__(self, clusters: Collection[str]) -> None:
        labels = {"cluster": frozenset(clusters), "verb": VERBS}
        writers = {
            **{field: attributes.plain(_ATTRIBUTES, field) for field in _UNIQUE},
            **{field: attributes.measured(_ATTRIBUTES, field) for field in _MEASURED},
            **{field: attributes.remembered(_label(field, known)) for field, known in labels.items()},
            "groups": _by_text("groups"),
            "sourceIPs": _by_text("sourceIPs"),
            "ports": attributes.joined(_ATTRIBUTES, "ports"),
            "exec_argv": attributes.joined(_ATTRIBUTES, "exec_argv", shlex.join),
        }
        self._attributes = Attributes(writers, _remembered, _LEFT_OUT)
        self._trace = attributes.remembered(_trace)
        self._export_seq = attributes.plain(_ATTRIBUTES, "export_seq")
        self._kinds = {each: key_value(_ATTRIBUTES, "kind", each.value) for each in Kind}

    def encode(
        self,
        record: Mapping[str, Any],
        line: bytes,
        common: tuple[Common, ...],
        *,
        time: int,
        kind: Kind,
        export_seq: int | None = None,
    ) -> bytes:
        """Return a log record, as a field of its scope; `time` is in nanoseconds, `record` and `common` are `line`."""
        content = b"".join((
            fixed64(_TIME, time),
            _SEVERITIES[record.get("decision")],
            message(_BODY, message(1, line)),
            self._kinds[kind],
            *[part.line or self._common(part) for part in common],
            self._attributes(record),
            self._export_seq(export_seq) if export_seq is not None else b"",
            self._ids(record),
        ))  # fmt: skip
        return message(_LOG_RECORDS, content)

    def _ids(self, record: Mapping[str, Any]) -> bytes:
        command, audit_id = record.get("command_id"), record.get("auditID")
        if audit_id is not None:
            span = server_span_id(audit_id)
            trace = self._trace(command) if command else _trace(audit_id)
        elif command is not None:
            span, trace = command_span_id(command), _trace(command)
        else:
            return b""
        return trace + message(_SPAN_ID, bytes.fromhex(span))

    def _common(self, part: Common) -> bytes:
        part.line = self._attributes(part.record)
        return part.line


def request(log_records: Sequence[bytes]) -> bytes:
    """Return an ExportLogsServiceRequest. Its resource says no more than the label does: Loki compares all of it."""
    return enclosed((_RESOURCE_LOGS, _SCOPE_LOGS), _SERVICE, log_records)


def _trace(uuid: str) -> bytes:
    return message(_TRACE_ID, bytes.fromhex(trace_id(uuid)))


def _remembered(field: str) -> attributes.Writer:
    return attributes.remembered(attributes.plain(_ATTRIBUTES, field))


def _by_text(field: str) -> attributes.Writer:
    write = attributes.remembered(attributes.plain(_ATTRIBUTES, field))
    return lambda values: write(",".join(values))


def _label(field: str, known: frozenset[str]) -> attributes.Writer:
    write = attributes.plain(_ATTRIBUTES, field)
    return lambda value: write(value if value in known else OTHER)
