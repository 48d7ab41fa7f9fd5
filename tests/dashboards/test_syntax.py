"""Every query is one that Grafana's own grammars and its linter accept."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboards.render import FOLDER
from grafana import Grafana, linter
from interpolation import Span, current, interpolate

pytest_plugins = ["trails"]

DASHBOARDS = sorted((FOLDER / "json").glob("*.json"))
_SPAN = Span(1_000_000, 4_600_000)


def _queries(language: str) -> list[str]:
    found = []
    for path in DASHBOARDS:
        model: Mapping[str, Any] = json.loads(path.read_text())
        variables = model["templating"]["list"]
        for target in (target for panel in model["panels"] for target in panel.get("targets", [])):
            loki = target["datasource"]["type"] == "loki"
            if loki == (language == "logql"):
                text = target["expr"] if loki else target["query"]
                found.append(interpolate(text, variables, current(variables, {}), _SPAN, loki=loki))
    return found


@pytest.mark.servers
def test_logql_is_logql(grafana: Grafana) -> None:
    """Grafana's grammar of LogQL accepts every query of a panel or an alert, and refuses one that is broken."""
    rules = yaml.safe_load((FOLDER / "alerting" / "rules.yaml").read_text())["groups"][0]["rules"]
    queries = [*_queries("logql"), *(rule["data"][0]["model"]["expr"] for rule in rules)]
    assert len(queries) > 50
    assert grafana.broken("logql", [*queries, '{kind="call"']) == ['{kind="call"']


@pytest.mark.servers
def test_traceql_is_traceql(grafana: Grafana) -> None:
    """Grafana's grammar of TraceQL accepts every query, and refuses one that is broken."""
    queries = _queries("traceql")
    assert len(queries) == 4
    assert grafana.broken("traceql", [*queries, "{name="]) == ["{name="]


@pytest.mark.servers
@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_the_linter_has_nothing_to_say(path: Path) -> None:
    """Grafana's linter finds nothing but what `.lint` excludes, each with its reason."""
    done = subprocess.run(
        [linter(), "lint", "--strict", "--config", FOLDER / ".lint", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.servers
def test_the_linter_would_say_something(tmp_path: Path) -> None:
    """A dashboard that can be edited and has a panel without a unit does not pass."""
    model = json.loads(DASHBOARDS[0].read_text())
    model["editable"] = True
    model["panels"][0]["fieldConfig"]["defaults"]["unit"] = "no such unit"
    path = tmp_path / "dashboard.json"
    path.write_text(json.dumps(model))
    done = subprocess.run(
        [linter(), "lint", "--strict", "--config", FOLDER / ".lint", path], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "is editable" in done.stdout
    assert "invalid units" in done.stdout


def test_each_exclusion_has_a_reason() -> None:
    """What the linter is told to be silent about is explained."""
    exclusions = yaml.safe_load((FOLDER / ".lint").read_text())["exclusions"]
    assert all(rule["reason"] for rule in exclusions.values())
