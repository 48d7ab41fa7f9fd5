"""Trail health: whether every line arrives, how late, and what was refused."""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboards import panels, signals
from dashboards.frame import frame


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return (
        frame("health", "Trail health", "Whether the trail is complete and up to date.")
        .refresh("1m")
        .with_panel(panels.number(1, signals.MISSING, 5, panels.BAD_ABOVE_ZERO))
        .with_panel(panels.number(2, signals.SILENT, 5, panels.BAD_ABOVE_ZERO))
        .with_panel(
            panels.number(3, signals.LAG_NOW, 5, {None: "green", 30: "orange", 120: "red"}, empty="-", last=True)
        )
        .with_panel(panels.number(4, signals.DEAD_LETTERS, 5, panels.BAD_ABOVE_ZERO))
        .with_panel(panels.number(5, signals.LOST, 4, panels.BAD_ABOVE_ZERO))
        .with_panel(
            panels.by_label(
                6,
                "Writers",
                ("writer", "Writer"),
                signals.WRITERS,
                width=24,
                sort="Last heartbeat",
                colors={"Missing": panels.BAD_ABOVE_ZERO},
            )
        )
        .with_panel(panels.presence(7, signals.HEARTBEATS))
        .with_row(Row("Over time"))
        .with_panel(panels.over_time(8, "Calls a second", [signals.CALL_RATE], width=8))
        .with_panel(panels.over_time(9, "Lag", [signals.LAG], width=8))
        .with_panel(panels.over_time(10, "Missing lines", [signals.MISSING_OVER_TIME], width=8))
        .with_panel(panels.over_time(11, "Refused by the proxy", [signals.REFUSALS], width=8, stacked=True))
        .with_panel(
            panels.by_label(
                12, "Denied calls by user", ("user", "User"), signals.DENIED_BY_USER, width=8, sort="Denied calls"
            )
        )
        .with_panel(panels.over_time(13, "Size of the journal", [signals.JOURNAL_SIZE], width=8))
    )  # fmt: skip
