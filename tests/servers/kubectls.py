"""The kubectl programs that the tests drive: an installed one of each version, or else one built for the tests.

They differ in what goes over the wire: 1.28 streams over SPDY only, 1.30 executes over WebSocket, 1.33 forwards ports
over it as well and creates in protobuf, 1.36 begins its watches without a list. Up to 1.33, `--raw` loses the path of
a server's URL.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from kube_audit_proxy.demo.build import ensure

_INSTALLED: Mapping[str, tuple[str, ...]] = {
    "1.28": ("kubectl.1.28", "kubectl.1.27"),
    "1.30": ("kubectl.1.30",),
    "1.33": ("kubectl.1.33",),
    "1.36": (),  # belongs to the demo cluster, which is built in any case
}
"""Under which names a version may be installed, by minor version."""

VERSIONS = tuple(_INSTALLED)
"""What is tried, the oldest first."""


@functools.cache
def kubectl_of(version: str) -> Path:
    """Return the kubectl of one of VERSIONS. Raises BuildError."""
    for name in _INSTALLED[version]:
        if (path := shutil.which(name, path=_folders())) is not None:
            return Path(path)
    return ensure("kubernetes" if version == VERSIONS[-1] else f"kubectl-{version}", print)["kubectl"]


def new_kubectl() -> Path:
    """Return the kubectl that belongs to the demo cluster. Raises BuildError."""
    return kubectl_of(VERSIONS[-1])


def old_kubectl() -> Path:
    """Return a kubectl 1.28 or 1.27. Raises BuildError."""
    return kubectl_of(VERSIONS[0])


def _folders() -> str:
    # the Google Cloud SDK keeps old versions beside its kubectl, which itself picks one by the cluster's version
    folders = [os.environ.get("PATH", ""), "/usr/lib/google-cloud-sdk/bin"]
    if (main := shutil.which("kubectl")) is not None:
        folders.insert(1, str(Path(main).resolve().parent))
    return os.pathsep.join(folders)
