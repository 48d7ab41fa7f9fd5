"""A committer with a fault: `sick_committer.py (fail | hold | die) FLAG` has it while the file FLAG exists."""

import os
import sys
import time
from errno import EIO
from pathlib import Path

from kube_audit_proxy.journal import committer

FAULT, FLAG = sys.argv[1], Path(sys.argv[2])


class SickFile(committer.File):
    """Syncs, and then fails, does not come back, or takes the process with it."""

    def sync(self, path: bytes) -> None:
        """Have the fault, if it is switched on."""
        super().sync(path)
        if FAULT == "die" and FLAG.exists():
            os._exit(1)
        while FAULT == "hold" and FLAG.exists():
            time.sleep(0.005)
        if FAULT == "fail" and FLAG.exists():
            raise OSError(EIO, "injected")


committer.File = SickFile  # type: ignore[misc]
committer.main()
