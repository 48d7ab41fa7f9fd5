"""What the proxy and its dashboards rely on in real Loki, Tempo and collector, configured as we ship them."""

from __future__ import annotations

import secrets
import subprocess
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from kube_audit_proxy.demo.stack import StackError, TelemetryStack
from servers.stack import (
    CONFIGURATION,
    get,
    log_record,
    loki_lines,
    loki_number,
    loki_streams,
    send_logs,
    send_spans,
    span,
)
from support.proxies import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

pytestmark = pytest.mark.servers

_LABELS = {"kind": "call", "cluster": "demo", "access_method": "kubectl", "verb": "list"}
_HOUR = 3_600_000_000_000


def _query(mark: str) -> str:
    return f'{{service_name="kube-audit-proxy"}} | mark="{mark}"'


def _records(mark: str, count: int, **more: str) -> list[LogRecord]:
    attributes = {**_LABELS, "mark": mark, **more}
    return [log_record(f'{{"mark":"{mark}","n":{number}}}', attributes) for number in range(count)]


def _metrics(stack: TelemetryStack, query: str) -> list[float]:
    """Give the numbers other than zero of a TraceQL metrics query over the last ten minutes."""
    now = int(time.time())
    parameters = {"q": query, "start": now - 600, "end": now + 10, "step": "60s"}
    series = get(f"{stack.tempo_url}/api/metrics/query_range", parameters).get("series", [])
    values = [sample.get("value", 0.0) for one in series for sample in one["samples"]]
    return [value for value in values if value]


def _bodies(records: Sequence[LogRecord]) -> list[str]:
    return sorted(record.body.string_value for record in records)


def test_line_has_our_five_labels_and_the_rest_beside_it(stack: TelemetryStack) -> None:
    """A record keeps its bytes; five attributes become labels, all others structured metadata, and no other appears."""
    mark = secrets.token_hex(8)
    metadata = {"mark": mark, "user": "alice", "duration_ms": "12.5", "status": "200"}
    body = f'{{"mark":"{mark}","a": [1, "ä"]}}'
    send_logs(stack.otlp_http, [log_record(body, {**_LABELS, **metadata})])
    streams = wait_until(lambda: loki_streams(stack.loki_url, _query(mark)), "the line to be found")
    assert len(streams) == 1
    assert streams[0]["stream"] == {"service_name": "kube-audit-proxy", **_LABELS}
    [[_, line, extra]] = streams[0]["values"]
    assert line == body
    assert extra["structuredMetadata"] == {**metadata, "severity_number": "9", "severity_text": "INFO"}


def test_line_sent_twice_counts_once(stack: TelemetryStack) -> None:
    """A record that is sent again, together with others and in another order, is there once."""
    mark = secrets.token_hex(8)
    records = _records(mark, 3)
    send_logs(stack.otlp_http, records[:2])
    send_logs(stack.otlp_http, [records[2], records[0]])
    last = _records(mark, 1, last="yes")
    send_logs(stack.otlp_http, [records[1], *last])
    wait_until(lambda: loki_lines(stack.loki_url, _query(mark) + ' | last="yes"'), "the last line to be found")
    assert sorted(loki_lines(stack.loki_url, _query(mark) + ' | last=""')) == _bodies(records)
    assert loki_number(stack.loki_url, f'sum(count_over_time({_query(mark)} | last="" [1h]))') == 3


def test_late_line_is_taken(stack: TelemetryStack) -> None:
    """Lines of ten hours and of six days before the newest of the same stream are not refused."""
    mark = secrets.token_hex(8)
    now = time.time_ns()
    send_logs(stack.otlp_http, [log_record("new", {**_LABELS, "mark": mark}, nanoseconds=now)])
    wait_until(lambda: loki_lines(stack.loki_url, _query(mark)), "the new line to be found")
    for hours in (10, 144):
        late = log_record(f"{hours} h late", {**_LABELS, "mark": mark}, nanoseconds=now - hours * _HOUR)
        send_logs(stack.otlp_http, [late])
    wait_until(lambda: len(loki_lines(stack.loki_url, _query(mark), hours=168)) == 3, "the late lines to be found")


def test_large_line_is_taken(stack: TelemetryStack) -> None:
    """A line of a megabyte with a hundred kilobytes of structured metadata is neither cut nor refused."""
    mark = secrets.token_hex(8)
    body, text = "x" * 1_048_576, "y" * 1024
    send_logs(
        stack.otlp_http,
        [log_record(body, {**_LABELS, "mark": mark, **{f"text_{number}": text for number in range(100)}})],
    )
    assert wait_until(lambda: loki_lines(stack.loki_url, _query(mark)), "the large line to be found") == [body]


def test_five_thousand_whole_lines_are_one_answer(stack: TelemetryStack) -> None:
    """As many lines as a table may ask for come in one answer, although they are larger than gRPC's default limit."""
    mark = secrets.token_hex(8)
    attributes = {**_LABELS, "mark": mark, "text": "t" * 600}
    for start in range(0, 5000, 1000):
        numbers = range(start, start + 1000)
        send_logs(stack.otlp_http, [log_record(f"{number} {'x' * 900}", attributes) for number in numbers])
    wait_until(lambda: len(loki_lines(stack.loki_url, _query(mark))) == 5000, "all lines to be found")


def test_late_span_is_taken(stack: TelemetryStack) -> None:
    """A span of ten hours ago is found at its own time, not at that of its arrival."""
    mark, trace_id = secrets.token_hex(8), secrets.token_hex(16)
    late = span("late", trace_id, secrets.token_hex(8), {"kubeaudit.mark": mark}, hours_ago=10)
    send_spans(stack.otlp_http, [late])
    now = int(time.time())
    query = {"q": f'{{ span.kubeaudit.mark = "{mark}" }}', "start": now - 11 * 3600, "end": now - 9 * 3600}
    wait_until(lambda: get(f"{stack.tempo_url}/api/search", query)["traces"], "the late span to be found")


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_nobody_can_delete_lines(stack: TelemetryStack, method: str) -> None:
    """Loki's interface for deleting lines is off."""
    url = f"{stack.loki_url}/loki/api/v1/delete?query=%7Bkind%3D%22call%22%7D&start=1"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=60)
    caught.value.close()
    assert caught.value.code in {403, 404, 405}


def test_span_is_found_by_id_by_search_and_by_metrics(stack: TelemetryStack) -> None:
    """A span can be looked up, searched by an attribute and counted, with its long attribute whole."""
    mark, trace_id, span_id = secrets.token_hex(8), secrets.token_hex(16), secrets.token_hex(8)
    argv = "a" * 10_000
    attributes = {"kubeaudit.mark": mark, "kubeaudit.exec_argv": argv}
    send_spans(stack.otlp_http, [span("list pods", trace_id, span_id, attributes)])

    wait_until(lambda: argv in str(get(f"{stack.tempo_url}/api/v2/traces/{trace_id}", {})), "the trace by its id")
    query = f'{{ span.kubeaudit.mark = "{mark}" && kind = server }}'
    search = {"q": query, "start": int(time.time()) - 3600, "end": int(time.time()) + 3600}
    found = wait_until(lambda: get(f"{stack.tempo_url}/api/search", search)["traces"], "the trace to be found")
    # Tempo writes no leading zeros
    assert [trace["traceID"].zfill(32) for trace in found] == [trace_id]

    medians = f"{query} | quantile_over_time(duration, 0.5) by (name)"
    [median] = wait_until(lambda: _metrics(stack, medians), "the span to be measured")
    assert 0.02 < median < 0.08  # buckets are powers of two


def test_lines_and_spans_wait_for_their_server(stack: TelemetryStack) -> None:
    """What is sent while Loki and Tempo are away is there once they are back; what they had is still there, once."""
    mark = secrets.token_hex(8)
    query = f'{{ span.kubeaudit.mark = "{mark}" }}'
    before, meanwhile = _records(mark, 2, when="before"), _records(mark, 2, when="meanwhile")

    def send(records: Sequence[LogRecord], name: str) -> None:
        send_logs(stack.otlp_http, records)
        ids = secrets.token_hex(16), secrets.token_hex(8)
        send_spans(stack.otlp_http, [span(name, *ids, {"kubeaudit.mark": mark})])

    def counted() -> float:
        return sum(_metrics(stack, f"{query} | count_over_time()"))

    def names() -> set[str]:
        return {trace["rootTraceName"] for trace in get(f"{stack.tempo_url}/api/search", {"q": query})["traces"]}

    send(before, "before")
    wait_until(lambda: len(loki_lines(stack.loki_url, _query(mark))) == 2, "the lines before to be found")
    wait_until(lambda: names() == {"before"} and counted() == 1, "the span before to be found")
    stack.kill("loki")
    stack.kill("tempo")
    send([*before, *meanwhile], "meanwhile")
    stack.start("loki")
    stack.start("tempo")
    wait_until(lambda: len(loki_lines(stack.loki_url, _query(mark))) == 4, "all lines to be found")
    assert sorted(loki_lines(stack.loki_url, _query(mark))) == sorted([*_bodies(before), *_bodies(meanwhile)])
    number = f"sum(count_over_time({_query(mark)} [1h]))"
    wait_until(lambda: loki_number(stack.loki_url, number) == 4, "every line to count once")
    wait_until(lambda: names() == {"before", "meanwhile"} and counted() == 2, "both spans to be found")


def test_killed_collector_loses_nothing_that_it_took(tmp_path: Path) -> None:
    """With Loki away the queue fills until the collector takes nothing more; killed and back, it delivers all of it."""
    small = {"OTELCOL_QUEUE_BYTES": "200000"}
    with TelemetryStack(tmp_path, CONFIGURATION, parts=("loki", "collector"), environ=small) as stack:
        mark = secrets.token_hex(8)
        stack.stop("loki")
        taken: list[LogRecord] = []
        for number in range(100):
            records = _records(f"{mark}", 10, batch=str(number), text="t" * 900)
            try:
                send_logs(stack.otlp_http, records, timeout=2.0)
            except OSError:  # it makes us wait: the queue is full
                break
            taken += records
        assert 100 <= len(taken) < 1000
        stack.kill("collector")
        stack.start("collector")
        stack.start("loki")
        expected = {(record.time_unix_nano, record.body.string_value) for record in taken}

        def arrived() -> bool:
            values = [value for one in loki_streams(stack.loki_url, _query(mark)) for value in one["values"]]
            return expected <= {(int(value[0]), value[1]) for value in values}

        wait_until(arrived, "all lines that the collector took")


def test_siem_file_adds_its_own_pipeline(tmp_path: Path) -> None:
    """A second file with nothing but an exporter and a pipeline of its own gets every line, beside Loki."""
    out = tmp_path / "siem.json"
    more = tmp_path / "siem.yaml"
    more.write_text(
        f"exporters: {{file: {{path: {out}}}}}\n"
        "service: {pipelines: {logs/siem: {receivers: [otlp], processors: [memory_limiter], exporters: [file]}}}\n",
        encoding="utf-8",
    )
    with TelemetryStack(
        tmp_path / "stack", CONFIGURATION, parts=("loki", "collector"), collector_configurations=[more]
    ) as stack:
        mark = secrets.token_hex(8)
        send_logs(stack.otlp_http, _records(mark, 1))
        wait_until(lambda: mark in out.read_text("utf-8"), "the line in the file")
        wait_until(lambda: loki_lines(stack.loki_url, _query(mark)), "the line in Loki")
        with urllib.request.urlopen(stack.collector_metrics_url, timeout=60) as response:
            assert b"otelcol_receiver_accepted_log_records" in response.read()


def test_unusable_configuration_is_explained_and_nothing_is_left(tmp_path: Path) -> None:
    """A server that ends during the start is named with the end of its log; the others are stopped."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("exporters: {no_such_exporter: {}}\n", encoding="utf-8")
    folder = tmp_path / "stack"
    with pytest.raises(StackError) as caught:
        TelemetryStack(
            folder, CONFIGURATION, parts=("loki", "collector"), collector_configurations=[broken]
        ).start_all()
    assert "collector ended with code" in str(caught.value)
    assert "no_such_exporter" in str(caught.value)
    assert str(folder / "logs" / "collector.log") in str(caught.value)
    processes = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout
    assert str(broken) not in processes
