"""An API server's part in a benchmark: TLS, keep-alive, and the same 3 KB list for every request, as cheaply as can be.

`python -m benchmarks.upstream CERTIFICATE KEY`; prints its port. It is no test double: what it serves is never looked
at, it only must not be what limits the proxies in front of it.
"""

import asyncio
import json
import ssl
import sys
from typing import cast

import uvloop

_BODY = json.dumps(
    {
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": "1"},
        "items": [
            {"metadata": {"name": f"web-{n:03}", "namespace": "shop", "uid": f"{n:032x}"}, "status": {"phase": "Running"}}
            for n in range(24)
        ],
    }
).encode()
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nAudit-Id: 5c6f2a0e-4f0e-4f3a-8f59-1f5a0d3c7e11\r\nCache-Control: no-cache, private\r\n"
    b"Content-Type: application/json\r\nX-Kubernetes-Pf-Flowschema-Uid: f6a0b7a4-2f49-43a8-9d57-19f8b4f3c2aa\r\n"
    b"X-Kubernetes-Pf-Prioritylevel-Uid: 4b7f2f3e-6c55-4d6b-8e3c-0a9d2a1b5c77\r\n"
    b"Date: Mon, 02 Mar 2026 12:00:00 GMT\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class _Answer(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        heads = data.count(b"\r\n\r\n")
        self._rest = data.rpartition(b"\r\n\r\n")[2] if heads else data
        if heads:
            self._transport.write(_ANSWER * heads)


async def _serve(certificate: str, key: str) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server = await asyncio.get_running_loop().create_server(_Answer, "127.0.0.1", 0, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:3]))
