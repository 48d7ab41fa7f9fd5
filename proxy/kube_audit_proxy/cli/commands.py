"""`commands`: what people ran, and the API calls each command became."""

from itertools import chain, islice

import click
import orjson

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
from kube_audit_proxy.cli.output import Output, write
from kube_audit_proxy.cli.render import (
    Layout,
    Record,
    call_columns_in_tree,
    command_columns,
    fit,
    indented,
    wide_command_columns,
)
from kube_audit_proxy.cli.source import Source, opened
from kube_audit_proxy.cli.text import visible_json
from kube_audit_proxy.export.trail import Trail, Watch
from kube_audit_proxy.index.reader import Call, Command

BRANCH, LAST_BRANCH = "  ├─ ", "  └─ "
SAMPLE = 1000  # calls that are looked at to choose the widths of columns


@click.command()
@filter_options
@limit_option("commands")
@click.option("--calls", is_flag=True, help="Show the API calls of each command below it.")
@follow_option("Go on with commands and their calls as they come, until Ctrl-C.")
@output_option("table", "wide", "json")
@trail_options
def commands(*, asked: Asked, limit: int, calls: bool, follow: bool, output: str, source: Source) -> None:
    """Show commands, such as one run of kubectl, and what their API calls add up to.

    Filters choose the commands that have at least one call which passes them all. They take several
    values by commas or repetition; !x excludes, * stands for anything.

    RESULT is the exit code where it is known, else the worst HTTP status of the calls.

    \b
    Examples:
      kubectl audit commands --user alice --since today
      kubectl audit commands --resource secrets --calls
      kubectl audit commands --cluster prod-eu --verb delete --follow
      kubectl audit commands --from loki --loki-url http://loki:3100 --since 2h --calls
    """  # noqa: D301 - click wants the character, not its escape
    with opened(source) as trail:
        watch = trail.watch(asked.filters) if follow else None
        found = trail.commands(asked.filters, limit)[::-1]
        if not found and not follow:
            nothing_matches("command", asked)
        printer = _Printer(trail, output, found, more=follow)
        for command in found:
            printer.command(command)
            if calls:
                printer.calls_of(command)
        if watch:
            _follow(trail, watch, printer)


def _follow(trail: Trail, watch: Watch, printer: "_Printer") -> None:
    """Print each call as it comes, its command above it unless that is the one printed last."""
    shown: str | None = None
    for changed in followed(watch):
        command_id = changed.record.get("command_id")
        if command_id is None or (command := trail.command(command_id)) is None:
            continue
        if command_id != shown:
            printer.command(command)
            shown = command_id
        printer.call(changed.record)


class _Printer:
    """Prints commands and their calls in the format asked for."""

    def __init__(self, trail: Trail, output: str, found: list[Command], *, more: bool) -> None:
        self._trail = trail
        self._out = Output()
        self._json = output == "json"
        columns = (wide_command_columns if output == "wide" else command_columns)(self._out.width)
        self._commands = fit(columns, found, self._out.width, more=more)
        self._call = self._layout([], more=True)
        if not self._json and (found or more):
            self._out.line(self._commands.header())

    def command(self, command: Command) -> None:
        """Print a command."""
        if self._json:
            self._write({"command_id": command.command_id, **command.totals._asdict()})
        else:
            self._out.line(self._commands.row(command))

    def call(self, record: Record) -> None:
        """Print one call of the command that was printed last."""
        if self._json:
            self._write(record)
        else:
            self._out.line(indented(self._call, record, BRANCH))

    def calls_of(self, command: Command) -> None:
        """Print all calls of a command below it."""
        calls = iter(self._trail.calls_of(command.command_id))
        first = list(islice(calls, SAMPLE))
        layout = self._layout(first, more=False)
        left = command.totals.calls
        for call in chain(first, calls):
            left -= 1
            if self._json:
                self._write(call.record)
            else:
                self._out.line(indented(layout, call.record, BRANCH if left > 0 else LAST_BRANCH))

    def _layout(self, calls: list[Call], *, more: bool) -> Layout[Record]:
        room = None if self._out.width is None else self._out.width - len(BRANCH)
        return fit(call_columns_in_tree(), [call.record for call in calls], room, more=more)

    def _write(self, record: Record) -> None:
        line = orjson.dumps(record).decode()
        write(f"{visible_json(line) if self._out.terminal else line}\n")
