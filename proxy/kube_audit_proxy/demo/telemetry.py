"""The ports, settings and command lines of Loki, Tempo and the OpenTelemetry Collector.

The settings are the variables that the files in collector-config/ name at their top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Ports:
    """The loopback ports of a stack; the defaults are the well-known ones as far as two servers do not clash."""

    loki: int = 3100
    loki_grpc: int = 9095
    tempo: int = 3200
    tempo_grpc: int = 9096
    tempo_otlp_grpc: int = 4417
    tempo_otlp_http: int = 4418
    otlp_grpc: int = 4317
    otlp_http: int = 4318
    health: int = 13133
    metrics: int = 8888


@dataclass(frozen=True, slots=True)
class Part:
    """One server of a stack: its program, its configuration file and the paths that say 200 once it serves."""

    program: str
    file: str
    ready: Sequence[tuple[str, str]]
    """Pairs of a port, by its name in Ports, and a path."""
    expands: bool = True
    patience: float = 30.0
    """Seconds that it gets to write what it holds when it is asked to stop."""

    def argv(self, program: Path, configuration: Path, more: Sequence[Path] = ()) -> list[str]:
        """Return the command line; more are files that are merged over the first, which only the collector can."""
        if self.expands:
            return [str(program), f"-config.file={configuration / self.file}", "-config.expand-env=true"]
        return [str(program), *(f"--config={file}" for file in (configuration / self.file, *more))]


PARTS: Mapping[str, Part] = {
    "loki": Part(
        program="loki",
        file="loki.yaml",
        ready=(("loki", "/ready"), ("loki", "/loki/api/v1/query?query=vector(1)")),
    ),
    "tempo": Part(
        program="tempo",
        file="tempo.yaml",
        ready=(("tempo", "/ready"), ("tempo", "/api/search?limit=1")),
        # it has written all after five, but does not end for a minute once it has answered a query
        patience=8.0,
    ),
    "collector": Part(program="otelcol", file="otel-collector.yaml", ready=(("health", "/"),), expands=False),
}
"""The servers in the order of their start, by the name of their module in demo.build."""


def url(port: int) -> str:
    """Return the base URL of what listens on a loopback port."""
    return f"http://{_HOST}:{port}"


def settings(ports: Ports, data: Path) -> dict[str, str]:
    """Return the variables that the configuration files expand; each server keeps its own folder below data."""
    return {
        "LOKI_HOST": _HOST,
        "LOKI_PORT": str(ports.loki),
        "LOKI_GRPC_PORT": str(ports.loki_grpc),
        "LOKI_DATA": str(data / "loki"),
        "LOKI_URL": url(ports.loki),
        "TEMPO_HOST": _HOST,
        "TEMPO_PORT": str(ports.tempo),
        "TEMPO_GRPC_PORT": str(ports.tempo_grpc),
        "TEMPO_OTLP_GRPC_PORT": str(ports.tempo_otlp_grpc),
        "TEMPO_OTLP_HTTP_PORT": str(ports.tempo_otlp_http),
        "TEMPO_DATA": str(data / "tempo"),
        "TEMPO_OTLP": url(ports.tempo_otlp_grpc),
        "OTELCOL_HOST": _HOST,
        "OTELCOL_GRPC_PORT": str(ports.otlp_grpc),
        "OTELCOL_HTTP_PORT": str(ports.otlp_http),
        "OTELCOL_HEALTH_PORT": str(ports.health),
        "OTELCOL_METRICS_PORT": str(ports.metrics),
        "OTELCOL_DATA": str(data / "collector"),
    }
