"""The Grafana dashboards and alert rules of the trail, as code. `python -m dashboards` renders them."""

import warnings

with warnings.catch_warnings():
    # It advises the schema v2, which Grafana does not load from provisioned files everywhere; the classic one it does.
    warnings.filterwarnings("ignore", message="Prefer using dashboardv2", category=DeprecationWarning)
    import grafana_foundation_sdk.builders.dashboard
    import grafana_foundation_sdk.models.dashboardv2beta1  # noqa: F401
