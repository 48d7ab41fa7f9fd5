"""Runs the real program in front of a cluster, and reads what it has recorded."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import yaml

from kube_audit_proxy.journal.reader import read_batches

PROGRAM = (sys.executable, "-m", "kube_audit_proxy")
_DEADLINE = 60.0

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str) -> T:
    """Give the first true answer of `condition`, looking again and again; fail after a generous deadline."""
    end = time.monotonic() + _DEADLINE
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.02)


def lines(data_dir: Path) -> list[dict[str, Any]]:
    """Every line of every journal, as it stands now."""
    return [json.loads(line) for batch in read_batches(data_dir / "journal", {}) for line in batch.lines]


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy."""

    process: subprocess.Popen[bytes]
    url: str
    data_dir: Path
    kubeconfig: Path
    log: Path
    admin: str = ""
    """Where operators look, if it was told to let them."""

    @property
    def token(self) -> str:
        """The token of whoever started it."""
        content = yaml.safe_load(self.kubeconfig.read_bytes())
        token: str = content["users"][0]["user"]["token"]
        return token

    @property
    def authority(self) -> Path:
        """What to trust it by."""
        return self.data_dir / "tls" / "ca.pem"

    def lines(self) -> list[dict[str, Any]]:
        """Every line of its journals."""
        return lines(self.data_dir)

    def ended(self, wanted: Callable[[dict[str, Any]], bool] = lambda _: True, count: int = 1) -> list[dict[str, Any]]:
        """The ends of the calls that `wanted` says yes to, in the order they ended, once there are `count`."""

        def found() -> list[dict[str, Any]]:
            ends = [line for line in self.lines() if line.get("stage") in {"ResponseComplete", "Panic"}]
            matching = list(filter(wanted, ends))
            return matching if len(matching) >= count else []

        return wait_until(found, f"{count} matching calls to end")

    def kubeconfig_of(self, user: str, groups: Sequence[str] = (), cluster: str = "demo") -> Path:
        """A kubeconfig for a user who is impersonated."""
        path = self.data_dir / f"{user}.kubeconfig"
        command = [*PROGRAM, "kubeconfig", "--cluster", cluster, "--user", user, "-o", str(path)]
        command += ["--data-dir", str(self.data_dir), *(f"--group={group}" for group in groups)]
        subprocess.run(command, check=True, capture_output=True)
        return path

    def children(self) -> dict[str, psutil.Process]:
        """Its processes by name: w0, w1, ..., committers as `<worker> committer`, indexer, shipper, admin."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            argv = child.cmdline()
            module = argv[2].rpartition(".")[2]
            name = argv[3] if module == "worker" else module
            found[name] = child
            found |= {f"{name} committer": below for below in child.children()}
        return found

    def stop(self) -> int:
        """Stop it as Ctrl-C does, and give its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_DEADLINE)


@contextmanager
def proxy(command: Sequence[str], data_dir: Path, log: Path, environ: dict[str, str] | None = None) -> Iterator[Proxy]:
    """Start `kube-audit-proxy up --json ...`; stop it, if it still runs, at the end of the block."""
    argv = [*PROGRAM, "up", "--json", "--data-dir", str(data_dir), "--listen", "127.0.0.1:0", *command]
    with log.open("ab") as errors:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **(environ or {})})
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the proxy did not start: {log.read_text()}"
        ready = json.loads(line)
        yield Proxy(process, ready["url"], data_dir, Path(ready["kubeconfig"]), log, ready.get("admin", ""))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(_DEADLINE)
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def served(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start `kube-audit-proxy serve --config ...` and wait until it is ready; stop it at the end of the block."""
    with log.open("ab") as errors:
        process = subprocess.Popen([*PROGRAM, "serve", "--config", str(config)], stderr=errors)
    try:
        wait_until(lambda: process.poll() is not None or "ready at" in log.read_text(), "the proxy to be ready")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_DEADLINE)
