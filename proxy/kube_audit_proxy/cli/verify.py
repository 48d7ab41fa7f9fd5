"""`verify`: the proof that the trail is whole."""

import contextlib
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from kube_audit_proxy.cli.errors import TROUBLE, CliError
from kube_audit_proxy.cli.options import data_dir_option
from kube_audit_proxy.cli.text import visible
from kube_audit_proxy.index.indexer import heads
from kube_audit_proxy.index.schema import FILE_NAME, NoIndex, open_for_reading
from kube_audit_proxy.journal.reader import segments, writers
from kube_audit_proxy.journal.verify import Report
from kube_audit_proxy.journal.verify import verify as verify_journal


@click.command()
@data_dir_option
def verify(*, data_dir: Path) -> None:
    """Walk every journal and prove that no record is missing or altered.

    Each line carries its number and the hash of the line before. The index remembers the last line it has seen of
    each writer, so that a tail that was cut off is noticed as well. The first break is printed with its place, and
    the exit code is then 1.

    \b
    Examples:
      kube-audit-proxy verify
      kube-audit-proxy verify --data-dir /var/lib/kube-audit-proxy || alert
    """  # noqa: D301 - click wants the character, not its escape
    journal = data_dir / "journal"
    if not journal.is_dir():
        raise CliError(
            f"there is no journal in {data_dir}",
            "start the proxy with `kube-audit-proxy up` first, or name its --data-dir.",
        )
    size = sum(_size(path) for writer in writers(journal) for path in segments(journal, writer))
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("verifying", total=size)
        heads_seen = _known_heads(data_dir / FILE_NAME)
        reports = list(verify_journal(journal, heads_seen, lambda read: progress.advance(task, read)))
    for report in reports:
        line = visible(_line(report))  # a journal that was tampered with may say anything
        click.echo(click.style(line, fg="red") if report.finding else line)
    if any(report.finding for report in reports):
        sys.exit(TROUBLE)


def _size(segment: Path) -> int:
    try:
        return segment.stat().st_size
    except FileNotFoundError:  # retention was faster
        return 0


def _known_heads(index: Path) -> dict[str, tuple[int, str]]:
    try:
        with contextlib.closing(open_for_reading(index)) as db:
            return {writer: (head.seq, head.hash) for writer, head in heads(db).items()}
    except NoIndex:
        return {}


def _line(report: Report) -> str:
    if report.finding is not None:
        return f"{report.writer}: BROKEN: {report.finding}"
    remarks = "".join(f"; {remark}" for remark in report.remarks)
    running = f", {report.open_calls} of them running" if report.open_calls else ""
    lines, files, calls = (
        _count(report.lines, "line"),
        _count(report.segments, "segment"),
        _count(report.calls, "call"),
    )
    return f"{report.writer}: whole: {lines} in {files}, {calls}{running} (last seq {report.last_seq:,}){remarks}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
