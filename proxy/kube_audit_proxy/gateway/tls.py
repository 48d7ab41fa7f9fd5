"""TLS on a connection: between the TCP transport of the event loop and the protocol that the connection speaks.

To the loop it is a protocol, to the connection a transport. It holds nothing back: what has arrived is handed on whole,
in the turn of the loop in which it came, and while nothing is wanted it stays with the kernel, so that it is still
there, however late it is asked for, when the peer has closed behind it. It closes as RFC 8446, 6.1 has it: it says so,
and then waits for the peer to close as well, since what the peer has not read yet could be lost otherwise.
"""

import asyncio
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, cast

from kube_audit_proxy.gateway.transport import GONE, Data, Transport

_RECORD: Final = 16 << 10
"""Bytes of text in the largest record (RFC 8446, 5.1)."""

_ROOM: Final = 288 << 10

RECEIVED: Final = memoryview(bytearray(_ROOM))
"""What a connection has just received. One for all connections of a loop: it is used up before the next one reads.
Without it each read would allocate, and give back, as much for itself."""

_WRITTEN: Final = 512 << 10
"""Bytes that wait to be sent before no more are asked for: two reads, so that one goes out while the next comes in."""

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds."""

LINGER: Final = 30.0
"""Seconds in which a peer has to take what is written to it before the end, and to close."""

_SENTENCE = b"this proxy speaks TLS only: write https:// where http:// stands\n"
_NOT_TLS: Final = b"\r\n".join(
    (
        b"HTTP/1.1 403 Forbidden",  # of other codes kubectl does not tell people the words
        b"Content-Type: text/plain",
        b"Content-Length: %d" % len(_SENTENCE),
        b"Connection: close",
        b"",
        _SENTENCE,
    )
)


class TlsTransport(Transport):
    """A transport, and for what is beneath it an `asyncio.Protocol`.

    `protocol` is told of the connection once the handshake is done, and of its loss only then; `done`, if it is given,
    of either. With a `server_hostname` this is the client's side, and the server has to prove that it is that host.
    """

    def __init__(
        self,
        protocol: asyncio.BufferedProtocol,
        context: ssl.SSLContext,
        server_hostname: str | None = None,
        done: asyncio.Future[None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._done = done
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname is None, server_hostname)
        # OpenSSL's own functions: those of ssl.SSLObject have one of Python's around each of them.
        core: Any = self._object._sslobj  # type: ignore[attr-defined]  # noqa: SLF001
        self._seal, self._open = core.write, core.read
        self._take, self._sealed = self._incoming.write, self._outgoing.read
        self._transport = cast("asyncio.Transport", GONE)
        self._timer: asyncio.TimerHandle | None = None
        self._shaken = False
        self._closing = False
        self._error: Exception | None = None

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_WRITTEN)
        self._timer = self._loop.call_later(HANDSHAKE_TIMEOUT, self.abort)
        self._shake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever was told of the connection, or waits for it."""
        self._closing = True
        self._stop_timer()
        if self._shaken:
            self._protocol.connection_lost(self._error or exc)
        elif self._done is not None and not self._done.done():
            ended = ConnectionResetError("it closed the connection during the TLS handshake")
            self._done.set_exception(self._error or exc or ended)

    def data_received(self, data: bytes) -> None:
        """Open what has arrived and hand it on; what comes once all is over is dropped."""
        if self._closing:
            return
        self._take(data)
        if self._shaken:
            self._hand_on()
        else:
            self._shake()

    def eof_received(self) -> None:
        """Close: who has closed without saying so in TLS says nothing more."""

    def pause_writing(self) -> None:
        """Pass it on."""
        if self._shaken:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        if self._shaken:
            self._protocol.resume_writing()

    # what the connection calls

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Ask the TCP transport."""
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Tell whether the connection is closed, or about to be."""
        return self._closing or self._transport.is_closing()

    def write(self, data: Data) -> None:
        """Send; what does not fit into the kernel's buffer is kept until it does."""
        if self._put(data):
            self._transport.write(self._sealed())

    def writelines(self, lines: Iterable[Data]) -> None:
        """Send each of these in a record of its own, and all at once."""
        for data in lines:
            self._put(data)
        if not self._closing:
            self._flush()

    def pause_reading(self) -> None:
        """Leave with the kernel what arrives from now on."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        self._transport.resume_reading()

    def close(self) -> None:
        """Send what was written, say that this is the end, and close when the peer has."""
        if self._closing:
            return
        if not self._shaken:
            self.abort()
            return
        self._say_goodbye()
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._transport.abort()

    # TLS

    def _shake(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                self._answer_plainly()
            else:
                self._fail(error)
            return
        self._flush()
        self._stop_timer()
        self._shaken = True
        self._protocol.connection_made(cast("asyncio.BaseTransport", self))
        if self._done is not None and not self._done.done():
            self._done.set_result(None)
        self._hand_on()

    def _answer_plainly(self) -> None:
        """Tell whoever speaks plain HTTP so, in plain HTTP."""
        self._closing = True
        self._transport.write(_NOT_TLS)
        self._transport.write_eof()

    def _hand_on(self) -> None:
        """Hand on all that has arrived; it may end with the peer's word that there is no more to come."""
        total = 0
        ended = False
        damage: ssl.SSLError | None = None
        try:
            # Each time there is room for a record, so that OpenSSL keeps nothing of one.
            while total <= _ROOM - _RECORD:
                count: int = self._open(_ROOM, RECEIVED[total:] if total else RECEIVED)
                ended = not count
                total += count
                if ended or not self._incoming.pending:
                    break
        except ssl.SSLWantReadError:
            # A part of a record; or words of TLS's own, which may want an answer. Where data came in the same read,
            # that goes with whatever is written next.
            self._flush()
        except ssl.SSLError as error:
            damage = error
        if total:
            self._protocol.buffer_updated(total)
        if self._closing:
            return
        if damage is not None:
            self._fail(damage)
            return
        if ended:
            self._say_goodbye()
            self._transport.close()
        elif total > _ROOM - _RECORD:
            self._hand_on()

    def _put(self, data: Data) -> bool:
        """Seal; say whether there is something to be sent now."""
        if self._closing or not data:
            return False
        try:
            written: int = self._seal(data)
            while written < len(data):
                written += self._seal(memoryview(data)[written:])
        except ssl.SSLError as error:
            self._fail(error)
            return False
        return True

    def _flush(self) -> None:
        """Send what TLS has to say for itself."""
        if self._outgoing.pending:
            self._transport.write(self._sealed())

    def _say_goodbye(self) -> None:
        self._closing = True
        self._timer = self._loop.call_later(LINGER, self._transport.abort)
        with suppress(ssl.SSLError):  # the peer has not said it yet
            self._object.unwrap()
        if not self._transport.is_closing():
            self._flush()

    def _fail(self, error: ssl.SSLError) -> None:
        """Close at once, after the alert that says why."""
        self._error = error
        self._flush()
        self.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def as_protocol(transport: TlsTransport) -> asyncio.BaseProtocol:
    """Give it as what the loop takes it for, by what it can: the compiled class cannot have two bases."""
    return cast("asyncio.BaseProtocol", transport)
