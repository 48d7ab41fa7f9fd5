"""Keeps a node: makes its namespaces, link and cgroups, and takes all of it away when the parent is gone.

Run as a script with the plan's file as argument, and with the lock on the node's number, so that nobody takes that
before all is clean. Standard input is a pipe that only the parent holds open: its end,
however the parent died, ends the node. The node in turn ends with this process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_CGROUPS = Path("/sys/fs/cgroup")
_INSIDE = Path(__file__).with_name("inside.py")
_NAMESPACES = ("--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "--ipc", "--propagation=private")
_DEADLINE = 30.0


def _hierarchies() -> Iterator[Path]:
    for folder in sorted(_CGROUPS.iterdir()):
        if folder.is_dir() and not folder.is_symlink() and (folder / "cgroup.procs").exists():
            yield folder


def _make_cgroup(name: str) -> None:
    for hierarchy in _hierarchies():
        (hierarchy / name).mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):  # without them no process may enter
            if (hierarchy / setting).exists():
                (hierarchy / name / setting).write_text((hierarchy / setting).read_text())


def _remove_cgroup(name: str) -> None:
    deadline = time.monotonic() + _DEADLINE
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            while True:
                try:
                    Path(folder).rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:  # the last of its processes is still going
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.01)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], stdin=subprocess.DEVNULL, check=True)


def _join(inside: subprocess.Popen[bytes], link: str, address: str) -> None:
    """Join the node's network to ours: it says when there is one, and waits for the link."""
    assert inside.stdin is not None
    assert inside.stdout is not None
    inside.stdout.readline()
    _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(inside.pid))
    _ip("address", "add", address, "dev", link)
    _ip("link", "set", link, "up")
    inside.stdin.write(b"joined\n")
    inside.stdin.flush()


def _clean(plan: dict[str, Any]) -> None:
    subprocess.run(["ip", "link", "delete", plan["link"]], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    _remove_cgroup(plan["cgroup"])


def main(file: Path) -> int:
    """Run the node of a plan until it ends or the parent is gone."""
    plan: dict[str, Any] = json.loads(file.read_bytes())
    command = ["unshare", *_NAMESPACES, sys.executable, "-I", "-S", str(_INSIDE), str(file)]
    _clean(plan)  # after a keeper that was killed itself
    try:
        _make_cgroup(plan["cgroup"])
        inside = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

        def end_with_parent() -> None:
            while os.read(0, 4096):
                pass
            inside.kill()

        signal.signal(signal.SIGTERM, lambda *_: inside.kill())
        threading.Thread(target=end_with_parent, daemon=True).start()
        try:
            _join(inside, plan["link"], f"{plan['host']}/24")
        except (OSError, subprocess.CalledProcessError):
            inside.kill()
            raise
        finally:
            inside.wait()
        return inside.returncode
    finally:
        _clean(plan)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
