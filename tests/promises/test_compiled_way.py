"""What every call comes through is compiled: for one like those before it, nothing of Python's is interpreted."""

import json
import os
from pathlib import Path

import pytest

import kube_audit_proxy.gateway.exchange
from kube_audit_proxy.tls import ensure_certificates, server_context
from support.raw import Raw
from support.scripted import Scripted
from support.serving import kubeconfig, serving

pytestmark = pytest.mark.servers

_CALLS = 300
_COUNTS = '''"""Counts the functions that a worker interprets, from when it is ready until it ends."""

import atexit
import collections
import json
import os
import sys

if any("process.worker" in argument for argument in sys.orig_argv):
    counts = collections.Counter()

    def count(frame, event, _argument):
        if event == "call":
            counts[f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}"] += 1
            if frame.f_code.co_name == "say_ready":
                counts.clear()

    def tell():
        sys.setprofile(None)
        with open(os.environ["COUNTS"], "w") as file:
            json.dump(counts, file)

    atexit.register(tell)
    sys.setprofile(count)
'''


def test_no_call_is_interpreted(tmp_path: Path) -> None:
    """Of hundreds of calls over TLS, none has its worker interpret a function: that is a tenth of what it costs."""
    if str(kube_audit_proxy.gateway.exchange.__file__).endswith(".py"):
        pytest.skip("these are the sources as they are: `make test` has them compiled")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_COUNTS)
    own = ensure_certificates(tmp_path / "certificates", ["127.0.0.1"])
    environ = {
        "PYTHONPATH": os.pathsep.join((str(tmp_path / "site"), os.environ.get("PYTHONPATH", ""))),
        "COUNTS": str(tmp_path / "counts"),
    }
    with Scripted(server_context(own.certificate, own.key)) as server:
        server.on("/api/v1/pods", lambda connection, _asked: connection.answer(b"{}"))
        told = kubeconfig(tmp_path / "upstream", {"shop": (server.url, own.authority.read_bytes())})
        with serving(tmp_path, told, clusters=("shop",), environ=environ) as proxy, Raw(proxy) as raw:
            for _ in range(_CALLS):
                assert raw.ask("GET /clusters/shop/api/v1/pods").code == 200
    counts: dict[str, int] = json.loads((tmp_path / "counts").read_text("utf-8"))
    assert counts, "nothing was counted at all"
    assert {name: count for name, count in counts.items() if count > _CALLS // 2} == {}
