"""The kubectl programs that the tests drive: a new one, and an old one that still streams over SPDY."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

from kube_audit_proxy.demo.build import ensure

_OLD_NAMES = ("kubectl.1.28", "kubectl.1.27")


@functools.cache
def new_kubectl() -> Path:
    """Return the kubectl that belongs to the demo cluster. Raises BuildError."""
    return ensure("kubernetes", print)["kubectl"]


@functools.cache
def old_kubectl() -> Path:
    """Return a kubectl 1.28 or 1.27: an installed one, or else one built for the tests. Raises BuildError."""
    found = _installed()
    return found if found is not None else ensure("kubectl-1.28", print)["kubectl"]


def _installed() -> Path | None:
    # the Google Cloud SDK keeps old versions beside its kubectl, which itself picks one by the cluster's version
    main = shutil.which("kubectl")
    folders = [os.environ.get("PATH", ""), "/usr/lib/google-cloud-sdk/bin"]
    if main is not None:
        folders.insert(1, str(Path(main).resolve().parent))
    for name in _OLD_NAMES:
        if (path := shutil.which(name, path=os.pathsep.join(folders))) is not None:
            return Path(path)
    return None
