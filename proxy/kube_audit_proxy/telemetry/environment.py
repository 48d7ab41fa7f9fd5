"""What OpenTelemetry's variables say about whether anything is shipped. Pure."""

import dataclasses
from collections.abc import Mapping

from kube_audit_proxy.config import TelemetryConfig
from kube_audit_proxy.export.names import Signal

_BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"


def told_by_environment(telemetry: TelemetryConfig | None, environ: Mapping[str, str]) -> TelemetryConfig | None:
    """Return what is shipped by the settings, if they say so, and the variables; None if nothing is."""
    told = signals(environ, asked=telemetry is not None)
    found = telemetry or TelemetryConfig()
    shipped = tuple(signal for signal in found.signals if signal in told)
    return dataclasses.replace(found, signals=shipped) if shipped else None


def signals(environ: Mapping[str, str], *, asked: bool = False) -> tuple[Signal, ...]:
    """Return the signals for which the variables name a place; `asked`: the settings name one for both already.

    `OTEL_LOGS_EXPORTER=none` and `OTEL_TRACES_EXPORTER=none` leave one out.
    """
    return tuple(
        signal
        for signal in Signal
        if (asked or environ.get(_BASE) or environ.get(f"OTEL_EXPORTER_OTLP_{signal.name}_ENDPOINT"))
        and environ.get(f"OTEL_{signal.name}_EXPORTER", "otlp").strip().lower() != "none"
    )
