"""`up`: the proxy in front of your own kubeconfig, or of a demo cluster, with the trail live on the terminal."""

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from kube_audit_proxy.cli.errors import CliError
from kube_audit_proxy.cli.front import Front
from kube_audit_proxy.cli.options import data_dir_option
from kube_audit_proxy.cli.own_kubeconfig import KUBECONFIG
from kube_audit_proxy.cluster.kubeconfig import KubeconfigError, default_paths, load, slug
from kube_audit_proxy.config import AdminConfig, ClusterConfig, Config, TelemetryConfig
from kube_audit_proxy.demo.build import BuildError
from kube_audit_proxy.demo.cluster import ClusterError, DemoCluster
from kube_audit_proxy.process.keeper import StartError
from kube_audit_proxy.process.service import run
from kube_audit_proxy.telemetry.environment import told_by_environment

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8443
_GRACE = 3.0
"""Seconds that running calls get after Ctrl-C: a person waits."""


@click.command()
@click.option("--demo", is_flag=True, help="Start a local demo cluster and serve that. Needs Go once, to build it.")
@click.option("--kubeconfig", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Serve this kubeconfig. Default: what kubectl would use.")  # fmt: skip
@click.option("--context", "contexts", metavar="NAME", multiple=True,
              help="Serve this context; may be repeated, '*' is all. Default: the current one.")  # fmt: skip
@data_dir_option
@click.option("--listen", metavar="HOST:PORT", help=f"Default: {DEFAULT_HOST}:{DEFAULT_PORT}, or a free port if taken.")
@click.option("--workers", metavar="N", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Gateway processes on the one port.")  # fmt: skip
@click.option(
    "--otlp",
    metavar="URL",
    default="",
    help="Ship records to this collector (gRPC). Default: $OTEL_EXPORTER_OTLP_ENDPOINT, else nowhere.",
)
@click.option("--admin", metavar="HOST:PORT", help="Serve metrics, health and exports here, such as 127.0.0.1:9444.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when ready, and nothing else.")
def up(
    *,
    demo: bool,
    kubeconfig: Path | None,
    contexts: tuple[str, ...],
    data_dir: Path,
    listen: str | None,
    workers: int,
    otlp: str,
    admin: str | None,
    as_json: bool,
) -> None:
    """Start the proxy in front of your clusters, and follow the trail.

    You act upstream as your kubeconfig does: nothing changes for you but that every call is recorded. Where there is
    no kubeconfig, a demo cluster is started.

    \b
    Examples:
      kube-audit-proxy up
      kube-audit-proxy up --context kind-dev --context prod-eu --workers 2
      kube-audit-proxy up --demo
      kube-audit-proxy up --otlp http://127.0.0.1:4317 --admin 127.0.0.1:9444
      kube-audit-proxy up --json | jq -r .kubeconfig
    """  # noqa: D301 - click wants the character, not its escape
    data_dir = data_dir.absolute()
    front = Front(as_json=as_json)
    host, port = _address(listen)
    try:
        with ExitStack() as stack:
            clusters = () if demo else _own_clusters(kubeconfig, contexts, data_dir)
            if not clusters:
                if not demo:
                    front.say("No kubeconfig with a current context: starting the demo cluster.")
                cluster = stack.enter_context(DemoCluster(data_dir / "demo", progress=front.say))
                clusters = (ClusterConfig("demo", (cluster.kubeconfig,), "demo"),)
                front.demo_kubectl = cluster.kubectl
            config = Config(
                data_dir,
                clusters,
                host=host,
                port=port,
                workers=workers,
                grace=_GRACE,
                telemetry=told_by_environment(TelemetryConfig(endpoint=otlp) if otlp else None, os.environ),
                admin=AdminConfig(*_host_and_port(admin, "--admin")) if admin else None,
            )
            asyncio.run(run(config, front.show))
    except (StartError, KubeconfigError, ClusterError, BuildError) as error:
        raise CliError(str(error)) from error
    front.say("\nStopped; nothing is left running. The trail stays in " + str(data_dir))


def _address(listen: str | None) -> tuple[str, int]:
    if listen is None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((DEFAULT_HOST, DEFAULT_PORT))
            except OSError:
                return DEFAULT_HOST, 0
        return DEFAULT_HOST, DEFAULT_PORT
    return _host_and_port(listen, "--listen")


def _host_and_port(text: str, option: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8443", param_hint=option)
    return host.strip("[]"), int(port)


def _own_clusters(kubeconfig: Path | None, contexts: Sequence[str], data_dir: Path) -> tuple[ClusterConfig, ...]:
    """The clusters of the contexts asked for; none where no kubeconfig has a current context."""
    paths = (kubeconfig,) if kubeconfig else _own_paths(data_dir)
    clusters: dict[str, ClusterConfig] = {}
    for name in load(paths, contexts).contexts:
        cluster = slug(name) or "cluster"
        if cluster in clusters:
            raise KubeconfigError(
                f"contexts {clusters[cluster].context!r} and {name!r} would both be called {cluster!r}"
            )
        clusters[cluster] = ClusterConfig(cluster, paths, name)
    return tuple(clusters.values())


def _own_paths(data_dir: Path) -> tuple[Path, ...]:
    """The files kubectl would use, without the one that leads to this proxy: it may still be in KUBECONFIG."""
    paths = tuple(path for path in default_paths(os.environ) if path.absolute() != data_dir / KUBECONFIG)
    return paths or default_paths({"HOME": os.environ.get("HOME", "~")})
