"""The connections to one API server, kept between calls."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kube_audit_proxy.coroutine import Waiter
from kube_audit_proxy.gateway.errors import UpstreamConnectError
from kube_audit_proxy.gateway.peer import keep_alive
from kube_audit_proxy.gateway.tls import TlsTransport, as_protocol
from kube_audit_proxy.gateway.upstream import UpstreamConnection

CONNECT_TIMEOUT = 10.0
"""Seconds for TCP and TLS together."""

IDLE_TIMEOUT: Final = 45.0
"""Seconds a connection is kept unused: well below the API server's 90, so that it is us who close it."""


@dataclass(frozen=True)
class Address:
    """Where an API server listens, and how to trust it."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    server_hostname: str


class Pool:
    """The connections to one API server: the one used last is used first, so that the others can age and close."""

    def __init__(self, address: Callable[[], Address], clock: Callable[[], float]) -> None:
        self._address = address
        self._clock = clock
        self._idle: deque[UpstreamConnection] = deque()
        self._asked: set[UpstreamConnection] = set()

    def take_kept(self) -> UpstreamConnection | None:
        """A kept connection that is still open, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                if self._clock() - connection.idle_since < IDLE_TIMEOUT:
                    return connection
                connection.transport.close()
        return None

    async def connect(self) -> UpstreamConnection:
        """Open a connection. Raises UpstreamConnectError, whose text names the address and what went wrong."""
        address = self._address()
        where = f"{address.host}:{address.port}"
        connection = UpstreamConnection(self._clock)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await _open(address, connection)
        except TimeoutError:
            raise UpstreamConnectError(f"no connection to {where} within {CONNECT_TIMEOUT:.0f} s") from None
        except ssl.SSLCertVerificationError as untrusted:
            reason = untrusted.verify_message
            raise UpstreamConnectError(f"the certificate of {where} is not trusted: {reason}") from untrusted
        except OSError as error:
            raise UpstreamConnectError(f"no connection to {where}: {error.strerror or error}") from error
        if connection.transport.is_closing():
            raise UpstreamConnectError(f"{where} closed the connection at once")
        keep_alive(connection.transport.get_extra_info("socket"))
        return connection

    def answered(self, connection: UpstreamConnection, *, patient: bool) -> Waiter:
        """Give what to wait for: the head of an answer. Unless `patient`, `sweep` sees to it that it begins in time.

        It fails with UpstreamError (UpstreamTimeoutError if it does not) or ClientGoneError.
        """
        if patient:
            self._asked.discard(connection)
        else:
            self._asked.add(connection)
        return connection.answered()

    def keep(self, connection: UpstreamConnection) -> None:
        """Keep a connection for the next call."""
        connection.idle_since = connection.last_byte_at
        self._idle.append(connection)

    def sweep(self, answer_timeout: float) -> None:
        """Close what has been unused for too long, and give up answers that have not begun within `answer_timeout`."""
        now = self._clock()
        while self._idle and now - self._idle[0].idle_since >= IDLE_TIMEOUT:
            self._idle.popleft().transport.close()
        self._asked = {connection for connection in self._asked if connection.waiting}
        for connection in [each for each in self._asked if now - each.sent_at > answer_timeout]:
            connection.give_up()

    def close(self) -> None:
        """Close every kept connection."""
        while self._idle:
            self._idle.pop().transport.close()


async def _open(address: Address, connection: UpstreamConnection) -> None:
    loop = asyncio.get_running_loop()
    if address.tls is None:
        await loop.create_connection(lambda: connection, address.host, address.port)
        return
    shaken: asyncio.Future[None] = loop.create_future()
    transport = TlsTransport(connection, address.tls, address.server_hostname, shaken)
    try:
        await loop.create_connection(lambda: as_protocol(transport), address.host, address.port)
        await shaken
    except BaseException:
        shaken.cancel()
        transport.abort()
        raise
