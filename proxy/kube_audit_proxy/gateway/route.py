"""Which cluster a request target names: `/clusters/<name>/...`, the one prefix, cut off once and on a segment's end."""

from typing import Final

PREFIX: Final = "/clusters/"


def split_target(target: str) -> tuple[str, str]:
    """Give the cluster's name and the target within it (`/` if nothing follows).

    The name is empty where the target has no such prefix; the target is then as it was.
    """
    if not target.startswith(PREFIX):
        return "", target
    end = target.find("/", len(PREFIX))
    name = target[len(PREFIX) :] if end < 0 else target[len(PREFIX) : end]
    if not name:
        return "", target
    if "?" in name:
        name, mark, query = target[len(PREFIX) :].partition("?")
        return name, f"/{mark}{query}"
    return name, "/" if end < 0 else target[end:]
