"""API calls: who did what, when, to which resources, and how they got in."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards import columns, panels, signals, variables
from dashboards.frame import frame, link_to_csv


def dashboard(export_url: str) -> Dashboard:
    """Return the dashboard; `export_url` is where the complete CSV is."""
    return (
        frame("calls", "API calls", "Every call to the Kubernetes API that went through the proxy.")
        .variables([
            variables.USER,
            variables.CLUSTER,
            variables.NAMESPACE,
            variables.RESOURCE,
            variables.METHOD,
            variables.VERB,
            variables.ACCESS_METHOD,
            variables.STATUS,
            variables.DECISION,
            variables.COMMAND_ID,
            variables.TEXT,
            variables.export_url(export_url),
        ])
        .link(link_to_csv())
        .with_panel(panels.number(1, signals.CALL_COUNT, 5))
        .with_panel(panels.number(2, signals.USER_COUNT, 4))
        .with_panel(panels.number(3, signals.DENIED_COUNT, 5, {None: "text", 1: "orange"}))
        .with_panel(panels.number(4, signals.ERROR_COUNT, 5, {None: "text", 1: "red"}))
        .with_panel(panels.number(5, signals.CALLS_P95, 5, empty="-"))
        .with_panel(
            panels.rows(
                6,
                signals.CALL_ROWS,
                [panels.lines(signals.CALL_ROWS)],
                columns.newest_first(columns.CALLS),
                columns.overrides(columns.CALLS),
                height=18,
                empty="No call passes the filters",
            )
        )
        .with_panel(panels.over_time(7, "Calls by verb", [signals.CALLS_BY_VERB], stacked=True))
        .with_panel(panels.over_time(8, "Calls by decision", [signals.CALLS_BY_DECISION], stacked=True))
        .with_panel(
            panels.rows(
                9,
                signals.STARTED,
                [panels.lines(signals.STARTED, "A"), panels.lines(signals.ENDED, "B")],
                columns.without_those_ended(columns.RUNNING),
                columns.overrides(columns.RUNNING),
                height=7,
                empty="Nothing is running",
            )
        )
    )  # fmt: skip
