"""An export of many calls, whose rows other processes make, is what one process would have written."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from kube_audit_proxy.cli.export import AT_ONCE, FEW
from kube_audit_proxy.export import csv
from kube_audit_proxy.export.formatter import FormatterError, formatters, in_process
from kube_audit_proxy.index.filters import Filters
from kube_audit_proxy.index.indexer import index_once
from kube_audit_proxy.index.reader import Index
from kube_audit_proxy.index.schema import open_for_writing
from support.journals import JournalWriter, random_calls
from support.proxies import wait_until

CALLS = AT_ONCE * FEW + AT_ONCE * 3 + 7


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an index of so many calls that one process does not export them alone."""
    directory = tmp_path_factory.mktemp("data")
    JournalWriter(directory / "journal").write_all(line for call in random_calls(CALLS) for line in call)
    with closing(open_for_writing(directory / "index.db")) as db:
        index_once(db, directory / "journal")
    return directory


@pytest.fixture(scope="module")
def lines(data_dir: Path) -> list[str]:
    """Give all lines of the calls, oldest first."""
    with Index(data_dir / "index.db") as index:
        return [call.line for call in index.iterate(Filters())]


def export(data_dir: Path, target: Path) -> list[str]:
    """Return the command line of an export."""
    return [sys.executable, "-m", "kube_audit_proxy", "export", "--data-dir", str(data_dir), "-o", str(target)]


def pieces(lines: list[str]) -> Iterator[list[str]]:
    """Yield lines in pieces of different sizes."""
    for size, at in enumerate(range(0, 3000, 300), 1):
        yield lines[at : at + size * 29]


def test_a_file_of_many_calls_is_whole_and_in_order(data_dir: Path, tmp_path: Path) -> None:
    """The header, and a row of each call, in the order of time."""
    target = tmp_path / "calls.csv"
    done = subprocess.run(export(data_dir, target), check=True, capture_output=True, text=True)
    assert done.stderr == f"{CALLS:,} calls written to {target}\n"
    with Index(data_dir / "index.db") as index:
        expected = csv.header() + csv.rows(call.line for call in index.iterate(Filters()))
    assert target.read_bytes() == expected.encode()


def test_rows_are_those_of_one_process(lines: list[str]) -> None:
    """However many processes make them, rows come piece by piece in the order of the lines."""
    expected = list(in_process(pieces(lines)))
    for number in (1, 3):
        with formatters(number) as rows:
            assert list(rows(pieces(lines))) == expected


def test_a_process_that_ends_is_told(lines: list[str]) -> None:
    """An export does not go on without rows where somebody ends the process that makes them."""
    before = _children()
    with formatters(1) as rows:
        made = rows(pieces(lines))
        next(made)
        (process,) = _children() - before
        process.kill()
        with pytest.raises(FormatterError):
            list(made)


def test_no_process_is_left(lines: list[str]) -> None:
    """Whoever stops in the middle leaves no process behind."""
    before = _children()
    with formatters(2) as rows:
        next(rows(pieces(lines)))
        assert len(_children() - before) == 2
    assert _children() <= before


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children())  # servers of other tests are among them


def test_processes_end_with_who_started_them(data_dir: Path) -> None:
    """Where an export is killed, what made its rows ends by itself."""
    with subprocess.Popen(export(data_dir, Path("-")), stdout=subprocess.PIPE) as process:
        output = process.stdout
        assert output is not None
        # It goes on as far as somebody reads.
        whole = psutil.Process(process.pid)
        children = wait_until(lambda: whole.children() if output.read(1 << 16) else [], "processes that make rows")
        process.kill()
        process.wait()
        wait_until(lambda: not any(child.is_running() for child in children), "them to end")
