"""Numbers as they stand in records: looked up where formatting would be a good part of what a line costs. Pure."""

from typing import Final

THREE_DIGITS: Final = tuple(f"{number:03d}" for number in range(1000))
"""0 to 999, as they stand behind a point."""


def thousandths(value: float) -> str:
    """Return a number of any sign and below 10^12 with three decimals, rounded to the nearest."""
    if value < 0:
        return f"{value:.3f}"
    whole = int(value * 1000 + 0.5)
    return f"{whole // 1000}.{THREE_DIGITS[whole % 1000]}"
