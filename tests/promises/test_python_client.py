"""The Python client of Kubernetes: the same through the proxy as without it, and every call on record."""

from __future__ import annotations

import contextlib
import json
import socket
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client, config, utils, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError
from kubernetes.stream import portforward, stream, ws_client
from websocket import WebSocket

from support.proxies import wait_until
from support.trail import Trail, has, what
from support.ways import Way, alike, direct, through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kube_audit_proxy.demo.cluster import DemoCluster
    from support.proxies import Proxy

pytestmark = pytest.mark.servers

_NAMESPACE = "default"


@contextlib.contextmanager
def _api(way: Way) -> Iterator[Any]:
    """A client as its users make it, from a kubeconfig."""
    with config.new_client_from_config(str(way.kubeconfig)) as api:
        try:
            yield api
        finally:
            api.rest_client.pool_manager.clear()


@dataclass(frozen=True, slots=True)
class Clients:
    """The same client on both ways."""

    direct: Any
    fronted: Any


@pytest.fixture(scope="module")
def clients(demo: DemoCluster, fronted: Proxy) -> Iterator[Clients]:
    """Give a client on each way."""
    with _api(direct(demo)) as without, _api(through(fronted)) as behind:
        yield Clients(without, behind)


def _plain(api: Any, value: Any) -> Any:
    """What a call gave, as JSON that can be compared."""
    return alike(api.sanitize_for_serialization(value))


def _config_map(name: str, labels: dict[str, str] | None = None, **data: str) -> Any:
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels=labels), data=data)


@dataclass(frozen=True, slots=True)
class Case:
    """What is done with a client, and what its record has."""

    call: Callable[[Any], Any]
    verb: str
    resource: str
    namespace: str | None = None
    name: str | None = None


READS = {
    "nodes": Case(lambda api: client.CoreV1Api(api).list_node(), "list", "nodes"),
    "one pod": Case(lambda api: client.CoreV1Api(api).read_namespaced_pod("toolbox", _NAMESPACE), "get", "pods",
                    _NAMESPACE, "toolbox"),
    "all namespaces": Case(lambda api: client.CoreV1Api(api).list_service_for_all_namespaces(label_selector="app=web"),
                           "list", "services"),
    "a field selector": Case(
        lambda api: client.CoreV1Api(api).list_namespaced_pod(_NAMESPACE, field_selector="metadata.name=toolbox"),
        "list", "pods", _NAMESPACE, "toolbox"),
    "a group": Case(lambda api: client.AppsV1Api(api).list_namespaced_deployment("shop"), "list", "deployments",
                    "shop"),
    "a scale": Case(lambda api: client.AppsV1Api(api).read_namespaced_deployment_scale("db", "shop"), "get",
                    "deployments/scale", "shop", "db"),
    "logs": Case(lambda api: client.CoreV1Api(api).read_namespaced_pod_log("toolbox", _NAMESPACE, tail_lines=2), "get",
                 "pods/log", _NAMESPACE, "toolbox"),
    "version": Case(lambda api: client.VersionApi(api).get_code(), "get", "/version/"),
    "groups": Case(lambda api: client.ApisApi(api).get_api_versions(), "get", "/apis/"),
    "who am I": Case(lambda api: client.AuthenticationV1Api(api).create_self_subject_review(
        client.V1SelfSubjectReview()), "create", "selfsubjectreviews"),
}  # fmt: skip


@pytest.mark.parametrize("case", READS)
def test_a_read_is_the_same_and_is_recorded(clients: Clients, fronted: Proxy, case: str) -> None:
    """What the client gives is the same, and the record has verb, object, user and the client's own name."""
    asked = READS[case]
    expected = _plain(clients.direct, asked.call(clients.direct))
    trail = Trail(fronted)
    assert _plain(clients.fronted, asked.call(clients.fronted)) == expected
    end = trail.end()
    assert what(end)[:2] == (asked.verb, asked.resource)
    assert has(end, namespace=asked.namespace, name=asked.name, decision="allow", outcome="complete")
    assert has(end, access_method="api", impersonated=False, upstream_user="demo-owner")
    assert end["userAgent"].startswith("OpenAPI-Generator/")
    assert not {"command", "command_id"} & end.keys()


_PATCHES: dict[str, Any] = {
    "application/json-patch+json": [{"op": "add", "path": "/data/b", "value": "2"}],
    "application/merge-patch+json": {"data": {"a": None, "c": "3"}},
    "application/strategic-merge-patch+json": {"metadata": {"labels": {"d": "4"}}},
    "application/apply-patch+yaml": {"apiVersion": "v1", "kind": "ConfigMap", "data": {"e": "5"}},
}


def _life(api: Any, name: str) -> list[Any]:
    """Create, read, patch in every way, replace and delete an object."""
    core = client.CoreV1Api(api)
    seen = [core.create_namespaced_config_map(_NAMESPACE, _config_map(name, a="1"))]
    for content_type, body in _PATCHES.items():
        manager = {"field_manager": "tests"} if "apply" in content_type else {}
        asked = (name, _NAMESPACE, body)
        seen.append(core.patch_namespaced_config_map(*asked, _content_type=content_type, **manager))
    seen.append(core.read_namespaced_config_map(name, _NAMESPACE))
    seen.append(core.replace_namespaced_config_map(name, _NAMESPACE, _config_map(name, f="6")))
    seen.append(core.delete_namespaced_config_map(name, _NAMESPACE, body=client.V1DeleteOptions()))
    return [_plain(api, each) for each in seen]


def test_a_life_of_an_object(clients: Clients, fronted: Proxy) -> None:
    """Each write has the result that it has without the proxy, and stands in the trail under its verb, in order."""
    name = f"python-{uuid.uuid4()}"
    expected = _life(clients.direct, name)
    trail = Trail(fronted)
    assert _life(clients.fronted, name) == expected
    verbs = ["create", *["patch"] * len(_PATCHES), "get", "update", "delete"]
    ends = trail.ends(len(verbs))
    assert [end["verb"] for end in ends] == verbs
    assert all(has(end, resource="configmaps", decision="allow") for end in ends)
    assert [end.get("name") for end in ends] == [None, *[name] * (len(verbs) - 1)]
    assert [end["status"] for end in ends] == [201, *[200] * (len(verbs) - 1)]


def test_a_deployment_is_patched_and_scaled(clients: Clients, fronted: Proxy) -> None:
    """Strategic merges merge by name, and scale and status are subresources in the record."""
    name = f"python-{uuid.uuid4()}"
    container = client.V1Container(name="main", image="web:1", env=[client.V1EnvVar(name="A", value="1")])
    labels = {"app": name}
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels), spec=client.V1PodSpec(containers=[container])
    )
    spec = client.V1DeploymentSpec(selector=client.V1LabelSelector(match_labels=labels), template=template, replicas=0)
    apps = client.AppsV1Api(clients.fronted)
    trail = Trail(fronted)
    apps.create_namespaced_deployment(
        _NAMESPACE, client.V1Deployment(metadata=client.V1ObjectMeta(name=name), spec=spec)
    )
    added = {"spec": {"template": {"spec": {"containers": [{"name": "main", "env": [{"name": "B", "value": "2"}]}]}}}}
    patched = apps.patch_namespaced_deployment(name, _NAMESPACE, added)
    assert {each.name for each in patched.spec.template.spec.containers[0].env} == {"A", "B"}
    scaled = apps.patch_namespaced_deployment_scale(name, _NAMESPACE, {"spec": {"replicas": 1}})
    assert scaled.spec.replicas == 1
    ready = wait_until(
        lambda: apps.read_namespaced_deployment_status(name, _NAMESPACE).status.ready_replicas, "a pod to be ready"
    )
    assert ready == 1
    apps.delete_namespaced_deployment(name, _NAMESPACE, propagation_policy="Background")
    made = [what(end) for end in trail.ends(5)]
    assert made[:3] == [
        ("create", "deployments", 201),
        ("patch", "deployments", 200),
        ("patch", "deployments/scale", 200),
    ]
    assert set(made[3:-1]) == {("get", "deployments/status", 200)}
    assert made[-1] == ("delete", "deployments", 200)


# Failures.


def _twice(api: Any) -> None:
    core = client.CoreV1Api(api)
    core.create_namespaced_config_map(_NAMESPACE, _config_map("kube-root-ca.crt"))


def _stale(api: Any) -> None:
    core = client.CoreV1Api(api)
    body = _config_map("kube-root-ca.crt")
    body.metadata.resource_version = "1"
    core.replace_namespaced_config_map("kube-root-ca.crt", _NAMESPACE, body)


FAILURES: dict[str, tuple[Callable[[Any], Any], int, str]] = {
    "not there": (lambda api: client.CoreV1Api(api).read_namespaced_pod("nobody", _NAMESPACE), 404, "NotFound"),
    "no such log": (lambda api: client.CoreV1Api(api).read_namespaced_pod_log("toolbox", _NAMESPACE, container="no"),
                    400, "BadRequest"),
    "there already": (_twice, 409, "AlreadyExists"),
    "changed since": (_stale, 409, "Conflict"),
    "invalid": (lambda api: client.CoreV1Api(api).create_namespaced_config_map(_NAMESPACE, _config_map("Not Valid")),
                422, "Invalid"),
    "a bad selector": (lambda api: client.CoreV1Api(api).list_node(label_selector="a in b"), 400, "BadRequest"),
    "too old": (lambda api: client.CoreV1Api(api).list_node(_continue="bm8="), 400, "BadRequest"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_the_api_servers_own(clients: Clients, fronted: Proxy, case: str) -> None:
    """A failure is the same ApiException with the same Status, whose reason and message are on record."""
    call, code, reason = FAILURES[case]
    with pytest.raises(ApiException) as expected:
        call(clients.direct)
    trail = Trail(fronted)
    with pytest.raises(ApiException) as raised:
        call(clients.fronted)
    assert (raised.value.status, raised.value.reason) == (expected.value.status, expected.value.reason)
    status = json.loads(raised.value.body)
    assert status == json.loads(expected.value.body)
    assert (raised.value.status, status["reason"]) == (code, reason)
    end = trail.ends()[-1]
    assert has(end, status=code, reason=reason, message=status["message"], decided_by="apiserver", decision="allow")


def test_a_denial_is_the_api_servers_own(clients: Clients, fronted: Proxy) -> None:
    """Who may not gets the Status that an impersonated user gets without the proxy, and the record says deny."""

    def delete(api: Any, **headers: str) -> dict[str, Any]:
        with pytest.raises(ApiException) as refused:
            client.CoreV1Api(api).delete_namespaced_pod("toolbox", _NAMESPACE, _headers=headers)
        assert refused.value.status == 403
        status: dict[str, Any] = json.loads(refused.value.body)
        return status

    expected = delete(clients.direct, **{"Impersonate-User": "viewer"})
    trail = Trail(fronted)
    with _api(through(fronted, "viewer")) as viewer:
        assert delete(viewer) == expected
    end = trail.end()
    assert has(end, user="viewer", decision="deny", decided_by="apiserver", reason="Forbidden", verb="delete")


def test_a_refusal_of_the_proxy_is_a_status(clients: Clients, fronted: Proxy) -> None:
    """A wrong token and an attempt to be somebody else end as ApiExceptions that say so."""
    trail = Trail(fronted)
    with _api(through(fronted)) as api:
        api.configuration.api_key = {"authorization": "Bearer kap_wrong"}
        api.configuration.refresh_api_key_hook = None
        with pytest.raises(ApiException) as unknown:
            client.CoreV1Api(api).list_node()
    with pytest.raises(ApiException) as impersonating:
        client.CoreV1Api(clients.fronted).list_node(_headers={"Impersonate-User": "viewer"})
    assert [error.value.status for error in (unknown, impersonating)] == [401, 403]
    messages = [json.loads(error.value.body)["message"] for error in (unknown, impersonating)]
    ends = trail.ends(2)
    assert [end["message"] for end in ends] == messages
    assert all(has(end, outcome="refused", decided_by="proxy", decision="deny") for end in ends)


# Lists and watches.


@pytest.fixture
def label(clients: Clients) -> Iterator[str]:
    """Give a label of one test's own; what has it is deleted in the end."""
    label = f"test={uuid.uuid4()}"
    yield label
    client.CoreV1Api(clients.direct).delete_collection_namespaced_config_map(_NAMESPACE, label_selector=label)


def _make(api: Any, label: str, *names: str) -> None:
    key, _, value = label.partition("=")
    for name in names:
        body = _config_map(f"{name}-{value}", {key: value})
        client.CoreV1Api(api).create_namespaced_config_map(_NAMESPACE, body)


def test_a_list_comes_in_pages(clients: Clients, fronted: Proxy, label: str) -> None:
    """Pages of a list give everything once, and each page is a call on record."""
    _make(clients.direct, label, *"abcdefg")
    core = client.CoreV1Api(clients.fronted)
    trail = Trail(fronted)
    names: list[str] = []
    pages, more = 0, None
    while pages == 0 or more:
        page = core.list_namespaced_config_map(_NAMESPACE, label_selector=label, limit=3, _continue=more)
        names += [each.metadata.name[0] for each in page.items]
        pages, more = pages + 1, page.metadata._continue  # noqa: SLF001 - the client names it so
    assert names == [*"abcdefg"]
    ends = trail.ends(3)
    assert [("continue=" in end["requestURI"], end["verb"]) for end in ends] == [(False, "list"), *[(True, "list")] * 2]
    assert all(has(end, labelSelector=label) for end in ends)


def test_a_watch_shows_what_happens_and_goes_on_from_there(clients: Clients, fronted: Proxy, label: str) -> None:
    """Events come as they happen; a second watch resumes where the first one stopped, without loss or repetition."""
    core = client.CoreV1Api(clients.fronted)
    asked = {"namespace": _NAMESPACE, "label_selector": label}
    trail = Trail(fronted)
    first = watch.Watch()
    seen: list[tuple[str, str]] = []
    _make(clients.direct, label, "a")
    for event in first.stream(core.list_namespaced_config_map, **asked):
        seen.append((event["type"], event["object"].metadata.name[0]))
        if len(seen) == 1:
            _make(clients.direct, label, "b")
        else:
            first.stop()
    assert seen == [("ADDED", "a"), ("ADDED", "b")]
    _make(clients.direct, label, "c")
    client.CoreV1Api(clients.direct).delete_collection_namespaced_config_map(_NAMESPACE, label_selector=label)
    second = watch.Watch()
    version = first.resource_version
    for event in second.stream(core.list_namespaced_config_map, **asked, resource_version=version):
        seen.append((event["type"], event["object"].metadata.name[0]))
        if len(seen) == 6:
            second.stop()
    assert seen[2] == ("ADDED", "c")
    assert sorted(seen[3:]) == [("DELETED", "a"), ("DELETED", "b"), ("DELETED", "c")]
    ends = trail.ends(2)
    assert all(has(end, verb="watch", resource="configmaps", labelSelector=label, status=200) for end in ends)
    assert [end["outcome"] for end in ends] == ["client_gone"] * 2
    assert f"resourceVersion={version}" in ends[1]["requestURI"]


def test_a_watch_ends_when_its_time_is_up(clients: Clients, fronted: Proxy, label: str) -> None:
    """A watch with a timeout ends by itself, with all events, as it does without the proxy; so its record says."""
    _make(clients.direct, label, "a", "b")
    asked = {"namespace": _NAMESPACE, "label_selector": label, "timeout_seconds": 1}
    trail = Trail(fronted)
    types = []
    for api in (clients.direct, clients.fronted):
        core = client.CoreV1Api(api)
        types.append([event["type"] for event in watch.Watch().stream(core.list_namespaced_config_map, **asked)])
    assert types == [["ADDED", "ADDED"]] * 2
    assert has(trail.end(), verb="watch", outcome="complete", status=200)


def test_a_list_by_watch_ends_with_its_bookmark(clients: Clients, fronted: Proxy, label: str) -> None:
    """A watch that begins with a list gives it whole, then the bookmark that says so."""
    _make(clients.direct, label, "a", "b")
    core = client.CoreV1Api(clients.fronted)
    streaming = {"send_initial_events": True, "resource_version_match": "NotOlderThan", "allow_watch_bookmarks": True}
    trail = Trail(fronted)
    watching = watch.Watch()
    types = []
    for event in watching.stream(core.list_namespaced_config_map, _NAMESPACE, label_selector=label, **streaming):
        types.append(event["type"])
        if event["type"] == "BOOKMARK":
            watching.stop()
    assert types == ["ADDED", "ADDED", "BOOKMARK"]
    assert has(trail.end(), verb="watch", status=200)


def test_a_watch_from_too_long_ago_is_told(clients: Clients, fronted: Proxy) -> None:
    """What the API server says within a stream is the client's to read: a version that it no longer has.

    What it has of a kind begins when that is made.
    """
    errors = []
    with _own_kind(clients) as where:
        trail = Trail(fronted)
        for api in (clients.direct, clients.fronted):
            listing = client.CustomObjectsApi(api).list_namespaced_custom_object
            with pytest.raises(ApiException) as raised:
                list(watch.Watch().stream(listing, *where, resource_version="1", timeout_seconds=1))
            errors.append((raised.value.status, raised.value.reason.split(":")[0]))
        assert errors == [(410, "Expired")] * 2
        assert has(trail.end(), verb="watch", resource=where[-1], status=200)


def test_logs_are_followed(clients: Clients, fronted: Proxy) -> None:
    """Lines of a log that is followed come as a stream, and the record says who stopped it."""
    core = client.CoreV1Api(clients.fronted)
    trail = Trail(fronted)
    following = watch.Watch()
    lines = []
    for line in following.stream(core.read_namespaced_pod_log, "toolbox", _NAMESPACE, tail_lines=1):
        lines.append(line)
        following.stop()
    assert lines == ["waiting for somebody to need a tool"]
    end = trail.end()
    assert has(end, subresource="log", outcome="client_gone", status=200)
    assert "follow=True" in end["requestURI"]


# Streams over a websocket.

_OFFERS = {"v5 or v4": "", "v4": "v4.channel.k8s.io"}
"""What the client offers: by itself, and as its releases before 36 did."""


@pytest.fixture(autouse=True)
def _websockets_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the websockets that the client leaves open, as after every exec whose output it gives at once."""
    made: list[WebSocket] = []

    class Remembered(WebSocket):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(ws_client, "WebSocket", Remembered)
    yield
    for each in made:
        if each.sock is not None:
            each.sock.close()


@pytest.fixture(params=_OFFERS)
def offering(request: pytest.FixtureRequest, clients: Clients) -> Iterator[Any]:
    """Give the client behind the proxy, offering one or two subprotocols."""
    offer = _OFFERS[request.param]
    if offer:
        clients.fronted.set_default_header("sec-websocket-protocol", offer)
    yield clients.fronted
    clients.fronted.default_headers.pop("sec-websocket-protocol", None)


def _exec(api: Any, *argv: str, **options: Any) -> Any:
    asked = {"command": [*argv], "stdin": False, "stdout": True, "stderr": True, "tty": False, "container": "toolbox"}
    # `stream` puts a websocket in the place of the client's requests for as long as the call lasts.
    core = client.CoreV1Api(api)
    return stream(core.connect_get_namespaced_pod_exec, "toolbox", _NAMESPACE, **(asked | options))


def test_exec_has_its_output_and_exit_code(offering: Any, fronted: Proxy) -> None:
    """Both outputs and the exit code arrive, and the record has command line, container and exit code."""
    argv = ["sh", "-c", "echo out; echo err >&2; exit 3"]
    trail = Trail(fronted)
    running = _exec(offering, *argv, _preload_content=False)
    running.run_forever(timeout=60)
    assert (running.read_stdout(), running.read_stderr(), running.returncode) == ("out\n", "err\n", 3)
    running.close()
    end = trail.end()
    assert has(end, verb="get", resource="pods", subresource="exec", name="toolbox", status=101, outcome="complete")
    assert has(end, exec_argv=argv, exec_container="toolbox", exec_tty=False, exec_stdin=False, exit_code=3)
    assert has(end, access_method="api", upgrade="websocket", subprotocol=running.subprotocol, decision="allow")
    assert running.subprotocol in {"v5.channel.k8s.io", "v4.channel.k8s.io"}


def test_exec_gives_all_its_output_at_once(clients: Clients, fronted: Proxy) -> None:
    """The simple form gives the output that it gives without the proxy."""
    argv = ["sh", "-c", "seq 1 20000"]
    expected = _exec(clients.direct, *argv)
    trail = Trail(fronted)
    assert _exec(clients.fronted, *argv) == expected
    assert expected.endswith("20000\n")
    assert has(trail.end(), exit_code=0, exec_argv=argv)


def test_exec_is_talked_to(offering: Any, fronted: Proxy) -> None:
    """A session with questions and answers goes both ways, on a terminal too."""
    for tty in (False, True):
        trail = Trail(fronted)
        session = _exec(offering, "sh", stdin=True, tty=tty, stderr=not tty, _preload_content=False)
        session.write_stdin("echo $((6 * 7))\n")
        heard = ""
        while "42" not in heard:
            heard += session.readline_stdout(timeout=60)
        session.write_stdin("exit 5\n")
        session.run_forever(timeout=60)
        assert session.returncode == 5
        session.close()
        assert has(trail.end(), exec_stdin=True, exec_tty=tty, exec_argv=["sh"], exit_code=5)


def test_exec_takes_megabytes(offering: Any, fronted: Proxy) -> None:
    """Megabytes into a command and back out of it arrive as they were sent."""
    data = bytes(range(256)) * 8192
    trail = Trail(fronted)
    copy = _exec(offering, "head", "-c", str(len(data)), stdin=True, _preload_content=False, binary=True)
    heard = b""
    for start in range(0, len(data), 1 << 16):
        copy.write_stdin(data[start : start + (1 << 16)])
        heard += copy.read_stdout(timeout=0)
    while copy.is_open():
        heard += copy.read_stdout(timeout=60)
    heard += copy.read_stdout(timeout=0)
    assert heard == data
    assert copy.returncode == 0
    copy.close()
    end = trail.end()
    assert min(end["request_bytes"], end["response_bytes"]) > len(data)


def _refusal(api: Any, **options: Any) -> dict[str, Any]:
    """The Status with which an exec is refused; the client stumbles over it, and tells it on the way."""
    with pytest.raises((ApiException, AttributeError)) as failed:
        _exec(api, "true", **options)
    error = failed.value if isinstance(failed.value, ApiException) else failed.value.__context__
    assert isinstance(error, ApiException)
    status: dict[str, Any] = json.loads(error.reason.rpartition("-+-+-")[2])
    return status


def test_an_exec_that_cannot_be_is_told(clients: Clients, fronted: Proxy) -> None:
    """An exec that the API server refuses ends with its words, as without the proxy."""
    expected = _refusal(clients.direct, container="nobody")
    trail = Trail(fronted)
    assert _refusal(clients.fronted, container="nobody") == expected
    assert has(trail.end(), status=400, reason="BadRequest", message=expected["message"], decided_by="apiserver")


def test_an_exec_one_may_not_is_told(fronted: Proxy) -> None:
    """Somebody without the right to exec is told so, and the record says deny."""
    trail = Trail(fronted)
    with _api(through(fronted, "viewer")) as viewer:
        assert 'User "viewer" cannot' in _refusal(viewer)["message"]
    assert has(trail.end(), user="viewer", subresource="exec", status=403, decision="deny", decided_by="apiserver")


def test_ports_are_forwarded(offering: Any, fronted: Proxy) -> None:
    """Several ports go over one websocket, each both ways, and all of them are in the record."""
    trail = Trail(fronted)
    ports = (80, 8081)
    core = client.CoreV1Api(offering)
    forwarding = portforward(
        core.connect_get_namespaced_pod_portforward, "toolbox", _NAMESPACE, ports=",".join(map(str, ports))
    )
    pages = [_page(forwarding.socket(port), times) for port, times in zip(ports, (1, 3), strict=True)]
    assert all(f"toolbox, port {port}<" in page for port, page in zip(ports, pages, strict=True))
    assert [forwarding.error(port) for port in ports] == [None, None]
    forwarding.close()
    end = trail.end()
    assert has(end, subresource="portforward", verb="get", status=101, ports=[*ports], decision="allow")
    assert has(end, upgrade="websocket", subprotocol="v4.channel.k8s.io", access_method="api")


def _page(connection: socket.socket, times: int) -> str:
    """Ask for the page of a port, several times over the same connection, and give the last answer."""
    answer = b""
    for _ in range(times):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: pod\r\nX-Padding: " + b"x" * 20_000 + b"\r\n\r\n")
        answer = b""
        while b"</h1>" not in answer:
            data = connection.recv(1 << 16)
            assert data, answer
            answer += data
    return answer.decode()


# The dynamic client, and what builds on it.


def test_the_dynamic_client(clients: Clients, fronted: Proxy, label: str, tmp_path: Path) -> None:
    """Discovery, a whole life of an object, server-side apply, a watch and its exceptions work, all on record."""
    key, _, value = label.partition("=")
    name = f"dynamic-{value}"
    metadata = {"name": name, "labels": {key: value}}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}}
    trail = Trail(fronted)
    dynamic = DynamicClient(clients.fronted, cache_file=str(tmp_path / "discovery"))
    maps = dynamic.resources.get(api_version="v1", kind="ConfigMap")
    assert maps.create(body=body, namespace=_NAMESPACE).data.a == "1"
    with pytest.raises(ConflictError):
        maps.create(body=body, namespace=_NAMESPACE)
    patch = {"data": {"b": "2"}}
    kind = "application/merge-patch+json"
    assert maps.patch(name=name, namespace=_NAMESPACE, body=patch, content_type=kind).data.b == "2"
    applied = {**body, "data": {"c": "3"}}
    assert maps.server_side_apply(applied, name=name, namespace=_NAMESPACE, field_manager="tests").data.c == "3"
    assert [item.metadata.name for item in maps.get(namespace=_NAMESPACE, label_selector=label).items] == [name]
    events = maps.watch(namespace=_NAMESPACE, label_selector=label, timeout=1)
    assert [(event["type"], event["object"].metadata.name) for event in events] == [("ADDED", name)]
    maps.delete(name=name, namespace=_NAMESPACE)
    with pytest.raises(NotFoundError):
        maps.get(name=name, namespace=_NAMESPACE)
    made = [what(end) for end in trail.ends(9) if end.get("resource") == "configmaps"]
    expected = [("create", 201), ("create", 409), ("patch", 200), ("patch", 200), ("list", 200), ("watch", 200)]
    assert made == [(verb, "configmaps", code) for verb, code in [*expected, ("delete", 200), ("get", 404)]]


@contextlib.contextmanager
def _own_kind(clients: Clients) -> Iterator[tuple[str, str, str, str]]:
    """Make a kind for the block; give its group, version, the namespace to use, and its plural."""
    group, plural = f"g{uuid.uuid4().hex[:8]}.example.com", "widgets"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = client.V1CustomResourceDefinitionVersion(name="v1", served=True, storage=True, schema=schema)
    names = client.V1CustomResourceDefinitionNames(kind="Widget", plural=plural)
    spec = client.V1CustomResourceDefinitionSpec(group=group, names=names, scope="Namespaced", versions=[version])
    metadata = client.V1ObjectMeta(name=f"{plural}.{group}")
    extensions = client.ApiextensionsV1Api(clients.fronted)
    extensions.create_custom_resource_definition(client.V1CustomResourceDefinition(metadata=metadata, spec=spec))
    try:
        custom = client.CustomObjectsApi(clients.fronted)
        wait_until(lambda: _lists(custom, group, plural), "the new kind to be served")
        yield group, "v1", _NAMESPACE, plural
    finally:
        extensions.delete_custom_resource_definition(metadata.name)


def test_a_resource_of_ones_own(clients: Clients, fronted: Proxy) -> None:
    """A kind that is made during the run is used like any other, and is on record with its group."""
    custom = client.CustomObjectsApi(clients.fronted)
    with _own_kind(clients) as where:
        group, _, _, plural = where
        body = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "one"}, "size": 1}
        trail = Trail(fronted)
        custom.create_namespaced_custom_object(*where, body)
        patched = custom.patch_namespaced_custom_object(*where, "one", {"size": 2})
        custom.delete_namespaced_custom_object(*where, "one")
        assert patched["size"] == 2
        ends = trail.ends(3)
        assert [what(end)[:2] for end in ends] == [(verb, plural) for verb in ("create", "patch", "delete")]
        assert all(has(end, group=group, version="v1", namespace=_NAMESPACE) for end in ends)


def _lists(custom: Any, group: str, plural: str) -> bool:
    try:
        custom.list_namespaced_custom_object(group, "v1", _NAMESPACE, plural)
    except ApiException:
        return False
    return True


def test_objects_are_created_from_yaml(clients: Clients, fronted: Proxy, label: str, tmp_path: Path) -> None:
    """A file of several objects is created, each by a call on record."""
    key, _, value = label.partition("=")
    text = "---\n".join(
        json.dumps({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": f"yaml-{number}-{value}", "labels": {key: value}},
        }) + "\n"
        for number in range(2)
    )  # fmt: skip
    (tmp_path / "objects.yaml").write_text(text)
    trail = Trail(fronted)
    utils.create_from_yaml(clients.fronted, str(tmp_path / "objects.yaml"))
    assert [what(end) for end in trail.ends(2)] == [("create", "configmaps", 201)] * 2
