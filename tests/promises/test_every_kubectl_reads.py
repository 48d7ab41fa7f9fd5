"""Every kubectl, reading: what it shows through the proxy is what it shows directly, and the trail has its calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from servers.kubectls import VERSIONS
from support.kubectl import Kubectl, by_owner, on_two_ways
from support.steps import Step, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_audit_proxy.demo.cluster import DemoCluster
    from support.proxies import Proxy

pytestmark = pytest.mark.servers

SPACE = "still"

OBJECTS = """
apiVersion: v1
kind: Namespace
metadata: {name: still, labels: {team: readers}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: still}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: still, labels: {app: shop, tier: front}}
data: {colour: "red \\u00e9\\U0001F600", lines: "one\\ntwo\\n"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: limits, namespace: still, labels: {app: shop, tier: back}}
data: {colour: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: still}
stringData: {password: only-for-show}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: still}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle, namespace: still}
spec:
  replicas: 0
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec: {containers: [{name: main, image: "idle:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: lone, namespace: still}
spec: {nodeName: node-1, containers: [{name: main, image: "lone:1"}]}
---
apiVersion: v1
kind: Event
metadata: {name: lone.began, namespace: still}
type: Normal
reason: Began
message: it began
involvedObject: {kind: Pod, name: lone, namespace: still, apiVersion: v1}
firstTimestamp: "2026-01-01T00:00:00Z"
lastTimestamp: "2026-01-01T00:00:00Z"
---
apiVersion: v1
kind: Event
metadata: {name: idle.odd, namespace: still}
type: Warning
reason: Odd
message: something is odd
involvedObject: {kind: Deployment, name: idle, namespace: still, apiVersion: apps/v1}
firstTimestamp: "2026-01-02T00:00:00Z"
lastTimestamp: "2026-01-02T00:00:00Z"
"""

FILES = {
    "settings.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: shop, tier: front}}
data: {colour: "red \\u00e9\\U0001F600", lines: "one\\ntwo\\n"}
""",
    "other.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: shop, tier: front}}
data: {colour: green}
""",
    "new.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: new}
data: {colour: white}
""",
    "paths.txt": "{.items[*].metadata.name}",
    "template.txt": "{{range .items}}{{.metadata.name}} {{end}}",
    "columns.txt": "NAME COLOUR\nmetadata.name data.colour\n",
}

READS = (
    Step("get cm", "list configmaps - 200"),
    Step("get pod -o wide", "list pods - 200"),
    Step("get deploy idle -o yaml", "get deployments idle 200"),
    Step("get cm -o json", "list configmaps - 200"),
    Step("get cm,secret -o name", "list configmaps - 200, list secrets - 200"),
    Step(
        "get cm -o jsonpath='{range .items[*]}{.metadata.name}={.data.colour}{\"\\n\"}{end}'", "list configmaps - 200"
    ),
    Step("get cm -o jsonpath-as-json='{.items[*].data}'", "list configmaps - 200"),
    Step("get cm -o jsonpath-file={files}/paths.txt", "list configmaps - 200"),
    Step("get cm settings -o go-template='{{.data.colour}}/{{len .metadata.labels}}'", "get configmaps settings 200"),
    Step("get cm -o go-template-file={files}/template.txt", "list configmaps - 200"),
    Step("get cm -o custom-columns=N:.metadata.name,C:.data.colour", "list configmaps - 200"),
    Step("get cm -o custom-columns-file={files}/columns.txt", "list configmaps - 200"),
    Step("get cm -o nonsense", code=1),
    Step("get cm -L tier,app", "list configmaps - 200"),
    Step("get cm --show-labels", "list configmaps - 200"),
    Step("get cm --sort-by=.data.colour", "list configmaps - 200"),
    Step("get pod --field-selector=status.phase=Running", "list pods - 200"),
    Step("get cm --field-selector=metadata.name=limits", "list configmaps limits 200"),
    Step("get cm --field-selector=data.colour=blue", "list configmaps - 400", code=1),
    Step("get cm -l tier=back", "list configmaps - 200"),
    Step("get cm -l 'tier in (front, back),app!=bank,!old'", "list configmaps - 200"),
    Step("get cm -l 'tier in ('", "list configmaps - 400", code=1),
    Step("get cm --no-headers --show-kind", "list configmaps - 200"),
    Step("get deploy -A", "list deployments - 200"),
    Step("get svc,deploy", "list services - 200, list deployments - 200"),
    Step("get all", "list pods - 200, list jobs - 200"),
    Step("get cm/limits svc/web", "get configmaps limits 200, get services web 200"),
    Step("get -f {files}/settings.yaml", "get configmaps settings 200"),
    Step("get deployments.v1.apps/idle", "get deployments idle 200"),
    Step("get deploy idle --subresource=status", "get deployments/status idle 200"),
    Step("get deploy idle --subresource=scale -o yaml", "get deployments/scale idle 200"),
    Step("get cm limits -o yaml --show-managed-fields", "get configmaps limits 200"),
    Step("get pod lone --server-print=false", "get pods lone 200"),
    Step("get cm --chunk-size=1", "list configmaps - 200, list configmaps - 200, list configmaps - 200"),
    Step("get cm --chunk-size=0", "list configmaps - 200"),
    Step("get cm --request-timeout=30s", "list configmaps - 200"),
    Step("get cm --request-timeout=soon", code=1),
    Step("get ns still -o wide", "get namespaces still 200"),
    Step("get componentstatuses etcd-0", "get componentstatuses etcd-0 200"),
    Step("get cm nobody", "get configmaps nobody 404", code=1),
    Step("get cm nobody --ignore-not-found", "get configmaps nobody 404"),
    Step("get cm limits nobody", "get configmaps limits 200, get configmaps nobody 404", code=1),
    Step("get pdb", "list poddisruptionbudgets - 200"),
    Step("get nonsense", code=1),
    Step("get cm -n nowhere", "list configmaps - 200"),
    Step("describe pod lone", "get pods lone 200, list events - 200"),
    Step("describe deploy idle", "get deployments idle 200, list replicasets - 200"),
    Step("describe svc web", "get services web 200"),
    Step("describe cm -l tier=back", "list configmaps - 200, get configmaps limits 200"),
    Step("describe secret login", "get secrets login 200"),
    Step("describe node node-1", "get nodes node-1 200, list pods - 200"),
    Step("describe ns still", "get namespaces still 200, list resourcequotas - 200"),
    Step("describe pod nobody", "get pods nobody 404", code=1),
    Step("explain pod.spec.nodeName"),
    Step("explain deploy --recursive"),
    Step("explain cm --api-version=v1"),
    Step("explain pod.nonsense", code=1),
    Step("api-resources"),
    Step("api-resources -o wide --namespaced=false --sort-by=kind"),
    Step("api-resources --api-group=apps --verbs=list,watch -o name"),
    Step("api-versions"),
    Step("version", "get /version - 200"),
    Step("version -o json", "get /version - 200"),
    Step("version --client"),
    Step("cluster-info", "list services - 200"),
    Step("events", "list events - 200"),
    Step("events --for=pod/lone", "list events - 200"),
    Step("events --types=Warning -o json", "list events - 200"),
    Step("logs lone --tail=1", "get pods lone 200, get pods/log lone 200"),
    Step("top pod", code=1),
    Step("top node", code=1),
    Step("rollout history deploy/idle", "get deployments idle 200"),
    Step("rollout status deploy/idle --watch=false", "get deployments idle 200"),
    Step("diff -f {files}/settings.yaml", "get configmaps settings 200"),
    Step("diff -f {files}/other.yaml", "get configmaps settings 200, patch configmaps settings 200", code=1),
    Step("diff --server-side -f {files}/other.yaml", "patch configmaps settings 200", code=1),
    Step("apply --dry-run=server -f {files}/new.yaml", "create configmaps - 201"),
    Step("apply --dry-run=client -f {files}/new.yaml -o yaml", "get configmaps new 404"),
    Step("create deployment new --image=a:1 --dry-run=server -o name", "create deployments - 201"),
    Step("create deployment new --image=a:1 --dry-run=client -o yaml"),
    Step("delete cm limits --dry-run=server", "delete configmaps limits 200"),
    Step("auth can-i create cm", "create selfsubjectaccessreviews - 201"),
    Step("auth can-i get /healthz", "create selfsubjectaccessreviews - 201"),
    Step("auth can-i --list", "create selfsubjectrulesreviews - 201"),
    Step("auth whoami", "create selfsubjectreviews - 201"),
    Step("auth whoami -o json", "create selfsubjectreviews - 201"),
)
"""Commands that change nothing, with calls that every version makes for them besides discovery."""


@pytest.fixture(scope="module")
def still(demo: DemoCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fill a namespace with objects that nobody changes; it goes with the last of these tests."""
    objects = tmp_path_factory.mktemp("objects") / "objects.yaml"
    objects.write_text(OBJECTS, encoding="utf-8")
    by_owner(demo, "apply", "--server-side", "--force-conflicts", "-f", str(objects))
    by_owner(demo, "wait", "--for=create", f"--namespace={SPACE}", "cm/kube-root-ca.crt")
    by_owner(demo, "wait", "--for=condition=Ready", f"--namespace={SPACE}", "pod/lone")
    yield
    by_owner(demo, "delete", "namespace", SPACE, "--wait=false")


@pytest.fixture(params=VERSIONS, scope="module")
def kubectl(
    request: pytest.FixtureRequest,
    demo: DemoCluster,
    fronted: Proxy,
    still: None,  # noqa: ARG001 - has to be there
    tmp_path_factory: pytest.TempPathFactory,
) -> Kubectl:
    """Give a kubectl of each version."""
    return on_two_ways(request.param, tmp_path_factory.mktemp("reads"), fronted, demo, files=FILES, shared=SPACE)


@pytest.mark.parametrize("step", READS, ids=str)
def test_a_reading_command_is_the_same_and_is_recorded(kubectl: Kubectl, step: Step) -> None:
    """Output, errors and exit code are those of the command without the proxy; the trail has just its calls."""
    check(kubectl, step)
