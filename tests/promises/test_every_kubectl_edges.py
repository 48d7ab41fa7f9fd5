"""Every kubectl, at the edges: long arguments, large objects, short timeouts, bodies in protobuf."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from servers.kubectls import VERSIONS
from support.kubectl import Kubectl, on_two_ways, own_namespaces, starts
from support.raw import Raw
from support.steps import Step, check
from support.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_audit_proxy.demo.cluster import DemoCluster
    from support.proxies import Proxy

pytestmark = pytest.mark.servers

LONG = ",".join(f"value-{number:06}" for number in range(5_400))
"""70 KB."""


def config_map(name: str, size: int) -> str:
    """A config map with so much in it."""
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "x" * size}})


@pytest.fixture(params=VERSIONS, scope="module")
def kubectl(
    request: pytest.FixtureRequest, demo: DemoCluster, fronted: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubectl]:
    """Give a kubectl of each version, with a namespace on each way."""
    files = {"large.json": config_map("large", 900_000), "too-large.json": config_map("too-large", 4_000_000)}
    given = on_two_ways(request.param, tmp_path_factory.mktemp("edges"), fronted, demo, files=files)
    with own_namespaces(given):
        yield given


def test_a_selector_of_70_kilobytes_passes_and_is_recorded_whole(kubectl: Kubectl) -> None:
    """A request line of 70 KB reaches the API server, and the record has all of it."""
    selector = f"app in ({LONG})"
    (end,) = (
        record
        for record in check(kubectl, Step(f"get cm -l '{selector}'", "list configmaps - 200")).records
        if record["verb"] == "list"
    )
    assert end["labelSelector"] == selector


def test_an_argument_of_70_kilobytes_is_executed_and_recorded_whole(kubectl: Kubectl) -> None:
    """`exec` with an argument of 70 KB runs as it does directly, and the record has the whole command line."""
    trail = Trail(kubectl.proxy)
    argv = ["exec", "toolbox", "--namespace=default", "--", "sh", "-c", "echo ${#0}", LONG]
    plainly, fronted = (kubectl.run(place, argv) for place in (kubectl.direct, kubectl.fronted))
    assert fronted.stdout == plainly.stdout == f"{len(LONG)}\n"
    (end,) = (end for end in trail.ends() if end.get("subresource") == "exec")
    assert end["exec_argv"] == argv[4:]


LARGE = (
    Step("create -f {files}/large.json", "create configmaps - 201"),
    Step("get cm large -o json", "get configmaps large 200"),
    Step("get cm -o yaml", "list configmaps - 200"),
    Step("apply --server-side -f {files}/large.json", "patch configmaps large 200"),
    Step("replace -f {files}/large.json", "update configmaps large 200"),
    Step("create -f {files}/too-large.json", "create configmaps - 413", code=1),
    Step("delete cm large", "delete configmaps large 200"),
)


def test_large_objects_come_and_go_and_too_large_ones_are_refused_alike(kubectl: Kubectl) -> None:
    """900 KB are written, read in gzip and changed; of 4 MB kubectl says what it says directly."""
    for step in LARGE:
        check(kubectl, step)


def test_a_request_timeout_reaches_the_api_server(kubectl: Kubectl) -> None:
    """`--request-timeout` stands in the URI of every call."""
    shown = check(kubectl, Step("get cm --request-timeout=37s", "list configmaps - 200"))
    assert all("timeout=37s" in record["requestURI"] for record in shown.records)


def test_a_command_that_gives_up_at_once_leaves_no_call_open(kubectl: Kubectl) -> None:
    """A timeout of a moment ends kubectl with its own error; whatever it had begun has an end in the trail."""
    trail = Trail(kubectl.proxy)
    plainly, fronted = (
        kubectl.run(place, "get cm --request-timeout=1ms") for place in (kubectl.direct, kubectl.fronted)
    )
    assert (plainly.code, fronted.code) == (1, 1)
    assert fronted.stdout == plainly.stdout == ""
    started = starts(trail)
    ends = trail.ends(len(started)) if started else []
    assert {end["outcome"] for end in ends} <= {"client_gone", "complete"}


def protobuf(*fields: tuple[int, bytes]) -> bytes:
    """A protobuf message of length-delimited fields."""
    return b"".join(bytes([number << 3 | 2]) + _varint(len(content)) + content for number, content in fields)


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + _varint(value >> 7)


def test_protobuf_passes_in_both_directions_and_its_failures_are_read(fronted: Proxy) -> None:
    """A client that speaks protobuf makes an object; when it may not be made again, the record has the reason."""
    type_meta = protobuf((1, b"v1"), (2, b"ConfigMap"))
    data = protobuf((1, b"key"), (2, bytes(range(0x20, 0x7F)) * 9))
    body = b"k8s\x00" + protobuf((1, type_meta), (2, protobuf((1, protobuf((1, b"from-protobuf"))), (2, data))))
    media = "application/vnd.kubernetes.protobuf"
    path = "/clusters/demo/api/v1/namespaces/default/configmaps"
    headers = (f"Content-Type: {media}", f"Accept: {media}")
    trail = Trail(fronted)
    with Raw(fronted) as raw:
        made, again = (raw.ask(f"POST {path}", *headers, body=body) for _ in range(2))
        got = raw.ask(f"GET {path}/from-protobuf")
        gone = raw.ask(f"DELETE {path}/from-protobuf")
    assert [made.code, again.code, got.code, gone.code] == [201, 409, 200, 200]
    assert made.header("content-type") == again.header("content-type") == media
    assert made.body.startswith(b"k8s\x00")
    assert got.json()["data"]["key"] == bytes(range(0x20, 0x7F)).decode() * 9
    first, second, *_ = trail.ends(4)
    assert (first["verb"], first["resource"], first["request_bytes"]) == ("create", "configmaps", len(body))
    assert (second["status"], second["reason"]) == (409, "AlreadyExists")
    assert second["message"] == 'configmaps "from-protobuf" already exists'
