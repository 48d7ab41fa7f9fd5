"""What a SIEM gets: real collectors, configured as we ship them, with real receivers behind them."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber

from kube_audit_proxy.demo.build import ensure
from kube_audit_proxy.demo.stack import TelemetryStack
from kube_audit_proxy.tls import ensure_certificates
from servers.broker import Broker, missing_programs
from servers.stack import CONFIGURATION, log_record, loki_lines, send_logs
from servers.syslog import SyslogServer
from support.proxies import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

pytestmark = pytest.mark.servers

_SIEM = CONFIGURATION / "siem"
_HOSTILE = 'ä "quoted" \\ <a&b> =cmd|\' \u2028 \x7f'


def _record(number: int, *, trace: str, kind: str = "call", mark: str = "") -> LogRecord:
    line = {
        "writer": "gateway-1",
        "seq": number,
        "prev": "0" * 64,
        "kind": kind,
        "user": _HOSTILE,
        "groups": ["dev", "a,b"],
        "duration_ms": 2.504,
        "response_bytes": 9007199254740991,
        "mark": mark,
    }
    body = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
    labels = {"kind": kind, "cluster": "demo", "access_method": "kubectl", "verb": "list"}
    # `version` and `message` are attributes of ours that the syslog exporter would read as its own
    more = {"writer": "gateway-1", "export_seq": str(number), "version": "v1", "message": "a status", "user": _HOSTILE}
    record = log_record(body, labels | more)
    record.trace_id = bytes.fromhex(trace)
    record.span_id = bytes.fromhex(trace[:16])
    return record


def _records(count: int, *, first: int = 1, kind: str = "call", mark: str = "") -> list[LogRecord]:
    traces = [secrets.token_hex(16) for _ in range(5)]
    return [
        _record(number, trace=traces[number % len(traces)], kind=kind, mark=mark)
        for number in range(first, first + count)
    ]


def _bodies(records: Iterable[LogRecord]) -> list[str]:
    return [record.body.string_value for record in records]


def _collector(
    directory: Path, environ: Mapping[str, str], *files: Path, parts: Sequence[str] = ("collector",)
) -> TelemetryStack:
    return TelemetryStack(
        directory, CONFIGURATION, progress=print, parts=parts, collector_configurations=files, environ=environ
    )


def _written(folder: Path) -> list[dict[str, Any]]:
    """Give the records in the OTLP files of a folder in the order they were written; none while one is written."""
    found: list[dict[str, Any]] = []
    # a rotated file has its time in its name, which sorts before the bare one's extension
    for path in sorted(folder.glob("audit*"), key=lambda path: (path.name == "audit.json", path.name)):
        content = path.read_text("utf-8")
        if content and not content.endswith("\n"):
            return []
        for batch in content.split("\n")[:-1]:  # not splitlines(), which knows more ends of lines than JSON does
            for resource in json.loads(batch)["resourceLogs"]:
                found += [record for scope in resource["scopeLogs"] for record in scope["logRecords"]]
    return found


def _written_bodies(folder: Path) -> list[str]:
    return [record["body"]["stringValue"] for record in _written(folder)]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Give a started Kafka broker."""
    if missing := missing_programs():
        pytest.skip(f"Kafka needs {' and '.join(missing)}")
    with Broker(tmp_path_factory.mktemp("kafka")) as started:
        yield started


def _is_taken(collector: TelemetryStack, batch: Sequence[LogRecord]) -> bool:
    try:
        send_logs(collector.otlp_http, batch, timeout=2.0)
    except OSError:
        return False
    return True


def _kafka(broker: Broker, topic: str) -> dict[str, str]:
    return {"KAFKA_BROKERS": broker.address, "KAFKA_TOPIC": topic, "KAFKA_PLAINTEXT": "true"}


def test_kafka_gets_every_record_as_an_object(broker: Broker, tmp_path: Path) -> None:
    """A message is the record's object with the journal's line, byte for byte, beside it; a command's stay in order."""
    records = _records(120)
    with _collector(tmp_path, _kafka(broker, "whole"), _SIEM / "kafka.yaml") as collector:
        for start in range(0, len(records), 40):
            beat = _record(0, trace="0" * 31 + "1", kind="heartbeat")
            send_logs(collector.otlp_http, [*records[start : start + 40], beat])
        messages = broker.messages("whole", len(records))
    by_trace: dict[str, list[str]] = {}
    for key, value in messages:
        record = json.loads(value)
        line = record.pop("line")
        assert record == json.loads(line)
        by_trace.setdefault(key.decode(), []).append(line)
    expected: dict[str, list[str]] = {}
    for sent in records:
        expected.setdefault(sent.trace_id.hex(), []).append(sent.body.string_value)
    assert by_trace == expected
    assert broker.end("whole") == len(records)


def test_kafka_gets_what_came_while_it_was_down(broker: Broker, tmp_path: Path) -> None:
    """Records that came while the broker was down arrive once it is back, though the collector was killed meanwhile."""
    records = _records(90)
    with _collector(tmp_path, _kafka(broker, "outage"), _SIEM / "kafka.yaml") as collector:
        send_logs(collector.otlp_http, records[:30])
        broker.messages("outage", 30)
        broker.stop()
        send_logs(collector.otlp_http, records[30:60])
        collector.kill("collector")
        collector.start("collector")
        send_logs(collector.otlp_http, records[60:])
        broker.start()

        def arrived() -> list[str]:
            held = broker.end("outage")
            lines = [json.loads(value)["line"] for _, value in broker.messages("outage", held)]
            return lines if set(_bodies(records)) <= set(lines) else []

        lines = wait_until(arrived, "all records to arrive")
    assert set(lines) == set(_bodies(records))


def test_siem_that_is_away_does_not_hold_up_loki(broker: Broker, tmp_path: Path) -> None:
    """While Kafka cannot be reached, Loki gets every line, and Kafka has the same ones afterwards."""
    mark = secrets.token_hex(8)
    records = _records(20, mark=mark)
    broker.stop()
    try:
        parts = ("loki", "collector")
        with _collector(tmp_path, _kafka(broker, "late"), _SIEM / "kafka.yaml", parts=parts) as stack:
            send_logs(stack.otlp_http, records)
            query = f'{{service_name="kube-audit-proxy"}} |= "{mark}"'
            wait_until(lambda: len(loki_lines(stack.loki_url, query)) == 20, "Loki to have all lines")
            broker.start()
            lines = [json.loads(value)["line"] for _, value in broker.messages("late", 20)]
    finally:
        broker.ensure_started()
    assert sorted(lines) == sorted(_bodies(records))


def test_full_queue_makes_senders_wait(broker: Broker, tmp_path: Path) -> None:
    """When a SIEM is away and its queue is full, a sender gets no success, so that it sends again; nothing is lost."""
    environ = _kafka(broker, "full") | {"SIEM_QUEUE_BYTES": "65536"}
    batches = [_records(50, first=number * 50) for number in range(6)]
    broker.stop()
    try:
        with _collector(tmp_path, environ, _SIEM / "kafka.yaml") as collector:
            refused = [batch for batch in batches if not _is_taken(collector, batch)]
            assert 0 < len(refused) < len(batches)
            broker.start()
            for batch in refused:
                send_logs(collector.otlp_http, batch)
            expected = {body for batch in batches for body in _bodies(batch)}

            def arrived() -> set[str]:
                values = broker.messages("full", broker.end("full"))
                lines = {json.loads(value)["line"] for _, value in values}
                return lines if lines >= expected else set()

            wait_until(lambda: broker.end("full") >= len(expected), "as many messages as records")
            assert wait_until(arrived, "all records to arrive") == expected
    finally:
        broker.ensure_started()


def test_file_gets_every_record_across_rotations(tmp_path: Path) -> None:
    """Full files are rotated, and all files together have every record once, in order, byte for byte."""
    folder = tmp_path / "siem"
    environ = {"SIEM_FILE": str(folder / "audit.json"), "SIEM_FILE_MEGABYTES": "1"}
    records = _records(3000)
    with _collector(tmp_path / "stack", environ, _SIEM / "file.yaml") as collector:
        for start in range(0, len(records), 250):
            send_logs(collector.otlp_http, records[start : start + 250])
        wait_until(lambda: len(_written(folder)) == len(records), "all records to be written")
    assert _written_bodies(folder) == _bodies(records)
    assert len(list(folder.glob("audit-*.json"))) >= 2


def test_file_is_continued_after_a_crash(tmp_path: Path) -> None:
    """A collector that was killed goes on with the file it wrote; nothing in it is overwritten or lost."""
    folder = tmp_path / "siem"
    environ = {"SIEM_FILE": str(folder / "audit.json")}
    records = _records(60)
    with _collector(tmp_path / "stack", environ, _SIEM / "file.yaml") as collector:
        send_logs(collector.otlp_http, records[:30])
        collector.kill("collector")
        collector.start("collector")
        send_logs(collector.otlp_http, records[30:])
        wait_until(lambda: len(_written(folder)) == len(records), "all records to be written")
    assert _written_bodies(folder) == _bodies(records)


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        (None, ["call", "call_started", "command", "lost"]),
        ("heartbeat|call_started", ["call", "command", "lost"]),
        ("none", ["call", "call_started", "command", "lost", "heartbeat"]),
    ],
)
def test_kinds_can_be_left_out(tmp_path: Path, without: str | None, expected: Sequence[str]) -> None:
    """Heartbeats are left out unless they are asked for, and other kinds are where that is wanted."""
    folder = tmp_path / "siem"
    environ = {"SIEM_FILE": str(folder / "audit.json")} | ({} if without is None else {"SIEM_WITHOUT": without})
    kinds = ["call", "call_started", "command", "lost", "heartbeat"]
    with _collector(tmp_path / "stack", environ, _SIEM / "file.yaml") as collector:
        send_logs(collector.otlp_http, [_record(1, trace="1" * 32, kind=kind) for kind in kinds])
        wait_until(lambda: len(_written(folder)) == len(expected), "the records to be written")
    assert [json.loads(body)["kind"] for body in _written_bodies(folder)] == expected


def test_lines_can_be_narrowed_as_the_readme_shows(tmp_path: Path) -> None:
    """The README's example of a further file drops the reads that were let through and heartbeats, nothing else."""
    example = re.search(r"```yaml\n(.*?)```", (CONFIGURATION / "README.md").read_text("utf-8"), re.DOTALL)
    assert example is not None
    narrower = tmp_path / "narrower.yaml"
    narrower.write_text(example[1], encoding="utf-8")
    folder = tmp_path / "siem"
    environ = {"SIEM_FILE": str(folder / "audit.json")}
    records = [
        log_record(f"{kind} {verb} {decision}", {"kind": kind, "verb": verb, "decision": decision})
        for kind in ("call", "command", "heartbeat")
        for verb in ("get", "delete")
        for decision in ("allow", "deny")
    ]
    with _collector(tmp_path / "stack", environ, _SIEM / "file.yaml", narrower) as collector:
        send_logs(collector.otlp_http, records)
        wait_until(lambda: len(_written(folder)) == 7, "the records to be written")
    kept = [body for body in _bodies(records) if body != "call get allow" and not body.startswith("heartbeat")]
    assert _written_bodies(folder) == kept


def test_otlp_passes_records_on_whole(tmp_path: Path) -> None:
    """Over TLS a second collector gets each record with its bytes, time, attributes and ids, also after it was down."""
    folder = tmp_path / "siem"
    authorization = tmp_path / "authorization"
    authorization.write_text("Bearer of-the-siem", encoding="utf-8")
    records = _records(60)
    certificates = ensure_certificates(tmp_path / "tls", ["127.0.0.1"])
    tls = {"cert_file": str(certificates.certificate), "key_file": str(certificates.key)}
    secured = tmp_path / "secured.yaml"
    secured.write_text(yaml.safe_dump({"receivers": {"otlp": {"protocols": {"grpc": {"tls": tls}}}}}), "utf-8")
    sink = {"SIEM_FILE": str(folder / "audit.json")}
    with _collector(tmp_path / "sink", sink, _SIEM / "file.yaml", secured) as second:
        environ = {
            "SIEM_OTLP": second.otlp_grpc.replace("http://", "https://"),
            "SIEM_OTLP_AUTH_FILE": str(authorization),
            "SIEM_OTLP_CA_FILE": str(certificates.authority),
        }
        with _collector(tmp_path / "source", environ, _SIEM / "otlp.yaml") as first:
            send_logs(first.otlp_http, records[:20])
            wait_until(lambda: len(_written(folder)) == 20, "the first records to arrive")
            second.stop("collector")
            send_logs(first.otlp_http, records[20:40])
            first.kill("collector")
            first.start("collector")
            send_logs(first.otlp_http, records[40:])
            second.start("collector")
            wait_until(lambda: len(_written(folder)) == len(records), "all records to arrive")
    written = _written(folder)
    assert [record["body"]["stringValue"] for record in written] == _bodies(records)
    for arrived, sent in zip(written, records, strict=True):
        assert arrived["timeUnixNano"] == str(sent.time_unix_nano)
        assert arrived["severityNumber"] == sent.severity_number
        assert (arrived["traceId"], arrived["spanId"]) == (sent.trace_id.hex(), sent.span_id.hex())
        assert _attributes(arrived) == {one.key: one.value.string_value for one in sent.attributes}


def test_syslog_gets_every_record_over_tls(tmp_path: Path) -> None:
    """A message is the line, byte for byte, under a sound header, and what came while the server was down follows."""
    otelcol = ensure("collector", print)["otelcol"]
    known = subprocess.run([otelcol, "components"], check=True, capture_output=True, text=True).stdout
    if "name: syslog" not in known:
        pytest.skip("this collector was built without the syslog exporter")
    records = _records(40)
    records[1].severity_number = SeverityNumber.SEVERITY_NUMBER_WARN
    records[2].severity_number = SeverityNumber.SEVERITY_NUMBER_ERROR
    with SyslogServer(tmp_path) as server:
        environ = {
            "SYSLOG_HOST": "127.0.0.1",
            "SYSLOG_PORT": str(server.port),
            "SYSLOG_CA_FILE": str(server.authority),
        }
        with _collector(tmp_path / "stack", environ, _SIEM / "syslog.yaml") as collector:
            send_logs(collector.otlp_http, records[:20])
            wait_until(lambda: len(server.messages()) == 20, "the first records to arrive")
            server.stop()
            send_logs(collector.otlp_http, records[20:30])
            collector.kill("collector")
            collector.start("collector")
            send_logs(collector.otlp_http, records[30:])
            server.start()
            wait_until(lambda: len(server.messages()) == len(records), "all records to arrive")
    messages = server.messages()
    assert [message.text.decode() for message in messages] == _bodies(records)
    assert [message.priority for message in messages[:4]] == [110, 108, 107, 110]
    assert {message[2:6] for message in messages} == {("kube-audit-proxy", "kube-audit-proxy", "gateway-1", "call")}


def _attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    return {one["key"]: one["value"].get("stringValue") for one in record.get("attributes", [])}


def _prepared(tmp_path: Path, name: str, record: LogRecord) -> dict[str, Any]:
    """Give what the exporter of a SIEM file is given for a record: its processors run, a file stands in for it."""
    siem = yaml.safe_load((_SIEM / name).read_text("utf-8"))
    ((pipeline, parts),) = siem["service"]["pipelines"].items()
    folder = tmp_path / "siem"
    path = folder / "audit.json"
    content = {
        "processors": siem["processors"],
        "exporters": {"file": {"path": str(path), "create_directory": True, "rotation": {"max_megabytes": 1}}},
        "service": {"pipelines": {pipeline: {**parts, "exporters": ["file"]}}},
    }
    merged = tmp_path / name
    merged.write_text(yaml.safe_dump(content), encoding="utf-8")
    with _collector(tmp_path / "stack", {}, merged) as collector:
        send_logs(collector.otlp_http, [record])
        return wait_until(lambda: _written(folder), "the record to be written")[0]


def test_splunk_exporter_is_given_the_line(tmp_path: Path) -> None:
    """Splunk's event is the line, byte for byte, and only five attributes become indexed fields."""
    record = _record(7, trace="2" * 32)
    prepared = _prepared(tmp_path, "splunk-hec.yaml", record)
    assert prepared["body"]["stringValue"] == record.body.string_value
    assert set(_attributes(prepared)) == {"kind", "cluster", "access_method", "verb", "user"}


def test_elasticsearch_exporter_is_given_a_document(tmp_path: Path) -> None:
    """Elasticsearch's document has the record's fields, a time, the line byte for byte, and an id made of it."""
    record = _record(7, trace="2" * 32)
    record.time_unix_nano = 1_790_000_000_123_456_000
    prepared = _prepared(tmp_path, "elasticsearch.yaml", record)
    line = record.body.string_value
    document = {one["key"]: one["value"] for one in prepared["body"]["kvlistValue"]["values"]}
    assert document.pop("event.original") == {"stringValue": line}
    assert document.pop("@timestamp") == {"stringValue": "2026-09-21T14:13:20.123456Z"}
    assert set(document) == set(json.loads(line))
    assert document["duration_ms"] == {"doubleValue": 2.504}
    assert _attributes(prepared)["elasticsearch.document_id"] == _sha256(line)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
