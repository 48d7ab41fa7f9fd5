"""Time and identity as the rest of the program gets them: handed in, so that the pure parts need neither."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from kube_audit_proxy.audit.digits import THREE_DIGITS


class WallClock:
    """Formats the present as RFC 3339 in UTC with microseconds; the seconds are formatted once each."""

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._second = -1
        self._prefix = ""

    def __call__(self) -> str:
        """Give the present, as `2026-01-02T03:04:05.678901Z`."""
        microseconds = self._now_ns() // 1000
        second = microseconds // 1_000_000
        if second != self._second:
            self._second = second
            self._prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        fraction = microseconds % 1_000_000  # a product of numbers so large would be made outside the compiled code
        return f"{self._prefix}{THREE_DIGITS[fraction // 1000]}{THREE_DIGITS[fraction % 1000]}Z"


_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""The clock that only goes forward, also while the machine sleeps."""


def unhurried(
    now_ns: Callable[[], int] = time.time_ns, elapsed_ns: Callable[[], int] = lambda: time.clock_gettime_ns(_ELAPSED)
) -> Callable[[], int]:
    """Return a time of day to judge by what is old: where the clock is set forward, nothing has aged by that."""
    begin = now_ns() - elapsed_ns()
    return lambda: min(now_ns(), begin + elapsed_ns())


_VERSION: Final = bytes(0x40 | byte & 0x0F for byte in range(256))
_VARIANT: Final = bytes(0x80 | byte & 0x3F for byte in range(256))
"""Which byte of a UUID stands for a random one, where it also says which kind of UUID it is."""


class UuidSource:
    """Gives random UUIDs (RFC 9562, version 4), asking the system for randomness 256 at a time."""

    def __init__(self, urandom: Callable[[int], bytes] = os.urandom) -> None:
        self._urandom = urandom
        self._hex = ""
        self._at = 0

    def __call__(self) -> str:
        """Give the next one."""
        if self._at >= len(self._hex):
            random = bytearray(self._urandom(16 * 256))
            random[6::16] = random[6::16].translate(_VERSION)
            random[8::16] = random[8::16].translate(_VARIANT)
            self._hex = random.hex()
            self._at = 0
        at, digits = self._at, self._hex
        self._at = at + 32
        return (
            f"{digits[at : at + 8]}-{digits[at + 8 : at + 12]}-{digits[at + 12 : at + 16]}"
            f"-{digits[at + 16 : at + 20]}-{digits[at + 20 : at + 32]}"
        )
