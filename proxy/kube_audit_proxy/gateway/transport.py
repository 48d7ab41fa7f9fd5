"""What a connection writes to, and stops and goes on reading from: TCP here, TLS in `tls`, and nothing once it is lost.

These are asyncio's methods. They are a class of our own because those of a compiled class are called without a search
for their names, several times a call.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

Data = bytes | bytearray | memoryview


class Transport:
    """What each of them can; as it is, the transport of a connection that is lost: what is written goes nowhere."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002 - there is none
        """Give what asyncio's transports tell, like their `socket`."""
        return default

    def is_closing(self) -> bool:
        """Tell whether it is closed, or about to be."""
        return True

    def write(self, data: Data) -> None:
        """Send; what cannot be sent now is kept until it can."""

    def writelines(self, lines: Iterable[Data]) -> None:
        """Send each of these in a record of its own, where there are records, and all at once."""

    def pause_reading(self) -> None:
        """Leave with the kernel what arrives from now on."""

    def resume_reading(self) -> None:
        """Go on."""

    def close(self) -> None:
        """Close once everything written has been sent."""

    def abort(self) -> None:
        """Close at once."""


GONE = Transport()
"""What a lost connection has in place of its transport, which would otherwise refer to it in a circle.

The buffers of a TLS connection are 50 KB and more. In circles they stay until all objects there are have been looked
at, which is too slow to be done often; so a proxy would grow by each watch and each client that came and went.
"""


class TcpTransport(Transport):
    """The transport of the event loop."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Ask the event loop's."""
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Ask it."""
        return self._transport.is_closing()

    def write(self, data: Data) -> None:
        """Hand it on."""
        self._transport.write(data)

    def writelines(self, lines: Iterable[Data]) -> None:
        """Hand them on."""
        self._transport.writelines(lines)

    def pause_reading(self) -> None:
        """Tell it."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Tell it."""
        self._transport.resume_reading()

    def close(self) -> None:
        """Close it."""
        self._transport.close()

    def abort(self) -> None:
        """Abort it."""
        self._transport.abort()


def over(transport: asyncio.BaseTransport) -> Transport:
    """Give what a connection was made with as ours: TLS as it is, or the event loop's for TCP."""
    if isinstance(transport, Transport):
        return transport
    return TcpTransport(cast("asyncio.Transport", transport))
