"""The command lines of a demo cluster's servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kube_audit_proxy.demo.files import Pods
    from kube_audit_proxy.demo.pki import Pki

_SERVICE_NETWORK = "10.96.0.0/16"


@dataclass(frozen=True, slots=True)
class Ports:
    """The loopback ports of one cluster."""

    etcd: int
    etcd_peer: int
    apiserver: int
    kubelet: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one cluster keeps its files."""

    root: Path

    @property
    def kubeconfig(self) -> Path:
        """The owner's kubeconfig."""
        return self.root / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        """The API server's own audit log."""
        return self.root / "audit.log"

    @property
    def logs(self) -> Path:
        """One log of each server."""
        return self.root / "logs"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.root / "pki"

    @property
    def etcd(self) -> Path:
        """What the cluster stores."""
        return self.root / "etcd"

    @property
    def pods(self) -> Path:
        """What the simulated pods have on disk."""
        return self.root / "pods"

    @property
    def control(self) -> Path:
        """Configuration of the servers."""
        return self.root / "control"

    @property
    def tokens(self) -> Path:
        """The API server's token file."""
        return self.control / "tokens.csv"

    @property
    def audit_policy(self) -> Path:
        """What the API server's audit log records."""
        return self.control / "audit-policy.json"

    @property
    def stages(self) -> Path:
        """How kwok changes nodes and pods."""
        return self.control / "stages.yaml"

    def kubeconfig_of(self, user: str) -> Path:
        """Return the kubeconfig of a server's identity."""
        return self.control / f"{user.removeprefix('system:')}.kubeconfig"


@dataclass(frozen=True, slots=True)
class Site:
    """Everything that the command lines are made of."""

    programs: Mapping[str, Path]
    layout: Layout
    ports: Ports
    pki: Pki
    apiserver_flags: Sequence[str]


def etcd(site: Site) -> list[str]:
    """Return etcd's command line: TLS on every port, clients and peers need a certificate of the demo's authority."""
    pki, ports = site.pki, site.ports
    client, peer = f"https://127.0.0.1:{ports.etcd}", f"https://127.0.0.1:{ports.etcd_peer}"
    return [
        str(site.programs["etcd"]),
        "--name=demo",
        f"--data-dir={site.layout.etcd}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=demo={peer}",
        f"--cert-file={pki.server_cert}",
        f"--key-file={pki.server_key}",
        f"--trusted-ca-file={pki.ca}",
        "--client-cert-auth",
        f"--peer-cert-file={pki.server_cert}",
        f"--peer-key-file={pki.server_key}",
        f"--peer-trusted-ca-file={pki.ca}",
        "--peer-client-cert-auth",
        "--unsafe-no-fsync",  # a demo's data need not survive a power cut, and disks can be slow
        "--log-level=warn",
    ]


def apiserver(site: Site) -> list[str]:
    """Return kube-apiserver's command line: RBAC, tokens, and an audit log written before the answer is sent."""
    pki, ports, layout = site.pki, site.ports, site.layout
    return [
        str(site.programs["kube-apiserver"]),
        f"--etcd-servers=https://127.0.0.1:{ports.etcd}",
        f"--etcd-cafile={pki.ca}",
        f"--etcd-certfile={pki.client_cert}",
        f"--etcd-keyfile={pki.client_key}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",  # else a machine without a network cannot start it
        "--endpoint-reconciler-type=none",  # which would refuse to publish a loopback address
        f"--secure-port={ports.apiserver}",
        f"--tls-cert-file={pki.server_cert}",
        f"--tls-private-key-file={pki.server_key}",
        f"--service-account-key-file={pki.service_account_key}",
        f"--service-account-signing-key-file={pki.service_account_key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={_SERVICE_NETWORK}",
        "--authorization-mode=RBAC",
        f"--token-auth-file={layout.tokens}",
        f"--kubelet-certificate-authority={pki.ca}",
        f"--kubelet-client-certificate={pki.client_cert}",
        f"--kubelet-client-key={pki.client_key}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--audit-policy-file={layout.audit_policy}",
        f"--audit-log-path={layout.audit_log}",
        "--audit-log-mode=blocking",
        "--audit-log-maxsize=1024",  # MB; else it is moved away at 100, under the eyes of who compares it with ours
        "--allow-privileged=true",
        "--profiling=false",
        *site.apiserver_flags,
    ]


def controller_manager(site: Site, user: str) -> list[str]:
    """Return kube-controller-manager's command line."""
    return [
        str(site.programs["kube-controller-manager"]),
        f"--kubeconfig={site.layout.kubeconfig_of(user)}",
        f"--service-account-private-key-file={site.pki.service_account_key}",
        f"--root-ca-file={site.pki.ca}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--kube-api-qps=500",  # the default makes the start wait for five seconds
        "--kube-api-burst=500",
        "--secure-port=0",
    ]


def scheduler(site: Site, user: str) -> list[str]:
    """Return kube-scheduler's command line."""
    return [
        str(site.programs["kube-scheduler"]),
        f"--kubeconfig={site.layout.kubeconfig_of(user)}",
        "--leader-elect=false",
        "--secure-port=0",
    ]


def kwok(site: Site, user: str) -> list[str]:
    """Return the command line of kwok, which says of nodes and pods what their kubelets would."""
    return [
        str(site.programs["kwok"]),
        f"--kubeconfig={site.layout.kubeconfig_of(user)}",
        f"--config={site.layout.stages}",
        "--manage-all-nodes",
        "--node-ip=127.0.0.1",
    ]


def kubelet(site: Site, pods: Pods) -> list[str]:
    """Return the command line of what answers logs, exec, attach and port-forward, to the API server only."""
    return [
        str(site.programs["demo-kubelet"]),
        f"-listen=127.0.0.1:{site.ports.kubelet}",
        f"-cert={site.pki.server_cert}",
        f"-key={site.pki.server_key}",
        f"-client-ca={site.pki.ca}",
        f"-logs={pods.logs}",
        f"-work={pods.work}",
    ]
