"""Every kubectl, changing things: the same script, directly in one namespace and through the proxy in another."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from servers.kubectls import VERSIONS
from support.kubectl import Kubectl, on_two_ways, own_namespaces
from support.steps import Step, check
from support.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_audit_proxy.demo.cluster import DemoCluster
    from support.proxies import Proxy

pytestmark = pytest.mark.servers

CONFIG_MAPS = [
    Step("create configmap one --from-literal=a=b", "create configmaps - 201"),
    Step("create configmap one --from-literal=a=b", "create configmaps - 409", code=1),
    Step("create -f {files}/two.yaml", "create configmaps - 201"),
    Step("create -f {files}/two.yaml", "create configmaps - 409", code=1),
    Step("create -f {files}/wrong.yaml", "create configmaps - 400", code=1),
    Step("create secret generic key --from-literal=p=w", "create secrets - 201"),
    Step("label cm one tier=front", "get configmaps one 200, patch configmaps one 200"),
    Step("label cm one tier=back", "get configmaps one 200", code=1),
    Step("label cm one tier=back --overwrite", "patch configmaps one 200"),
    Step("label cm one --list", "get configmaps one 200"),
    Step("label cm one,two kind=x", code=1),
    Step("label cm one two kind=x", "patch configmaps one 200, patch configmaps two 200"),
    Step("label cm -l kind=x more=y", "list configmaps - 200, patch configmaps one 200, patch configmaps two 200"),
    Step("label cm one more-", "patch configmaps one 200"),
    Step("annotate cm one note='hello, you' --overwrite", "patch configmaps one 200"),
    Step("annotate cm one note=late --overwrite --resource-version=1", "patch configmaps one 409", code=1),
    Step("annotate cm --all kind=x", "list configmaps - 200, patch configmaps kube-root-ca.crt 200"),
    Step("annotate cm one note-", "patch configmaps one 200"),
    Step("""patch cm one -p '{"data":{"c":"d"}}'""", "get configmaps one 200, patch configmaps one 200"),
    Step("""patch cm one -p '{"data":{"c":"d"}}'""", "patch configmaps one 200"),
    Step("""patch cm one --type=merge -p '{"data":{"c":null}}'""", "patch configmaps one 200"),
    Step(
        """patch cm one --type=json -p '[{"op":"add","path":"/data/e","value":"f"}]'""",
        "patch configmaps one 200",
    ),
    Step(
        """patch cm one --type=json -p '[{"op":"test","path":"/data/e","value":"g"}]'""",
        "patch configmaps one 422",
        code=1,
    ),
    Step("patch cm one --patch-file={files}/patch.yaml -o yaml", "patch configmaps one 200"),
    Step("""patch cm one --dry-run=server -p '{"data":{"g":"h"}}'""", "patch configmaps one 200"),
    Step("""patch cm nobody -p '{"data":{"g":"h"}}'""", "get configmaps nobody 404", code=1),
    Step(
        "edit cm one",
        "get configmaps one 200, patch configmaps one 200",
        environ={"KUBE_EDITOR": "sed -i s/[[:blank:]]f$/&edited/"},
    ),
    Step("edit cm one", "get configmaps one 200", environ={"KUBE_EDITOR": "true"}),
    Step("edit cm one", "get configmaps one 200", code=1, environ={"KUBE_EDITOR": "false"}),
    Step("get cm one -o yaml", "get configmaps one 200"),
    Step("replace -f {files}/two.yaml", "get configmaps two 200, update configmaps two 200"),
    Step("replace -f {files}/nobody.yaml", "get configmaps nobody 404", code=1),
    Step("replace --force -f {files}/two.yaml", "delete configmaps two 200, create configmaps - 201"),
    Step("delete cm two", "delete configmaps two 200"),
    Step("delete cm two", "delete configmaps two 404", code=1),
    Step("delete cm two --ignore-not-found", "delete configmaps two 404"),
    Step("delete cm one --now --cascade=orphan -o name", "delete configmaps one 200", waits=True),
    Step("create -f {files}/two.yaml", "create configmaps - 201"),
    Step("delete cm -l set=2", "list configmaps - 200, delete configmaps two 200"),
    Step("create secret generic lock --from-literal=p=w", "create secrets - 201"),
    Step("delete secret --all", "list secrets - 200, delete secrets key 200, delete secrets lock 200"),
    Step("delete secret --all", "list secrets - 200"),
]

FINALIZERS = [
    Step("create -f {files}/held.yaml", "create configmaps - 201"),
    Step("delete cm held --wait=false", "delete configmaps held 200"),
    Step("get cm held -o jsonpath='{.metadata.finalizers}'", "get configmaps held 200"),
    Step("delete cm held --timeout=1s", "delete configmaps held 200", code=1, waits=True),
    Step("""patch cm held --type=merge -p '{"metadata":{"finalizers":null}}'""", "patch configmaps held 200"),
    Step("wait --for=delete cm/held --timeout=60s", code=0, waits=True),
    Step("get cm held", "get configmaps held 404", code=1),
]

APPLY = [
    Step("diff -f {files}/app.yaml", "get configmaps app 404, create configmaps - 201", code=1),
    Step("apply -f {files}/app.yaml", "get configmaps app 404, create configmaps - 201"),
    Step("apply -f {files}/app.yaml", "get configmaps app 200"),
    Step("diff -f {files}/app.yaml", "get configmaps app 200"),
    Step("diff -f {files}/app2.yaml", "get configmaps app 200, patch configmaps app 200", code=1),
    Step("apply --dry-run=server -f {files}/app2.yaml", "patch configmaps app 200"),
    Step("apply -f {files}/app2.yaml", "patch configmaps app 200"),
    Step("apply view-last-applied cm/app", "get configmaps app 200"),
    Step("apply set-last-applied -f {files}/app.yaml", "patch configmaps app 200"),
    Step("apply -f {files}/wrong.yaml", "create configmaps - 400", code=1),
    Step("apply -f {files}/wrong.yaml --validate=false", "create configmaps - 201"),
    Step("apply --server-side -f {files}/app.yaml --field-manager=one", "patch configmaps app 409", code=1),
    Step("apply --server-side -f {files}/app.yaml --force-conflicts", "patch configmaps app 200"),
    Step("apply --server-side -f {files}/app2.yaml --field-manager=two", "patch configmaps app 409", code=1),
    Step("apply --server-side -f {files}/bundle.yaml", "patch configmaps first 201, patch deployments second 201"),
    Step("apply -f {files}/bundle.yaml", "get configmaps first 200, get deployments second 200"),
    Step("apply --prune -l in=bundle --prune-allowlist=core/v1/ConfigMap -f {files}/third.yaml",
         "create configmaps - 201, list configmaps - 200, delete configmaps first 200"),
    Step("delete -f {files}/bundle.yaml --ignore-not-found",
         "delete configmaps first 404, delete deployments second 200", waits=True),
    Step("delete -f {files}/app.yaml -f {files}/third.yaml", "delete configmaps app 200, delete configmaps third 200"),
]  # fmt: skip

WORKLOADS = [
    Step("create deployment web --image=web:1 --replicas=2", "create deployments - 201"),
    Step("wait --for=condition=Available deploy/web --timeout=60s", waits=True),
    Step("rollout status deploy/web --timeout=60s", "watch deployments web 200", waits=True),
    Step("get deploy web -o wide", "get deployments web 200"),
    Step("get rs -o name", "list replicasets - 200"),
    Step("set image deploy/web web=web:2", "get deployments web 200, patch deployments web 200"),
    Step("rollout status deploy/web --timeout=60s", "watch deployments web 200", waits=True),
    Step("rollout history deploy/web", "get deployments web 200, list replicasets - 200"),
    Step("rollout history deploy/web --revision=2", "get deployments web 200, list replicasets - 200"),
    Step("rollout undo deploy/web", "get deployments web 200, patch deployments web 200"),
    Step("rollout status deploy/web --timeout=60s", "watch deployments web 200", waits=True),
    Step("rollout undo deploy/web --to-revision=9", "list replicasets - 200", code=1),
    Step("rollout pause deploy/web", "patch deployments web 200"),
    Step("rollout pause deploy/web", "get deployments web 200", code=1),
    Step("set env deploy/web A=B C-", "patch deployments web 200"),
    Step("set env deploy/web --list", "get deployments web 200"),
    Step("set resources deploy/web --limits=cpu=1,memory=1Gi --requests=cpu=1m", "patch deployments web 200"),
    Step("set serviceaccount deploy/web default", "patch deployments web 200"),
    Step("rollout resume deploy/web", "patch deployments web 200"),
    Step("rollout restart deploy/web", "get deployments web 200, patch deployments web 200"),
    Step("rollout status deploy/web --timeout=60s", "watch deployments web 200", waits=True),
    Step("scale deploy web --replicas=1", "patch deployments/scale web 200"),
    Step("scale deploy web --replicas=4 --current-replicas=9", code=1),
    Step("scale deploy web nobody --replicas=1", "get deployments nobody 404", code=1),
    Step("rollout status deploy/web --timeout=60s", waits=True),
    Step("autoscale deploy web --min=1 --max=3 --cpu-percent=80", "create horizontalpodautoscalers - 201"),
    Step("expose deploy web --port=80 --name=front-door", "get deployments web 200, create services - 201"),
    Step("set selector svc front-door app=none", "patch services front-door 200"),
    Step("get svc", "list services - 200"),
    Step("run solo --image=solo:1 --labels=a=b", "create pods - 201"),
    Step("wait --for=condition=Ready pod/solo --timeout=60s", waits=True),
    Step("wait --for=jsonpath='{.status.phase}'=Running pod/solo", waits=True),
    Step("wait --for=condition=Never pod/solo --timeout=1s", code=1, waits=True),
    Step("wait --for=condition=Ready pod/nobody", code=1),
    Step("expose pod solo --port=80", "get pods solo 200, create services - 201"),
    Step("delete pod solo", "delete pods solo 200", waits=True),
    Step("delete pod solo --force --grace-period=0", "delete pods solo 404", code=1),
    Step("delete hpa,svc --all",
         "delete horizontalpodautoscalers web 200, delete services front-door 200, delete services solo 200"),
    Step("delete deploy web --cascade=foreground", "delete deployments web 200", waits=True),
]  # fmt: skip

KINDS = [
    Step("create serviceaccount robot", "create serviceaccounts - 201"),
    Step("create token robot", "create serviceaccounts/token robot 201"),
    Step("create token robot --duration=1h --audience=a,b -o json", "create serviceaccounts/token robot 201"),
    Step("create token nobody", "create serviceaccounts/token nobody 404", code=1),
    Step("create role reader --verb=get,list --resource=pods,pods/log", "create roles - 201"),
    Step("create rolebinding reading --role=reader --user=ann", "create rolebindings - 201"),
    Step("set subject rolebinding reading --group=team", "patch rolebindings reading 200"),
    Step("create clusterrole {ns} --verb=get --non-resource-url=/x", "create clusterroles - 201"),
    Step("create clusterrolebinding {ns} --clusterrole={ns} --group=team", "create clusterrolebindings - 201"),
    Step("auth reconcile -f {files}/rights.yaml", "get roles writer 404, create roles - 201"),
    Step("auth reconcile -f {files}/rights.yaml", "get roles writer 200"),
    Step("auth reconcile -f {files}/rights2.yaml", "update roles writer 200"),
    Step("create quota few --hard=configmaps=9,services=2", "create resourcequotas - 201"),
    Step("create poddisruptionbudget steady --selector=a=b --min-available=1", "create poddisruptionbudgets - 201"),
    Step("create priorityclass {ns} --value=7", "create priorityclasses - 201"),
    Step("create job once --image=once:1", "create jobs - 201"),
    Step("wait --for=condition=Complete job/once --timeout=60s", waits=True),
    Step("create cronjob often --image=often:1 --schedule='0 0 1 1 *'", "create cronjobs - 201"),
    Step("create job again --from=cronjob/often", "get cronjobs often 200, create jobs - 201"),
    Step("create ingress door --rule=a.example/b=web:80", "create ingresses - 201"),
    Step("create service clusterip inside --tcp=80:8080", "create services - 201"),
    Step("create service externalname outside --external-name=a.example", "create services - 201"),
    Step("create service nodeport third --tcp=80", "create services - 403", code=1),
    Step("create secret docker-registry pull --docker-username=a --docker-password=b", "create secrets - 201"),
    Step("create namespace {ns}-more", "create namespaces - 201"),
    Step("create configmap there -n {ns}-more", "create configmaps - 201"),
    Step("delete ns {ns}-more --wait=false", "delete namespaces {ns}-more 200"),
    Step("describe quota few", "get resourcequotas few 200"),
    Step("describe role reader", "get roles reader 200"),
    Step("delete clusterrole/{ns} clusterrolebinding/{ns} priorityclass/{ns}",
         "delete clusterroles {ns} 200, delete clusterrolebindings {ns} 200, delete priorityclasses {ns} 200"),
]  # fmt: skip

NODES = [
    Step("create -f {files}/node.yaml", "create nodes - 201"),
    Step("wait --for=condition=Ready node/{ns} --timeout=60s", waits=True),
    Step("cordon {ns}", "get nodes {ns} 200, patch nodes {ns} 200"),
    Step("cordon {ns}", "get nodes {ns} 200"),
    Step("uncordon {ns}", "get nodes {ns} 200, patch nodes {ns} 200"),
    Step("taint node {ns} a=b:NoSchedule", "get nodes {ns} 200, patch nodes {ns} 200"),
    Step("taint node {ns} a=b:NoSchedule", "get nodes {ns} 200", code=1),
    Step("taint node {ns} a-", "patch nodes {ns} 200"),
    Step("label node {ns} zone=one", "patch nodes {ns} 200"),
    Step("create -f {files}/placed.yaml", "create pods - 201"),
    Step("wait --for=condition=Ready pod/placed --timeout=60s", waits=True),
    Step("drain {ns}", "get nodes {ns} 200, patch nodes {ns} 200, list pods - 200", code=1),
    Step("drain {ns} --force --timeout=60s", "list pods - 200, create pods/eviction placed 201", waits=True),
    Step("drain nobody", "get nodes nobody 404", code=1),
    Step("delete node {ns}", "delete nodes {ns} 200"),
]

CERTIFICATES = [
    Step("create -f {files}/yes.yaml", "create certificatesigningrequests - 201"),
    Step("create -f {files}/no.yaml", "create certificatesigningrequests - 201"),
    Step("certificate approve {ns}-yes",
         "get certificatesigningrequests {ns}-yes 200, update certificatesigningrequests/approval {ns}-yes 200"),
    Step("certificate approve {ns}-yes", "get certificatesigningrequests {ns}-yes 200"),
    Step("certificate deny {ns}-no", "update certificatesigningrequests/approval {ns}-no 200"),
    Step("certificate approve nobody", "get certificatesigningrequests nobody 404", code=1),
    Step("get csr {ns}-yes {ns}-no", "get certificatesigningrequests {ns}-yes 200"),
    Step("describe csr {ns}-no", "get certificatesigningrequests {ns}-no 200"),
    Step("delete csr {ns}-yes {ns}-no", "delete certificatesigningrequests {ns}-yes 200"),
]  # fmt: skip

SCRIPTS = {
    "config maps": CONFIG_MAPS,
    "finalizers": FINALIZERS,
    "apply": APPLY,
    "workloads": WORKLOADS,
    "kinds": KINDS,
    "nodes": NODES,
    "certificates": CERTIFICATES,
}

FILES = {
    "two.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: two, labels: {set: "2"}}
data: {a: b}
""",
    "wrong.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: wrong}
dada: {a: b}
""",
    "nobody.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: nobody}
""",
    "patch.yaml": "data: {i: j}\n",
    "held.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: held, finalizers: [example.com/held]}
""",
    "app.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: app}
data: {a: b, c: d}
""",
    "app2.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: app}
data: {a: c}
""",
    "bundle.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: first, labels: {in: bundle}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: second, labels: {in: bundle}}
spec:
  replicas: 0
  selector: {matchLabels: {app: second}}
  template:
    metadata: {labels: {app: second}}
    spec: {containers: [{name: main, image: "second:1"}]}
""",
    "third.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: third, labels: {in: bundle}}
""",
    "rights.yaml": """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: writer, namespace: "{ns}"}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [create]}]
""",
    "rights2.yaml": """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: writer, namespace: "{ns}"}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [create, patch]}]
""",
    "node.yaml": """
apiVersion: v1
kind: Node
metadata: {name: "{ns}", annotations: {kwok.x-k8s.io/node: fake}}
spec: {taints: [{key: nobody, value: here, effect: NoSchedule}]}
""",
    "placed.yaml": """
apiVersion: v1
kind: Pod
metadata: {name: placed}
spec: {nodeName: "{ns}", containers: [{name: main, image: "placed:1"}]}
""",
}


def signing_request(name: str) -> str:
    """A request for a client's certificate, as a manifest."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    manifest = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": f"{{ns}}-{name}"},
        "spec": {
            "request": base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode(),
            "signerName": "example.com/nobody",
            "usages": ["client auth"],
        },
    }
    return json.dumps(manifest)


@pytest.fixture(params=VERSIONS, scope="module")
def kubectl(
    request: pytest.FixtureRequest, demo: DemoCluster, fronted: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubectl]:
    """Give a kubectl of each version, with a namespace on each way."""
    files = FILES | {f"{name}.yaml": signing_request(name) for name in ("yes", "no")}
    given = on_two_ways(request.param, tmp_path_factory.mktemp("changes"), fronted, demo, files=files)
    with own_namespaces(given):
        yield given


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_of_changes_does_the_same_and_is_recorded(kubectl: Kubectl, script: str) -> None:
    """Each command says what it says directly and ends with the same code; the trail has its calls, and no other."""
    for step in SCRIPTS[script]:
        check(kubectl, step)


def test_a_token_that_was_made_stands_nowhere_in_the_trail(kubectl: Kubectl) -> None:
    """Of `create token` the record has the service account, and no file of the proxy the token."""
    kubectl.run(kubectl.fronted, "create sa keeper")
    trail = Trail(kubectl.proxy)
    token = kubectl.run(kubectl.fronted, "create token keeper").stdout.strip()
    assert token.count(".") == 2
    end = trail.end(lambda line: line["verb"] == "create")
    assert (end["resource"], end["subresource"], end["name"], end["status"]) == (
        "serviceaccounts", "token", "keeper", 201,
    )  # fmt: skip
    kept = [path for path in kubectl.proxy.data_dir.rglob("*") if path.is_file()]
    assert not [path for path in (*kept, kubectl.proxy.log) if token.encode() in path.read_bytes()]
