"""A clock that is set while the proxy runs: the trail keeps its order and its durations, and nothing goes too early."""

import csv
import io
import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kube_audit_proxy.clock import unhurried
from kube_audit_proxy.process.status import ALIVE_FOR, Kind, Snapshot
from support.faults import Faults
from support.journals import JournalWriter
from support.proxies import PROGRAM, wait_until
from support.raw import Raw
from support.scripted import Asked, Connection
from support.serving import health, kubeconfig, logged, serving, verify
from support.shipping import call
from support.witness import CALL, MAPS, make_calls, witness

HOUR = 3600.0
DAY = 24 * HOUR
_WATCH = "/api/v1/pods"
_ROUNDS = Path(__file__).parents[1] / "support" / "retention_rounds.py"


def test_a_clock_that_is_set_back_and_forward(tmp_path: Path) -> None:
    """The trail is in the order of what happened, durations are true, and log, index and export have every call."""
    faults, done = Faults(tmp_path), threading.Event()

    def watch(connection: Connection, _asked: Asked) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        done.wait(60)
        connection.send(b"0\r\n\r\n")
        return True

    began = time.monotonic()
    with witness() as upstream:
        upstream.server.on(_WATCH, watch)
        told = kubeconfig(tmp_path / "upstream", {"plain": (upstream.server.url, b"")})
        with serving(tmp_path, told, environ=faults.environ) as proxy, Raw(proxy) as watching:
            watching.send(watching.head(f"GET /clusters/plain{_WATCH}?watch=1"))
            watching.answer_head()
            offsets = (0.0, -3 * HOUR, 6 * HOUR, 0.0)
            true_times = []
            for offset in offsets:
                faults.set_clock(offset)
                true_times.append(datetime.now(UTC))
                assert make_calls(proxy, 1) == [200]
                wait_until(lambda: health(proxy)[0] == 200, "the proxy to be ready")
            done.set()
            watching.until(b"0\r\n\r\n")
            ends = proxy.ended(count=5)
            took = (time.monotonic() - began) * 1000
            lines = proxy.lines()
            called = {end["auditID"] for end in ends}
            wait_until(lambda: logged(proxy.data_dir) == called, "the index to have every call")
        assert verify(proxy.data_dir).returncode == 0
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    calls = [end for end in ends if end["requestURI"] == MAPS]
    assert [end["auditID"] for end in calls] == upstream.seen()
    for end, offset, true in zip(calls, offsets, true_times, strict=True):
        received = datetime.fromisoformat(end["requestReceivedTimestamp"])
        assert 0 <= (received - true).total_seconds() - offset < HOUR
    assert all(0 <= end["duration_ms"] <= took for end in ends)
    argv = [*PROGRAM, "export", "-o", "-", "--data-dir", str(proxy.data_dir)]
    exported = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    rows = list(csv.DictReader(io.StringIO(exported, newline="")))
    assert {row["Audit ID"] for row in rows} == called
    assert all(0 <= float(row["Duration (ms)"]) <= took for row in rows)


def test_timeouts_are_not_of_the_clock_that_is_set(tmp_path: Path) -> None:
    """A connection that is used is not taken for idle, nor a call for late, because the time of day jumped."""
    faults = Faults(tmp_path)
    with witness() as upstream:
        told = kubeconfig(tmp_path / "upstream", {"plain": (upstream.server.url, b"")})
        with serving(tmp_path, told, environ=faults.environ) as proxy, Raw(proxy) as raw:
            for offset in (0.0, DAY, -DAY, 0.0):
                faults.set_clock(offset)
                assert raw.ask(f"GET {CALL}").code == 200
            assert len({line["auditID"] for line in proxy.ended(count=4)}) == 4
            assert upstream.server.connections == 2  # one asked at the start who the proxy is


def test_retention_waits_for_time_to_pass(tmp_path: Path) -> None:
    """A clock that is set forward by a week ages nothing; a day that has gone by does."""
    faults, journal = Faults(tmp_path), tmp_path / "data" / "journal"
    writer = JournalWriter(journal)
    begin = datetime.now(UTC) - timedelta(hours=1)
    for number in range(6):
        writer.write(*call(begin + timedelta(minutes=number)))
        writer.open_segment()
    settings = {
        "data_dir": str(tmp_path / "data"),
        "clusters": [{"name": "dev"}],
        "retention": {"keep": "1d"},
    }
    argv = [sys.executable, str(_ROUNDS), json.dumps(settings)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=faults.environ
    ) as rounds:
        assert rounds.stdin is not None and rounds.stdout is not None  # noqa: PT018 - asked for above
        rounds.stdout.readline()

        def segments_left() -> int:
            assert rounds.stdin is not None and rounds.stdout is not None  # noqa: PT018 - the same
            faults.let_pass(61)
            rounds.stdin.write("\n")
            return int(rounds.stdout.readline())

        assert segments_left() == 7
        for offset in (7 * DAY, -7 * DAY):
            faults.set_clock(offset)
            assert segments_left() == 7
        faults.set_clock(0)
        assert segments_left() == 7
        faults.let_pass(DAY)
        assert segments_left() == 2
        rounds.stdin.close()
    assert len((journal / "gateway-1" / "retention.log").read_bytes().splitlines()) == 5


@pytest.mark.parametrize(
    ("wall", "elapsed", "expected"),
    [(110, 10, 110), (900, 10, 110), (50, 10, 50)],
    ids=["true", "set forward", "set back"],
)
def test_the_time_of_day_to_judge_ages_by(wall: int, elapsed: int, expected: int) -> None:
    """It is never later than the time at the start and what has gone by since."""
    now = [(100, 0), (wall, elapsed)]
    at = 0
    judged = unhurried(lambda: now[at][0], lambda: now[at][1])
    assert judged() == 100
    at = 1
    assert judged() == expected


def test_a_process_that_died_in_the_future_is_dead() -> None:
    """After the clock was set back, what a process had said before does not keep it alive for hours."""
    said = Snapshot("w0", Kind.WORKER, "0", at=10 * HOUR, ready=True)
    assert said.alive(10 * HOUR + ALIVE_FOR)
    assert said.alive(10 * HOUR - ALIVE_FOR)
    assert not said.alive(9 * HOUR)
