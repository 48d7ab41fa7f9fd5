"""Alert rules: the trail stops or has a hole, and what somebody should look at at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from dashboards.signals import BEATS, LINES, SERVICE, silent_writers
from dashboards.variables import LOKI

PRODUCTION = "prod.*"
"""Clusters whose name matches this are taken for production."""

_HEADER = "# Written by `python -m dashboards` from dashboards/alerts.py. Do not edit.\n"
_BEGUN_OR_ENDED = 'kind=~"call|call_started"'


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: it fires for every series of `query` that is above `above`, once that has been so for `wait`."""

    uid: str
    title: str
    query: str
    summary: str
    description: str
    above: float = 0
    wait: str = "0s"
    severity: str = "warning"
    dashboard: str = "kubeaudit-health"


RULES = (
    Rule(
        "kubeaudit-no-heartbeat",
        "No heartbeat at all",
        f"absent_over_time({BEATS} [3m])",
        "No proxy has sent a heartbeat for three minutes",
        "Calls may be recorded in journals, but nothing of them arrives here: the proxy or the collector is down.",
        severity="critical",
    ),
    Rule(
        "kubeaudit-silent-writer",
        "A writer is silent",
        silent_writers("1h", "3m"),
        "Writer {{ $labels.writer }} has sent no heartbeat for three minutes",
        "It died, or its lines do not get through: one that is stopped says so before. Ends by itself an hour later.",
        severity="critical",
    ),
    Rule(
        "kubeaudit-gap",
        "Lines are missing",
        f"max_over_time({LINES} | unwrap export_seq | __error__=`` [2h]) by (writer) "
        f"- min_over_time({LINES} | unwrap export_seq | __error__=`` [2h]) by (writer) + 1 "
        f"- sum by (writer) (count_over_time({LINES} [2h]))",
        "{{ $values.A.Value }} lines of writer {{ $labels.writer }} are missing",
        "They were lost on the way or removed. The journal has them: compare with `kube-audit-proxy verify`.",
        wait="5m",
        severity="critical",
    ),
    Rule(
        "kubeaudit-late",
        "The trail is late",
        f"max_over_time({BEATS} | unwrap lag_seconds | __error__=`` [3m]) by (writer)",
        "The lines of writer {{ $labels.writer }} come {{ $values.A.Value }} seconds late",
        "The collector or Loki does not keep up or refuses lines. Until it does, the rules below see nothing new.",
        above=120,
        wait="5m",
    ),
    Rule(
        "kubeaudit-dead-letters",
        "Lines could not be delivered",
        f"max_over_time({BEATS} | unwrap dead_letters | __error__=`` [10m]) by (writer)",
        "{{ $values.A.Value }} lines of writer {{ $labels.writer }} could not be delivered",
        "The backend refused them for good. They are in the journal.",
    ),
    Rule(
        "kubeaudit-denied-burst",
        "Many denied calls",
        f'sum by (user, cluster) (count_over_time({{{SERVICE},kind="call"}} | decision="deny" [5m]))',
        "{{ $labels.user }} was denied {{ $values.A.Value }} calls in five minutes on {{ $labels.cluster }}",
        "Somebody tries what they may not do, or a credential is broken. Without a name nobody could be authenticated.",
        above=20,
        dashboard="kubeaudit-calls",
    ),
    Rule(
        "kubeaudit-secrets-read",
        "Secrets were read",
        f"sum by (user, cluster, namespace) (count_over_time({{{SERVICE},{_BEGUN_OR_ENDED},"
        'verb=~"get|list|watch"} | resource="secrets" | status=~"2.." [10m]))',
        "{{ $labels.user }} read secrets in {{ $labels.cluster }}/{{ $labels.namespace }}",
        "Without a namespace: in all of them.",
        dashboard="kubeaudit-calls",
    ),
    Rule(
        "kubeaudit-exec-in-production",
        "Exec in a production cluster",
        f"sum by (user, cluster, namespace, name) (count_over_time({{{SERVICE},{_BEGUN_OR_ENDED},"
        f'cluster=~"{PRODUCTION}"}} '
        '| resource="pods" | subresource=~"exec|attach" | status=~"101|2.." [10m]))',
        "{{ $labels.user }} is in pod {{ $labels.name }} of {{ $labels.cluster }}/{{ $labels.namespace }}",
        "What was run is in the details of the call.",
        dashboard="kubeaudit-calls",
    ),
)  # fmt: skip


def document() -> str:
    """Return the file that Grafana provisions the rules from."""
    group = {
        "orgId": 1,
        "name": "kube-audit-proxy",
        "folder": "Audit",
        "interval": "1m",
        "rules": [provisioned(rule) for rule in RULES],
    }
    content = {"apiVersion": 1, "groups": [group]}
    return _HEADER + yaml.safe_dump(_escaped(content), sort_keys=False, allow_unicode=True, width=2**16)


def provisioned(rule: Rule) -> dict[str, Any]:
    """Return a rule as Grafana takes it."""
    return {
        "uid": rule.uid,
        "title": rule.title,
        "condition": "C",
        "data": [
            {
                "refId": "A",
                "relativeTimeRange": {"from": 600, "to": 0},
                "datasourceUid": LOKI.uid,
                "model": {
                    "refId": "A",
                    "expr": rule.query,
                    "queryType": "instant",
                    "editorMode": "code",
                    "intervalMs": 1000,
                    "maxDataPoints": 43200,
                },
            },
            {
                "refId": "C",
                "relativeTimeRange": {"from": 0, "to": 0},
                "datasourceUid": "__expr__",
                "model": {
                    "refId": "C",
                    "type": "threshold",
                    "expression": "A",
                    "conditions": [{"evaluator": {"type": "gt", "params": [rule.above]}}],
                },
            },
        ],
        "noDataState": "OK",
        "execErrState": "Error",
        "for": rule.wait,
        "annotations": {
            "summary": rule.summary,
            "description": rule.description,
            "__dashboardUid__": rule.dashboard,
            "__panelId__": "6",
        },
        "labels": {"severity": rule.severity},
        "isPaused": False,
    }


def _escaped(content: Any) -> Any:
    """Double each dollar sign: Grafana takes `$name` in provisioned files for an environment variable."""
    if isinstance(content, str):
        return content.replace("$", "$$")
    if isinstance(content, Mapping):
        return {key: _escaped(value) for key, value in content.items()}
    return [_escaped(item) for item in content] if isinstance(content, list) else content
