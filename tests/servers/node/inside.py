"""The first process inside a node's namespaces: starts the servers, and ends when one of them or the keeper does.

Run as a script with the plan's file as argument. All that runs in the namespaces ends with it, and so do all
mounts. What the node writes is in memory, apart from logs and etcd's data.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_IN_MEMORY = ("/run", "/var/lib", "/var/log")
_SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What a kubelet would set for the whole machine: it is shown that they are so already."""
_DEADLINE = 180.0


def _do(*argv: str) -> None:
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)


def _mount() -> None:
    _do("mount", "-t", "proc", "proc", "/proc")
    for folder in _IN_MEMORY:
        _do("mount", "-t", "tmpfs", "tmpfs", folder)
    for name, value in _SYSCTLS.items():
        shown = Path("/run/sysctl", name)
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.write_text(f"{value}\n", "ascii")
        _do("mount", "--bind", str(shown), f"/proc/sys/{name}")


def _network(plan: Mapping[str, Any]) -> None:
    print("ready for the link", flush=True)  # noqa: T201 - the keeper reads it
    sys.stdin.readline()
    _do("ip", "link", "set", "lo", "up")
    _do("ip", "address", "add", f"{plan['address']}/24", "dev", "eth0")
    _do("ip", "link", "set", "eth0", "up")
    _do("ip", "route", "add", "default", "via", plan["host"])


def _start(name: str, argv: list[str], plan: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    with Path(plan["logs"], f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=plan["environ"], start_new_session=True
        )


def _serves(path: str) -> bool:
    """Whether the API server answers 200; who it is does not matter on the node's own loopback."""
    trust = ssl._create_unverified_context()  # noqa: S323, SLF001
    connection = http.client.HTTPSConnection("127.0.0.1", 6443, context=trust, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(path) == 0


_AWAITED: Mapping[str, Callable[[str], bool]] = {"served": _serves, "listening": _listens}


def _await(kind: str, what: str, servers: Mapping[str, subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _DEADLINE
    while not _AWAITED[kind](what):
        for name, server in servers.items():
            if server.poll() is not None:
                sys.exit(f"{name} ended with code {server.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} is not {kind}")
        time.sleep(0.05)


def main(file: Path) -> None:
    """Follow the plan's steps, then reap processes until a server ends."""
    plan: dict[str, Any] = json.loads(file.read_bytes())
    socket.sethostname(plan["name"])
    _mount()
    _network(plan)

    def end_with_keeper() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_keeper, daemon=True).start()
    servers: dict[str, subprocess.Popen[bytes]] = {}
    for kind, what, argv in plan["steps"]:
        if kind == "start":
            servers[what] = _start(what, argv, plan)
        elif kind == "do":
            _start(what, argv, plan).wait()
        else:
            _await(kind, what, servers)
    names = {server.pid: name for name, server in servers.items()}
    while True:
        child, status = os.wait()
        if child in names:
            sys.exit(f"{names[child]} ended with code {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
