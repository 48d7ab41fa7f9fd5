"""What the calls of a command add up to, kept up to date line by line. Pure."""

from typing import NamedTuple

from kube_audit_proxy.audit.fields import Decision
from kube_audit_proxy.index.rows import CallLine, Row, ended


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


def add(totals: Totals | None, line: CallLine, known: Row | None) -> Totals:
    """Return the command with one more line; `known` is what was known of the line's call before."""
    row = line.row
    calls = int(known is None)
    running = int(not ended(row.stage)) - int(known is not None and not ended(known.stage))
    denied = int(row.decision == Decision.DENY) - int(known is not None and known.decision == Decision.DENY)
    if totals is None:
        return Totals(
            user=row.user,
            access_method=row.access_method,
            command=line.command,
            command_source=line.command_source,
            clusters=row.cluster or "",
            first=line.received,
            last=max(line.reached, line.received),
            calls=calls,
            running=running,
            denied=denied,
            worst_status=row.status,
            exit_code=line.exit_code,
        )
    first = totals
    if line.received < totals.first:
        first = totals._replace(
            user=row.user,
            access_method=row.access_method,
            command=line.command,
            command_source=line.command_source,
            first=line.received,
        )
    return first._replace(
        clusters=_with(totals.clusters, row.cluster),
        last=max(totals.last, line.reached),
        calls=totals.calls + calls,
        running=totals.running + running,
        denied=totals.denied + denied,
        worst_status=_highest(totals.worst_status, row.status),
        exit_code=_highest(totals.exit_code, line.exit_code),
    )


def _highest(known: int | None, new: int | None) -> int | None:
    return new if known is None else known if new is None else max(known, new)


def _with(clusters: str, cluster: str | None) -> str:
    names = clusters.split(",") if clusters else []
    return clusters if not cluster or cluster in names else ",".join(sorted((*names, cluster)))
