"""`serve`: the proxy from a configuration file."""

import asyncio
import dataclasses
import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml

from kube_audit_proxy.cli.errors import USAGE, CliError
from kube_audit_proxy.cluster.kubeconfig import KubeconfigError
from kube_audit_proxy.config import Config, ConfigError, parse
from kube_audit_proxy.process.child import set_up_logging
from kube_audit_proxy.process.keeper import StartError
from kube_audit_proxy.process.service import Running, run
from kube_audit_proxy.telemetry.environment import told_by_environment

log = logging.getLogger(__name__)


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--config", "path", metavar="FILE", required=True, type=_FILE, help="The configuration, in YAML.")
def serve(*, path: Path) -> None:
    """Start the proxy from a configuration file, for servers. It logs to standard error.

    \b
    A configuration:
      data_dir: /var/lib/kube-audit-proxy
      listen: 0.0.0.0:8443
      url: https://kube.example.com          # what kubeconfigs will say
      tls: {certificate: tls.crt, key: tls.key}
      workers: 2
      clusters:
        - {name: prod-eu, kubeconfig: prod.kubeconfig, context: prod-eu}
        - {name: here, in_cluster: true}
      journal: {timeout: 5, relaxed: [read]}  # relaxed: make reads even if they cannot be recorded
      telemetry: {endpoint: "http://collector:4317"}  # or the OTEL_EXPORTER_OTLP_* variables
      admin: {listen: 0.0.0.0:9444, token_file: admin.token}  # metrics, health, export.csv
      retention: {keep: 90d, hard_limit: 180d}
      grace_period: 30

    \b
    Examples:
      kube-audit-proxy serve --config /etc/kube-audit-proxy.yaml

    SIGHUP has the file read again. If all is well with it, new workers take over on the same address; the old ones
    take no new connections, and let what they carry end within the grace period. Otherwise the log names every problem
    and nothing changes. Only a restart changes data_dir, listen and admin.listen.
    """  # noqa: D301 - click wants the character, not its escape
    set_up_logging("parent")
    try:
        asyncio.run(run(_read_config(path), _say_ready, partial(_read_config, path)))
    except ConfigError as error:
        problems = "".join(f"\n  - {problem}" for problem in error.problems)
        raise CliError(f"{path} cannot be used:{problems}", exit_code=USAGE) from error
    except (StartError, KubeconfigError) as error:
        raise CliError(str(error)) from error


def _read_config(path: Path) -> Config:
    config = parse(_read(path), path.parent.absolute())
    return dataclasses.replace(config, telemetry=told_by_environment(config.telemetry, os.environ))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError([f"it cannot be read: {error.strerror}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"it is not valid YAML: {error}"]) from error
    if not isinstance(content, dict):
        raise ConfigError(["it is to be a mapping of settings"])
    return content


async def _say_ready(running: Running) -> None:
    for each in running.clusters:
        if each.finding.problem:
            log.warning("cluster %s: %s", each.name, each.finding.problem)
        elif not each.finding.may_impersonate:
            log.warning("cluster %s: the credential (%s) may not impersonate users", each.name, each.finding.own_user)
    log.info("ready at %s for %s", running.config.url, ", ".join(each.name for each in running.clusters))
