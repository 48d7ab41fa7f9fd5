"""Real commands, recorded by the real proxy and shipped by it: Loki tells of them what the proxy's own index tells."""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from kube_audit_proxy.cli.main import program
from kube_audit_proxy.demo.cluster import DemoCluster
from kube_audit_proxy.demo.stack import TelemetryStack
from support.proxies import Proxy, proxy, wait_until

pytestmark = pytest.mark.servers


@pytest.fixture
def shipped(demo: DemoCluster, stack: TelemetryStack, tmp_path: Path) -> Iterator[Proxy]:
    """Give a proxy that ships to the collector."""
    command = ["--kubeconfig", str(demo.kubeconfig), "--workers", "2", "--otlp", stack.otlp_grpc]
    environ = {name: "" for name in os.environ if name.startswith("OTEL_")}
    with proxy(command, tmp_path / "data", tmp_path / "proxy.log", environ) as running:
        yield running


@contextmanager
def watching(demo: DemoCluster, kubeconfig: Path) -> Iterator[None]:
    """Leave a watch running."""
    command = [str(demo.kubectl), "--kubeconfig", str(kubeconfig), "get", "pods", "-A", "--watch-only"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def shown(where: list[str], *arguments: str) -> bytes:
    """Run the program on a trail and return what it prints."""
    command, *rest = arguments
    result = CliRunner().invoke(program, [command, *where, *rest])
    assert result.exit_code == 0, result.stderr
    return result.stdout_bytes


def test_loki_shows_what_the_index_shows(demo: DemoCluster, stack: TelemetryStack, shipped: Proxy) -> None:
    """Lists, refusals, changes, and a watch that runs: rows and commands are the same."""
    since = ["--since", datetime.now(UTC).isoformat()]
    index = ["--data-dir", str(shipped.data_dir), *since]
    loki = ["--from", "loki", "--loki-url", stack.loki_url, *since]
    stranger = shipped.kubeconfig_of(f"stranger-{uuid.uuid4()}")

    def kubectl(kubeconfig: Path, *arguments: str) -> None:
        command = [str(demo.kubectl), "--kubeconfig", str(kubeconfig), *arguments]
        subprocess.run(command, capture_output=True, check=False, timeout=60)

    kubectl(shipped.kubeconfig, "get", "pods", "-A")
    kubectl(shipped.kubeconfig, "create", "configmap", "seen", "--from-literal", 'a="b"')
    kubectl(shipped.kubeconfig, "delete", "configmap", "seen")
    kubectl(shipped.kubeconfig, "get", "secret", "no-such-secret")
    kubectl(stranger, "get", "secrets", "-A")
    with watching(demo, shipped.kubeconfig):

        def settled() -> bool:
            calls = [json.loads(line) for line in shown(index, "log", "-o", "json", "--limit", "0").splitlines()]
            runs = [call["stage"] for call in calls if call["stage"] != "ResponseComplete"]
            there = shown(loki, "log", "-o", "json", "--limit", "0").splitlines()
            return runs == ["ResponseStarted"] and len(there) == len(calls) >= 8

        wait_until(settled, "all calls but the watch to end, and to be in Loki")
        for arguments in (
            ("log", "-o", "wide"),
            ("log", "-o", "json", "--limit", "0"),
            ("log", "-o", "csv", "--status", ">=400"),
            ("log", "--text", "No-Such-Secret"),
            ("log", "--decision", "deny"),
            ("commands", "-o", "json", "--calls"),
            ("commands", "--user", "stranger-*", "--calls"),
            ("export", "-o", "-", "--resource", "secrets,configmaps"),
            ("export", "-o", "-", "--verb", "watch", "--format", "jsonl"),
        ):
            expected = shown(index, *arguments)
            assert shown(loki, *arguments) == expected
            assert expected
