"""Following a trail: calls as they come."""

from collections.abc import Callable, Iterator
from time import sleep

from kube_audit_proxy.audit.fields import Stage
from kube_audit_proxy.export.trail import IndexWatch, Watch
from kube_audit_proxy.index.filters import Filters
from kube_audit_proxy.index.reader import Change, Index


def follow(index: Index, filters: Filters, after: int, wait: Callable[[], None] | None = None) -> Iterator[Change]:
    """Yield the calls of an index that pass and that were answered or ended after a change, without end."""
    return followed(IndexWatch(index, filters, after), wait)


def followed(watch: Watch, wait: Callable[[], None] | None = None) -> Iterator[Change]:
    """Yield the calls that are watched for and that were answered or ended, without end; `wait` comes between looks.

    A call that was only received is not yielded: it comes when its answer begins or it ends.
    """
    while True:
        for change in watch.changes():
            if change.record["stage"] != Stage.REQUEST_RECEIVED:
                yield change
        if wait is None:
            sleep(watch.pause)
        else:
            wait()
