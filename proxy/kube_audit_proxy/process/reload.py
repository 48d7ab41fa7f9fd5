"""What a running proxy can take over of a configuration that was read again, and what is wrong with it."""

import dataclasses
import ssl
from collections.abc import Iterator

from kube_audit_proxy.app import make_clusters
from kube_audit_proxy.cluster.kubeconfig import KubeconfigError
from kube_audit_proxy.config import Config
from kube_audit_proxy.tls import server_context


def without_restart(running: Config, read: Config) -> tuple[Config, tuple[str, ...]]:
    """Return the configuration that can follow the running one, and the settings that only a restart changes.

    Those are what the parent holds on to: the data directory and the addresses that are listened on.
    """
    fixed = {
        "data_dir": running.data_dir.absolute() != read.data_dir.absolute(),
        "listen": running.host != read.host or read.port not in {0, running.port},
        "admin.listen": _admin_moves(running, read),
    }
    admin = running.admin
    if admin is not None and read.admin is not None:
        admin = dataclasses.replace(read.admin, host=admin.host, port=admin.port)
    following = dataclasses.replace(read, data_dir=running.data_dir, host=running.host, port=running.port, admin=admin)
    return following, tuple(name for name, changed in fixed.items() if changed)


def problems(config: Config) -> Iterator[str]:
    """Yield a sentence for each thing outside of the configuration that keeps it from being used."""
    if config.certificate is not None and config.key is not None:
        try:
            server_context(config.certificate, config.key)
        except (OSError, ssl.SSLError) as error:
            yield f"tls: {config.certificate} with {config.key} cannot be used: {error}"
    for entry in config.clusters:
        try:
            make_clusters(dataclasses.replace(config, clusters=(entry,)))
        except KubeconfigError as error:
            yield f"cluster {entry.name!r}: {error}"


def _admin_moves(running: Config, read: Config) -> bool:
    if running.admin is None or read.admin is None:
        return running.admin is not read.admin
    return running.admin.host != read.admin.host or read.admin.port not in {0, running.admin.port}
