"""Latency: how long calls take, of what kind, and what of it the proxy itself costs."""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboards import columns, panels, signals, variables
from dashboards.frame import frame

_SLOWEST = (
    *(
        column
        for column in columns.CALLS
        if column.title not in {"Method", "Details", "Trace", "command_id", "trace_id"}
    ),
    columns.Column("upstream_ms", "Upstream", {"custom.width": 80, "unit": "ms", "decimals": 1}, is_number=True),
    columns.DETAILS,
    columns.TRACE,
    columns.COMMAND_ID,
    columns.TRACE_ID,
)
_MOST_SLOWEST = 20


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return (
        frame("latency", "Latency", "How long calls take, without streams: watch, logs, exec, attach, port-forward.")
        .variables([
            variables.USER,
            variables.CLUSTER,
            variables.RESOURCE,
            variables.VERB,
            variables.ACCESS_METHOD,
            variables.text("slower_than", "Slower than (ms)", "The bound of the table of the slowest calls."),
        ])
        .with_panel(panels.over_time(1, "Duration", signals.DURATIONS))
        .with_panel(panels.heat(2, "Durations, how often", signals.HEAT))
        .with_panel(
            panels.by_label(3, "By verb", ("verb", "Verb"), signals.durations_by("verb"), width=8, sort="p95")
        )
        .with_panel(
            panels.by_label(
                4, "By resource", ("resource", "Resource"), signals.durations_by("resource"), width=8, sort="p95"
            )
        )
        .with_panel(
            panels.by_label(
                5, "By cluster", ("cluster", "Cluster"), signals.durations_by("cluster"), width=8, sort="p95"
            )
        )
        .with_panel(
            panels.rows(
                6,
                signals.SLOWEST,
                [panels.lines(signals.SLOWEST)],
                columns.slowest_first(_SLOWEST, _MOST_SLOWEST),
                columns.overrides(_SLOWEST),
                height=11,
                empty="No call took longer",
            )
        )
        .with_row(Row("What the proxy costs"))
        .with_panel(
            panels.over_time(
                7,
                "Through the proxy, and upstream alone",
                signals.PROXIED,
                meaning="The whole time of calls beside the part of it in which they were at the API server: what they "
                "would have taken without the proxy.",
            )
        )
        .with_panel(panels.over_time(8, "The proxy's own part", signals.OVERHEADS))
        .with_row(Row("From the traces"))
        .with_panel(panels.over_time(9, "Duration, from the traces", [signals.TRACED_DURATIONS], width=8))
        .with_panel(panels.heat(10, "Durations, how often, from the traces", signals.TRACED_HEAT, width=8))
        .with_panel(panels.over_time(11, "Calls by verb, from the traces", [signals.TRACED_RATE], width=8))
    )  # fmt: skip
