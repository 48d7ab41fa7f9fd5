"""Every kubectl, watching: each event comes through the proxy, in every format; watches follow without a gap."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from servers.kubectls import VERSIONS
from support.kubectl import Beside, Kubectl, by_owner, on_two_ways, own_namespaces
from support.proxies import wait_until
from support.server_audit import ServerAudit
from support.steps import FLEETING, without
from support.trail import Trail
from support.ways import Way, through

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_audit_proxy.demo.cluster import DemoCluster
    from support.proxies import Proxy

pytestmark = pytest.mark.servers


SPACE = "default"


@dataclass(frozen=True, slots=True)
class Watch:
    """A command that watches, and how often what it prints names what is made and changed and deleted meanwhile."""

    arguments: str
    events: int


WATCHES = (
    Watch("get cm -w", 3),
    Watch("get cm --watch-only --show-labels", 3),
    Watch("get cm -w -o name", 3),
    Watch("get cm --watch-only -o json", 3),
    Watch("get cm --watch-only -o yaml", 3),
    Watch("get cm -w --output-watch-events", 3),
    Watch("get cm --watch-only --output-watch-events -o json", 3),
    Watch("get cm -w --output-watch-events -o custom-columns=T:.type,N:.object.metadata.name", 3),
    Watch("get cm --watch-only -o jsonpath='{.metadata.name}={.metadata.labels}{\"\\n\"}'", 3),
    Watch("get cm --watch-only -l seen=yes", 2),
    Watch("get cm --watch-only --field-selector=metadata.name=passing", 3),
    # by name: other namespaces have their own comings and goings, such as those of the version before
    Watch("get cm -A --watch-only --no-headers --field-selector=metadata.name=passing", 3),
)


@pytest.fixture(params=VERSIONS, scope="module")
def kubectl(
    request: pytest.FixtureRequest, demo: DemoCluster, fronted: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubectl]:
    """Give a kubectl of each version, with one namespace for both ways."""
    shared = f"watched-{request.param.replace('.', '-')}"
    given = on_two_ways(request.param, tmp_path_factory.mktemp("watches"), fronted, demo, shared=shared)
    with own_namespaces(given):
        yield given


def ageless(text: str) -> str:
    """What a watch has printed, without the time it took."""
    return without(text, *FLEETING)


def test_watches_show_the_same_events_and_are_recorded(kubectl: Kubectl) -> None:
    """An object that comes, changes and goes is seen in every format as it is directly, while the watches go on."""
    trail, audit = Trail(kubectl.proxy), ServerAudit(kubectl.demo, kubectl.client)
    places = (kubectl.direct, kubectl.fronted)
    with contextlib.ExitStack() as running:
        shown = [
            [running.enter_context(kubectl.beside(place, watch.arguments)) for place in places] for watch in WATCHES
        ]
        wait_until(lambda: len(audit.watches()) == 2 * len(WATCHES), "every watch to begin")
        for arguments in ("create cm passing", "label cm passing seen=yes", "delete cm passing"):
            assert kubectl.run(kubectl.direct, arguments).code == 0
        for watch, (plainly, fronted) in zip(WATCHES, shown, strict=True):
            wait_until(partial(_has_come, plainly, watch.events), str(watch))
            wait_until(partial(_are_alike, plainly, fronted), str(watch))
        started = [line for line in trail.lines() if line["stage"] == "ResponseStarted"]
        assert len(started) == len(WATCHES)
    ends = trail.ends(len(WATCHES), lambda line: line.get("verb") == "watch")
    assert {(end["status"], end["outcome"], end["decision"]) for end in ends} == {(200, "client_gone", "allow")}
    assert {(end["command"], end["resource"]) for end in ends} == {("kubectl get", "configmaps")}
    assert len({end["command_id"] for end in ends}) == len(WATCHES)
    assert all(end["response_bytes"] > 0 for end in ends)


def _has_come(one: Beside, events: int) -> bool:
    return one.text().count("passing") >= events


def _are_alike(one: Beside, other: Beside) -> bool:
    return ageless(one.text()) == ageless(other.text())


def watched(way: Way, query: str) -> list[tuple[str, dict[str, Any]]]:
    """Type and object of each event of a watch, from its start to the end that the server makes."""
    address = urlsplit(way.url)
    assert address.hostname is not None
    trust = ssl.create_default_context(cafile=str(way.authority))
    connection = http.client.HTTPSConnection(address.hostname, address.port, context=trust, timeout=60)
    with contextlib.closing(connection):
        headers = {"Authorization": f"Bearer {way.token}"}
        connection.request("GET", f"{address.path}/api/v1/namespaces/{SPACE}/configmaps?{query}", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200
        events = [json.loads(line) for line in answer]
    return [(event["type"], event["object"]) for event in events]


def test_watches_that_the_server_ends_follow_each_other_without_a_gap(demo: DemoCluster, fronted: Proxy) -> None:
    """A watch that has run its time ends as complete, and one that goes on from there misses nothing in between."""
    way, trail = through(fronted), Trail(fronted)
    names = ["first", "second", "third"]
    ((_, bookmark),) = watched(
        way,
        "watch=1&timeoutSeconds=1&sendInitialEvents=true&allowWatchBookmarks=true"
        "&resourceVersionMatch=NotOlderThan&fieldSelector=metadata.name%3Dnobody",
    )[-1:]
    version, seen = bookmark["metadata"]["resourceVersion"], []
    for name in names:
        by_owner(demo, "create", "configmap", f"watched-{name}", f"--namespace={SPACE}")
        for event, thing in watched(way, f"watch=1&timeoutSeconds=1&resourceVersion={version}"):
            seen.append((event, thing["metadata"]["name"]))
            version = thing["metadata"]["resourceVersion"]
    by_owner(demo, "delete", "configmap", *(f"watched-{name}" for name in names), f"--namespace={SPACE}")
    assert [name for event, name in seen if event == "ADDED"] == [f"watched-{name}" for name in names]
    ends = trail.ends(1 + len(names))
    assert {(end["verb"], end["status"], end["outcome"]) for end in ends} == {("watch", 200, "complete")}
    assert [line["stage"] for line in trail.lines()] == [
        "RequestReceived",
        "ResponseStarted",
        "ResponseComplete",
    ] * len(ends)


def test_a_watch_that_outlasts_its_request_timeout_ends_as_it_does_directly(kubectl: Kubectl) -> None:
    """`--request-timeout` ends a watch on the client's side; the record says that the client left."""
    shown = kubectl.side_by_side("get cm --watch-only --request-timeout=1s")
    assert (shown.fronted.code, shown.fronted.stdout) == (shown.direct.code, shown.direct.stdout)
    (end,) = [record for record in shown.records if record["verb"] == "watch"]
    assert (end["status"], end["outcome"]) == (200, "client_gone")
    assert "timeout=1s" in end["requestURI"]
