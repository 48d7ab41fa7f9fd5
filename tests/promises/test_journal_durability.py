"""What is acknowledged is on disk and stays there: in order, over segments, restarts and kill -9."""

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from journal_rig import NOW, SUPPORT, end, eventually, records, report, run, stages, start, started, writing

from kube_audit_proxy.journal.files import JournalError
from kube_audit_proxy.journal.reader import segments
from kube_audit_proxy.journal.recovery import recover
from kube_audit_proxy.journal.writer import JournalWriter, Limits

CUT_SHORT = re.compile(rb"w0: its last \d+ bytes are no whole line; they are cut off, and kept in ")


def test_a_committed_record_is_on_disk(tmp_path: Path) -> None:
    """Once a commit is done, the line is in the file, in a valid chain, for the owner's eyes only."""

    async def test() -> None:
        async with writing(tmp_path) as writer:
            await writer.commit(start("a"), "a")
            assert stages(tmp_path) == [("a", "RequestReceived")]
            assert writer.failed is None

    run(test)
    told = report(tmp_path)
    assert (told.finding, told.lines, told.open_calls) == (None, 2, 1)
    (segment,) = segments(tmp_path, "w0")
    assert stat.S_IMODE(segment.stat().st_mode) == 0o600
    assert stat.S_IMODE(segment.parent.stat().st_mode) == 0o700


def test_an_end_goes_along_or_alone(tmp_path: Path) -> None:
    """An end is not waited for: it is written before the next start, or by itself where none comes."""

    async def test() -> None:
        async with writing(tmp_path) as writer:
            writer.append(end("a"))
            await writer.commit(start("b"), "b")
            assert stages(tmp_path) == [("a", "ResponseComplete"), ("b", "RequestReceived")]
            writer.append(end("b"), "b")
            await eventually(lambda: len(stages(tmp_path)) == 3)

    run(test)


def test_many_callers_share_a_commit_and_keep_their_order(tmp_path: Path) -> None:
    """Records of one turn are one write, in the order in which they were handed in."""
    names = [f"call-{number}" for number in range(200)]

    async def test() -> None:
        async with writing(tmp_path) as writer:
            for waiter in [writer.commit(start(name), name) for name in names]:
                await waiter

    run(test)
    assert [call for call, _ in stages(tmp_path)] == names


def test_a_caller_that_went_away_changes_nothing(tmp_path: Path) -> None:
    """A cancelled wait leaves the line and everybody else's commits as they are."""

    async def test() -> None:
        async with writing(tmp_path) as writer:

            async def commit() -> None:
                await writer.commit(start("a"), "a")

            gone = started(commit())
            gone.cancel()
            await writer.commit(start("b"), "b")

    run(test)
    assert report(tmp_path).calls == 2


def test_close_writes_what_was_handed_in(tmp_path: Path) -> None:
    """Nothing handed in before the end is left behind; afterwards nothing is taken any more."""

    async def test() -> None:
        async with writing(tmp_path) as writer:
            waiting = writer.commit(start("a"), "a")
            writer.append(end("a"), "a")
        await waiting
        with pytest.raises(JournalError, match="closed"):
            await writer.commit(start("b"), "b")
        with pytest.raises(JournalError, match="closed"):
            writer.append(end("b"))
        await writer.close()

    run(test)
    assert stages(tmp_path) == [("a", "RequestReceived"), ("a", "ResponseComplete")]


def test_one_writer_to_a_directory(tmp_path: Path) -> None:
    """A second writer is refused and told which process is the first; another name is another journal."""

    async def test() -> None:
        async with writing(tmp_path), writing(tmp_path, "w1"):
            with pytest.raises(JournalError, match=f"held by process {os.getpid()}"):
                JournalWriter.open(tmp_path, "w0", clock=lambda: NOW, product="x")
            with pytest.raises(JournalError, match="held by process"):
                recover(tmp_path, "w0", clock=lambda: NOW, product="x")

    run(test)


def test_a_journal_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A wrong path is told at the start, with the path."""

    async def test() -> None:
        with pytest.raises(JournalError, match=f"{tmp_path}/none.*No such file or directory"):
            JournalWriter.open(tmp_path / "none", "w0", clock=lambda: NOW, product="x")

    run(test)


def test_segments_go_on_with_the_chain_and_know_what_is_open(tmp_path: Path) -> None:
    """Each file begins with a header, goes on with the number before, and names the oldest call that is still open."""

    async def test() -> None:
        async with writing(tmp_path, limits=Limits(segment_bytes=2000)) as writer:
            for name in ("first", "second"):
                await writer.commit(start(name), name)
            for number in range(30):
                if number == 15:
                    writer.append(end("first"), "first")
                await writer.commit(start(f"{number}"), f"{number}")
                writer.append(end(f"{number}"), f"{number}")
            writer.append(end("second"), "second")

    run(test)
    assert report(tmp_path).finding is None
    paths = segments(tmp_path, "w0")
    headers = [record for record in records(tmp_path) if record["kind"] == "segment"]
    assert len(headers) == len(paths) > 4
    assert [f"{record['seq']:020d}.jsonl" for record in headers] == [path.name for path in paths]
    assert headers[0]["format"] == 1
    assert (headers[0]["product"], headers[0]["opened"]) == ("kube-audit-proxy test", NOW)
    assert "oldest_open" not in headers[0]
    assert [record["oldest_open"] for record in headers[1:]] == sorted(record["oldest_open"] for record in headers[1:])
    assert {record["oldest_open"] for record in headers[1:]} == {2, 3}


def test_a_restart_goes_on_in_a_new_segment(tmp_path: Path) -> None:
    """A writer that was closed goes on with its own chain."""

    async def test() -> None:
        for number in range(3):
            async with writing(tmp_path) as writer:
                assert (writer.recovered.torn, writer.recovered.interrupted, writer.recovered.broken) == (0, 0, None)
                await writer.commit(start(f"{number}"), f"{number}")
                writer.append(end(f"{number}"), f"{number}")

    run(test)
    told = report(tmp_path)
    assert (told.segments, told.lines, told.calls, told.open_calls, told.finding) == (3, 9, 3, 0, None)


def test_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Killed at any moment, again and again: every acknowledged start is there, and every call has an end afterwards.

    The committer shares the standard error of its process, so the end of that pipe proves that no orphan is left. All
    that is told there is of a line that the kill before has cut short.
    """
    acknowledged: set[str] = set()
    for turn, wanted in enumerate((1, 300, 2000)):
        command = [sys.executable, str(SUPPORT / "journal_loop.py"), str(tmp_path), f"run{turn}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(wanted + 1):
                acknowledged.add(process.stdout.readline().decode().strip())
            process.kill()
            rest, errors = process.communicate()
        assert [line for line in errors.splitlines() if not CUT_SHORT.match(line)] == []
        assert process.returncode == -signal.SIGKILL
        acknowledged |= {line.decode() for line in rest.splitlines(keepends=False)}
    acknowledged = {name for name in acknowledged if name.startswith("run")}
    recovered = recover(tmp_path, "w0", clock=lambda: NOW, product="x")
    assert recovered.broken is None
    told = report(tmp_path)
    assert (told.finding, told.torn, told.open_calls, told.ends_without_start) == (None, 0, 0, 0)
    assert len(acknowledged) > 2300
    assert acknowledged <= {call for call, stage in stages(tmp_path) if stage == "RequestReceived"}
    assert recover(tmp_path, "w0", clock=lambda: NOW, product="x").segment is None


def test_a_killed_committer_is_replaced(tmp_path: Path) -> None:
    """Commits go on when the process that makes them durable is killed, in flight or between."""

    async def test() -> None:
        async with writing(tmp_path) as writer:
            for number in range(20):
                waiting = writer.commit(start(f"{number}"), f"{number}")
                if number % 5 == 0:
                    assert writer.committer_id is not None
                    os.kill(writer.committer_id, signal.SIGKILL)
                await waiting
            assert writer.failed is None

    run(test)
    told = report(tmp_path)
    assert (told.calls, told.finding) == (20, None)


def test_signals_to_the_group_leave_the_committer_alone(tmp_path: Path) -> None:
    """Ctrl-C and a service manager's SIGTERM reach all processes; the gateway still drains with its committer."""

    async def test() -> None:
        async with writing(tmp_path) as writer:
            await writer.commit(start("a"), "a")
            before = writer.committer_id
            assert before is not None
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(before, number)
                await writer.commit(start(f"{number}"), f"{number}")
            assert writer.committer_id == before

    run(test)
