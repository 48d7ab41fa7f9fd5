"""kubectl in front of the demo: streams of its simulated pods, who calls, and what the API server knows of the calls.

All else that each kubectl can do is in the modules test_every_kubectl_*, streams of real containers beside them.
"""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube_audit_proxy.demo.cluster import DemoCluster
from servers.kubectls import VERSIONS, new_kubectl
from support.kubectl import Kubectl, on_two_ways
from support.proxies import Proxy, proxy, wait_until
from support.trail import Trail

pytestmark = pytest.mark.servers

Record = dict[str, Any]


@pytest.fixture(params=VERSIONS, scope="module")
def kubectl(
    request: pytest.FixtureRequest, demo: DemoCluster, fronted: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Kubectl:
    """Give a kubectl of each version."""
    return on_two_ways(request.param, tmp_path_factory.mktemp("streams"), fronted, demo, shared="default")


def run(kubeconfig: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the newest kubectl, with a discovery cache beside the kubeconfig."""
    argv = [str(new_kubectl()), f"--kubeconfig={kubeconfig}", f"--cache-dir={kubeconfig.parent / 'cache'}", *arguments]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def audit_ids(fronted: Proxy) -> set[str]:
    """The calls that have been recorded so far."""
    return {line["auditID"] for line in fronted.lines() if line["kind"] == "call"}


@pytest.mark.parametrize(("script", "code"), [("echo 'a  b'; echo c >&2", 0), ("echo before; exit 3", 3)])
def test_exec_shows_what_it_shows_directly(kubectl: Kubectl, script: str, code: int) -> None:
    """Output, errors and the exit code of what runs in a container are those of the command without the proxy."""
    argv = ["exec", "toolbox", "--", "sh", "-c", script]
    direct, fronted = (kubectl.run(place, argv) for place in (kubectl.direct, kubectl.fronted))
    assert (fronted.stdout, without_noise(fronted.stderr), fronted.code) == (
        direct.stdout, without_noise(direct.stderr), code,
    )  # fmt: skip


def without_noise(stderr: str) -> list[str]:
    """Errors but those that kubectl up to 1.28 logs, by chance, of a SPDY stream that ends sooner than it expects."""
    return [line for line in stderr.splitlines() if not re.match(r"E\d{4} .*v2\.go:\d+\] EOF", line)]


def test_exec_is_recorded_with_what_ran_and_how_it_ended(kubectl: Kubectl) -> None:
    """The record of an exec has the argv, whether it had a terminal and input, and the exit code from the stream."""
    trail = Trail(kubectl.proxy)
    argv = ["sh", "-c", "wc -c; exit 7"]
    done = kubectl.run(kubectl.fronted, ["exec", "-i", "toolbox", "--", *argv], stdin="x" * 70_000)
    assert (done.stdout.strip(), done.code) == ("70000", 7)
    end = trail.end(lambda line: line.get("subresource") == "exec")
    assert end["exec_argv"] == argv
    assert (end["exec_stdin"], end["exec_tty"], end["exit_code"]) == (True, False, 7)
    assert (end["status"], end["reason"]) == (101, "NonZeroExitCode")
    assert end["request_bytes"] > 70_000


def test_megabytes_pass_through_exec_unharmed(kubectl: Kubectl) -> None:
    """10 MB into a container and back out arrive as they were sent."""
    text = "".join(map(chr, range(0x20, 0x7F))) * 110_000
    assert kubectl.run(kubectl.fronted, "exec -i toolbox -- cat", stdin=text).stdout == text


def test_port_forward_is_recorded_with_its_ports(kubectl: Kubectl) -> None:
    """Bytes pass, and the ports, which no URL tells, are read from the stream."""
    trail = Trail(kubectl.proxy)
    with kubectl.beside(kubectl.fronted, "port-forward pod/toolbox :80") as forwarding:
        where = wait_until(lambda: re.search(r"127\.0\.0\.1:(\d+)", forwarding.text()), "a port to be forwarded")
        assert where is not None
        with urllib.request.urlopen(f"http://127.0.0.1:{where[1]}/") as answer:
            assert b"toolbox" in answer.read()
    end = trail.end(lambda line: line.get("subresource") == "portforward")
    assert (end["status"], end["ports"]) == (101, [80])


def test_the_owner_is_who_their_kubeconfig_says(fronted: Proxy) -> None:
    """Whoever runs the proxy acts upstream as before, and the record names both them and that identity."""
    trail = Trail(fronted)
    assert "demo-owner" in run(fronted.kubeconfig, "auth", "whoami").stdout
    end = trail.end(lambda line: line.get("resource") == "selfsubjectreviews")
    assert (end["impersonated"], end["upstream_user"]) == (False, "demo-owner")


def test_groups_reach_the_api_server(fronted: Proxy) -> None:
    """The groups a kubeconfig was made with are the user's at the API server."""
    who = run(fronted.kubeconfig_of("gina", ["team-a", "team b"]), "auth", "whoami", "-o", "json")
    assert json.loads(who.stdout)["status"]["userInfo"]["groups"] == ["team-a", "team b", "system:authenticated"]


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
    for arguments in (
        ["get", "po", "-A"],
        ["exec", "toolbox", "--", "true"],
        ["create", "cm", "agree"],
        ["delete", "cm", "agree"],
    ):
        assert run(fronted.kubeconfig, *arguments).returncode == 0
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
        assert line.get("verb", "") == event["verb"]
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
    text = demo.audit_log.read_bytes()
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def _complete_events(demo: DemoCluster, ours: dict[str, Record]) -> dict[str, Record]:
    found = {e["auditID"]: e for e in _events(demo) if e["stage"] == "ResponseComplete" and e["auditID"] in ours}
    return found if len(found) == len(ours) else {}


def test_every_call_of_the_proxy_in_the_api_servers_log_has_our_record(demo: DemoCluster, tmp_path: Path) -> None:
    """Nothing reaches the cluster through the proxy that the trail does not have."""
    with proxy(["--kubeconfig", str(demo.kubeconfig)], tmp_path / "data", tmp_path / "log") as own:
        before = {event["auditID"] for event in _events(demo)}
        for arguments in (["get", "po", "-A"], ["get", "ns"], ["logs", "toolbox"]):
            assert run(own.kubeconfig, *arguments).returncode == 0
        recorded = audit_ids(own)
        since = [event for event in _events(demo) if event["auditID"] not in before]
        assert {event["auditID"] for event in since if event["userAgent"].startswith("kubectl")} == recorded
