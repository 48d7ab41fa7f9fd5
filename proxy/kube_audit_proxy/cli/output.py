"""Where the commands' output goes: lines of tables, JSON or CSV, in colour only on a terminal."""

import sys
from collections.abc import Callable, Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kube_audit_proxy.cli.text import visible_json, visible_record
from kube_audit_proxy.export import csv, jsonl
from kube_audit_proxy.index.reader import Call, Change


class Output:
    """Standard output. `width` is the terminal's in cells; None where it is no terminal, so that nothing is cut."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.terminal = self._console.is_terminal
        self.width = self._console.width if self.terminal else None

    def table(self, table: Table) -> None:
        """Print a whole table."""
        console = self._console if self.terminal else Console(width=200, color_system=None, highlight=False)
        console.print(table)

    def line(self, text: Text) -> None:
        """Print a line of a table."""
        if self.terminal:
            self._console.print(text)
        else:
            click.echo(text.plain.rstrip())


def machine_rows(output: str, *, terminal: bool) -> Callable[[Sequence[Call | Change]], str]:
    """Return what writes calls as `json` or `csv`; on a terminal, such that nothing in them acts on the terminal."""
    if output == "csv":
        if terminal:
            return lambda calls: "".join(csv.row(visible_record(call.record)) for call in calls)
        return lambda calls: csv.rows(call.line for call in calls)
    return lambda calls: jsonl.rows(visible_json(call.line) if terminal else call.line for call in calls)


def write(text: str) -> None:
    """Write to standard output without touching line ends, and at once."""
    stream = sys.stdout.buffer
    stream.write(text.encode())
    stream.flush()


def note(text: str) -> None:
    """Tell something that is not the output itself."""
    click.echo(text, err=True)
