"""A real Kafka broker on loopback: one node in KRaft mode, from Maven's jars, read by its own console consumer."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kube_audit_proxy.demo.build import cache_root
from kube_audit_proxy.demo.child import Child, free_ports
from support.proxies import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

_POM = Path(__file__).with_name("kafka") / "pom.xml"
_CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"
_STARTED = "Kafka Server started"
_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
num.partitions=3
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""


def missing_programs() -> Sequence[str]:
    """Name the programs that a broker needs and that are not installed."""
    needed = ["java"] if (_libraries_folder(os.environ) / "kafka").exists() else ["java", "mvn"]
    return [name for name in needed if shutil.which(name) is None]


def libraries() -> Path:
    """Return the folder of the broker's jars; Maven fetches them into the cache of all builds, once."""
    folder = _libraries_folder(os.environ)
    jars = folder / "kafka"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                found = Path(scratch) / "jars"
                command = ["mvn", "--batch-mode", "--quiet", "-Dstyle.color=never", "--file", str(_POM)]
                subprocess.run([*command, "dependency:copy-dependencies", f"-DoutputDirectory={found}"], check=True)
                found.rename(jars)
    return jars


class Broker:
    """A broker in a directory; a context manager that starts and stops it. Topics appear with their first message."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._jars = libraries()
        self._port, controller = free_ports(2)
        self._settings = directory / "server.properties"
        content = _SETTINGS.format(port=self._port, controller=controller, data=directory / "data")
        self._settings.write_text(content, encoding="utf-8")
        self._starts = 0
        self._child: Child | None = None

    def __enter__(self) -> Self:
        """Start it on an empty directory."""
        storage = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(self._settings)]
        subprocess.run(self._java(*storage), check=True, capture_output=True)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        with contextlib.suppress(AssertionError):
            self.stop()

    @property
    def address(self) -> str:
        """Where clients reach it."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, on the same port and data as before; return once it serves."""
        self._starts += 1
        log = self._directory / f"broker-{self._starts}.log"
        child = Child("kafka", self._java("kafka.Kafka", str(self._settings)), log=log, environ={"PATH": os.defpath})
        self._child = child
        wait_until(lambda: child.exit_code is not None or _STARTED in log.read_text("utf-8"), "Kafka to start")
        assert child.exit_code is None, child.last_lines()

    def ensure_started(self) -> None:
        """Start it unless it runs."""
        if self._child is None:
            self.start()

    def stop(self) -> None:
        """Stop it and leave its data."""
        assert self._child is not None
        self._child.stop(patience=30.0)
        self._child = None

    def messages(self, topic: str, count: int) -> list[tuple[bytes, bytes]]:
        """Return key and value of the first messages of a topic, once there are so many."""
        consumer = ["org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", self.address]
        consumer += ["--topic", topic, "--from-beginning", "--max-messages", str(count), "--timeout-ms", "60000"]
        consumer += ["--property", "print.key=true", "--property", "key.separator=\t"]
        result = subprocess.run(self._java(*consumer), check=True, capture_output=True)
        pairs = [line.split(b"\t", 1) for line in result.stdout.splitlines()]
        assert len(pairs) == count, result.stderr.decode()
        return [(key, value) for key, value in pairs]

    def end(self, topic: str) -> int:
        """Return how many messages a topic holds; 0 if there is none yet."""
        offsets = ["org.apache.kafka.tools.GetOffsetShell", "--bootstrap-server", self.address, "--topic", topic]
        result = subprocess.run(self._java(*offsets), check=False, capture_output=True, text=True)
        assert result.returncode == 0 or "any topic-partitions" in result.stderr, result.stderr
        return sum(int(line.rsplit(":", 1)[1]) for line in result.stdout.split())

    def _java(self, main: str, *arguments: str) -> list[str]:
        java = shutil.which("java")
        assert java is not None
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        options += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.log.kafka.server=info"]
        return [java, *options, "-cp", f"{self._jars}/*", main, *arguments]


def _libraries_folder(environ: Mapping[str, str]) -> Path:
    return cache_root(environ) / f"kafka-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:16]}"
