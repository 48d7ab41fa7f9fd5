"""The files that Grafana reads. Pure, but for `write`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import alerts, calls, commands, health, latency
from dashboards.variables import EXPORT_URL

FOLDER = Path(__file__).parent


def files(export_url: str = EXPORT_URL) -> Iterator[tuple[Path, str]]:
    """Give each file: its path below this folder, and its content."""
    for dashboard in (calls.dashboard(export_url), commands.dashboard(), latency.dashboard(), health.dashboard()):
        model = corrected(dashboard)
        yield Path("json") / f"{model['uid']}.json", json.dumps(model, indent=1, ensure_ascii=False) + "\n"
    yield Path("alerting") / "rules.yaml", alerts.document()


def write(folder: Path = FOLDER, export_url: str = EXPORT_URL) -> list[Path]:
    """Write all files; return their paths."""
    written = []
    for path, content in files(export_url):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
        written.append(folder / path)
    return written


def corrected(dashboard: Dashboard) -> dict[str, Any]:
    """Return a dashboard's model, with what grafana-foundation-sdk 0.0.21 leaves out or says wrongly put right.

    Links would hide behind a button (`placement`); tables cannot be told to have pages, and say in an older way that
    they have no footer; a constant would go into addresses; rows have no ids, panels no options of `reduceOptions`.
    """
    model: dict[str, Any] = json.loads(json.dumps(dashboard.build(), cls=JSONEncoder))
    for link in model["links"]:
        link.pop("placement", None)
    for variable in model["templating"].get("list", []):
        if variable["type"] == "constant":
            variable["skipUrlSync"] = True
        for unused in ("auto", "auto_min", "auto_count"):
            variable.pop(unused, None)
        if variable["type"] in {"custom", "query"}:
            variable["options"] = []
    model["templating"].setdefault("list", [])
    model["annotations"] = {"list": []}
    for at, panel in enumerate(model["panels"]):
        if panel["type"] == "row":
            panel["id"] = 100 + at
        if panel["type"] == "table":
            panel["options"].pop("footer", None)
            panel["options"]["enablePagination"] = True
            panel["options"].setdefault("sortBy", [])
    return model
