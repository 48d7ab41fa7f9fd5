"""The composition root: the one place that makes a gateway out of its parts."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from kube_audit_proxy.audit.redaction import Redaction
from kube_audit_proxy.clock import UuidSource, WallClock
from kube_audit_proxy.cluster.cluster import Cluster
from kube_audit_proxy.cluster.kubeconfig import Context, KubeconfigError, default_paths, in_cluster, load
from kube_audit_proxy.config import ClusterConfig, Config
from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.gateway.exchange import Gateway
from kube_audit_proxy.identity.tokens import TokenAuthenticator
from kube_audit_proxy.identity.user import Union
from kube_audit_proxy.journal.writer import JournalWriter
from kube_audit_proxy.process.tally import Tally

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def find_context(cluster: ClusterConfig) -> Context:
    """Read the kubeconfig context of a cluster. Raises KubeconfigError."""
    if cluster.in_cluster:
        context = in_cluster(os.environ, _SERVICE_ACCOUNT)
        if context is None:
            raise KubeconfigError(f"cluster {cluster.name!r} is to be the one this runs in, but this is no pod of any")
        return context
    paths = cluster.kubeconfig or default_paths(os.environ)
    found = load(paths, [cluster.context] if cluster.context else [])
    if not found.contexts:
        raise KubeconfigError(f"cluster {cluster.name!r} names no context, and its kubeconfig has no current one")
    return next(iter(found.contexts.values()))


def make_clusters(config: Config) -> dict[str, Cluster]:
    """Make the clusters of a configuration, by name. Raises KubeconfigError."""
    clusters = {}
    for entry in config.clusters:
        cluster = Cluster(entry.name, find_context(entry), time.perf_counter, time.time)
        cluster.own_user = entry.own_user
        clusters[entry.name] = cluster
    return clusters


def make_gateway(
    config: Config, journal: JournalWriter, tally: Tally, clock: Callable[[], float] = time.perf_counter
) -> Gateway:
    """Make a gateway that records into `journal` and counts in `tally`. Raises KubeconfigError."""
    telemetry = config.telemetry
    return Gateway(
        clusters=make_clusters(config),
        identity=Union(TokenAuthenticator(config.tokens, time.time, clock)),
        journal=journal,
        redaction=Redaction.compile(config.redact),
        traced=telemetry.sample if telemetry and Signal.TRACES in telemetry.signals else None,
        tally=tally,
        relaxed=config.relaxed,
        answer_timeout=config.answer_timeout,
        clock=clock,
        wall=WallClock(),
        new_id=UuidSource(),
    )
