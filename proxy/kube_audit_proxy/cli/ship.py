"""`ship`: how far shipping to Loki and Tempo has come, and shipping again."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.table import Table

from kube_audit_proxy.cli.errors import CliError
from kube_audit_proxy.cli.options import data_dir_option
from kube_audit_proxy.cli.output import Output, note
from kube_audit_proxy.cli.text import visible
from kube_audit_proxy.index.filters import parse_time
from kube_audit_proxy.process import status
from kube_audit_proxy.telemetry import state
from kube_audit_proxy.telemetry.backlog import Backlog, backlogs
from kube_audit_proxy.telemetry.rewind import rewound
from kube_audit_proxy.telemetry.shipped import PROCESS
from kube_audit_proxy.telemetry.state import State

_LETTERS_SHOWN = 20


@click.command()
@click.option("--status", "show", is_flag=True, help="Show how far each writer's lines are shipped. The default.")
@click.option("--dead-letters", "letters", is_flag=True, help="Show the records that the other side refuses for good.")
@click.option("--again-since", metavar="TIME", help="Ship again what was recorded since: 2h, today, 2026-11-23.")
@data_dir_option
def ship(*, show: bool, letters: bool, again_since: str | None, data_dir: Path) -> None:
    """Show how far shipping to Loki and Tempo has come, or ship again.

    A running proxy ships by itself, if it was told where to: `up --otlp URL`, `telemetry` in the
    configuration, or the OTEL_EXPORTER_OTLP_* variables. What is shipped again is the same to the
    byte: Loki keeps one of it.

    \b
    Examples:
      kube-audit-proxy ship --status
      kube-audit-proxy ship --dead-letters
      kube-audit-proxy ship --again-since 2h
    """  # noqa: D301 - click wants the character, not its escape
    if again_since is not None:
        _again(data_dir, again_since)
    if letters:
        _dead_letters(data_dir)
    if show or not (letters or again_since):
        _status(data_dir)


@contextmanager
def _opened(data_dir: Path, *, write: bool = False) -> Iterator[State]:
    path = data_dir / state.FILE_NAME
    if not path.is_file():
        raise CliError(
            f"nothing has been shipped from {data_dir} yet",
            "tell the proxy where to: `kube-audit-proxy up --otlp http://127.0.0.1:4317`, or `telemetry` in its"
            " configuration.",
        )
    opened = state.opened_for_writing if write else state.opened_for_reading
    try:
        with opened(path) as found:
            yield found
    except sqlite3.Error as error:
        raise CliError(f"{path} cannot be read: {error}") from None


def _status(data_dir: Path) -> None:
    out = Output()
    with _opened(data_dir) as found:
        rows = list(backlogs(data_dir / "journal", found))
        dead = found.count_dead_letters()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("SIGNAL", "WRITER"):
        table.add_column(title)
    for title in ("SHIPPED", "WRITTEN", "BEHIND", "LAG"):
        table.add_column(title, justify="right")
    for each in rows:
        behind = each.written - each.shipped
        cells = (each.signal, each.writer, f"{each.shipped:,}", f"{each.written:,}", f"{behind:,}", _lag(each))
        table.add_row(*cells, style="yellow" if behind else None)
    out.table(table)
    for signal, count in dead.items():
        note(f"Refused by the other side, of {signal}: {count:,}. `kube-audit-proxy ship --dead-letters` tells why.")
    said = status.read(status.directory(data_dir)).get(PROCESS)
    if said is None or not said.alive(time.time()):
        note("No shipper runs at present.")
    elif said.problem:
        note(f"At present: {visible(said.problem)}")


def _lag(backlog: Backlog) -> str:
    if backlog.since is None:
        return "-"
    seconds = max(time.time() - backlog.since / 1e9, 0.0)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.1f}s"


def _dead_letters(data_dir: Path) -> None:
    with _opened(data_dir) as found:
        letters = found.dead_letters(_LETTERS_SHOWN)
        total = sum(found.count_dead_letters().values())
    for letter in letters:
        when = datetime.fromtimestamp(letter.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        click.echo(visible(f"{when}  {letter.signal}  {letter.writer} line {letter.seq}: {letter.reason}"))
        click.echo(f"    {visible(letter.record[:200].decode('utf-8', 'replace'))}")
    note(f"{len(letters):,} of {total:,} dead letters; their records are in the journal as all others are.")


def _again(data_dir: Path, since: str) -> None:
    moment = parse_time("again-since", since, now=datetime.now(UTC)) * 1000
    journal = data_dir / "journal"
    with _opened(data_dir, write=True) as found:
        positions = {writer: at for each in found.signals() for writer, at in found.positions(each).items()}
        found.rewind(rewound(journal, positions, moment))
    note("What was recorded since then is shipped again, by the running proxy or when it is started next.")
