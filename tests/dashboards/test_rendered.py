"""The files that are committed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboards.render import FOLDER, files

DASHBOARDS = sorted((FOLDER / "json").glob("*.json"))
_DATA_SOURCES = FOLDER.parent / "collector-config" / "grafana" / "provisioning" / "datasources" / "kubeaudit.yaml"
EXPORT_SOURCE = "kubeaudit-export"
_TABLE_AT_1500_PIXELS = 1165
"""What a table over the full width has on a screen of 1500 pixels with the menu open."""


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Give each committed dashboard."""
    model: dict[str, Any] = json.loads(request.param.read_text())
    return model


def test_the_committed_files_are_what_the_code_renders() -> None:
    """Rendered again, each file is the committed one, and there are no others."""
    rendered = {FOLDER / path: content for path, content in files()}
    assert {path: path.read_text() for path in rendered} == rendered
    assert set(DASHBOARDS) == {path for path in rendered if path.suffix == ".json"}


def test_the_address_of_the_export_can_be_chosen() -> None:
    """`--export-url` changes where the CSV is, and nothing else."""
    changed = dict(files("https://audit.example.com/export.csv"))
    usual = dict(files())
    differing = [path for path, content in usual.items() if changed[path] != content]
    assert [path.stem for path in differing] == ["kubeaudit-calls"]
    assert "https://audit.example.com/export.csv" in changed[differing[0]]


def test_dashboards_are_those_that_links_name(dashboard: dict[str, Any]) -> None:
    """Every link within Grafana leads to a dashboard that there is, with variables that it has."""
    known = {path.stem: {each["name"] for each in _variables(path)} for path in DASHBOARDS}
    for url in _links(dashboard):
        uid, _, parameters = url.removeprefix("/d/").partition("?")
        named = {part.split("=")[0].removeprefix("var-") for part in parameters.split("&") if part.startswith("var-")}
        assert named <= known[uid], url


def test_panels_can_be_told_apart_and_understood(dashboard: dict[str, Any]) -> None:
    """Every panel has an id of its own, a title and a description, and nobody can edit it in the browser."""
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] for panel in panels)
    assert all(panel.get("description") for panel in panels if panel["type"] != "row")
    assert dashboard["editable"] is False
    assert dashboard["schemaVersion"] == 42


def test_what_the_library_writes_wrongly_is_put_right(dashboard: dict[str, Any]) -> None:
    """Links show as buttons, tables have pages and no footer in the old form, constants stay out of addresses."""
    assert not any("placement" in link for link in dashboard["links"])
    for panel in dashboard["panels"]:
        if panel["type"] == "table":
            assert panel["options"]["enablePagination"] is True
            assert "footer" not in panel["options"]
        if panel["type"] == "stat":
            assert panel["options"]["reduceOptions"]["calcs"] == ["lastNotNull"]
    constants = [each for each in dashboard["templating"]["list"] if each["type"] == "constant"]
    assert all(each["skipUrlSync"] and each["hide"] == 2 for each in constants)


def test_panels_say_what_is_missing(dashboard: dict[str, Any]) -> None:
    """No panel is blank where there is nothing, and none is red because a number is high."""
    for panel in dashboard["panels"]:
        if panel["type"] in {"stat", "table", "timeseries", "state-timeline"}:
            defaults = panel["fieldConfig"]["defaults"]
            assert defaults["noValue"], panel["title"]
            assert defaults["thresholds"]["steps"], panel["title"]


def test_panels_over_time_have_a_finest_step(dashboard: dict[str, Any]) -> None:
    """Every query over time has a step that is no finer than a minute."""
    for panel in dashboard["panels"]:
        if any("$__auto" in target.get("expr", "") for target in panel.get("targets", [])):
            assert panel["interval"] == "1m", panel["title"]


def test_tables_fit_on_the_screen(dashboard: dict[str, Any]) -> None:
    """At 1500 pixels no column of a table is out of sight, and each has a width."""
    for panel in (panel for panel in dashboard["panels"] if panel["type"] == "table"):
        properties = [
            {each["id"]: each.get("value") for each in override["properties"]}
            for override in panel["fieldConfig"]["overrides"]
        ]
        shown = [each for each in properties if not each.get("custom.hideFrom.viz")]
        width = sum(each.get("custom.width", each.get("custom.minWidth", 0)) for each in shown)
        assert all("custom.width" in each or "custom.minWidth" in each for each in shown), panel["title"]
        assert width <= _TABLE_AT_1500_PIXELS * panel["gridPos"]["w"] / 24, (panel["title"], width)


def test_panels_lie_side_by_side(dashboard: dict[str, Any]) -> None:
    """No panel lies on another or beyond the grid."""
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells


def test_queries_never_group_by_ids() -> None:
    """No query makes a series of each command or call: Loki refuses more than a few hundred series."""
    content = "".join(path.read_text() for path in DASHBOARDS) + (FOLDER / "alerting" / "rules.yaml").read_text()
    assert "by (command_id" not in content
    assert "by (auditID" not in content
    assert "by (trace_id" not in content


def test_no_free_text_reaches_a_query_as_it_is() -> None:
    """Text boxes and typed users are in queries only percent-encoded; the id of a trace is a query of its own."""
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        free = {each["name"] for each in dashboard["templating"]["list"] if each["allowCustomValue"]}
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                query = target.get("expr", target.get("query", ""))
                if query == "${trace_id}":
                    continue
                for name in free:
                    encoded = query.count(f"${{{name}:percentencode}}") + query.count(f"${{{name}:queryparam}}")
                    assert query.count(f"${{{name}") + query.count(f"${name}") == encoded, (panel["title"], name)


def test_data_sources_are_those_that_are_provisioned() -> None:
    """Every data source that a panel, a filter, a rule or the link to the CSV names is provisioned under that uid."""
    provisioned = yaml.safe_load(_DATA_SOURCES.read_text())["datasources"]
    known = {source["uid"]: source["type"] for source in provisioned}
    content = [path.read_text() for path in DASHBOARDS]
    named = {(source["type"], source["uid"]) for text in content for source in _data_sources(json.loads(text))}
    assert named == {("loki", "kubeaudit-loki"), ("tempo", "kubeaudit-tempo")}
    assert named <= {(kind, uid) for uid, kind in known.items()}
    assert f"/uid/{EXPORT_SOURCE}/export.csv" in "".join(content)
    assert EXPORT_SOURCE in known
    (loki,) = [source for source in provisioned if source["uid"] == "kubeaudit-loki"]
    derived = {each["name"]: each["matcherRegex"] for each in loki["jsonData"]["derivedFields"]}
    assert derived["Trace"] == "trace_id"


def test_alert_rules_are_complete() -> None:
    """Every rule has what Grafana needs to provision it, and leads to a panel that there is."""
    document = yaml.safe_load((FOLDER / "alerting" / "rules.yaml").read_text())
    panels = {path.stem: {panel["id"] for panel in json.loads(path.read_text())["panels"]} for path in DASHBOARDS}
    (group,) = document["groups"]
    assert (group["folder"], group["interval"], document["apiVersion"]) == ("Audit", "1m", 1)
    assert len({rule["uid"] for rule in group["rules"]}) == len(group["rules"])
    for rule in group["rules"]:
        assert rule["condition"] in {query["refId"] for query in rule["data"]}
        assert int(rule["annotations"]["__panelId__"]) in panels[rule["annotations"]["__dashboardUid__"]]
        assert "$" not in rule["data"][0]["model"]["expr"]
        assert "$labels" not in rule["annotations"]["summary"].replace("$$labels", "")
        assert (rule["noDataState"], rule["execErrState"]) == ("OK", "Error")


def _data_sources(part: Any) -> Iterator[dict[str, str]]:
    if isinstance(part, dict):
        if "uid" in part.get("datasource", {}):
            yield part["datasource"]
        for value in part.values():
            yield from _data_sources(value)
    elif isinstance(part, list):
        for value in part:
            yield from _data_sources(value)


def _variables(path: Path) -> list[dict[str, Any]]:
    variables: list[dict[str, Any]] = json.loads(path.read_text())["templating"]["list"]
    return variables


def _links(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for override in panel.get("fieldConfig", {}).get("overrides", []):
            for each in override["properties"]:
                if each["id"] == "links":
                    yield from (link["url"] for link in each["value"])
