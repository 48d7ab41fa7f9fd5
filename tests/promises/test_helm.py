"""A life of a release with helm: the same through the proxy as without it, and every call of it on record."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kube_audit_proxy.demo.build import MODULES, ensure
from support.trail import Trail, has, what
from support.ways import Way, direct, through

if TYPE_CHECKING:
    from kube_audit_proxy.demo.cluster import DemoCluster
    from support.proxies import Proxy
    from support.trail import Record

pytestmark = pytest.mark.servers

_CHART = {
    "Chart.yaml": """
apiVersion: v2
name: stall
version: 1.0.0
""",
    "values.yaml": """
greeting: hello
replicas: 1
""",
    "templates/settings.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-settings}
data:
  greeting: {{ .Values.greeting | quote }}
  {{- with lookup "v1" "ConfigMap" "shop" "web-settings" }}
  currency: {{ .data.CURRENCY }}
  {{- end }}
""",
    "templates/web.yaml": """
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec: {containers: [{name: main, image: "stall:1"}]}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec:
  selector: {app: {{ .Release.Name }}}
  ports: [{port: 80}]
""",
    "templates/check.yaml": """
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-check
  annotations: {helm.sh/hook: test, helm.sh/hook-delete-policy: before-hook-creation}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: main, image: "check:1"}]}}}
""",
    "templates/NOTES.txt": "{{ .Release.Name }} says {{ .Values.greeting }}.\n",
}

Call = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Step:
    """A command, its exit code, and calls that it makes besides others."""

    arguments: str
    calls: frozenset[Call] = frozenset()
    code: int = 0


def _made(*calls: Call) -> frozenset[Call]:
    return frozenset(calls)


_LIFE = (
    Step("list -o json", _made(("list", "secrets", 200))),
    Step("template stall CHART", _made()),
    Step("template stall CHART --dry-run=server", _made(("get", "configmaps", 200))),
    Step("install stall CHART --dry-run=server", _made(("get", "configmaps", 200), ("get", "deployments", 404))),
    Step(
        "install stall CHART --wait",
        _made(
            ("create", "secrets", 201), ("update", "secrets", 200), ("create", "configmaps", 201),
            ("create", "deployments", 201), ("create", "services", 201), ("get", "configmaps", 200),
        ),
    ),
    Step("install stall CHART", _made(("list", "secrets", 200)), code=1),
    Step("status stall", _made(("list", "secrets", 200))),
    Step("get values stall --all -o json", _made(("list", "secrets", 200))),
    Step("get manifest stall"),
    Step("get notes stall"),
    Step("upgrade stall CHART --set greeting=moin,replicas=2 --wait",
         _made(("patch", "configmaps", 200), ("patch", "deployments", 200), ("create", "secrets", 201))),
    Step("history stall", _made(("list", "secrets", 200))),
    Step("test stall", _made(("create", "jobs", 201), ("watch", "jobs", 200))),
    Step("rollback stall 1 --wait", _made(("patch", "configmaps", 200), ("patch", "deployments", 200))),
    Step("get values stall"),
    Step("history stall -o json"),
    Step("list --all"),
    Step("upgrade stall CHART --set replicas=-1", _made(("patch", "deployments", 422)), code=1),
    Step("uninstall stall --wait", _made(("delete", "configmaps", 200), ("delete", "deployments", 200),
                                         ("delete", "services", 200), ("delete", "secrets", 200))),
    Step("status stall", _made(("list", "secrets", 200)), code=1),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Helm:
    """The program, and a home of its own."""

    program: Path
    home: Path

    def run(self, way: Way, arguments: str, namespace: str = "default") -> subprocess.CompletedProcess[str]:
        """Run a command; `CHART` is the chart."""
        cache = self.home / way.kubeconfig.parent.name
        chart = str(self.home / "chart")
        argv = [chart if argument == "CHART" else argument for argument in arguments.split()]
        environ = {"PATH": os.environ["PATH"], "HOME": str(cache), "KUBECONFIG": str(way.kubeconfig)}
        command = [str(self.program), f"--namespace={namespace}", *argv]
        return subprocess.run(command, capture_output=True, text=True, env=environ, check=False)


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Give helm, and the chart."""
    home = tmp_path_factory.mktemp("helm")
    for name, text in _CHART.items():
        path = home / "chart" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Helm(ensure("helm", print)["helm"], home)


def _timeless(text: str) -> str:
    """Output without dates, and without the spaces that fill up columns."""
    text = re.sub(r"\d{4}-\d\d-\d\d[T ][\d:.]+( ?[+-]\d{4} \w+|Z|[+-]\d\d:\d\d)?", "TIME", text)
    text = re.sub(r"\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4}", "TIME", text)
    return re.sub(r" *\t| {2,}", " ", text)


def _said(done: subprocess.CompletedProcess[str], way: Way) -> tuple[int, str, str]:
    return done.returncode, _timeless(done.stdout), _timeless(done.stderr.replace(way.url, "URL"))


def test_a_life_of_a_release(helm: Helm, demo: DemoCluster, fronted: Proxy) -> None:
    """Each command says and does what it does without the proxy; its calls are in the trail under helm's own name."""
    ways = direct(demo), through(fronted)
    without = [_said(helm.run(ways[0], step.arguments), ways[0]) for step in _LIFE]
    for step, expected in zip(_LIFE, without, strict=True):
        trail = Trail(fronted)
        assert _said(helm.run(ways[1], step.arguments), ways[1]) == expected
        assert expected[0] == step.code, expected
        ends = trail.ends(len(step.calls))
        assert step.calls <= set(map(what, ends)), (step.arguments, sorted(set(map(what, ends))))
        for end in ends:
            _check(end)


def _check(end: Record) -> None:
    assert has(end, access_method="api", cluster="demo", upstream_user="demo-owner", decision="allow")
    assert end["userAgent"].startswith(f"Helm/{MODULES['helm'].version.removeprefix('v')}")
    assert not {"command", "command_id"} & end.keys()
    assert end["outcome"] == "complete" or end["verb"] == "watch"


def test_a_release_is_in_its_secret(helm: Helm, fronted: Proxy) -> None:
    """What helm keeps of a release is a secret that the trail names, revision by revision."""
    way = through(fronted)
    trail = Trail(fronted)
    assert helm.run(way, "install kept CHART").returncode == 0
    assert helm.run(way, "upgrade kept CHART --history-max=1").returncode == 0
    assert helm.run(way, "uninstall kept").returncode == 0
    secrets = [end for end in trail.ends() if end.get("resource") == "secrets"]
    made = [(end["verb"], end["name"]) for end in secrets if end["verb"] in {"update", "delete"}]
    assert ("update", "sh.helm.release.v1.kept.v1") in made
    assert ("update", "sh.helm.release.v1.kept.v2") in made
    assert {name for verb, name in made if verb == "delete"} == {f"sh.helm.release.v1.kept.v{at}" for at in (1, 2)}
    assert all(end["labelSelector"].startswith("name=kept,owner=helm") for end in secrets if end["verb"] == "list")


@pytest.mark.parametrize("arguments", ["list", "install mine CHART"])
def test_who_may_not_is_told(helm: Helm, demo: DemoCluster, fronted: Proxy, arguments: str) -> None:
    """Somebody without the rights gets the API server's words, as by impersonation without the proxy."""
    without, behind = direct(demo), through(fronted, "viewer")
    expected = helm.run(without, f"--kube-as-user=viewer {arguments}")
    trail = Trail(fronted)
    done = helm.run(behind, arguments)
    assert _said(done, behind) == _said(expected, without)
    assert done.returncode == 1
    assert 'User "viewer" cannot' in done.stderr
    assert has(trail.ends()[-1], user="viewer", resource="secrets", status=403, decision="deny")


def test_helms_own_impersonation_is_refused(helm: Helm, fronted: Proxy) -> None:
    """Who asks to be somebody else is told what to do, and it is on record."""
    trail = Trail(fronted)
    done = helm.run(through(fronted), "--kube-as-user=viewer list")
    assert done.returncode == 1
    assert "this proxy does not pass on impersonation" in done.stderr
    assert all(has(end, outcome="refused", status=403, decision="deny") for end in trail.ends())
