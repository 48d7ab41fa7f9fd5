"""Commands: who ran what, and which API calls it became."""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboards import columns, panels, signals, variables
from dashboards.frame import frame


def dashboard() -> Dashboard:
    """Return the dashboard."""
    shown = columns.overrides(columns.COMMANDS)
    calls = columns.overrides(columns.CALLS)
    return (
        frame("commands", "Commands", "What people typed, and the API calls that it became.")
        .variables([
            variables.USER,
            variables.CLUSTER,
            variables.ACCESS_METHOD,
            variables.STATUS,
            variables.text("text", "Text", "Text in user, command or clusters."),
            variables.COMMAND_ID,
            variables.hidden("trace_id", variables.NO_TRACE),
        ])
        .with_panel(
            panels.rows(
                1,
                signals.COMMAND_ROWS,
                [panels.lines(signals.COMMAND_ROWS)],
                columns.last_of_each(columns.COMMANDS, "command_id"),
                shown,
                height=14,
                empty="No command passes the filters",
            )
        )
        .with_row(Row("The command that was chosen"))
        .with_panel(
            panels.rows(
                2,
                signals.CHOSEN_COMMAND,
                [panels.lines(signals.CHOSEN_COMMAND, most=100)],
                columns.last_of_each(columns.COMMANDS, "command_id"),
                shown,
                height=4,
                empty="Click on a command above",
            )
        )
        .with_panel(
            panels.rows(
                3,
                signals.CALLS_OF_COMMAND,
                [panels.lines(signals.CALLS_OF_COMMAND)],
                columns.oldest_first(columns.CALLS),
                calls,
                height=10,
                empty="Click on a command above",
            )
        )
        .with_panel(panels.trace(4, signals.TRACE))
    )  # fmt: skip
