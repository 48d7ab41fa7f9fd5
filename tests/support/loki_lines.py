"""Puts a journal into Loki as the shipper would, without waiting for one."""

import urllib.request
from collections.abc import Collection, Iterable
from pathlib import Path

from kube_audit_proxy.telemetry.entries import entry
from kube_audit_proxy.telemetry.lines import LineEncoder, request

BATCH = 1000


def fill(loki_url: str, lines: Iterable[bytes], clusters: Collection[str]) -> int:
    """Send the lines of a journal that are shipped, and return how many. Raises OSError if Loki refuses them."""
    encoder = LineEncoder(clusters)
    batch: list[bytes] = []
    sent = 0
    for line in lines:
        read = entry(line)
        if read.record is not None and read.kind is not None:
            batch.append(encoder.encode(read.record, line, (), time=read.time, kind=read.kind))
            sent += 1
        if len(batch) == BATCH:
            _send(loki_url, batch)
            batch = []
    if batch:
        _send(loki_url, batch)
    return sent


def lines_of(journal: Path) -> list[bytes]:
    """Return all lines of a journal, writer by writer."""
    return [line for path in sorted(journal.rglob("*.jsonl")) for line in path.read_bytes().splitlines()]


def _send(loki_url: str, log_records: list[bytes]) -> None:
    asked = urllib.request.Request(
        f"{loki_url}/otlp/v1/logs",
        data=request(log_records),
        headers={"Content-Type": "application/x-protobuf"},
    )
    with urllib.request.urlopen(asked, timeout=60):
        pass
