"""Whether the other end of a connection is still there: asked of the kernel, where reading does not tell."""

import asyncio
import select
import socket
from typing import Protocol

_KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Seconds, and how many questions without an answer: a peer that vanished is noticed within two minutes."""

_HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class _Socket(Protocol):
    def setsockopt(self, level: int, option: int, value: int, /) -> object: ...


def keep_alive(connected: _Socket) -> None:
    """Have the kernel notice that the peer vanished without a word, while there is nothing to be sent."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE.items():
        if hasattr(socket, option):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def has_hung_up(transport: asyncio.BaseTransport) -> bool:
    """Tell whether the peer has closed or reset the connection, whatever of its bytes is still to be read."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), _HUNG_UP)
    return bool(poll.poll(0))
