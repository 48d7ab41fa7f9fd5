"""Whether the other end of a connection is still there: asked of the kernel, where reading does not tell."""

import select
import socket
import sys
from typing import Protocol

from kube_audit_proxy.gateway.transport import Transport

_KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Seconds, and how many questions without an answer: a peer that vanished is noticed within two minutes."""

_RETRIES, _UNHEARD_MS = 8, 90_000
"""How often what is unacknowledged was sent again, and for how long nothing was heard, of a peer that has vanished."""

# struct tcp_info of linux/tcp.h: where it has how often in a row, a byte, and since when in ms, 32 bits, its last.
_RETRANSMITS, _LAST_ACK_RECEIVED, _TCP_INFO_SIZE = 2, 56, 60

_HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class _Socket(Protocol):
    def setsockopt(self, level: int, option: int, value: int, /) -> object: ...


def keep_alive(connected: _Socket) -> None:
    """Have the kernel notice that the peer vanished without a word, while there is nothing to be sent."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE.items():
        if hasattr(socket, option):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def has_hung_up(transport: Transport) -> bool:
    """Tell whether the peer has closed or reset the connection, whatever of its bytes is still to be read."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), _HUNG_UP)
    return bool(poll.poll(0))


def has_vanished(transport: Transport) -> bool:
    """Tell whether the peer acknowledges nothing any more of what is sent to it.

    The kernel asks nothing, as `keep_alive` has it, while something is under way: it goes on sending that for a
    quarter of an hour (tcp_retries2). A peer that reads slowly, or nothing for now, acknowledges all the same, which
    TCP_USER_TIMEOUT would not take into account. Only Linux tells.
    """
    if sys.platform != "linux" or transport.is_closing():
        return False
    told: bytes = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    unheard = int.from_bytes(told[_LAST_ACK_RECEIVED:], sys.byteorder)
    return len(told) == _TCP_INFO_SIZE and told[_RETRANSMITS] >= _RETRIES and unheard > _UNHEARD_MS
