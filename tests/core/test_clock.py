"""Time and identity as they are handed to the rest of the program."""

import uuid
from collections.abc import Iterator

import pytest

from kube_audit_proxy.clock import UuidSource, WallClock

SECOND = 1_000_000_000
NEW_YEAR = 1_767_225_600 * SECOND


@pytest.mark.parametrize(
    ("now_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (NEW_YEAR, "2026-01-01T00:00:00.000000Z"),
        (NEW_YEAR - 1, "2025-12-31T23:59:59.999999Z"),
        (NEW_YEAR + 1_999, "2026-01-01T00:00:00.000001Z"),
        (NEW_YEAR + 45_678_901_234, "2026-01-01T00:00:45.678901Z"),
        (1_709_208_000 * SECOND, "2024-02-29T12:00:00.000000Z"),
        (4_102_444_800 * SECOND + 500_000_000, "2100-01-01T00:00:00.500000Z"),
    ],
)
def test_format(now_ns: int, text: str) -> None:
    """A moment is RFC 3339 in UTC with six digits, cut off and never rounded up into the next second."""
    assert WallClock(lambda: now_ns)() == text


def test_seconds_roll_over() -> None:
    """The second is written anew when it changes, forwards and backwards, and only its fraction while it lasts."""
    moments = iter([-1, 0, 1_000, SECOND - 1, SECOND, 60 * SECOND, 60 * SECOND - 1, -1])
    clock = WallClock(lambda: NEW_YEAR + next(moments))
    assert [clock() for _ in range(8)] == [
        "2025-12-31T23:59:59.999999Z",
        "2026-01-01T00:00:00.000000Z",
        "2026-01-01T00:00:00.000001Z",
        "2026-01-01T00:00:00.999999Z",
        "2026-01-01T00:00:01.000000Z",
        "2026-01-01T00:01:00.000000Z",
        "2026-01-01T00:00:59.999999Z",
        "2025-12-31T23:59:59.999999Z",
    ]


def test_uuids_are_version_4_and_unique() -> None:
    """Over several fills of the store all are different, in the usual form, with version and variant set."""
    source = UuidSource()
    made = [source() for _ in range(1000)]
    assert len(set(made)) == 1000
    for text in made:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)


@pytest.mark.parametrize(
    ("byte", "expected"),
    [
        (0x00, "00000000-0000-4000-8000-000000000000"),
        (0xFF, "ffffffff-ffff-4fff-bfff-ffffffffffff"),
        (0x5A, "5a5a5a5a-5a5a-4a5a-9a5a-5a5a5a5a5a5a"),
    ],
    ids=["zeros", "ones", "mixed"],
)
def test_only_version_and_variant_are_set(byte: int, expected: str) -> None:
    """All 122 other bits are the system's random ones."""
    assert UuidSource(lambda count: bytes([byte]) * count)() == expected


def test_every_byte_is_used_once() -> None:
    """Each UUID has sixteen bytes of its own, and the system is asked again as soon as they are used up."""
    asked: list[int] = []

    def numbered() -> Iterator[bytes]:
        number = 0
        while True:
            yield number.to_bytes(16, "big")
            number += 1

    numbers = numbered()

    def urandom(count: int) -> bytes:
        asked.append(count)
        return b"".join(next(numbers) for _ in range(count // 16))

    source = UuidSource(urandom)
    made = [source() for _ in range(600)]
    assert [int(text[-12:], 16) for text in made] == list(range(600))
    assert asked == [16 * 256] * 3
