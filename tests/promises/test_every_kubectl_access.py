"""Every kubectl, getting in or not: as somebody else, by flags that say who and where, by `--raw`, by its own proxy."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from kube_audit_proxy.demo.pki import write_pki
from servers.kubectls import VERSIONS
from support.kubectl import Beside, Kubectl, on_two_ways, own_namespaces, starts
from support.proxies import wait_until
from support.steps import Step, check
from support.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_audit_proxy.demo.cluster import DemoCluster
    from support.proxies import Proxy

pytestmark = pytest.mark.servers

LOSES_THE_PREFIX = ("1.28", "1.30", "1.33")
"""Versions whose `--raw` leaves out a server's path."""


@pytest.fixture(params=VERSIONS, scope="module")
def version(request: pytest.FixtureRequest) -> str:
    """Give each version."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def kubectl(
    version: str, demo: DemoCluster, fronted: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubectl]:
    """Give a kubectl of each version to the cluster's owner, with a namespace on each way."""
    files = {"raw.json": '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"raw"}}'}
    given = on_two_ways(version, tmp_path_factory.mktemp("access"), fronted, demo, files=files)
    with own_namespaces(given):
        for place in (given.direct, given.fronted):  # of a refused discovery kubectl does not tell every reason
            assert given.run(place, "get cm").code == 0
        yield given


@pytest.fixture(scope="module")
def viewer(version: str, demo: DemoCluster, fronted: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """Give it to somebody who may look at most things and change nothing; directly the owner impersonates them."""
    files = {"map.yaml": '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"web-settings"}}'}
    home = tmp_path_factory.mktemp("viewer")
    return on_two_ways(version, home, fronted, demo, files=files, shared="shop", user="viewer")


AS_VIEWER = (
    Step("get cm web-settings", "get configmaps web-settings 200"),
    Step("get secret", "list secrets - 403", code=1),
    Step("get secret db-login -o yaml", "get secrets db-login 403", code=1),
    Step("get cm,secret", "list configmaps - 200, list secrets - 403", code=1),
    Step("get secret -w", "list secrets - 403", code=1),
    Step("get node", "list nodes - 403", code=1),
    Step("describe secret db-login", "get secrets db-login 403", code=1),
    Step("create configmap x", "create configmaps - 403", code=1),
    Step("apply -f {files}/map.yaml", "get configmaps web-settings 200, patch configmaps web-settings 403", code=1),
    Step("apply --server-side -f {files}/map.yaml", "patch configmaps web-settings 403", code=1),
    Step("label cm web-settings a=b", "patch configmaps web-settings 403", code=1),
    Step("scale deploy web --replicas=9", "patch deployments/scale web 403", code=1),
    Step("rollout restart deploy/web", "patch deployments web 403", code=1),
    Step("delete pod -l app=web", "list pods - 200", code=1),
    Step("delete deploy web", "delete deployments web 403", code=1),
    Step("drain node-1", "get nodes node-1 403", code=1),
    Step("auth can-i delete pods", "create selfsubjectaccessreviews - 201", code=1),
    Step("auth can-i get pods -q", "create selfsubjectaccessreviews - 201"),
    Step("auth can-i get pods --subresource=log", "create selfsubjectaccessreviews - 201"),
    Step("auth can-i --list", "create selfsubjectrulesreviews - 201"),
    Step("auth whoami", "create selfsubjectreviews - 201"),
)
"""What somebody with few rights does."""


@pytest.mark.parametrize("step", AS_VIEWER, ids=str)
def test_rights_are_those_of_the_user_in_the_same_words(viewer: Kubectl, step: Step) -> None:
    """What a user may not do is refused by the API server, and reads as it does directly; the records say deny."""
    shown = check(viewer, step)
    assert {(record["user"], record["impersonated"]) for record in shown.records} == {("viewer", True)}


REFUSED = (
    ("--as=admin get ns", "leave out kubectl's --as (header impersonate-user)", 403),
    ("--as=admin --as-group=system:masters delete ns shop", "leave out kubectl's --as", 403),
    ("--as=admin --as-uid=7 exec deploy/web -- true", "leave out kubectl's --as", 403),
    ("--token=kap_wrong get ns", "the token is not known to this proxy", 401),
    ("--token='two words' get ns", "the token is not known to this proxy", 401),
    ("--server={url}/clusters/elsewhere get ns", "may call", 403),
    ("--server={url} get ns", "/clusters/<name>", 403),
    ("--server={url} get --raw=/healthz", "kubectl up to 1.33", 403),
)
"""What the proxy itself refuses, a part of the sentence that says why, and the status."""


@pytest.mark.parametrize(("arguments", "says", "status"), REFUSED)
def test_a_refusal_tells_people_what_to_do(kubectl: Kubectl, arguments: str, says: str, status: int) -> None:
    """What the proxy refuses ends kubectl with 1 and a sentence, and stands in the trail as a refusal."""
    trail = Trail(kubectl.proxy)
    said = kubectl.run(kubectl.fronted, arguments.replace("{url}", kubectl.proxy.url))
    assert said.code == 1
    assert says in said.stderr
    ends = trail.ends()
    assert {end["status"] for end in ends} == {status}
    assert {(end["outcome"], end["decided_by"], end["decision"]) for end in ends} == {("refused", "proxy", "deny")}
    assert all(says in end["message"] for end in ends)


RAW = (
    Step("get --raw /api/v1/namespaces/{ns}/configmaps?limit=9", "list configmaps - 200"),
    Step("get --raw /healthz", "get /healthz - 200"),
    Step("get --raw /api/v1/namespaces/{ns}/configmaps/nobody", "get configmaps nobody 404", code=1),
    Step("get --raw /api/v1/namespaces/{ns}/configmaps?watch=1&timeoutSeconds=1", "watch configmaps - 200"),
    Step("delete --raw /api/v1/namespaces/{ns}/configmaps/nobody", "delete configmaps nobody 404", code=1),
    Step("create --raw /api/v1/namespaces/{ns}/configmaps?dryRun=All -f {files}/raw.json", "create configmaps - 201"),
    Step(
        "replace --raw /api/v1/namespaces/{ns}/configmaps/raw -f {files}/raw.json", "update configmaps raw 404", code=1
    ),
)
"""Paths as they are. Bodies of `--raw` are sent in chunks."""


@pytest.mark.parametrize("step", RAW, ids=str)
def test_raw_paths_work_or_are_refused_with_the_reason(kubectl: Kubectl, version: str, step: Step) -> None:
    """From 1.34 on `--raw` does what it does directly; an older one is told why it does not, and what to do."""
    if version not in LOSES_THE_PREFIX:
        check(kubectl, step)
        return
    trail = Trail(kubectl.proxy)
    said = kubectl.run(kubectl.fronted, step.arguments)
    assert said.code == 1
    assert "kubectl up to 1.33 leaves the prefix out with --raw (use 1.34 or newer)" in said.stderr
    end = trail.end(lambda record: "openapi" not in record["requestURI"])  # which 1.28 asks for first
    assert (end["status"], end["outcome"], end["decision"]) == (403, "refused", "deny")
    assert (end["command"], end.get("cluster")) == (step.command, None)


def asked(port: int, path: str) -> tuple[int, str]:
    """Status and body of what `kubectl proxy` answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def port_of(beside: Beside) -> int:
    """The port that `kubectl proxy` says it serves on."""
    found = wait_until(lambda: re.search(r"serve on 127\.0\.0\.1:(\d+)", beside.text()), "kubectl proxy to serve")
    assert found is not None
    return int(found[1])


def test_kubectl_proxy_serves_with_the_servers_path(kubectl: Kubectl) -> None:
    """With --append-server-path what it serves is what the API server says, on record as an API client's call."""
    path = "/api/v1/namespaces/shop/configmaps/web-settings"
    with (
        kubectl.beside(kubectl.direct, "proxy --port=0") as plainly,
        kubectl.beside(kubectl.fronted, "proxy --port=0 --append-server-path") as fronted,
    ):
        trail = Trail(kubectl.proxy)
        assert asked(port_of(fronted), path) == asked(port_of(plainly), path)
        end = trail.end()
    assert (end["verb"], end["resource"], end["name"], end["status"]) == ("get", "configmaps", "web-settings", 200)
    assert end["access_method"] == "api"
    assert "command_id" not in end


def test_kubectl_proxy_without_the_servers_path_is_told_so(kubectl: Kubectl) -> None:
    """Without it the path names no cluster: the answer says which flag is missing."""
    with kubectl.beside(kubectl.fronted, "proxy --port=0") as fronted:
        trail = Trail(kubectl.proxy)
        code, body = asked(port_of(fronted), "/api/v1/namespaces")
        end = trail.end()
    assert code == 403
    assert "`kubectl proxy` without --append-server-path" in body
    assert (end["status"], end["outcome"]) == (403, "refused")


def test_a_slash_at_the_end_of_the_server_changes_nothing(kubectl: Kubectl) -> None:
    """A server URL that somebody wrote with a slash at its end works."""
    said = kubectl.run(kubectl.fronted, ["--server", f"{kubectl.fronted.way.url}/", "get", "cm", "-o", "name"])
    assert said == kubectl.run(kubectl.direct, "get cm -o name")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--certificate-authority={files}/other/ca.crt", "x509: certificate signed by unknown authority"),
        ("--tls-server-name=other.example", "not other.example"),
        ("--insecure-skip-tls-verify", ""),
    ],
)
def test_trust_is_judged_as_it_is_directly(kubectl: Kubectl, flags: str, says: str) -> None:
    """A wrong authority or name ends kubectl before it has sent anything; who asks for no checks gets none."""
    for place in (kubectl.direct, kubectl.fronted):
        other = place.folder / "other"
        if not other.exists():
            other.mkdir()
            write_pki(other)
    trail = Trail(kubectl.proxy)
    plainly, fronted = (kubectl.run(place, f"get cm -o name {flags}") for place in (kubectl.direct, kubectl.fronted))
    assert (fronted.stdout, fronted.code) == (plainly.stdout, plainly.code)
    assert says in plainly.stderr
    assert says in fronted.stderr
    assert bool(starts(trail)) == (not says)


def test_plain_http_is_told_that_it_has_to_be_https(kubectl: Kubectl) -> None:
    """Whoever writes http:// for https:// is told so; kubectl sends no credential then, and nothing is called."""
    trail = Trail(kubectl.proxy)
    plainly, fronted = (
        kubectl.run(place, ["--server", place.way.url.replace("https://", "http://"), "get", "cm"])
        for place in (kubectl.direct, kubectl.fronted)
    )
    assert (fronted.stdout, fronted.code) == (plainly.stdout, plainly.code) == ("", 1)
    assert "write https:// where http:// stands" in fronted.stderr
    assert not starts(trail)
