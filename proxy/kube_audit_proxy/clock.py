"""Time and identity as the rest of the program gets them: handed in, so that the pure parts need neither."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime


class WallClock:
    """Formats the present as RFC 3339 in UTC with microseconds; the seconds are formatted once each."""

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._second = -1
        self._prefix = ""

    def __call__(self) -> str:
        """Give the present, as `2026-01-02T03:04:05.678901Z`."""
        second, nanoseconds = divmod(self._now_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        return f"{self._prefix}{nanoseconds // 1000:06d}Z"


class UuidSource:
    """Gives random UUIDs (RFC 9562, version 4), asking the system for randomness 256 at a time."""

    def __init__(self, urandom: Callable[[int], bytes] = os.urandom) -> None:
        self._urandom = urandom
        self._hex = ""
        self._at = 0

    def __call__(self) -> str:
        """Give the next one."""
        if self._at >= len(self._hex):
            self._hex = self._urandom(16 * 256).hex()
            self._at = 0
        at, digits = self._at, self._hex
        self._at = at + 32
        variant = "89ab"[int(digits[at + 16], 16) & 3]
        return (
            f"{digits[at : at + 8]}-{digits[at + 8 : at + 12]}-4{digits[at + 13 : at + 16]}"
            f"-{variant}{digits[at + 17 : at + 20]}-{digits[at + 20 : at + 32]}"
        )
