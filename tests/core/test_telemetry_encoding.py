"""Records as OTLP: what OpenTelemetry's own library reads out of the bytes that are put together by hand."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from kube_audit_proxy.audit.fields import FIELDS
from kube_audit_proxy.export.names import LABELS, Kind, attribute
from kube_audit_proxy.telemetry import lines, protobuf, spans
from kube_audit_proxy.telemetry.attributes import LONGEST_TEXT
from kube_audit_proxy.telemetry.entries import Commons, UnreadableError, entry
from kube_audit_proxy.telemetry.lines import LineEncoder
from kube_audit_proxy.telemetry.route import route, span_name
from kube_audit_proxy.telemetry.spans import SpanEncoder, Times
from kube_audit_proxy.telemetry.times import began, ended, nanoseconds, rfc3339

RECORD: dict[str, Any] = {
    "writer": "w0",
    "seq": 4182,
    "prev": "9b" * 32,
    "kind": "call",
    "stage": "ResponseComplete",
    "stageTimestamp": "2026-11-23T10:15:02.152904Z",
    "auditID": "5d2f2d0a-3f0e-4d65-9a3c-0f5f6b1c2d3e",
    "requestReceivedTimestamp": "2026-11-23T10:15:02.131220Z",
    "sourceIPs": ["192.0.2.7"],
    "cluster": "prod-eu",
    "method": "GET",
    "verb": "list",
    "version": "v1",
    "resource": "pods",
    "namespace": "team-checkout",
    "requestURI": "/api/v1/namespaces/team-checkout/pods?limit=500",
    "userAgent": "kubectl/v1.36.3 (linux/amd64) kubernetes/66452049",
    "access_method": "kubectl",
    "command": "kubectl get",
    "user": "alice@example.com",
    "groups": ["developers", "qa"],
    "command_id": "0b5c6f0e-6a53-8c1e-9f6a-2f0d9d6c7b8a",
    "impersonated": True,
    "trace_id": "0b5c6f0e6a538c1e9f6a2f0d9d6c7b8a",
    "span_id": "9a3c0f5f6b1c2d3e",
    "status": 200,
    "decision": "allow",
    "decided_by": "apiserver",
    "outcome": "complete",
    "duration_ms": 21.684,
    "upstream_start_ms": 0.5,
    "upstream_ms": 20.911,
    "response_bytes": 48213,
}
"""The end of a call, in the order in which the gateway writes it."""

RECEIVED = 1_795_428_902_131_220_000


def value_of(value: AnyValue) -> Any:
    """Give what an attribute says."""
    kind = value.WhichOneof("value") or "string_value"
    return [each.string_value for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def line_of(record: dict[str, Any], clusters: tuple[str, ...] = ("prod-eu",)) -> tuple[LogRecord, dict[str, Any]]:
    """Give a record's log record, and what its attributes say."""
    one = entry(orjson.dumps(record))
    assert one.record is not None
    assert one.kind is not None
    content = LineEncoder(clusters).encode(one.record, one.line, (), time=one.time, kind=one.kind)
    request = ExportLogsServiceRequest.FromString(lines.request([content]))
    (found,) = request.resource_logs[0].scope_logs[0].log_records
    return found, {each.key: value_of(each.value) for each in found.attributes}


def spans_of(record: dict[str, Any]) -> list[tuple[Span, dict[str, Any]]]:
    """Give a record's spans, and what the attributes of each say."""
    start = began(record)
    content = SpanEncoder().encode_call(
        record, Times(start, ended(record, start, nanoseconds(record["stageTimestamp"]))), ()
    )
    request = ExportTraceServiceRequest.FromString(spans.request([content], "1.2.3"))
    found = request.resource_spans[0].scope_spans[0].spans
    return [(span, {each.key: value_of(each.value) for each in span.attributes}) for span in found]


@given(
    st.one_of(
        st.text(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.lists(st.text())
    )
)
def test_every_value_is_read_back(value: Any) -> None:
    """The library reads from our bytes exactly what was meant, of every type and size."""
    content = protobuf.key_value(1, "a key", value)
    (item,) = AnyValue.FromString(protobuf.message(6, content)).kvlist_value.values
    assert item.key == "a key"
    assert value_of(item.value) == value


def test_the_line_is_the_journals() -> None:
    """What stands in Loki is the journal's line, byte for byte, at the time of its stage, with the ids of its trace."""
    line, _ = line_of(RECORD)
    assert line.body.string_value.encode() == orjson.dumps(RECORD)
    assert line.time_unix_nano == nanoseconds(RECORD["stageTimestamp"])
    assert (line.trace_id.hex(), line.span_id.hex()) == (RECORD["trace_id"], RECORD["span_id"])
    assert line.observed_time_unix_nano == 0


def test_metadata_has_every_field() -> None:
    """Beside the line stands every field under its own name, save what the log record itself says, and the chain."""
    _, said = line_of({**RECORD, "exec_argv": ["sh", "-c", "a b"], "ports": [80, 443]})
    left_out = {"prev", "stageTimestamp", "trace_id", "span_id"}
    assert set(said) == {*RECORD, "exec_argv", "ports"} - left_out
    assert said["groups"] == "developers,qa"
    assert said["exec_argv"] == "sh -c 'a b'"
    assert said["ports"] == "80,443"
    assert (said["status"], said["duration_ms"], said["impersonated"]) == (200, 21.684, True)


def test_the_same_record_is_the_same_bytes() -> None:
    """What is sent again, also by another process, is what was sent before: Loki compares all of it."""
    one = entry(orjson.dumps(RECORD))
    assert one.record is not None
    sent = [LineEncoder(("prod-eu",)).encode(one.record, one.line, (), time=one.time, kind=Kind.CALL) for _ in range(2)]
    used = LineEncoder(("prod-eu",))
    used.encode({**RECORD, "user": "bob", "status": 404}, b"{}", (), time=1, kind=Kind.CALL)
    assert {used.encode(one.record, one.line, (), time=one.time, kind=Kind.CALL), *sent} == {sent[0]}


@pytest.mark.parametrize(
    ("changes", "label", "expected"),
    [
        ({}, "cluster", "prod-eu"),
        ({"cluster": "made-up-by-a-stranger"}, "cluster", "other"),
        ({}, "verb", "list"),
        ({"verb": "brew"}, "verb", "other"),
        ({"verb": "post"}, "verb", "post"),
    ],
)
def test_labels_are_of_few_values(changes: dict[str, Any], label: str, expected: str) -> None:
    """A stranger who invents clusters and methods adds no streams to Loki; the line still says what it was."""
    line, said = line_of({**RECORD, **changes})
    assert said[label] == expected
    assert orjson.loads(line.body.string_value)[label] == {**RECORD, **changes}[label]


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (RECORD, "call"),
        ({**RECORD, "stage": "Panic"}, "call"),
        ({**RECORD, "stage": "ResponseStarted"}, "call_started"),
        ({"writer": "w0", "seq": 3, "kind": "heartbeat", "stageTimestamp": "2026-11-23T10:15:02.152904Z"}, "heartbeat"),
        ({"writer": "w0", "seq": 3, "kind": "lost", "count": 5, "since": "2026-11-23T10:15:02.152904Z"}, "lost"),
    ],
)
def test_kinds(record: dict[str, Any], kind: str) -> None:
    """Each kind of line has its own label, so that a count of calls counts calls."""
    assert line_of(record)[1]["kind"] == kind


@pytest.mark.parametrize(
    "record",
    [
        {**RECORD, "stage": "RequestReceived"},
        {"writer": "w", "seq": 1, "kind": "segment", "opened": "2026-11-23T10:15:02.152904Z"},
    ],
)
def test_what_is_not_shipped(record: dict[str, Any]) -> None:
    """Starts, which their ends repeat, and the headers of files are not shipped."""
    one = entry(orjson.dumps(record))
    assert one.kind is None
    assert one.command_id == record.get("command_id")


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"kind":"call"}', b'{"seq":1,"stageTimestamp":"now"}', b"\xff"])
def test_no_record(line: bytes) -> None:
    """A line that is no record is told apart, whatever it is."""
    with pytest.raises(UnreadableError):
        entry(line)


def test_long_texts_are_cut_beside_the_line_only() -> None:
    """Loki refuses lines with too much metadata: it is cut; the line has it all."""
    uri = "/api/v1/namespaces/a/pods/b/exec?command=" + "x" * 70_000
    line, said = line_of({**RECORD, "requestURI": uri, "exec_argv": ["x" * 70_000]})
    assert said["requestURI"] == uri[:LONGEST_TEXT]
    assert len(said["exec_argv"]) == LONGEST_TEXT
    assert orjson.loads(line.body.string_value)["requestURI"] == uri


@pytest.mark.parametrize(
    ("decision", "severity"), [("allow", "INFO"), ("deny", "WARN"), ("error", "ERROR"), (None, "INFO")]
)
def test_severity(decision: str | None, severity: str) -> None:
    """What was refused stands out among log lines."""
    record = {key: value for key, value in {**RECORD, "decision": decision}.items() if value is not None}
    assert line_of(record)[0].severity_text == severity


def test_the_spans_of_a_call() -> None:
    """A call is a SERVER span below its command's, with a CLIENT span for what it did upstream."""
    (server, said), (client, told) = spans_of(RECORD)
    assert (server.name, server.kind, server.status.code) == (
        "list pods",
        Span.SPAN_KIND_SERVER,
        Status.STATUS_CODE_UNSET,
    )
    assert server.trace_id.hex() == client.trace_id.hex() == RECORD["trace_id"]
    assert (server.span_id.hex(), server.parent_span_id.hex()) == (RECORD["span_id"], "9f6a2f0d9d6c7b8a")
    assert (client.span_id.hex(), client.parent_span_id) == ("5d2f2d0a3f0e4d65", server.span_id)
    assert (client.name, client.kind) == ("GET", Span.SPAN_KIND_CLIENT)
    assert server.start_time_unix_nano == RECEIVED
    assert server.end_time_unix_nano - RECEIVED == 21_684_000
    assert client.start_time_unix_nano - RECEIVED == 500_000
    assert client.end_time_unix_nano - client.start_time_unix_nano == 20_911_000
    assert (
        said.items()
        >= {
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "http.response.body.size": 48213,
            "http.route": "/api/{version}/namespaces/{namespace}/pods",
            "url.path": "/api/v1/namespaces/team-checkout/pods",
            "url.query": "limit=500",
            "user.name": "alice@example.com",
            "client.address": "192.0.2.7",
            "kubeaudit.audit_id": RECORD["auditID"],
            "kubeaudit.cluster": "prod-eu",
            "kubeaudit.groups": ["developers", "qa"],
            "kubeaudit.upstream_ms": 20.911,
        }.items()
    )
    assert told.items() >= {"http.response.status_code": 200, "kubeaudit.cluster": "prod-eu"}.items()


def test_a_call_without_a_command_is_a_trace_of_its_own() -> None:
    """Its trace has the id of the call, and nothing stands above it."""
    record = {key: value for key, value in RECORD.items() if key != "command_id"}
    server, _ = spans_of(record)[0]
    assert server.trace_id.hex() == RECORD["auditID"].replace("-", "")
    assert not server.parent_span_id


@pytest.mark.parametrize(
    ("changes", "server", "client"),
    [
        ({}, None, None),
        ({"status": 404}, None, "404"),
        ({"status": 403, "decision": "deny"}, None, "403"),
        ({"status": 500}, "500", "500"),
        ({"status": 502, "outcome": "upstream_gone", "decided_by": "proxy"}, "upstream_gone", "upstream_gone"),
        ({"status": 200, "outcome": "interrupted"}, "interrupted", "interrupted"),
        ({"status": 200, "outcome": "client_gone"}, None, None),
    ],
)
def test_what_is_an_error(changes: dict[str, Any], server: str | None, client: str | None) -> None:
    """To a server 4xx is the client's fault and no error; to the client part it is one (HTTP semantic conventions)."""
    for (span, said), expected in zip(spans_of({**RECORD, **changes}), (server, client), strict=True):
        assert (span.status.code == Status.STATUS_CODE_ERROR) == (expected is not None)
        assert said.get("error.type") == expected


def test_a_refused_call_has_no_upstream_part() -> None:
    """What never went upstream has no span for it."""
    record = {key: value for key, value in RECORD.items() if not key.startswith("upstream")}
    assert len(spans_of({**record, "status": 401, "decision": "deny"})) == 1


def test_clock_set_back() -> None:
    """A span is as long as was measured, whatever the wall clock did meanwhile; a crash left nothing measured."""
    back = {**RECORD, "stageTimestamp": "2026-11-23T09:15:02.152904Z"}
    assert spans_of(back)[0][0].end_time_unix_nano - RECEIVED == 21_684_000
    crashed = {key: value for key, value in back.items() if key != "duration_ms"}
    assert spans_of(crashed)[0][0].end_time_unix_nano == RECEIVED


ROUTES = [
    (("GET", "list", "/api/v1/pods"), {"resource": "pods"}, "/api/{version}/pods", "list pods"),
    (("POST", "create", ""), {"resource": "pods", "namespace": "a", "name": "b", "subresource": "exec"},
     "/api/{version}/namespaces/{namespace}/pods/{name}/exec", "create pods/exec"),
    (("GET", "get", ""), {"resource": "deployments", "group": "apps", "namespace": "a", "name": "b"},
     "/apis/{group}/{version}/namespaces/{namespace}/deployments/{name}", "get deployments"),
    (("GET", "get", ""), {"resource": "namespaces", "namespace": "a", "name": "a"}, "/api/{version}/namespaces/{name}",
     "get namespaces"),
    (("GET", "get", "/version?timeout=32s"), {}, "/version", "GET /version"),
    (("GET", "get", "/apis/apps/v1"), {}, "/apis/{group}/{version}", "GET /apis/{group}/{version}"),
    (("GET", "get", "/openapi/v3/apis/apps/v1?hash=1"), {}, "/openapi/{version}/apis/{group}/{version}",
     "GET /openapi/{version}/apis/{group}/{version}"),
    (("GET", "get", "/openapi/v2"), {}, "/openapi/{version}", "GET /openapi/{version}"),
    (("GET", "get", "/wp-login.php"), {}, "", "GET"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "fields", "template", "name"), ROUTES)
def test_routes(asked: tuple[str, str, str], fields: dict[str, str], template: str, name: str) -> None:
    """Names of spans are few: what is chosen freely is a placeholder, and a path nobody knows is left out."""
    method, verb, uri = asked
    record = {"method": method, "verb": verb, "version": "v1", "requestURI": uri, **fields}
    assert (route(record), span_name(record)) == (template, name)


def test_names_are_the_vocabularys() -> None:
    """Labels are fields of the record; attributes are unique, and ours have our prefix."""
    known = {field.name for field in FIELDS}
    assert set(LABELS) <= known
    attributes = [attribute(name) for name in sorted(known)]
    assert len(set(attributes)) == len(attributes)
    assert attribute("auditID") == "kubeaudit.audit_id"
    assert attribute("user") == "user.name"


@given(st.integers(0, 2**60))
def test_times_are_read_back(microseconds: int) -> None:
    """A time that is written is the time that is read."""
    moment = microseconds % 8_000_000_000_000_000 * 1000
    assert nanoseconds(rfc3339(moment)) == moment


@given(st.dictionaries(st.sampled_from([*RECORD, "upgrade", "exec_argv", "message"]), st.text() | st.lists(st.text())))
def test_what_lines_have_in_common(changes: dict[str, Any]) -> None:
    """A line that is taken apart to parse what many have in common once says the same, whatever stands in it."""
    record = {**RECORD, **changes, "stage": "ResponseComplete", "seq": 1, "stageTimestamp": RECORD["stageTimestamp"]}
    line = orjson.dumps(record)
    commons = Commons()
    for _ in range(2):
        parts, own = commons.split(line)
        assert {key: value for part in parts for key, value in part.record.items()} | orjson.loads(own) == record


@pytest.mark.parametrize("missing", ["cluster", "userAgent", "command_id", "trace_id"])
def test_lines_that_lack_a_part(missing: str) -> None:
    """Calls that broke off early lack parts by which a line is taken apart; nothing of what they say is lost."""
    record = {key: value for key, value in RECORD.items() if key != missing}
    parts, own = Commons().split(orjson.dumps(record))
    assert {key: value for part in parts for key, value in part.record.items()} | orjson.loads(own) == record


def test_taken_apart_and_whole_say_the_same() -> None:
    """Attributes of a line that was taken apart are those of the whole line, in Loki and in Tempo."""
    one = entry(orjson.dumps(RECORD), Commons())
    assert one.common
    assert one.record is not None
    assert one.kind is not None
    content = LineEncoder(("prod-eu",)).encode(one.record, one.line, one.common, time=one.time, kind=one.kind)
    (found,) = ExportLogsServiceRequest.FromString(lines.request([content])).resource_logs[0].scope_logs[0].log_records
    assert {each.key: value_of(each.value) for each in found.attributes} == line_of(RECORD)[1]
    start = began(RECORD)
    spanned = SpanEncoder().encode_call(one.record, Times(start, start), one.common)
    request = ExportTraceServiceRequest.FromString(spans.request([spanned], "1"))
    for span, (whole, said) in zip(request.resource_spans[0].scope_spans[0].spans, spans_of(RECORD), strict=True):
        assert (span.name, span.span_id, span.parent_span_id) == (whole.name, whole.span_id, whole.parent_span_id)
        assert {each.key: value_of(each.value) for each in span.attributes} == said
