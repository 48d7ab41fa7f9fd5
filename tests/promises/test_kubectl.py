"""Real kubectl, old and new, through the proxy and directly: the same to a person, and all of it on record."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kube_audit_proxy.demo.cluster import DemoCluster
from servers.kubectls import new_kubectl, old_kubectl
from support.proxies import Proxy, proxy, wait_until

pytestmark = pytest.mark.servers

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kubectl:
    """One kubectl, in front of the cluster and in front of the proxy."""

    binary: Path
    direct: Path
    fronted: Path
    home: Path

    def run(self, kubeconfig: Path, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run a command; each kubeconfig has a discovery cache of its own."""
        return subprocess.run(
            self._argv(kubeconfig, arguments),
            input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True, check=False,
        )  # fmt: skip

    @contextmanager
    def running(self, kubeconfig: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command beside."""
        argv = self._argv(kubeconfig, arguments)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            try:
                yield process
            finally:
                process.terminate()

    def _argv(self, kubeconfig: Path, arguments: Sequence[str]) -> list[str]:
        cache = self.home / kubeconfig.parent.name
        return [str(self.binary), f"--kubeconfig={kubeconfig}", f"--cache-dir={cache}", *arguments]


KUBECTLS: dict[str, Callable[[], Path]] = {"old": old_kubectl, "new": new_kubectl}


@pytest.fixture(params=KUBECTLS, scope="module")
def kubectl(
    request: pytest.FixtureRequest, demo: DemoCluster, fronted: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Kubectl:
    """Give a kubectl, the oldest and the newest that is tried."""
    home = tmp_path_factory.mktemp(request.param)
    return Kubectl(KUBECTLS[request.param](), demo.kubeconfig, fronted.kubeconfig, home)


def calls_since(fronted: Proxy, seen: set[str], command: str) -> list[Record]:
    """The ends of the calls of a command that has run since `seen` was taken; they belong together."""

    def ended() -> list[Record]:
        made = [line for line in fronted.lines() if line.get("command") == command and line["auditID"] not in seen]
        ends = [line for line in made if line["stage"] == "ResponseComplete"]
        return ends if {line["auditID"] for line in made} == {line["auditID"] for line in ends} else []

    ends = wait_until(ended, f"every call of {command!r} to end")
    assert len({end["command_id"] for end in ends}) == 1, "one kubectl is one command"
    return ends


def audit_ids(fronted: Proxy) -> set[str]:
    """The calls that have been recorded so far."""
    return {line["auditID"] for line in fronted.lines() if line["kind"] == "call"}


def what(record: Record) -> tuple[str, str, int]:
    """Verb, resource with subresource (or path), and status."""
    resource = "/".join(filter(None, (record.get("resource"), record.get("subresource"))))
    return record["verb"], resource or record["requestURI"].partition("?")[0], record["status"]


# Commands that change nothing, with the calls they make besides discovery.
READS = {
    "get": (["get", "nodes"], "kubectl get", [("list", "nodes", 200)]),
    "get json": (["get", "cm", "-n", "kube-system", "-o", "json"], "kubectl get", [("list", "configmaps", 200)]),
    "get one": (["get", "pod", "toolbox", "-o", "name"], "kubectl get", [("get", "pods", 200)]),
    "get all namespaces": (["get", "svc", "-A", "-o", "wide"], "kubectl get", [("list", "services", 200)]),
    "get missing": (["get", "pod", "nobody"], "kubectl get", [("get", "pods", 404)]),
    "describe": (["describe", "svc", "web", "-n", "shop", "--show-events=false"], "kubectl describe",
                 [("get", "services", 200)]),
    "logs": (["logs", "toolbox"], "kubectl logs", [("get", "pods", 200), ("get", "pods/log", 200)]),
    "whoami": (["auth", "whoami"], "kubectl auth whoami", [("create", "selfsubjectreviews", 201)]),
    "can-i": (["auth", "can-i", "delete", "nodes"], "kubectl auth can-i",
              [("create", "selfsubjectaccessreviews", 201)]),
    "exec": (["exec", "toolbox", "--", "echo", "a b"], "kubectl exec", [("get", "pods", 200), ("?", "pods/exec", 101)]),
    "exec fails": (["exec", "toolbox", "--", "sh", "-c", "exit 3"], "kubectl exec",
                   [("get", "pods", 200), ("?", "pods/exec", 101)]),
    "wait": (["wait", "--for=condition=Ready", "pod/toolbox", "--timeout=30s"], "kubectl wait", []),
    "explain": (["explain", "pod.spec.nodeName"], "kubectl explain", []),
    "api-resources": (["api-resources", "-o", "name"], "kubectl api-resources", []),
    "version": (["version", "-o", "json"], "kubectl version", [("get", "/version", 200)]),
}  # fmt: skip


@pytest.mark.parametrize("case", READS)
def test_a_reading_command_is_the_same_and_is_recorded(kubectl: Kubectl, fronted: Proxy, case: str) -> None:
    """Output and exit code through the proxy equal those without it; the calls stand in the trail as one command."""
    arguments, command, expected = READS[case]
    direct = kubectl.run(kubectl.direct, *arguments)
    seen = audit_ids(fronted)
    through = kubectl.run(kubectl.fronted, *arguments)
    assert (_ageless(through.stdout), _without_noise(through.stderr), through.returncode) == (
        _ageless(direct.stdout), _without_noise(direct.stderr), direct.returncode,
    )  # fmt: skip
    ends = calls_since(fronted, seen, command)
    made = [("?" if what(end)[1] == "pods/exec" else what(end)[0], *what(end)[1:]) for end in ends]
    assert set(expected) <= set(made)
    assert all(end["decision"] == "allow" for end in ends)
    assert all(end["outcome"] == "complete" for end in ends if end["verb"] != "watch")
    assert all(end["access_method"] == "kubectl" and end["cluster"] == "demo" for end in ends)


def _ageless(output: bytes) -> bytes:
    # A second may have passed between the two commands.
    return re.sub(rb" +\d+[smhd](\d+[smh])? *", b" AGE ", output)


def _without_noise(stderr: bytes) -> str:
    # kubectl up to 1.28 logs the end of a SPDY stream that is quicker than it expects, by chance.
    return "\n".join(line for line in stderr.decode().splitlines() if not re.match(r"E\d{4} .*v2\.go:\d+\] EOF", line))


def test_exec_is_recorded_with_what_ran_and_how_it_ended(kubectl: Kubectl, fronted: Proxy) -> None:
    """The record of an exec has the argv, whether it had a terminal and input, and the exit code from the stream."""
    seen = audit_ids(fronted)
    done = kubectl.run(kubectl.fronted, "exec", "-i", "toolbox", "--", "sh", "-c", "wc -c; exit 7", stdin=b"x" * 70_000)
    assert (done.stdout.strip(), done.returncode) == (b"70000", 7)
    (end,) = [end for end in calls_since(fronted, seen, "kubectl exec") if end.get("subresource") == "exec"]
    assert end["exec_argv"] == ["sh", "-c", "wc -c; exit 7"]
    assert (end["exec_stdin"], end["exec_tty"], end["exit_code"]) == (True, False, 7)
    assert (end["status"], end["reason"]) == (101, "NonZeroExitCode")
    assert end["request_bytes"] > 70_000


def test_megabytes_pass_through_exec_unharmed(kubectl: Kubectl) -> None:
    """10 MB into a container and back out arrive as they were sent."""
    data = bytes(range(256)) * 40_960
    done = kubectl.run(kubectl.fronted, "exec", "-i", "toolbox", "--", "cat", stdin=data)
    assert done.stdout == data


def test_port_forward_is_recorded_with_its_ports(kubectl: Kubectl, fronted: Proxy) -> None:
    """Bytes pass, and the ports, which no URL tells, are read from the stream."""
    import urllib.request

    seen = audit_ids(fronted)
    with kubectl.running(kubectl.fronted, "port-forward", "pod/toolbox", ":80") as forwarding:
        assert forwarding.stdout is not None
        where = re.search(rb"127\.0\.0\.1:(\d+)", forwarding.stdout.readline())
        assert where is not None
        with urllib.request.urlopen(f"http://127.0.0.1:{where[1].decode()}/") as answer:
            assert b"toolbox" in answer.read()
    ends = fronted.ended(lambda end: end["auditID"] not in seen and end.get("subresource") == "portforward")
    assert (ends[0]["status"], ends[0]["ports"]) == (101, [80])


def test_a_watch_shows_events_as_they_come(kubectl: Kubectl, fronted: Proxy) -> None:
    """An object made during a watch is seen while the watch goes on; the watch's start is on record before its end."""
    seen = audit_ids(fronted)
    name = f"seen-{kubectl.home.name}"
    with kubectl.running(kubectl.fronted, "get", "cm", "--watch-only", "-o", "name") as watching:
        wait_until(lambda: _started_watch(fronted, seen), "the watch to begin")
        kubectl.run(kubectl.direct, "create", "cm", name)
        assert watching.stdout is not None
        assert watching.stdout.readline().strip() == f"configmap/{name}".encode()
    kubectl.run(kubectl.direct, "delete", "cm", name)
    (end,) = fronted.ended(lambda end: end["auditID"] not in seen and end["verb"] == "watch")
    assert end["outcome"] == "client_gone"


def _started_watch(fronted: Proxy, seen: set[str]) -> bool:
    stages = [line["stage"] for line in fronted.lines() if line.get("verb") == "watch" and line["auditID"] not in seen]
    return stages == ["RequestReceived", "ResponseStarted"]


MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: main, image: "{image}"}}]}}
"""


def test_a_life_of_a_deployment(kubectl: Kubectl, fronted: Proxy, tmp_path: Path) -> None:
    """create, apply, patch, label, scale, rollout and delete do what they do directly, and each is one command."""
    name, manifest = f"life-{kubectl.home.name}", tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST.format(name=name, image="web:1"))
    applied = tmp_path / "applied.yaml"
    applied.write_text(MANIFEST.format(name=name, image="web:2"))
    force = ["--server-side", "--force-conflicts"]
    steps: list[tuple[list[str], str, set[tuple[str, str, int]]]] = [
        (["create", "cm", name, "--from-literal=a=b"], "create configmap", {("create", "configmaps", 201)}),
        (["apply", "-f", str(manifest)], "apply", {("get", "deployments", 404), ("create", "deployments", 201)}),
        (["apply", "-f", str(applied)], "apply", {("get", "deployments", 200), ("patch", "deployments", 200)}),
        (["apply", *force, "-f", str(applied)], "apply", {("patch", "deployments", 200)}),
        (["label", "deploy", name, "tier=front"], "label", {("patch", "deployments", 200)}),
        (["patch", "deploy", name, "-p", '{"spec":{"paused":false}}'], "patch", {("patch", "deployments", 200)}),
        (["scale", "deploy", name, "--replicas=2"], "scale", {("patch", "deployments/scale", 200)}),
        (["rollout", "status", f"deploy/{name}"], "rollout status", {("watch", "deployments", 200)}),
        (["delete", "cm", name], "delete", {("delete", "configmaps", 200)}),
        (["delete", "deploy", name], "delete", {("delete", "deployments", 200)}),
    ]
    for arguments, command, expected in steps:
        seen = audit_ids(fronted)
        done = kubectl.run(kubectl.fronted, *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
        ends = calls_since(fronted, seen, f"kubectl {command}")
        assert expected <= set(map(what, ends)), arguments
        assert all(end["user"] == ends[0]["user"] for end in ends)


def test_a_denial_reads_as_the_api_servers_own(kubectl: Kubectl, demo: DemoCluster, fronted: Proxy) -> None:
    """Somebody without the right is told so by the API server under their own name, and the record says deny."""
    viewer = fronted.kubeconfig_of("viewer")
    seen = audit_ids(fronted)
    through = kubectl.run(viewer, "delete", "pod", "toolbox")
    direct = kubectl.run(demo.kubeconfig, "--as=viewer", "delete", "pod", "toolbox")
    assert (through.stderr, through.returncode) == (direct.stderr, 1)
    assert b'User "viewer" cannot delete' in through.stderr
    end = calls_since(fronted, seen, "kubectl delete")[-1]
    assert what(end) == ("delete", "pods", 403)
    assert (end["decision"], end["decided_by"], end["reason"]) == ("deny", "apiserver", "Forbidden")
    assert (end["user"], end["impersonated"], end["upstream_user"]) == ("viewer", True, "viewer")


def test_the_owner_is_who_their_kubeconfig_says(kubectl: Kubectl, fronted: Proxy) -> None:
    """Whoever runs the proxy acts upstream as before, and the record names both them and that identity."""
    seen = audit_ids(fronted)
    assert b"demo-owner" in kubectl.run(kubectl.fronted, "auth", "whoami").stdout
    end = calls_since(fronted, seen, "kubectl auth whoami")[-1]
    assert (end["impersonated"], end["upstream_user"]) == (False, "demo-owner")


def test_groups_reach_the_api_server(kubectl: Kubectl, fronted: Proxy) -> None:
    """The groups a kubeconfig was made with are the user's at the API server."""
    who = kubectl.run(fronted.kubeconfig_of("gina", ["team-a", "team b"]), "auth", "whoami", "-o", "json")
    assert json.loads(who.stdout)["status"]["userInfo"]["groups"] == ["team-a", "team b", "system:authenticated"]


@pytest.mark.parametrize(
    ("arguments", "says", "status"),
    [
        (["--token=kap_wrong", "get", "ns"], b"the token is not known to this proxy", 401),
        (["--server={url}/clusters/elsewhere", "get", "ns"], b"may call", 403),
        (["--as=admin", "get", "ns"], b"leave out kubectl's --as", 403),
        (["--server={url}", "get", "ns"], b"/clusters/<name>", 403),
        (["--server={url}", "get", "--raw=/healthz"], b"kubectl up to 1.33", 403),
    ],
    ids=["wrong token", "unknown cluster", "--as", "no prefix", "no prefix, raw"],
)
def test_a_refusal_tells_people_what_to_do(
    kubectl: Kubectl, fronted: Proxy, arguments: list[str], says: bytes, status: int
) -> None:
    """What the proxy refuses ends kubectl with 1 and a sentence, and stands in the trail as a refusal."""
    seen = audit_ids(fronted)
    done = kubectl.run(fronted.kubeconfig, *(argument.format(url=fronted.url) for argument in arguments))
    assert done.returncode == 1
    assert says in done.stderr
    end = fronted.ended(lambda end: end["auditID"] not in seen and end.get("status") == status)[-1]
    assert (end["outcome"], end["decided_by"]) == ("refused", "proxy")
    assert end["decision"] == "deny"


def test_another_users_session_changes_nothing_for_them(fronted: Proxy) -> None:
    """Two users who send the same Kubectl-Session have two commands."""
    session = "11111111-2222-4333-8444-555555555555"
    seen = audit_ids(fronted)
    for user in ("viewer", "developer"):
        _curl(fronted, fronted.kubeconfig_of(user), "/api/v1/namespaces/shop/pods", session)
    ends = fronted.ended(lambda end: end["auditID"] not in seen and end.get("command") == "kubectl get", 2)
    assert {end["user"] for end in ends} == {"viewer", "developer"}
    assert len({end["command_id"] for end in ends}) == 2


def test_clients_without_a_session_make_calls_without_a_command(fronted: Proxy) -> None:
    """Calls of curl are recorded as `api`, in no command."""
    seen = audit_ids(fronted)
    _curl(fronted, fronted.kubeconfig, "/version", None)
    (end,) = fronted.ended(lambda end: end["auditID"] not in seen)
    assert end["access_method"] == "api"
    assert "command_id" not in end
    assert "command" not in end


def _curl(fronted: Proxy, kubeconfig: Path, path: str, session: str | None) -> None:
    import ssl
    import urllib.request

    import yaml

    token = yaml.safe_load(kubeconfig.read_bytes())["users"][0]["user"]["token"]
    headers = {"Authorization": f"Bearer {token}"}
    if session:
        headers |= {"Kubectl-Session": session, "Kubectl-Command": "kubectl get"}
    request = urllib.request.Request(f"{fronted.url}/clusters/demo{path}", headers=headers)
    trust = ssl.create_default_context(cafile=str(fronted.authority))
    with urllib.request.urlopen(request, context=trust) as answer:
        answer.read()


def test_the_trail_agrees_with_the_api_servers_own_audit_log(demo: DemoCluster, fronted: Proxy) -> None:
    """Call by call: the same ids, verbs, objects, URIs, users and codes, and nothing that only one of the two knows."""
    with_kubectl = Kubectl(new_kubectl(), demo.kubeconfig, fronted.kubeconfig, fronted.data_dir / "cache")
    for arguments in (
        ["get", "po", "-A"],
        ["exec", "toolbox", "--", "true"],
        ["create", "cm", "agree"],
        ["delete", "cm", "agree"],
    ):
        assert with_kubectl.run(fronted.kubeconfig, *arguments).returncode == 0
    ours = {
        line["auditID"]: line
        for line in fronted.lines()
        if line.get("stage") == "ResponseComplete" and line["decided_by"] == "apiserver"
    }
    theirs = wait_until(lambda: _complete_events(demo, ours), "the API server to have logged every call")
    passed = {event["auditID"] for event in _events(demo) if "kubectl" in event.get("userAgent", "")}
    direct = {event["auditID"] for event in theirs.values()} - set(ours)
    assert not direct
    for audit_id, line in ours.items():
        event = theirs[audit_id]
        reference = event.get("objectRef", {})
        assert line["requestURI"] == event["requestURI"]
        assert line["verb"] == event["verb"]
        assert line["status"] == event["responseStatus"]["code"]
        for key, theirs_key in (("resource",) * 2, ("subresource",) * 2, ("namespace",) * 2, ("group", "apiGroup")):
            assert line.get(key, "") == reference.get(theirs_key, ""), (key, line, event)
        if line["impersonated"]:
            assert line["user"] == event["impersonatedUser"]["username"]
        else:
            assert line["upstream_user"] == event["user"]["username"]
        assert line["sourceIPs"][0] == event["sourceIPs"][0]
    assert passed >= {audit_id for audit_id, line in ours.items() if "kubectl" in line.get("userAgent", "")}


def _events(demo: DemoCluster) -> list[Record]:
    text = demo.audit_log.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _complete_events(demo: DemoCluster, ours: dict[str, Record]) -> dict[str, Record]:
    found = {e["auditID"]: e for e in _events(demo) if e["stage"] == "ResponseComplete" and e["auditID"] in ours}
    return found if len(found) == len(ours) else {}


def test_every_call_of_the_proxy_in_the_api_servers_log_has_our_record(demo: DemoCluster, tmp_path: Path) -> None:
    """Nothing reaches the cluster through the proxy that the trail does not have."""
    with proxy(["--kubeconfig", str(demo.kubeconfig)], tmp_path / "data", tmp_path / "log") as own:
        before = {event["auditID"] for event in _events(demo)}
        runner = Kubectl(new_kubectl(), demo.kubeconfig, own.kubeconfig, tmp_path)
        for arguments in (["get", "po", "-A"], ["get", "ns"], ["logs", "toolbox"]):
            assert runner.run(own.kubeconfig, *arguments).returncode == 0
        recorded = audit_ids(own)
        since = [event for event in _events(demo) if event["auditID"] not in before]
        assert {event["auditID"] for event in since if event["userAgent"].startswith("kubectl")} == recorded
