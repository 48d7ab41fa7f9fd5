"""What runs on a node: the servers, in the order of their start, with their settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kube_audit_proxy.demo import servers as control_plane
from kube_audit_proxy.demo.files import CONTROLLER_MANAGER, SCHEDULER
from servers.node.images import PAUSE
from servers.node.machine import CNI_PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NODE = "node-1"
KUBELET = f"system:node:{NODE}"
KUBE_PROXY = "system:kube-proxy"
PORTS = control_plane.Ports(etcd=2379, etcd_peer=2380, apiserver=6443, kubelet=10250)
"""Those that are usual: the node has a network of its own."""
_CONTAINERD = "/run/containerd/containerd.sock"
_PODS = "10.244.0.0/24"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Link:
    """The number of a node on this machine, and what follows from it: addresses and names."""

    number: int

    @property
    def name(self) -> str:
        """Our end of the node's only link to the outside."""
        return f"kap-node-{self.number}"

    @property
    def cgroup(self) -> str:
        """The cgroup of all its pods."""
        return f"kube-audit-proxy-node-{self.number}"

    @property
    def host(self) -> str:
        """Our address."""
        return f"10.99.{self.number}.1"

    @property
    def node(self) -> str:
        """The node's address."""
        return f"10.99.{self.number}.2"


def write_plan(file: Path, site: control_plane.Site, images: Sequence[Path], link: Link) -> None:
    """Write the plan that keeper.py and inside.py follow, and all that the servers read. Raises OSError."""
    control, programs = site.layout.control, site.programs
    containerd, kubelet, kube_proxy = (control / f"{name}.conf" for name in ("containerd", "kubelet", "kube-proxy"))
    network = control / "cni"
    network.mkdir()
    containerd.write_text(_containerd(network), "utf-8")
    kubelet.write_text(json.dumps(_kubelet(site, link)), "utf-8")
    kube_proxy.write_text(yaml.safe_dump(_kube_proxy(site)), "utf-8")  # it reads no JSON
    (network / "10-pods.conflist").write_text(json.dumps(_NETWORK), "utf-8")
    load = [str(programs["ctr"]), f"--address={_CONTAINERD}", "--namespace=k8s.io", "images", "import"]
    steps = [
        ("start", "etcd", control_plane.etcd(site)),
        ("start", "containerd", [str(programs["containerd"]), f"--config={containerd}"]),
        ("start", "kube-apiserver", control_plane.apiserver(site)),
        ("listening", _CONTAINERD, []),
        *(("do", "images", [*load, str(image)]) for image in images),
        ("served", "/readyz", []),
        ("start", "kube-controller-manager", control_plane.controller_manager(site, CONTROLLER_MANAGER)),
        ("start", "kube-scheduler", control_plane.scheduler(site, SCHEDULER)),
        ("start", "kubelet", [
            str(programs["kubelet"]), f"--config={kubelet}", f"--kubeconfig={site.layout.kubeconfig_of(KUBELET)}",
            f"--hostname-override={NODE}", f"--node-ip={link.node}",
        ]),
        ("start", "kube-proxy", [str(programs["kube-proxy"]), f"--config={kube_proxy}"]),
    ]  # fmt: skip
    plan = {
        "name": NODE,
        "link": link.name,
        "host": link.host,
        "address": link.node,
        "cgroup": link.cgroup,
        "logs": str(site.layout.logs),
        "environ": {"PATH": f"{programs['containerd'].parent}:{_PATH}", "HOME": "/root", "LANG": "C.UTF-8"},
        "steps": steps,
    }
    file.write_text(json.dumps(plan), "utf-8")


def apiserver_flags(link: Link) -> list[str]:
    """Return what its API server needs besides what that of the demo has."""
    return [
        "--bind-address=0.0.0.0",
        f"--advertise-address={link.node}",
        "--endpoint-reconciler-type=lease",
        "--authorization-mode=Node",  # in addition
    ]


def _containerd(network: Path) -> str:
    return f"""
version = 3
[grpc]
address = "{_CONTAINERD}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true # or no sandbox starts where root may not lower it
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{CNI_PROGRAMS}"]
conf_dir = "{network}"
use_internal_loopback = true
"""


_NETWORK: Mapping[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "pods",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": _PODS}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def _kubelet(site: control_plane.Site, link: Link) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(site.pki.ca)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "tlsCertFile": str(site.pki.server_cert),
        "tlsPrivateKeyFile": str(site.pki.server_key),
        "containerRuntimeEndpoint": f"unix://{_CONTAINERD}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{link.cgroup}",
        "failCgroupV1": False,
        "enforceNodeAllocatable": ["pods"],
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "resolvConf": "",
        "maxPods": 100,
    }


def _kube_proxy(site: control_plane.Site) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "hostnameOverride": NODE,
        "clusterCIDR": _PODS,
        "oomScoreAdj": 0,
        "clientConnection": {"kubeconfig": str(site.layout.kubeconfig_of(KUBE_PROXY))},
        # the table of connections is the whole machine's: leave it as it is
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
