"""Whether a real node can run on this machine."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

CNI_PROGRAMS = Path("/usr/lib/cni")
_LEFT_OUT = (
    "Left out, because they need a real node (kubelet, containerd, runc): exec, attach, port-forward, rollouts. "
)
_PACKAGES = {
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "gcc": "gcc libc6-dev",
    "ip": "iproute2",
    "unshare": "util-linux",
}
"""The Debian packages of the programs that a node needs."""


@functools.cache
def why_not() -> str:
    """Return what is left out and why, or the empty string where a node can run."""
    reason = _reason()
    return reason and _LEFT_OUT + reason


def _reason() -> str:
    if sys.platform != "linux" or os.geteuid() != 0:
        return "It runs on Linux and as root only."
    missing = [package for program, package in _PACKAGES.items() if shutil.which(program) is None]
    if not Path("/bin/busybox").exists():
        missing.append("busybox-static")
    if not (CNI_PROGRAMS / "bridge").exists():
        missing.append("containernetworking-plugins")
    if missing:
        return f"Missing: apt-get install {' '.join(missing)}."
    if not Path("/sys/fs/cgroup/memory/cgroup.procs").exists():
        return "It was made for cgroups of version 1, and this machine has none."
    if not os.access("/sys/fs/cgroup/memory", os.W_OK):
        return "It needs cgroups of its own, and here none can be made."
    tried = ["unshare", "--mount", "--pid", "--fork", "--net", "true"]
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        return "It needs namespaces of its own, and this root user may not make any."
    return ""
