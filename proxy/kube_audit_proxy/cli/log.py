"""`log`: API calls, newest at the bottom."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice

import click

from kube_audit_proxy.cli.follow import followed
from kube_audit_proxy.cli.options import (
    Asked,
    filter_options,
    follow_option,
    limit_option,
    nothing_matches,
    output_option,
    trail_options,
)
from kube_audit_proxy.cli.output import Output, machine_rows, write
from kube_audit_proxy.cli.render import call_columns, fit, wide_call_columns
from kube_audit_proxy.cli.source import Source, opened
from kube_audit_proxy.export import csv
from kube_audit_proxy.export.trail import Trail
from kube_audit_proxy.index.filters import Filters
from kube_audit_proxy.index.reader import Call, Change

SAMPLE = 1000  # rows that are looked at to choose the widths of columns


@click.command()
@filter_options
@limit_option("calls")
@follow_option("Go on with calls as they are answered, until Ctrl-C.")
@output_option("table", "wide", "json", "csv")
@trail_options
def log(*, asked: Asked, limit: int, follow: bool, output: str, source: Source) -> None:
    """Show API calls: who did what, where and when. The newest are at the bottom.

    Filters take several values by commas or repetition; !x excludes, * stands for anything.
    A call has to pass them all.

    \b
    Examples:
      kubectl audit log --user alice --since 2h
      kubectl audit log --namespace 'team-*,!team-test' --verb create,patch,delete
      kubectl audit log --resource secrets,pods/exec --decision deny --follow
      kubectl audit log --status '>=400' --since today -o json | jq .message
      kubectl audit log --from loki --loki-url http://loki:3100 --since 7d --user alice
    """  # noqa: D301 - click wants the character, not its escape
    with opened(source) as trail:
        watch = trail.watch(asked.filters) if follow else None
        calls = _newest(trail, asked.filters, limit)
        first = list(islice(calls, SAMPLE))
        if not first and not follow:
            nothing_matches("API call", asked)
        show = _shower(output, first, more=follow or len(first) == SAMPLE)
        for call in chain(first, calls):
            show(call)
        if watch:
            for changed in followed(watch):
                show(changed)


def _newest(trail: Trail, filters: Filters, limit: int) -> Iterator[Call]:
    """Yield the newest calls, oldest of them first."""
    return reversed(trail.calls(filters, limit)) if limit else trail.iterate(filters)


def _shower(output: str, first: Sequence[Call], *, more: bool) -> Callable[[Call | Change], None]:
    """Return what prints a call in the format asked for; what comes before the first is printed at once."""
    out = Output()
    if output in {"json", "csv"}:
        rows = machine_rows(output, terminal=out.terminal)
        if output == "csv":
            write(csv.header())
        return lambda call: write(rows([call]))
    columns = wide_call_columns(out.width) if output == "wide" else call_columns(out.width)
    layout = fit(columns, [call.record for call in first], out.width, more=more)
    if first or more:
        out.line(layout.header())
    return lambda call: out.line(layout.row(call.record))
