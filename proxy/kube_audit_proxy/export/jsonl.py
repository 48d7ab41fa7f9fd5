"""Records as JSON lines: the lines of the journal themselves. Pure."""

from collections.abc import Iterable


def rows(lines: Iterable[str]) -> str:
    """Return the lines of calls, each with its line end."""
    return "".join(map(row, lines))


def row(line: str) -> str:
    """Return the line of a call, with its line end."""
    return f"{line}\n"
