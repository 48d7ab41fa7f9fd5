"""`export`: all matching calls, as a file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

import click
from rich.console import Console
from rich.progress import Progress

from kube_audit_proxy.cli.errors import CliError
from kube_audit_proxy.cli.options import Asked, filter_options, trail_options
from kube_audit_proxy.cli.output import machine_rows, note
from kube_audit_proxy.cli.source import Source, opened
from kube_audit_proxy.export import csv
from kube_audit_proxy.export.formatter import FormatterError, Rows, formatters, in_process
from kube_audit_proxy.export.trail import Trail
from kube_audit_proxy.index.filters import Filters
from kube_audit_proxy.index.reader import Call

STANDARD_OUTPUT = "-"
AT_ONCE = 500
FEW = 10
"""Pieces that are written without the help of other processes."""
FORMATTERS = 2


@click.command()
@filter_options
@click.option("--format", "format_", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option("-o", "--output", metavar="FILE|-", required=True, help="The file to write; - is standard output.")
@trail_options
def export(*, asked: Asked, format_: str, output: str, source: Source) -> None:
    """Write all API calls that pass the filters to a file, oldest first.

    The file appears under its name only when it is complete. csv is safe to open in a spreadsheet;
    jsonl has the lines of the journal as they are. Filters are those of `log`.

    \b
    Examples:
      kubectl audit export --since 2026-11-01 --until 2026-12-01 -o november.csv
      kubectl audit export --user alice --format jsonl -o - | jq -r .requestURI
      kubectl audit export --from loki --loki-url https://loki.example.com --since 30d -o month.csv
    """  # noqa: D301 - click wants the character, not its escape
    with opened(source) as trail, _opened(output) as file:
        calls = _with_progress(trail, asked.filters)
        written = 0
        for data, number in (_csv if format_ == "csv" else _jsonl)(calls, terminal=file.isatty()):
            file.write(data)
            written += number
        file.flush()
    note(f"{written:,} {'call' if written == 1 else 'calls'} written to {_name(output)}")


def _jsonl(calls: Iterator[Call], *, terminal: bool) -> Iterator[Rows]:
    rows = machine_rows("json", terminal=terminal)
    for some in _pieces(calls):
        yield Rows(rows(some).encode(), len(some))


def _csv(calls: Iterator[Call], *, terminal: bool) -> Iterator[Rows]:
    yield Rows(csv.header().encode(), 0)
    if terminal:
        rows = machine_rows("csv", terminal=True)
        yield from (Rows(rows(some).encode(), len(some)) for some in _pieces(calls))
        return
    lines = ([call.line for call in some] for some in _pieces(calls))
    # Few are written before other processes would have begun.
    yield from in_process(islice(lines, FEW))
    if (following := next(lines, None)) is None:
        return
    with formatters(FORMATTERS) as rows_of:
        try:
            yield from rows_of(chain((following,), lines))
        except FormatterError:
            raise CliError(
                "a process that made rows has ended", "it was ended by someone, or memory ran out."
            ) from None


def _pieces(calls: Iterator[Call]) -> Iterator[list[Call]]:
    while some := list(islice(calls, AT_ONCE)):
        yield some


def _name(output: str) -> str:
    return "standard output" if output == STANDARD_OUTPUT else output


@contextmanager
def _opened(output: str) -> Iterator[IO[bytes]]:
    """Open standard output, or a file that gets its name when all went well and is gone otherwise."""
    if output == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        return
    path = Path(output)
    # Beside the file, so that the rename is one step; readable by its owner only, as an audit trail should be.
    with NamedTemporaryFile(dir=path.absolute().parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield file.file
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise


def _with_progress(trail: Trail, filters: Filters) -> Iterator[Call]:
    """Yield all calls that pass, with a progress bar where standard error is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from trail.iterate(filters)
        return
    with Progress(console=console, transient=True) as progress:
        yield from progress.track(trail.iterate(filters), total=trail.expected(filters), description="Exporting")
