"""A proxy from its configuration to its end: what `up` and `serve` have in common."""

import asyncio
import dataclasses
import json
import logging
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kube_audit_proxy.app import make_clusters
from kube_audit_proxy.cluster.check import Finding, check
from kube_audit_proxy.cluster.kubeconfig import KubeconfigError
from kube_audit_proxy.config import Config, ConfigError
from kube_audit_proxy.process.keeper import StartError
from kube_audit_proxy.process.reload import problems, without_restart
from kube_audit_proxy.process.supervisor import Supervisor
from kube_audit_proxy.tls import ensure_certificates

log = logging.getLogger(__name__)

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


async def run(
    config: Config,
    when_ready: Callable[[Running], Coroutine[Any, Any, None]],
    read_again: Callable[[], Config] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, or until `when_ready`, which runs beside, has raised; then end in good order.

    With `read_again` (which raises ConfigError), SIGHUP has that configuration take the place of the present one.
    Raises StartError, KubeconfigError, and whatever `when_ready` raises.
    """
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if read_again is not None:
        loop.add_signal_handler(signal.SIGHUP, reload.set)
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = await _look_around(config)
    supervisor = Supervisor(found.config)
    beside: list[asyncio.Future[None]] = []
    try:
        await supervisor.start()
        running = dataclasses.replace(found, config=supervisor.config)
        _write_state(running)
        shown = asyncio.ensure_future(when_ready(running))
        stopped = asyncio.ensure_future(_set(stop))
        beside = [shown, stopped]
        if read_again is not None:
            beside.append(asyncio.ensure_future(_reload_whenever(reload, supervisor, read_again, when_ready)))
        await asyncio.wait({shown, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if shown.done() and not shown.exception():
            await stopped
    finally:
        for each in beside:
            each.cancel()
        results = await asyncio.gather(*beside, return_exceptions=True)
        await supervisor.stop()
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result


async def _set(event: asyncio.Event) -> None:
    await event.wait()


async def _reload_whenever(
    asked: asyncio.Event,
    supervisor: Supervisor,
    read_again: Callable[[], Config],
    when_ready: Callable[[Running], Coroutine[Any, Any, None]],
) -> None:
    while True:
        await asked.wait()
        asked.clear()
        try:
            await _reload(supervisor, read_again, when_ready)
        except ConfigError as error:
            wrong = "".join(f"\n  - {problem}" for problem in error.problems)
            log.error("the configuration cannot be used, and the one before stays in force:%s", wrong)  # noqa: TRY400 - it is told
        except (StartError, KubeconfigError) as error:
            log.error("the configuration cannot be taken over, and the one before stays in force: %s", error)  # noqa: TRY400 - the same
        except Exception:
            log.exception("the configuration could not be taken over")


async def _reload(
    supervisor: Supervisor,
    read_again: Callable[[], Config],
    when_ready: Callable[[Running], Coroutine[Any, Any, None]],
) -> None:
    log.info("reading the configuration again")
    config, fixed = without_restart(supervisor.config, read_again())
    if wrong := tuple(problems(config)):
        raise ConfigError(wrong)
    found = await _look_around(config)
    await supervisor.reload(found.config)
    if fixed:
        log.warning("only a restart changes %s: what is in force stays", ", ".join(fixed))
    running = dataclasses.replace(found, config=supervisor.config)
    _write_state(running)
    await when_ready(running)


async def _look_around(config: Config) -> Running:
    """Find out what the configuration leads to. Raises KubeconfigError."""
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
    return Running(config, authority, served)


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
