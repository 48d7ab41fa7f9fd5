"""The times in records as nanoseconds since 1970. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

_LATEST, _LONGEST_MS = 8_000_000_000_000_000_000, 1e12
"""The year 2223, and thirty years after: later times cannot be told in 63 bits."""


def nanoseconds(text: str) -> int:
    """Return a time as the journal writes it (RFC 3339, microseconds, UTC). Raises ValueError for anything else."""
    if len(text) != 27 or text[26] != "Z" or text[19] != ".":
        raise ValueError(f"not a time of the journal: {text!r}")
    moment = _second(text[:19]) + int(text[20:26]) * 1000
    if not 0 <= moment <= _LATEST:
        raise ValueError(f"not a time of the journal: {text!r}")
    return moment


@lru_cache(maxsize=64)
def _second(text: str) -> int:
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * 1_000_000_000


def began(record: Mapping[str, Any]) -> int:
    """Return when a call was received."""
    return nanoseconds(record["requestReceivedTimestamp"])


def ended(record: Mapping[str, Any], start: int, reached: int) -> int:
    """Return when a call that was received at `start` ended; its last stage was `reached` by the clock on the wall.

    What was measured counts: the wall clock may have been set meanwhile. Where a crash left nothing measured, the wall
    clock is all there is. Raises ValueError for a duration that is none.
    """
    duration = record.get("duration_ms")
    if duration is None:
        return max(start, reached)
    if not 0 <= duration <= _LONGEST_MS:
        raise ValueError(f"not a duration: {duration!r}")
    return start + int(duration * 1e6)


def rfc3339(moment: int) -> str:
    """Return a time in nanoseconds as the journal writes it."""
    second, rest = divmod(moment, 1_000_000_000)
    return f"{_of_second(second)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=64)
def _of_second(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
