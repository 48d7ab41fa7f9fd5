"""The proxy as the compose file runs it, between real kubectl and a real collector with a real Kafka behind it."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from kube_audit_proxy.demo.child import free_ports
from kube_audit_proxy.demo.stack import TelemetryStack
from kube_audit_proxy.journal.reader import read_batches
from servers.broker import Broker, missing_programs
from servers.kubectls import new_kubectl
from servers.stack import CONFIGURATION
from support.proxies import PROGRAM, served, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_audit_proxy.demo.cluster import DemoCluster

pytestmark = pytest.mark.servers

_ROOT = Path(__file__).parents[2]
_TOPIC = "composed"


def _health_check(port: int) -> list[str]:
    """Give the command of the image's health check, for an admin listener on another port."""
    found = re.search(r"^  CMD (\[.*\])$", (_ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert found is not None
    command: list[str] = json.loads(found[1].replace(":9444", f":{port}"))
    return [PROGRAM[0], *command[1:]]


@dataclass(frozen=True, slots=True)
class Composed:
    """A broker, a collector that feeds it, and the configuration of a proxy that feeds the collector."""

    broker: Broker
    config: Path
    data_dir: Path
    admin: int

    def messages(self) -> dict[str, list[dict[str, Any]]]:
        """Give what is in Kafka by now, by kind."""
        found: dict[str, list[dict[str, Any]]] = {}
        for _, value in self.broker.messages(_TOPIC, self.broker.end(_TOPIC)):
            message = json.loads(value)
            found.setdefault(message["kind"], []).append(message)
        return found

    def ends(self) -> list[str]:
        """Give the journal's lines of calls that have ended, as they are on disk."""
        lines = [line for batch in read_batches(self.data_dir / "journal", {}) for line in batch.lines]
        return [line.decode() for line in lines if json.loads(line).get("stage") in {"ResponseComplete", "Panic"}]

    def is_healthy(self) -> bool:
        """Run the health check of the image."""
        command = _health_check(self.admin)
        return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0


@pytest.fixture
def composed(demo: DemoCluster, tmp_path: Path) -> Iterator[Composed]:
    """Give a started broker and collector, and the proxy's configuration of the compose file fitted to them."""
    if missing := missing_programs():
        pytest.skip(f"Kafka needs {' and '.join(missing)}")
    (tmp_path / "kafka").mkdir()
    with Broker(tmp_path / "kafka") as broker:
        collector = TelemetryStack(
            tmp_path / "stack",
            CONFIGURATION,
            progress=print,
            parts=("collector",),
            collector_configurations=[CONFIGURATION / "siem" / "kafka.yaml"],
            environ={"KAFKA_BROKERS": broker.address, "KAFKA_TOPIC": _TOPIC, "KAFKA_PLAINTEXT": "true"},
        )
        with collector:
            config, admin = _configuration(tmp_path, demo, collector.otlp_grpc)
            yield Composed(broker, config, tmp_path / "data", admin)


def test_kubectl_to_kafka(composed: Composed, tmp_path: Path) -> None:
    """Every call of real kubectl commands is in Kafka with the journal's line, byte for byte, and each command is."""
    kubeconfig = tmp_path / "jane.kubeconfig"
    with served(composed.config, tmp_path / "proxy.log"):
        issue = [*PROGRAM, "kubeconfig", "--cluster", "cluster", "--user", "jane", "-o", str(kubeconfig)]
        subprocess.run([*issue, "--data-dir", str(composed.data_dir)], check=True, capture_output=True)
        for asked in (["get", "pods", "-A"], ["get", "secrets"], ["version"]):
            # what she may is not the question here
            kubectl = [str(new_kubectl()), f"--kubeconfig={kubeconfig}", *asked]
            subprocess.run(kubectl, check=False, capture_output=True, timeout=60)
        wait_until(lambda: composed.broker.end(_TOPIC), "the first message")

        def whole() -> dict[str, list[dict[str, Any]]]:
            messages = composed.messages()
            enough = len(messages.get("call", ())) >= len(composed.ends()) and len(messages.get("command", ())) >= 3
            return messages if enough else {}

        messages = wait_until(whole, "all calls and commands to arrive")
        ended = composed.ends()
    assert len(ended) >= 3
    assert sorted(message["line"] for message in messages["call"]) == sorted(ended)
    assert {message["command"] for message in messages["command"]} == {"kubectl get", "kubectl version"}
    assert "heartbeat" not in messages


def test_health_check_tells_whether_the_proxy_lives(composed: Composed, tmp_path: Path) -> None:
    """The health check of the image says yes while the proxy of the compose file runs, and no after that."""
    with served(composed.config, tmp_path / "proxy.log"):
        wait_until(composed.is_healthy, "the health check to say yes")
    assert not composed.is_healthy()


def _configuration(tmp_path: Path, demo: DemoCluster, collector: str) -> tuple[Path, int]:
    """Write the configuration of the compose file for this machine; give its path and the admin listener's port."""
    content = yaml.safe_load((_ROOT / "deploy" / "proxy.yaml").read_text("utf-8"))
    port, admin = free_ports(2)
    token = tmp_path / "export-token"
    token.write_text("0123456789abcdef0123456789abcdef", encoding="utf-8")
    content["data_dir"] = str(tmp_path / "data")
    content["listen"] = f"127.0.0.1:{port}"
    content["url"] = f"https://localhost:{port}"
    content["clusters"][0]["kubeconfig"] = str(demo.kubeconfig)
    content["telemetry"]["endpoint"] = collector
    content["admin"] = {"listen": f"127.0.0.1:{admin}", "token_file": str(token)}
    config = tmp_path / "proxy.yaml"
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    return config, admin
