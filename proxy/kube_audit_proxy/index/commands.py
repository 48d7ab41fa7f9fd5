"""What the calls of a command add up to, kept up to date line by line. Pure."""

from typing import NamedTuple

from kube_audit_proxy.audit.fields import Decision
from kube_audit_proxy.index.rows import CallLine, Known, ended


class Totals(NamedTuple):
    """A command so far: the columns of `commands`, in their order, after `command_id`.

    `clusters` are separated by commas. `first` and `last` are microseconds since 1970: of its first call's beginning
    and of the last thing recorded of it. Who and what it was is taken from its first call. `exit_code` is the highest
    that an exec told.
    """

    user: str | None
    access_method: str | None
    command: str | None
    command_source: str | None
    clusters: str
    first: int
    last: int
    calls: int
    running: int
    denied: int
    worst_status: int | None
    exit_code: int | None


def add(totals: Totals | None, line: CallLine, known: Known | None) -> Totals:
    """Return the command with one more line; `known` is what was known of the line's call before."""
    kind = line.kind
    calls, running, denied = 1, int(not ended(kind.stage)), int(kind.decision == Decision.DENY)
    if known is not None:
        before = known.kind
        calls, running, denied = 0, running - (not ended(before.stage)), denied - (before.decision == Decision.DENY)
    last = max(line.reached, line.received)
    if totals is None:
        return Totals(
            kind.user, kind.access_method, line.command, line.command_source, kind.cluster or "", line.received, last,
            calls, running, denied, kind.status, line.exit_code,
        )  # fmt: skip
    user, access_method, command, source, clusters, begin, end, *counts, worst_status, exit_code = totals
    if line.received < begin:
        user, access_method, command, source = kind.user, kind.access_method, line.command, line.command_source
        begin = line.received
    return Totals(
        user, access_method, command, source, _with(clusters, kind.cluster), begin, max(end, last),
        counts[0] + calls, counts[1] + running, counts[2] + denied,
        _highest(worst_status, kind.status), _highest(exit_code, line.exit_code),
    )  # fmt: skip


def _highest(known: int | None, new: int | None) -> int | None:
    return new if known is None else known if new is None else max(known, new)


def _with(clusters: str, cluster: str | None) -> str:
    if not cluster or cluster == clusters:
        return clusters
    names = clusters.split(",") if clusters else []
    return clusters if cluster in names else ",".join(sorted((*names, cluster)))
