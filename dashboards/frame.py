"""What all dashboards have in common."""

from grafana_foundation_sdk.builders.dashboard import Dashboard, DashboardLink
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DashboardLinkType

TAG = "kubeaudit"


def frame(name: str, title: str, description: str) -> Dashboard:
    """Return an empty dashboard that leads to the others."""
    others = (
        DashboardLink("Audit")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(as_dropdown=True)
        .keep_time(keep_time=True)
        .include_vars(include_vars=False)
    )
    return (
        Dashboard(title)
        .uid(f"kubeaudit-{name}")
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .time("now-6h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(others)
    )


def link_to_csv() -> DashboardLink:
    """Return the link to all calls that pass the filters: the table shows 5,000 at most."""
    return (
        DashboardLink("Export CSV")
        .type(DashboardLinkType.LINK)
        .url("${export_url}")
        .icon("external link")
        .tooltip("All calls that pass the filters in this time, as CSV that is safe to open in a spreadsheet")
        .keep_time(keep_time=True)
        .include_vars(include_vars=True)
        .target_blank(target_blank=True)
    )
