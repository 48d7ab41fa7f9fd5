"""Following the index: calls as they come."""

from collections.abc import Callable, Iterator
from time import sleep

from kube_audit_proxy.audit.fields import Stage
from kube_audit_proxy.index.filters import Filters
from kube_audit_proxy.index.reader import Change, Index

POLL_SECONDS = 0.2


def follow(
    index: Index, filters: Filters, after: int, wait: Callable[[], None] = lambda: sleep(POLL_SECONDS)
) -> Iterator[Change]:
    """Yield the calls that pass and that were answered or ended after a change, without end; `wait` comes between.

    A call that was only received is not yielded: it comes when its answer begins or it ends.
    """
    while True:
        last = index.last_change()
        # The numbers begin anew where the index is built again.
        for change in index.changes(filters, min(after, last)):
            last = change.number
            if change.record["stage"] != Stage.REQUEST_RECEIVED:
                yield change
        after = last
        wait()
