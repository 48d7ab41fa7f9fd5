"""How a stream ended, where that is for the record to say and not for chance."""

import json
from pathlib import Path

import pytest

from support.proxies import proxy
from support.raw import Raw
from support.scripted import Asked, Connection, Scripted
from support.serving import kubeconfig

pytestmark = pytest.mark.servers

_POD = "/api/v1/namespaces/default/pods/box"
_SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
)
_UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
_SUCCESS = {"status": "Success"}
_FAILURE = {"status": "Failure", "reason": "InternalError", "message": "no such container"}


@pytest.mark.parametrize(
    ("path", "told", "outcome"),
    [
        (f"{_POD}/attach", _SUCCESS, "complete"),
        (f"{_POD}/exec", _FAILURE, "complete"),
        (f"{_POD}/exec", _SUCCESS, "complete"),
        (f"{_POD}/exec", None, "client_gone"),
        (f"{_POD}/attach", None, "client_gone"),
    ],
    ids=["attach ended", "exec failed", "exec ended", "exec goes on", "attach goes on"],
)
def test_who_hangs_up_first_after_the_end_does_not_matter(
    tmp_path: Path, path: str, told: dict[str, str] | None, outcome: str
) -> None:
    """Once the server has told how a stream ended it is complete, even if the client goes first; before, it is not."""
    message = b"\3" + json.dumps(told).encode() if told else b"\1output"

    def script(connection: Connection, _asked: Asked) -> bool:
        connection.send(_SWITCHED + b"\x82" + bytes([len(message)]) + message)
        connection.count_rest()  # it waits for the client to go
        return False

    with Scripted() as server:
        server.on(path, script)
        config = kubeconfig(tmp_path / "cluster", {"demo": (server.url, b"")})
        with proxy(["--kubeconfig", str(config)], tmp_path / "data", tmp_path / "log") as own:
            with Raw(own) as raw:
                raw.send(raw.head(f"GET /clusters/demo{path}?command=true", *_UPGRADE))
                raw.until(message)
            (end,) = own.ended()
    assert (end["status"], end["outcome"], end["decision"]) == (101, outcome, "allow")
    assert end.get("reason") == (told or {}).get("reason")
