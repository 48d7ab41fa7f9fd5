"""`python -m benchmarks.shipping`: what shipping a call costs, and how soon a call can be found in Loki.

Shipped is a call's line and its spans, over gRPC, through a real collector to a real Loki and Tempo. The peer is the
OpenTelemetry SDK's own path: its spans and log records with the same attributes, its encoder, the same exporters.
"""
# ruff: noqa: S310 - the URL is that of a server that is run for this

import json
import os
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import orjson
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from rich.console import Console
from rich.table import Table

from benchmarks.journals import write_journal
from benchmarks.rig import TARGET, build, light_upstream, ours
from kube_audit_proxy.config import ClusterConfig, Config, TelemetryConfig
from kube_audit_proxy.demo.stack import TelemetryStack
from kube_audit_proxy.export.names import attribute
from kube_audit_proxy.journal.reader import read_batches
from kube_audit_proxy.process.shipper import make_shippers, tune
from kube_audit_proxy.telemetry.times import nanoseconds

CALLS, SDK_CALLS, ROUNDS = 40_000, 4_000, 3
RATE, SECONDS = 500, 20
_CONFIGURATION = Path(__file__).parent.parent / "collector-config"


def main() -> None:
    """Measure, print a table, and write benchmarks/results/shipping.json."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="kube-audit-proxy-bench-") as folder, ExitStack() as stack:
        home = Path(folder)
        telemetry = stack.enter_context(TelemetryStack(home / "stack", _CONFIGURATION, progress=print))
        results = {
            "shipper": _best(_ship, home, telemetry),
            "opentelemetry-sdk": _best(_ship_by_sdk, home, telemetry),
            "until found in Loki": _latency(home, telemetry),
        }
    _show(results)
    target = Path(__file__).parent / "results" / "shipping.json"
    target.write_text(json.dumps(results, indent=2) + "\n")


def _best(measured: Any, home: Path, telemetry: TelemetryStack) -> dict[str, float]:
    costs = [measured(home, telemetry, number) for number in range(ROUNDS)]
    return {"cpu_us": min(costs), "calls_per_cpu_second": 1e6 / min(costs)}


def _ship(home: Path, telemetry: TelemetryStack, number: int) -> float:
    """Return the microseconds of CPU that a call costs, its start, its line, its spans and its command included."""
    data_dir = home / f"ours-{number}"
    begin = datetime.now(UTC) - timedelta(seconds=CALLS / RATE)
    write_journal(data_dir / "journal", CALLS, begin=begin, per_second=RATE)
    config = Config(data_dir, (ClusterConfig("prod-eu"),), telemetry=TelemetryConfig(endpoint=telemetry.otlp_grpc))
    tune()
    with ExitStack() as stack:
        shippers = make_shippers(config, stack, Event())
        threads = [Thread(target=each.run) for each in shippers]
        began = time.process_time()
        for each, thread in zip(shippers, threads, strict=True):
            each.finish()
            thread.start()
        for thread in threads:
            thread.join()
        spent = time.process_time() - began
    assert all(each.tried.delivered >= CALLS for each in shippers)
    return spent / CALLS * 1e6


def _ship_by_sdk(home: Path, telemetry: TelemetryStack, number: int) -> float:
    journal = home / f"ours-{number}" / "journal"
    lines = [line for batch in read_batches(journal, {}) for line in batch.lines]
    ends = [line for line in lines if b'"stage":"ResponseComplete"' in line][:SDK_CALLS]
    spans, logs = TracerProvider(), LoggerProvider()
    room = SDK_CALLS * 2
    exporter, log_exporter = OTLPSpanExporter(telemetry.otlp_grpc), OTLPLogExporter(telemetry.otlp_grpc)
    spans.add_span_processor(BatchSpanProcessor(exporter, room, max_export_batch_size=500))
    logs.add_log_record_processor(BatchLogRecordProcessor(log_exporter, max_queue_size=room, max_export_batch_size=500))
    tracer, logger = spans.get_tracer("peer"), logs.get_logger("peer")
    began = time.process_time()
    for line in ends:
        record = orjson.loads(line)
        said = {attribute(key): value for key, value in record.items() if key not in {"prev", "stageTimestamp"}}
        start = nanoseconds(record["requestReceivedTimestamp"])
        end = start + int(record["duration_ms"] * 1e6)
        with_parent = tracer.start_span("list pods", kind=SpanKind.SERVER, attributes=said, start_time=start)
        tracer.start_span("GET", kind=SpanKind.CLIENT, start_time=start).end(end)
        with_parent.end(end)
        logger.emit(
            LogRecord(timestamp=end, severity_number=SeverityNumber.INFO, body=line.decode(), attributes=record)
        )
    spans.shutdown()
    logs.shutdown()
    return (time.process_time() - began) / len(ends) * 1e6


def _latency(home: Path, telemetry: TelemetryStack) -> dict[str, float]:
    """Return how long after its end a call is found in Loki, while a real proxy carries so many a second."""
    with ExitStack() as stack:
        proxy = ours(home, light_upstream(home, stack), stack, options=["--otlp", telemetry.otlp_grpc])
        seen: dict[str, float] = {}
        stop = Event()
        watcher = Thread(target=_watch, args=(telemetry.loki_url, seen, stop))
        watcher.start()
        load = [str(build("load", home)), proxy.url + TARGET, "16", str(RATE * SECONDS), *proxy.headers]
        subprocess.run(load, check=True, env={**os.environ, "LOAD_RATE": str(RATE)}, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(seen) < RATE * SECONDS and time.monotonic() < deadline:
            time.sleep(0.5)
        stop.set()
        watcher.join()
    assert len(seen) >= RATE * SECONDS, f"only {len(seen)} calls were found"
    latencies = sorted(seen.values())
    return {f"p{part}_ms": latencies[len(latencies) * part // 100] * 1000 for part in (50, 95, 99)}


def _watch(loki: str, seen: dict[str, float], stop: Event) -> None:
    """Ask Loki again and again; note of each call how long after its end it was there for the first time."""
    query = '{service_name="kube-audit-proxy", kind="call", cluster="demo"} | line_format "{{.auditID}}" | keep auditID'
    while not stop.is_set():
        now = time.time_ns()
        asked = {"query": query, "limit": 5000, "start": now - 5 * 10**9, "end": now, "direction": "backward"}
        with urllib.request.urlopen(f"{loki}/loki/api/v1/query_range?{urllib.parse.urlencode(asked)}") as answer:
            found = json.load(answer)["data"]["result"]
        there = time.time()
        for stream in found:
            for moment, audit_id in stream["values"]:
                seen.setdefault(audit_id, there - int(moment) / 1e9)
        stop.wait(0.05)


def _show(results: dict[str, dict[str, float]]) -> None:
    table = Table(
        "", "CPU/call (us)", "calls per CPU second", title="A call's line and spans, shipped by OTLP over gRPC"
    )
    for name in ("shipper", "opentelemetry-sdk"):
        table.add_row(name, f"{results[name]['cpu_us']:.0f}", f"{results[name]['calls_per_cpu_second']:,.0f}")
    console = Console()
    console.print(table)
    found = results["until found in Loki"]
    told = ", ".join(f"{name.removesuffix('_ms')} {value / 1000:.2f} s" for name, value in found.items())
    console.print(f"At {RATE} calls/s, a call is found in Loki after: {told}")


if __name__ == "__main__":
    main()
