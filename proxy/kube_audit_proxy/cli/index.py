"""`index`: brings the index up to the journal."""
# ruff: noqa: S608 - the names are written here

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click
from rich.console import Console

from kube_audit_proxy.cli.errors import CliError
from kube_audit_proxy.cli.options import data_dir_option
from kube_audit_proxy.cli.output import note
from kube_audit_proxy.cli.text import visible
from kube_audit_proxy.index.indexer import index_once, rebuild
from kube_audit_proxy.index.schema import FILE_NAME, is_damaged, open_for_writing, set_aside

PROBLEMS_SHOWN = 10


@click.command()
@click.option("--rebuild", "anew", is_flag=True, help="Empty the index first and build it again from the journal.")
@data_dir_option
def index(*, anew: bool, data_dir: Path) -> None:
    """Bring the index up to the journal. A running proxy does that by itself.

    The index holds nothing that the journal does not: it can be built again at any time, also while
    the proxy runs. Meanwhile, a part of the calls is not found.

    \b
    Examples:
      kube-audit-proxy index
      kube-audit-proxy index --rebuild --data-dir /var/lib/kube-audit-proxy
    """  # noqa: D301 - click wants the character, not its escape
    journal = data_dir / "journal"
    if not journal.is_dir():
        raise CliError(
            f"there is no journal at {journal}",
            "start the proxy with `kube-audit-proxy up` first, or name its --data-dir.",
        )
    path = data_dir / FILE_NAME
    try:
        _bring_up(path, journal, anew=anew)
    except sqlite3.DatabaseError as error:
        if not (anew and is_damaged(error)):
            raise
        note(f"the index was damaged; {set_aside(path)} is what it was")
        _bring_up(path, journal, anew=True)


def _bring_up(path: Path, journal: Path, *, anew: bool) -> None:
    with closing(open_for_writing(path)) as db:
        with _progress() as progress:
            lines = rebuild(db, journal, progress) if anew else index_once(db, journal, progress)
        _report(db, lines)


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Show the lines read so far where standard error is a terminal."""
    console = Console(stderr=True)
    with console.status("Reading the journal") as status:
        yield lambda lines: status.update(f"Reading the journal: {lines:,} lines")


def _report(db: sqlite3.Connection, lines: int) -> None:
    calls, problems = (db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("log", "problems"))
    note(f"{lines:,} lines read; {calls:,} calls in the index")
    if not problems:
        return
    note(f"{problems:,} places in the journal are not as they should be; `kube-audit-proxy verify` tells more:")
    rows = db.execute("SELECT writer, segment, offset, what FROM problems LIMIT ?", (PROBLEMS_SHOWN,))
    for writer, segment, offset, what in rows:
        note(visible(f"  {writer}/{segment} at byte {offset}: {what}"))
