"""Records as JSON lines: the lines of the journal themselves. Pure."""


def row(line: str) -> str:
    """Return the line of a call, with its line end."""
    return f"{line}\n"
