"""The alert rules, evaluated as Grafana evaluates them: they fire for what they are for, and for nothing else."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from backends import Backends
from dashboards.render import FOLDER
from generated import Record, Trail, label, milliseconds

pytest_plugins = ["trails"]
pytestmark = pytest.mark.servers


def firing(backends: Backends, uid: str, at: float) -> dict[tuple[str, ...], float]:
    """Return the series for which a rule fires at a time, by the values of their labels, with their numbers."""
    query, threshold = RULES[uid]["data"]
    (condition,) = threshold["model"]["conditions"]
    assert condition["evaluator"]["type"] == "gt"
    series = backends.now(query["model"]["expr"], round(at))
    values = {tuple(each["metric"].values()): float(each["value"][1]) for each in series}
    return {labels: value for labels, value in values.items() if value > condition["evaluator"]["params"][0]}


def _rules() -> dict[str, Mapping[str, Any]]:
    text = (FOLDER / "alerting" / "rules.yaml").read_text().replace("$$", "$")
    return {rule["uid"]: rule for rule in yaml.safe_load(text)["groups"][0]["rules"]}


RULES = _rules()


def test_no_heartbeat_at_all(backends: Backends, trail: Trail) -> None:
    """Fires three minutes after the last heartbeat of all, and not before."""
    last = max(map(milliseconds, trail.heartbeats))
    assert not firing(backends, "kubeaudit-no-heartbeat", last + 60_000)
    assert firing(backends, "kubeaudit-no-heartbeat", last + 240_000)


def test_a_silent_writer(backends: Backends, trail: Trail) -> None:
    """Fires for the writer that has stopped, and for that one only: not for one that said that it would."""
    ended = max(milliseconds(beat) for beat in trail.heartbeats if beat.get("ending"))
    assert not firing(backends, "kubeaudit-silent-writer", ended + 240_000)
    last = max(milliseconds(beat) for beat in trail.heartbeats if beat["writer"] == "gateway-2")
    assert not firing(backends, "kubeaudit-silent-writer", last + 60_000)
    assert firing(backends, "kubeaudit-silent-writer", last + 240_000).keys() == {("gateway-2",)}
    assert not firing(backends, "kubeaudit-silent-writer", last + 4_000_000).keys() & {("gateway-2",)}


def test_a_gap(backends: Backends, trail: Trail) -> None:
    """Fires for the writer whose lines are missing, and says how many."""
    assert firing(backends, "kubeaudit-gap", trail.span.end) == {("gateway-2",): 3}
    first = min(milliseconds(beat) for beat in trail.heartbeats)
    assert not firing(backends, "kubeaudit-gap", first + 120_000)


def test_a_late_trail(backends: Backends, trail: Trail) -> None:
    """Is calm as long as lines come within two minutes: the trail has a lag of seconds."""
    assert not firing(backends, "kubeaudit-late", trail.span.end)
    query = RULES["kubeaudit-late"]["data"][0]["model"]["expr"]
    ((value,),) = [[float(each["value"][1])] for each in backends.now(query, trail.span.end)]
    assert value == max(beat["lag_seconds"] for beat in trail.heartbeats)


def test_dead_letters(backends: Backends, trail: Trail) -> None:
    """Fires as soon as a heartbeat tells of one."""
    told = min(milliseconds(beat) for beat in trail.heartbeats if beat["dead_letters"])
    assert not firing(backends, "kubeaudit-dead-letters", told - 1000)
    assert firing(backends, "kubeaudit-dead-letters", told + 1000) == {("gateway-1",): 1}


def test_many_denied_calls(backends: Backends, trail: Trail) -> None:
    """Fires for whoever was denied more than 20 calls in five minutes, and for nobody else."""
    own = [milliseconds(call) for call in trail.calls if call.get("user") == "mallory"]
    assert set(firing(backends, "kubeaudit-denied-burst", max(own))) == {("dev", "mallory")}
    assert not firing(backends, "kubeaudit-denied-burst", max(own) + 300_000)


def test_secrets_that_were_read(backends: Backends, trail: Trail) -> None:
    """Fires for those who got to see secrets, not for those who were denied them."""
    at = trail.span.start + 10 * 60_000
    recent = [
        each
        for each in (*trail.calls, *trail.begun)
        if at - 600_000 < milliseconds(each) <= at
        and each.get("resource") == "secrets"
        and each["verb"] in {"get", "list", "watch"}
        and 200 <= each["status"] < 300
    ]
    assert recent
    assert set(firing(backends, "kubeaudit-secrets-read", at)) == {
        _values(each, "cluster", "namespace", "user") for each in recent
    }


def test_exec_in_production(backends: Backends, trail: Trail) -> None:
    """Fires for an exec in a cluster named like production as soon as it has begun, ended or not."""
    begun = [each for each in trail.begun if each.get("name") == "web-0" and each["status"] == 101]
    opened = [each for each in begun if each.get("exec_argv") == ["sh", "-c", "echo 'a b'"]]
    at = milliseconds(opened[0]) + 1
    found = set(firing(backends, "kubeaudit-exec-in-production", at))
    assert ("prod-eu", "web-0", "default", "alice") in found
    assert {cluster for cluster, *_ in found} <= {"prod-eu", "prod-us"}
    recent = [
        each
        for each in (*trail.calls, *trail.begun)
        if at - 600_000 < milliseconds(each) <= at
        and each.get("subresource") in {"exec", "attach"}
        and label(each, "cluster").startswith("prod")
        and (each["status"] == 101 or 200 <= each["status"] < 300)
    ]
    assert found == {_values(each, "cluster", "name", "namespace", "user") for each in recent}


def test_summaries_name_labels_that_there_are() -> None:
    """Whatever label a summary speaks of is one that the query groups by."""
    for rule in RULES.values():
        expression = rule["data"][0]["model"]["expr"]
        for name in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            grouped = re.search(r"by \(([^)]*)\)", expression)
            assert grouped is not None
            assert name in grouped[1].split(", ")


def _values(record: Record, *names: str) -> tuple[str, ...]:
    return tuple(value for name in names if (value := label(record, name)))
