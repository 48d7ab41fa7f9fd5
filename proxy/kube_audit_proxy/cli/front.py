"""What `up` shows: what is served, what to type next, and the trail below."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from kube_audit_proxy import __version__
from kube_audit_proxy.admin.access import FILE_NAME as TOKEN_FILE
from kube_audit_proxy.cli.options import DATA_DIR_VARIABLE, default_data_dir
from kube_audit_proxy.cli.own_kubeconfig import issue_own_kubeconfig
from kube_audit_proxy.cli.text import visible
from kube_audit_proxy.config import Config
from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.process.service import Running, Served


class Front:
    """Speaks to the person at the terminal, or, as JSON, to a program."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.demo_kubectl: Path | None = None
        """The demo cluster's own kubectl, if a demo cluster is what is served."""

    def say(self, line: str) -> None:
        """Tell a person something; a program is told nothing before all is ready."""
        if not self._as_json:
            click.echo(line, err=True)

    async def show(self, running: Running) -> None:
        """Say that the proxy is ready, and how to use it; then follow the trail until cancelled."""
        kubeconfig = issue_own_kubeconfig(running, demo=self.demo_kubectl is not None)
        if self._as_json:
            ready: dict[str, Any] = {
                "ready": True,
                "url": running.config.url,
                "kubeconfig": str(kubeconfig),
                "data_dir": str(running.config.data_dir),
                "clusters": [each.name for each in running.clusters],
            }
            if running.config.admin is not None:
                ready["admin"] = f"http://{running.config.admin.host}:{running.config.admin.port}"
            click.echo(json.dumps(ready))
            sys.stdout.flush()
            return
        self._welcome(running, kubeconfig)
        await _follow(running.config.data_dir)

    def _welcome(self, running: Running, kubeconfig: Path) -> None:
        bold, dim = partial(click.style, bold=True), partial(click.style, dim=True)
        lines = [f"{bold('kube-audit-proxy')} {__version__} is ready at {running.config.url}", ""]
        width = max(len(each.name) for each in running.clusters)
        lines += [f"  {bold(each.name.ljust(width))}  {_state(each)}" for each in running.clusters]
        lines += ["", *_followers(running.config)] if running.config.telemetry or running.config.admin else []
        lines += ["", "In another terminal:", ""]
        lines += [f"  {bold(command)}" for command in self._commands(running, kubeconfig)]
        if self.demo_kubectl is not None:
            lines += ["", dim("  A denial:  kubectl --context demo-viewer delete pod toolbox")]
        lines += ["", f"The trail ({running.config.journal}), live; Ctrl-C stops the proxy:", ""]
        click.echo("\n".join(lines))

    def _commands(self, running: Running, kubeconfig: Path) -> list[str]:
        commands = [f"export KUBECONFIG={kubeconfig}"]
        if running.config.data_dir != default_data_dir({k: v for k, v in os.environ.items() if k != DATA_DIR_VARIABLE}):
            commands.append(f"export {DATA_DIR_VARIABLE}={running.config.data_dir}")
        missing = [] if shutil.which("kubectl-audit") else [str(Path(sys.executable).parent)]
        if self.demo_kubectl is not None:
            missing.append(str(self.demo_kubectl.parent))
        if missing:
            commands.append(f"export PATH={':'.join(missing)}:$PATH")
        return [*commands, "kubectl get po -A", "kubectl audit commands"]


def _followers(config: Config) -> Iterator[str]:
    """Say where records are shipped to, and where operators look."""
    if config.telemetry is not None:
        signals = " and ".join(
            {Signal.LOGS: "lines", Signal.TRACES: "spans"}[each] for each in config.telemetry.signals
        )
        where = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or config.telemetry.endpoint
        yield f"  Ships {signals}{f' to {visible(where)}' if where else ''}: kube-audit-proxy ship --status"
    if config.admin is not None:
        base = f"{'https' if config.admin.tls else 'http'}://{config.admin.host}:{config.admin.port}"
        token = config.admin.token_file or config.data_dir / TOKEN_FILE
        yield f"  {base}/metrics, /healthz, /readyz; /export.csv with the token in {token}"


def _state(served: Served) -> str:
    finding = served.finding
    if finding.problem:
        return click.style(f"not reachable now: {visible(finding.problem)}", fg="yellow")
    who = f"as {visible(finding.own_user)}" if finding.own_user else "as its kubeconfig says"
    others = "" if finding.may_impersonate else "; it may not impersonate, so you are its only user"
    return f"Kubernetes {visible(finding.version)} at {served.server}, {who}{others}"


async def _follow(data_dir: Path) -> None:
    now = datetime.now(UTC).isoformat()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kube_audit_proxy", "log", "--follow", "--since", now, "--data-dir", str(data_dir)
    )
    try:
        await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
