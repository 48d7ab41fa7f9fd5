"""From kubectl to Loki and Tempo: the real proxy, with its shipper, in front of a real API server that traces."""

import json
import os
import signal
import ssl
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kube_audit_proxy.demo.cluster import DemoCluster
from kube_audit_proxy.demo.stack import TelemetryStack
from servers.stack import get, loki_lines
from support.proxies import PROGRAM, Proxy, lines, proxy, wait_until

pytestmark = pytest.mark.servers

ALL_CALLS = '{service_name="kube-audit-proxy", cluster="demo", kind="call"}'
TRACING = """
apiVersion: apiserver.config.k8s.io/v1
kind: TracingConfiguration
endpoint: {endpoint}
samplingRatePerMillion: 0
"""


@pytest.fixture(scope="module")
def traced(stack: TelemetryStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoCluster]:
    """Give a cluster whose API server sends its own spans to the same collector."""
    home = tmp_path_factory.mktemp("traced")
    configuration = home / "tracing.yaml"
    configuration.write_text(TRACING.format(endpoint=stack.otlp_grpc.removeprefix("http://")))
    flags = [f"--tracing-config-file={configuration}"]
    with DemoCluster(home / "demo", apiserver_flags=flags, progress=print) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shipped(stack: TelemetryStack, traced: DemoCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Give a proxy of two workers that ships to the collector."""
    home = tmp_path_factory.mktemp("shipped")
    command = ["--kubeconfig", str(traced.kubeconfig), "--workers", "2", "--otlp", stack.otlp_grpc]
    environ = {name: "" for name in os.environ if name.startswith("OTEL_")}
    with proxy([*command, "--admin", "127.0.0.1:0"], home / "data", home / "proxy.log", environ) as running:
        yield running


def kubectl(demo: DemoCluster, shipped: Proxy, *arguments: str) -> int:
    """Run kubectl through the proxy; give its exit code."""
    command = [str(demo.kubectl), "--kubeconfig", str(shipped.kubeconfig), *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode


def in_loki(stack: TelemetryStack, query: str) -> list[dict[str, Any]]:
    """Give the records that a query finds."""
    return [json.loads(line) for line in loki_lines(stack.loki_url, query)]


def of_resource(shipped: Proxy, verb: str, resource: str) -> dict[str, Any]:
    """Give the end of the call with this verb on this resource."""
    return shipped.ended(lambda line: (line["verb"], line.get("resource")) == (verb, resource))[-1]


def spans(stack: TelemetryStack, trace_id: str) -> list[dict[str, Any]]:
    """Give all spans of a trace, each with the service that sent it."""
    try:
        answer = get(f"{stack.tempo_url}/api/traces/{trace_id}", {})
    except OSError:
        return []
    return [
        {**span, "service": _service(batch)}
        for batch in answer["batches"]
        for scope in batch["scopeSpans"]
        for span in scope["spans"]
    ]


def _service(batch: dict[str, Any]) -> str:
    said = {each["key"]: each["value"] for each in batch["resource"]["attributes"]}
    name: str = said["service.name"]["stringValue"]
    return name


def test_what_kubectl_does_is_in_loki(stack: TelemetryStack, traced: DemoCluster, shipped: Proxy) -> None:
    """Whatever kubectl does, each call that ended is one line in Loki: the journal's own."""
    assert kubectl(traced, shipped, "get", "pods", "-A") == 0
    assert kubectl(traced, shipped, "create", "configmap", "to-loki", "--from-literal=a=b") == 0
    assert kubectl(traced, shipped, "exec", "-n", "shop", "deploy/web", "--", "sh", "-c", "exit 3") == 3
    assert kubectl(traced, shipped, "get", "nonsense") == 1
    assert kubectl(traced, shipped, "delete", "configmap", "to-loki") == 0
    expected = {line["auditID"]: line for line in shipped.ended(count=10)}

    def complete() -> dict[str, dict[str, Any]]:
        found = in_loki(stack, ALL_CALLS)
        by_id = {line["auditID"]: line for line in found}
        assert len(by_id) == len(found)
        return by_id if by_id.keys() >= expected.keys() else {}

    found = wait_until(complete, "all calls in Loki")
    assert {audit_id: found[audit_id] for audit_id in expected} == expected


def test_the_api_server_continues_the_trace(stack: TelemetryStack, traced: DemoCluster, shipped: Proxy) -> None:
    """The spans of a real API server, and of its etcd client, stand below the proxy's in the command's trace."""
    assert kubectl(traced, shipped, "get", "namespaces") == 0
    call = of_resource(shipped, "list", "namespaces")

    def joined() -> list[dict[str, Any]]:
        found = spans(stack, call["trace_id"])
        return found if {"kube-audit-proxy", "apiserver"} <= {span["service"] for span in found} else []

    found = wait_until(joined, "spans of both in one trace")
    ours = {span["spanId"] for span in found if span["service"] == "kube-audit-proxy"}
    theirs = [span for span in found if span["service"] == "apiserver"]
    assert any(span.get("parentSpanId") in ours for span in theirs)
    kinds = Counter(span["kind"] for span in found if span["service"] == "kube-audit-proxy")
    assert kinds["SPAN_KIND_SERVER"] == kinds["SPAN_KIND_CLIENT"]


def test_a_command_has_one_trace(stack: TelemetryStack, traced: DemoCluster, shipped: Proxy) -> None:
    """All calls of a command are in one trace, below one span that is the command's."""
    assert kubectl(traced, shipped, "apply", "-n", "shop", "-f", str(_manifest(shipped.data_dir))) == 0
    (create,) = shipped.ended(lambda line: (line.get("command"), line["verb"]) == ("kubectl apply", "create"))
    calls = shipped.ended(lambda line: line.get("command_id") == create["command_id"])
    assert len(calls) > 1

    def whole() -> list[dict[str, Any]]:
        found = [span for span in spans(stack, calls[0]["trace_id"]) if span["service"] == "kube-audit-proxy"]
        return found if any(span["kind"] == "SPAN_KIND_INTERNAL" for span in found) else []

    found = wait_until(whole, "the command's span")
    (root,) = [span for span in found if span["kind"] == "SPAN_KIND_INTERNAL"]
    servers = [span for span in found if span["kind"] == "SPAN_KIND_SERVER"]
    assert root["name"] == "kubectl apply"
    assert len(servers) == len(calls)
    assert {span["parentSpanId"] for span in servers} == {root["spanId"]}


def _manifest(folder: Path) -> Path:
    path = folder / "manifest.json"
    thing = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "b"}}
    path.write_text(json.dumps(thing))
    return path


def test_a_stranger_cannot_steer_traces(traced: DemoCluster, shipped: Proxy) -> None:
    """A client's own traceparent goes nowhere: the trace is derived from who it is and what it says of its session."""
    call = urllib.request.Request(
        f"{shipped.url}/clusters/demo/version",
        headers={
            "Authorization": f"Bearer {shipped.token}",
            "traceparent": "00-11111111111111111111111111111111-2222222222222222-01",
            "User-Agent": "stranger",
        },
    )
    context = ssl.create_default_context(cafile=str(shipped.authority))
    urllib.request.urlopen(call, context=context).read()
    (line,) = shipped.ended(lambda line: line.get("userAgent") == "stranger")
    assert line["trace_id"] == line["auditID"].replace("-", "")
    audited = [json.loads(each) for each in traced.audit_log.read_bytes().splitlines()]
    assert any(each["auditID"] == line["auditID"] for each in audited)


def test_heartbeats(stack: TelemetryStack, shipped: Proxy) -> None:
    """Each worker says that it lives although nobody calls, and how far its lines were shipped."""
    said = {"seq", "product", "calls", "refused", "journal_bytes", "lag_seconds", "shipped_seq"}

    def of_both() -> bool:
        # Other proxies ship to this Loki too, and one that ended at once knew nothing of its shipper.
        own = [line for line in lines(shipped.data_dir) if line["kind"] == "heartbeat"]
        found = in_loki(stack, '{service_name="kube-audit-proxy", kind="heartbeat"}')
        return {"w0", "w1"} == {line["writer"] for line in found if line in own and line.keys() >= said}

    assert wait_until(of_both, "heartbeats of both workers")


def test_a_shipper_that_is_killed_is_started_again(stack: TelemetryStack, traced: DemoCluster, shipped: Proxy) -> None:
    """A kill -9 of the shipper loses nothing, and doubles nothing."""
    shipped.children()["shipper"].send_signal(signal.SIGKILL)
    assert kubectl(traced, shipped, "get", "secrets", "-A") == 0
    expected = {line["auditID"] for line in shipped.ended()}

    def complete() -> list[str]:
        found = [line["auditID"] for line in in_loki(stack, ALL_CALLS)]
        return found if expected <= set(found) else []

    found = wait_until(complete, "all calls in Loki")
    assert len(found) == len(set(found))


def test_status_of_shipping(shipped: Proxy) -> None:
    """`ship --status` tells how far each writer's lines are shipped, of both signals."""
    command = [*PROGRAM, "ship", "--status", "--data-dir", str(shipped.data_dir)]

    def all_shipped() -> list[list[str]]:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows = [line.split() for line in done.stdout.splitlines()]
        return rows if all(row[4] == "0" for row in rows[1:]) else []

    rows = wait_until(all_shipped, "nothing to be behind")
    assert rows[0] == ["SIGNAL", "WRITER", "SHIPPED", "WRITTEN", "BEHIND", "LAG"]
    assert [row[:2] for row in rows[1:]] == [["logs", "w0"], ["logs", "w1"], ["traces", "w0"], ["traces", "w1"]]


def test_metrics_and_health(traced: DemoCluster, shipped: Proxy) -> None:
    """Workers, indexer and shipper are well and ready, and Prometheus finds what they have counted."""

    def answer(path: str) -> str:
        with urllib.request.urlopen(f"{shipped.admin}{path}") as found:
            text: str = found.read().decode()
            return text

    assert kubectl(traced, shipped, "get", "configmaps", "-A") == 0
    wait_until(lambda: _is_well(shipped), "all processes to be well")
    assert "ok" in answer("/readyz")
    counted = 'kube_audit_proxy_shipped_records_total{process="shipper",signal="logs"}'
    wait_until(lambda: [line for line in answer("/metrics").splitlines() if line.startswith(counted)], "the metric")
    assert "kube_audit_proxy_calls_total" in answer("/metrics")


def _is_well(shipped: Proxy) -> bool:
    try:
        with urllib.request.urlopen(f"{shipped.admin}/healthz") as found:
            return bool(found.status == 200)
    except OSError:
        return False


def test_what_was_said_last_is_shipped(stack: TelemetryStack, traced: DemoCluster, tmp_path: Path) -> None:
    """A proxy that is stopped ships the ends of its last calls before it is gone, and that it is."""
    command = ["--kubeconfig", str(traced.kubeconfig), "--otlp", stack.otlp_grpc]
    with proxy(command, tmp_path / "data", tmp_path / "proxy.log") as running:
        watch = [str(traced.kubectl), "--kubeconfig", str(running.kubeconfig), "get", "pods", "-A", "--watch"]
        with subprocess.Popen(watch, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as watching:
            wait_until(
                lambda: [each for each in running.lines() if each.get("stage") == "ResponseStarted"], "the watch"
            )
            running.stop()
            watching.terminate()
    (end,) = [
        each
        for each in lines(tmp_path / "data")
        if each.get("verb") == "watch" and each["stage"] != "RequestReceived" and each["stage"] != "ResponseStarted"
    ]
    assert end["auditID"] in {line["auditID"] for line in wait_until(lambda: in_loki(stack, ALL_CALLS), "lines")}
    last = [each for each in lines(tmp_path / "data") if each["kind"] == "heartbeat"][-1]
    goodbyes = '{service_name="kube-audit-proxy", kind="heartbeat"} | ending="true"'
    assert last in wait_until(lambda: in_loki(stack, goodbyes), "the last heartbeat")
