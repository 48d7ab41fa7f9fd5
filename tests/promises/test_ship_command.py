"""`ship`: what it tells of shipping, and that it ships again."""

import time
from pathlib import Path
from threading import Event

import pytest
from click.testing import CliRunner, Result

from kube_audit_proxy.cli.main import program
from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.process import status
from kube_audit_proxy.telemetry import state as shipped
from kube_audit_proxy.telemetry.merge import Merge
from kube_audit_proxy.telemetry.shipped import PROCESS
from kube_audit_proxy.telemetry.shipper import RewoundError, Settings, Shipper
from kube_audit_proxy.telemetry.state import DeadLetter, State
from support.journals import JournalWriter
from support.shipping import TakesAll, calls


def shipper(journal: Path, state: State, stop: Event | None = None) -> Shipper:
    """Make a shipper of lines to anywhere."""
    return Shipper(
        Signal.LOGS,
        journal=journal,
        state=state,
        transport=TakesAll(),
        settings=Settings(("dev",)),
        stop=stop or Event(),
    )


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Give the data directory of a proxy that has shipped two segments, and not the four lines after them."""
    writer = JournalWriter(tmp_path / "journal", "w0")
    writer.write(*calls("dev", 3))
    writer.open_segment()
    writer.write(*calls("dev", 3))
    with shipped.opened_for_writing(tmp_path / shipped.FILE_NAME) as state:
        assert shipper(tmp_path / "journal", state).step() is False
    writer.write(*calls("dev", 2))
    return tmp_path


def ship(data_dir: Path, *arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(program, ["ship", *arguments, "--data-dir", str(data_dir)])


def test_status(data_dir: Path) -> None:
    """It tells of each writer how far its lines are shipped, how many are not, and that nobody ships."""
    done = ship(data_dir)
    assert done.exit_code == 0
    header, row = done.stdout.splitlines()
    assert header.split() == ["SIGNAL", "WRITER", "SHIPPED", "WRITTEN", "BEHIND", "LAG"]
    assert row.split()[:5] == ["logs", "w0", "14", "18", "4"]
    assert "No shipper runs at present." in done.stderr


def test_what_is_wrong_at_present(data_dir: Path) -> None:
    """A shipper that is in trouble is told, with what its other side has said, made fit for a terminal."""
    told = status.Snapshot(PROCESS, status.Kind.SHIPPER, "1", time.time(), ready=False, problem="logs: full\x1b[31m")
    status.write(status.directory(data_dir), told)
    assert r"At present: logs: full\x1b[31m" in ship(data_dir, "--status").stderr


def test_dead_letters(data_dir: Path) -> None:
    """Dead letters are shown with where they stand in the journal and why they are refused."""
    with shipped.opened_for_writing(data_dir / shipped.FILE_NAME) as state:
        state.bury([DeadLetter(Signal.LOGS, "w0", 7, 1_795_428_902.0, "400: line too long", b'{"writer":"w0"}')])
    done = ship(data_dir, "--dead-letters")
    assert "2026-11-23 10:15:02  logs  w0 line 7: 400: line too long" in done.stdout
    assert '{"writer":"w0"}' in done.stdout
    assert "of logs: 1." in ship(data_dir).stderr


def test_again(data_dir: Path) -> None:
    """What was recorded since a time is shipped again under the numbers it had, dead letters are tried again too."""
    with shipped.opened_for_writing(data_dir / shipped.FILE_NAME) as state:
        state.bury([DeadLetter(Signal.LOGS, "w0", 7, 0.0, "no", b"{}")])
        before = state.positions(Signal.LOGS)
        assert ship(data_dir, "--again-since", "2026-01-01").exit_code == 0
        assert not state.dead_letters()
        merge = Merge(data_dir / "journal", state.positions(Signal.LOGS), print)
        found = [each for each in merge.take(100, 1 << 20)[0] if each.entry.kind]
        assert [each.exported for each in found] == list(range(1, 9))
        assert found[5].position == before["w0"]


def test_a_running_shipper_notices(data_dir: Path) -> None:
    """A shipper that runs begins anew when it is told to ship again, instead of going on where it was."""
    with shipped.opened_for_writing(data_dir / shipped.FILE_NAME) as state:
        running = shipper(data_dir / "journal", state)
        running.step()
        ship(data_dir, "--again-since", "1h")
        with pytest.raises(RewoundError):
            running.run()


def test_nothing_was_shipped_yet(tmp_path: Path) -> None:
    """Where nothing was ever shipped it says how to begin."""
    done = ship(tmp_path)
    assert done.exit_code == 1
    assert "kube-audit-proxy up --otlp http://127.0.0.1:4317" in done.stderr


def test_a_time_that_is_none(data_dir: Path) -> None:
    """A wrong time is a usage error that says what to write, and changes nothing."""
    done = ship(data_dir, "--again-since", "soonish")
    assert done.exit_code == 2
    assert "--again-since" in done.stderr
