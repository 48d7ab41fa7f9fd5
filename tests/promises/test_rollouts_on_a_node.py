"""The life of workloads on a real node by kubectl, through the proxy: pods that really run, move and answer."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from servers.kubectls import new_kubectl, old_kubectl
from servers.node import Node
from servers.node.images import BUSYBOX
from servers.node.plan import NODE
from servers.node.pods import container, kubectl
from support.proxies import Proxy
from support.sessions import Person
from support.trail import what

pytestmark = pytest.mark.servers

PEOPLE: dict[str, Callable[[], Path]] = {"1.36": new_kubectl, "1.28": old_kubectl}
SERVE = "mkdir /www; hostname > /www/name; exec httpd -f -p 80 -h /www"


@pytest.fixture(params=PEOPLE, scope="module")
def person(
    request: pytest.FixtureRequest, node: Node, node_fronted: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Person:
    """Give somebody with a kubectl."""
    home = tmp_path_factory.mktemp(request.param)
    name = f"shop-{request.param.replace('.', '')}"
    return Person(name, PEOPLE[request.param](), node.kubeconfig, node_fronted, home, websockets=False)


@pytest.fixture(scope="module")
def deployment(person: Person, node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give a deployment of two web servers that the person has applied; its pods run."""
    ready = {"httpGet": {"path": "/name", "port": 80}, "periodSeconds": 1}
    template = {
        "metadata": {"labels": {"app": person.name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container(SERVE, "web", readinessProbe=ready)]},
    }
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": person.name}}, "template": template}
    manifest = tmp_path_factory.mktemp("manifest") / "deployment.json"
    made = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": person.name}, "spec": spec}
    manifest.write_text(json.dumps(made))
    ran = person.through("apply", "-f", str(manifest))
    assert (ran.code, ran.stdout) == (0, f"deployment.apps/{person.name} created\n".encode())
    assert ("create", "deployments", 201) in map(what, ran.calls)
    completes(person)
    yield person.name
    kubectl(node, "delete", "deploy,service", person.name, "--ignore-not-found", "--wait=false")


def completes(person: Person) -> None:
    """Wait for the rollout as people do."""
    ran = person.through("rollout", "status", f"deploy/{person.name}", "--timeout=60s")
    assert ran.code == 0, ran.stderr
    assert ran.stdout.endswith(f'deployment "{person.name}" successfully rolled out\n'.encode())
    assert {call["command"] for call in ran.calls} == {"kubectl rollout status"}


def pods(node: Node, name: str) -> list[dict[str, Any]]:
    """The pods of a deployment."""
    items: list[dict[str, Any]] = json.loads(kubectl(node, "get", "pods", "-l", f"app={name}", "-o", "json"))["items"]
    return [item for item in items if "deletionTimestamp" not in item["metadata"]]


def names(items: Sequence[dict[str, Any]]) -> set[str]:
    """Names of objects."""
    return {item["metadata"]["name"] for item in items}


def test_a_rollout_and_the_way_back(person: Person, node: Node, deployment: str) -> None:
    """Set image, rollout status, history, undo and restart each replace the pods, and each is one command on record."""
    image = BUSYBOX[1].removeprefix("docker.io/library/")
    before = pods(node, deployment)
    ran = person.through("set", "image", f"deploy/{deployment}", f"web={image}")
    assert ran.code == 0
    assert ("patch", "deployments", 200) in map(what, ran.calls)
    completes(person)
    after = pods(node, deployment)
    assert {pod["spec"]["containers"][0]["image"] for pod in after} == {image}
    assert not names(before) & names(after)
    assert person.both("rollout", "history", f"deploy/{deployment}").code == 0

    assert person.through("rollout", "undo", f"deploy/{deployment}").code == 0
    completes(person)
    back = pods(node, deployment)
    assert {pod["spec"]["containers"][0]["image"] for pod in back} != {image}

    ran = person.through("rollout", "restart", f"deploy/{deployment}")
    assert {call["command"] for call in ran.calls} == {"kubectl rollout restart"}
    completes(person)
    assert not names(back) & names(pods(node, deployment))


def test_scaling_runs_pods(person: Person, node: Node, deployment: str) -> None:
    """Scale gives as many running pods as were asked for; wait tells when."""
    for count in (3, 2):
        ran = person.through("scale", "deploy", deployment, f"--replicas={count}")
        assert ("patch", "deployments/scale", 200) in map(what, ran.calls)
        completes(person)
        waited = person.both("wait", "--for=condition=Available", f"deploy/{deployment}", "--timeout=60s")
        assert (waited.code, waited.stdout) == (0, f"deployment.apps/{deployment} condition met\n".encode())
        assert len(pods(node, deployment)) == count


def test_a_wait_in_vain(person: Person, deployment: str) -> None:
    """A wait for what does not come true ends as it does directly."""
    ran = person.both("wait", "--for=condition=Progressing=False", f"deploy/{deployment}", "--timeout=1s")
    assert ran.code == 1
    assert "timed out waiting" in ran.stderr


def test_an_exposed_deployment_answers(person: Person, node: Node, deployment: str) -> None:
    """Expose makes a service behind whose address the pods answer."""
    ran = person.through("expose", "deploy", deployment, "--port=80", "--name", deployment)
    assert (ran.code, ran.stdout) == (0, f"service/{deployment} exposed\n".encode())
    assert ("create", "services", 201) in map(what, ran.calls)
    address = kubectl(node, "get", "service", deployment, "-o", "jsonpath={.spec.clusterIP}")
    get = f"until timeout 5 wget -q -O - http://{address}/name; do sleep 0.1; done"
    one = min(names(pods(node, deployment)))
    answered = person.through("exec", one, "--", "sh", "-c", get)
    assert answered.stdout.decode().strip() in names(pods(node, deployment))
    assert answered.call("exec")["exit_code"] == 0
    assert person.both("get", "service", deployment, "-o", "jsonpath={.spec}").stdout


def test_a_node_is_drained_and_taken_back(person: Person, node: Node, deployment: str) -> None:
    """Cordon and drain evict the pods, which find no place until uncordon; the evictions are on record."""
    before = names(pods(node, deployment))
    ran = person.through("cordon", NODE)
    assert (ran.code, ran.stdout) == (0, f"node/{NODE} cordoned\n".encode())
    try:
        ran = person.through("drain", NODE, f"--pod-selector=app={deployment}", "--timeout=60s")
        assert ran.code == 0, ran.stderr
        assert {call["name"] for call in ran.all_of("eviction")} == before
        assert {call["command"] for call in ran.calls} == {"kubectl drain"}
        assert person.both("get", "node", NODE, "-o", "jsonpath={.spec.unschedulable}").stdout == b"true"
        assert not any("nodeName" in pod["spec"] for pod in pods(node, deployment))
    finally:
        ran = person.through("uncordon", NODE)
    assert (ran.code, ran.stdout) == (0, f"node/{NODE} uncordoned\n".encode())
    completes(person)
    assert len(pods(node, deployment)) == 2


@pytest.mark.parametrize("arguments", [["top", "pods"], ["top", "nodes"]], ids=" ".join)
def test_top_says_that_there_are_no_metrics(person: Person, arguments: list[str]) -> None:
    """Top fails as it does directly where nothing measures."""
    ran = person.both(*arguments)
    assert ran.code == 1
    assert re.search("Metrics API not available", ran.stderr)
