"""A proxy from its configuration to its end: what `up` and `serve` have in common."""

import asyncio
import dataclasses
import json
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kube_audit_proxy.app import make_clusters
from kube_audit_proxy.cluster.check import Finding, check
from kube_audit_proxy.config import Config
from kube_audit_proxy.process.supervisor import Supervisor
from kube_audit_proxy.tls import ensure_certificates

_STATE = "server.json"


@dataclass(frozen=True, slots=True)
class Served:
    """One cluster that is served, and what is known of it."""

    name: str
    server: str
    namespace: str
    finding: Finding


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that is ready."""

    config: Config
    authority: Path | None
    """What clients are to trust; None if the certificate was brought along."""
    clusters: tuple[Served, ...]


async def run(config: Config, when_ready: Callable[[Running], Coroutine[Any, Any, None]]) -> None:
    """Serve until SIGINT or SIGTERM, or until `when_ready`, which runs beside, has raised; then end in good order.

    Raises StartError, KubeconfigError, and whatever `when_ready` raises.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    config, authority = _with_certificate(config)
    clusters = make_clusters(config)
    findings = await asyncio.gather(*map(check, clusters.values()))
    served = tuple(
        Served(cluster.name, cluster.context.server, cluster.context.namespace, finding)
        for cluster, finding in zip(clusters.values(), findings, strict=True)
    )
    own_users = {each.name: each.finding.own_user for each in served}
    config = dataclasses.replace(
        config,
        clusters=tuple(dataclasses.replace(entry, own_user=own_users[entry.name]) for entry in config.clusters),
    )
    supervisor = Supervisor(config)
    try:
        await supervisor.start()
        running = Running(supervisor.config, authority, served)
        _write_state(running)
        beside = asyncio.ensure_future(when_ready(running))
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({beside, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not beside.done():
            beside.cancel()
            await asyncio.wait({beside})
        elif not beside.exception():
            await stopped
        if not beside.cancelled():
            beside.result()
    finally:
        await supervisor.stop()


def read_state(data_dir: Path) -> dict[str, Any] | None:
    """Give where a data directory's proxy was to be found at its last start: url, authority, clusters."""
    path = data_dir / _STATE
    if not path.exists():
        return None
    state: dict[str, Any] = json.loads(path.read_bytes())
    return state


def _write_state(running: Running) -> None:
    state = {
        "url": running.config.url,
        "authority": running.authority.read_text() if running.authority else "",
        "clusters": {
            each.name: {"namespace": each.namespace, "may_impersonate": each.finding.may_impersonate}
            for each in running.clusters
        },
    }
    (running.config.data_dir / _STATE).write_text(json.dumps(state))


def _with_certificate(config: Config) -> tuple[Config, Path | None]:
    if config.certificate is not None:
        return config, None
    hosts = [config.host, urlsplit(config.url).hostname or ""]
    own = ensure_certificates(config.data_dir / "tls", hosts)
    return dataclasses.replace(config, certificate=own.certificate, key=own.key), own.authority
