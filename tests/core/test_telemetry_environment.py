"""Whether anything is shipped, as the settings and OpenTelemetry's variables say."""

import pytest

from kube_audit_proxy.config import TelemetryConfig
from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.telemetry.environment import told_by_environment

BOTH, LOGS, TRACES = tuple(Signal), (Signal.LOGS,), (Signal.TRACES,)
URL = "http://collector:4317"


@pytest.mark.parametrize(
    ("settings", "environ", "shipped"),
    [
        (None, {}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": URL}, BOTH),
        (None, {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": URL}, LOGS),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": URL}, TRACES),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": URL, "OTEL_TRACES_EXPORTER": "none"}, LOGS),
        (None, {"OTEL_LOGS_EXPORTER": "otlp"}, None),
        (TelemetryConfig(endpoint=URL), {}, BOTH),
        (TelemetryConfig(), {}, BOTH),
        (TelemetryConfig(endpoint=URL, signals=LOGS), {}, LOGS),
        (TelemetryConfig(endpoint=URL), {"OTEL_LOGS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": " None "}, None),
    ],
)
def test_what_is_shipped(
    settings: TelemetryConfig | None, environ: dict[str, str], shipped: tuple[Signal, ...] | None
) -> None:
    """A place named anywhere turns shipping on, `none` turns a signal off, and nothing is shipped unasked."""
    told = told_by_environment(settings, environ)
    assert (told.signals if told else None) == shipped
    if told and settings:
        assert told.endpoint == settings.endpoint
