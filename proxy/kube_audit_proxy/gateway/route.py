"""Which cluster a request target names: `/clusters/<name>/...`, the one prefix, cut off once and on a segment's end."""

PREFIX = "/clusters/"


def split_target(target: str) -> tuple[str, str]:
    """Give the cluster's name and the target within it (`/` if nothing follows).

    The name is empty where the target has no such prefix; the target is then as it was.
    """
    if not target.startswith(PREFIX):
        return "", target
    end = len(PREFIX)
    while end < len(target) and target[end] not in "/?":
        end += 1
    name, rest = target[len(PREFIX) : end], target[end:]
    return name, rest if rest.startswith("/") else "/" + rest
