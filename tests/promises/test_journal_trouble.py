"""A record that cannot be made durable is refused, nothing acknowledged is lost, and the journal heals by itself."""

import asyncio
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from journal_rig import SUPPORT, end, eventually, records, report, run, stages, start, started, writing

from kube_audit_proxy.journal.files import JournalError
from kube_audit_proxy.journal.reader import segments
from kube_audit_proxy.journal.writer import JournalWriter, Limits

QUICK = Limits(retry=0.02, end_delay=0.005)
PATIENT = Limits(retry=3600, kept=3, room=0)  # tries again only when given something to write; each byte counts


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Have the system refuse to write beyond this size: what a full disk does, for everybody and everywhere."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def sick_committer(fault: str, flag: Path) -> tuple[str, ...]:
    """Return the command of a committer that has a fault while the flag is there."""
    return (sys.executable, str(SUPPORT / "sick_committer.py"), fault, str(flag))


async def eventually_committed(writer: JournalWriter) -> None:
    """Commit until it works: with a short limit, a committer that is still starting is too slow as well."""
    while True:
        try:
            await writer.commit(start("first"), "first")
        except JournalError:
            continue
        return


def journal_in(tmp_path: Path) -> Path:
    """Make a journal's directory beside the flag."""
    journal = tmp_path / "journal"
    journal.mkdir()
    return journal


def test_a_full_disk_refuses_and_comes_back(tmp_path: Path) -> None:
    """What fits is durable, what does not is refused with the reason, ends are kept and written when there is room."""

    async def test() -> None:
        async with writing(tmp_path, limits=PATIENT) as writer:
            await writer.commit(start("a", pad="x" * 100_000), "a")
            (path,) = segments(tmp_path, "w0")
            before = path.stat().st_size
            await writer.commit(start("b"), "b")
            line = path.stat().st_size - before
            with largest_file(path.stat().st_size + line * 3 // 2):
                waiting = [writer.commit(start(name), name) for name in ("c", "d", "e")]
                await waiting[0]
                for refused in waiting[1:]:
                    with pytest.raises(JournalError, match=r"The journal cannot be written: File too large"):
                        await refused
                assert writer.failed is not None
                assert report(tmp_path).torn == 0
                writer.append(end("d"), "d")
                writer.append(end("a"), "a")
                with pytest.raises(JournalError):
                    await writer.commit(start("f", pad="x" * 1000), "f")
            await writer.commit(start("g"), "g")
            assert writer.failed is None

    run(test)
    told = report(tmp_path)
    assert (told.finding, told.calls, told.ends_without_start, told.lost) == (None, 4, 1, 0)
    assert {call for call, stage in stages(tmp_path) if stage == "RequestReceived"} == {"a", "b", "c", "g"}
    assert {call for call, stage in stages(tmp_path) if stage == "ResponseComplete"} == {"a", "d"}


def test_ends_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    """Memory is bounded: what is too much is lost, and how much was lost, and since when, is itself a record."""

    async def test() -> None:
        async with writing(tmp_path, limits=PATIENT) as writer:
            await writer.commit(start("a", pad="x" * 100_000), "a")
            (path,) = segments(tmp_path, "w0")
            with largest_file(path.stat().st_size):
                with pytest.raises(JournalError):
                    await writer.commit(start("b"), "b")
                for number in range(5):
                    writer.append(end(f"{number}"), f"{number}")
                with pytest.raises(JournalError):
                    await writer.commit(start("c"), "c")
            await writer.commit(start("d"), "d")

    run(test)
    told = report(tmp_path)
    assert (told.finding, told.lost) == (None, 2)
    assert [call for call, stage in stages(tmp_path) if stage == "ResponseComplete"] == ["0", "1", "2"]
    lost = [record for record in records(tmp_path) if record["kind"] == "lost"]
    assert [(record["count"], record["since"]) for record in lost] == [(2, "2026-11-23T10:00:00.000000Z")]


def test_a_failed_sync_is_never_believed_again(tmp_path: Path) -> None:
    """Lines whose sync failed are cut off and their file left; ends among them are written again to a new one."""
    flag, journal = tmp_path / "flag", journal_in(tmp_path)

    async def test() -> None:
        async with writing(journal, limits=QUICK, committer_command=sick_committer("fail", flag)) as writer:
            await writer.commit(start("a"), "a")
            (first,) = segments(journal, "w0")
            durable = first.read_bytes().rstrip(b"\0")  # what comes after it is room
            flag.touch()
            writer.append(end("a"), "a")
            for name in ("b", "c"):
                with pytest.raises(JournalError, match="cannot be made durable: Input/output error"):
                    await writer.commit(start(name), name)
            assert writer.failed is not None
            flag.unlink()
            await eventually(lambda: writer.failed is None)
            await writer.commit(start("d"), "d")
            assert first.read_bytes() == durable
            assert len(segments(journal, "w0")) == 2

    run(test)
    assert report(journal).finding is None
    assert stages(journal) == [("a", "RequestReceived"), ("a", "ResponseComplete"), ("d", "RequestReceived")]


def test_trouble_ends_without_traffic(tmp_path: Path) -> None:
    """A gateway that gets no calls because it says that it is in trouble notices by itself when that is over."""
    flag, journal = tmp_path / "flag", journal_in(tmp_path)

    async def test() -> None:
        async with writing(journal, limits=QUICK, committer_command=sick_committer("fail", flag)) as writer:
            await writer.commit(start("a"), "a")
            flag.touch()
            with pytest.raises(JournalError):
                await writer.commit(start("b"), "b")
            assert writer.failed is not None
            flag.unlink()
            await eventually(lambda: writer.failed is None)

    run(test)
    assert report(journal).finding is None


def test_a_file_that_never_was_durable_is_replaced(tmp_path: Path) -> None:
    """Where already the first sync fails, the next try does not use that file again, only its name."""
    flag, journal = tmp_path / "flag", journal_in(tmp_path)
    flag.touch()

    async def test() -> None:
        async with writing(journal, limits=PATIENT, committer_command=sick_committer("fail", flag)) as writer:
            (path,) = segments(journal, "w0")
            with path.open("rb") as first:
                await eventually(lambda: writer.failed is not None)
                flag.unlink()
                await writer.commit(start("a"), "a")
                assert os.fstat(first.fileno()).st_nlink == 0
            assert segments(journal, "w0") == [path]

    run(test)
    assert report(journal).finding is None


def test_a_failing_sync_under_load_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """While the disk fails now and then, every start is refused or in the journal, and every end is, in order."""
    flag, journal = tmp_path / "flag", journal_in(tmp_path)
    acknowledged: set[str] = set()
    ended: list[str] = []

    async def test() -> None:
        limits = Limits(retry=0.02, end_delay=0.005, segment_bytes=20_000)
        async with writing(journal, limits=limits, committer_command=sick_committer("fail", flag)) as writer:

            async def caller(name: str) -> None:
                for number in range(60):
                    call = f"{name}-{number}"
                    if name == "0" and number % 10 == 3:
                        flag.touch()
                    elif name == "0" and number % 10 == 5:
                        flag.unlink()
                    try:
                        await writer.commit(start(call), call)
                    except JournalError:
                        pass
                    else:
                        acknowledged.add(call)
                    writer.append(end(call), call)
                    ended.append(call)

            await asyncio.gather(*(started(caller(f"{number}")) for number in range(8)))
            await eventually(lambda: writer.failed is None)

    run(test)
    told = report(journal)
    assert (told.finding, told.open_calls, told.lost) == (None, 0, 0)
    written = stages(journal)
    assert len(written) == len(set(written))
    assert acknowledged <= {call for call, stage in written if stage == "RequestReceived"}
    assert ended == [call for call, stage in written if stage == "ResponseComplete"]
    assert 0 < len(acknowledged) < len(ended)


def test_a_disk_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    """A sync that takes longer than the limit refuses those who wait, in flight or queued, and ends are kept."""
    flag, journal = tmp_path / "flag", journal_in(tmp_path)

    async def test() -> None:
        command = sick_committer("hold", flag)
        async with writing(journal, limits=Limits(timeout=0.1), committer_command=command) as writer:
            await eventually_committed(writer)
            flag.touch()
            in_flight = writer.commit(start("a"), "a")
            await eventually(lambda: ("a", "RequestReceived") in stages(journal))
            queued = writer.commit(start("b"), "b")
            for refused in (in_flight, queued):
                with pytest.raises(JournalError, match=r"took longer than 0\.1 s"):
                    await refused
            assert writer.failed is not None
            writer.append(end("a"), "a")
            flag.unlink()
            await eventually(lambda: writer.failed is None)

    run(test)
    assert report(journal).finding is None
    assert stages(journal)[-2:] == [("a", "RequestReceived"), ("a", "ResponseComplete")]


def test_a_committer_that_keeps_dying_is_started_again(tmp_path: Path) -> None:
    """Commits are refused while no committer lives long enough to answer, and work once one does."""
    flag, journal = tmp_path / "flag", journal_in(tmp_path)
    flag.touch()

    async def test() -> None:
        command = sick_committer("die", flag)
        async with writing(journal, limits=Limits(timeout=0.1), committer_command=command) as writer:
            with pytest.raises(JournalError, match="took longer"):
                await writer.commit(start("a"), "a")
            flag.unlink()
            await eventually(lambda: writer.failed is None)

    run(test)
    assert report(journal).finding is None


@pytest.mark.parametrize("back", ["new", "moved"])
def test_a_journal_whose_directory_is_gone_refuses(tmp_path: Path, back: str) -> None:
    """Lines into files without a name are not durable; once the directory is back, the chain goes on there."""
    journal = journal_in(tmp_path)

    async def test() -> None:
        async with writing(journal, limits=QUICK) as writer:
            await writer.commit(start("a"), "a")
            if back == "moved":
                journal.rename(tmp_path / "elsewhere")
            else:
                shutil.rmtree(journal)
            with pytest.raises(JournalError, match="its file was removed"):
                await writer.commit(start("b"), "b")
            with pytest.raises(JournalError, match="No such file or directory"):
                await writer.commit(start("c"), "c")
            writer.append(end("a"), "a")
            if back == "moved":
                (tmp_path / "elsewhere").rename(journal)
            else:
                journal.mkdir()
            await eventually(lambda: writer.failed is None)
            await writer.commit(start("d"), "d")

    run(test)
    told = report(journal)
    assert told.finding is None
    assert (told.first_seq, told.calls) == ((1, 2) if back == "moved" else (3, 1))
    assert stages(journal)[-2:] == [("a", "ResponseComplete"), ("d", "RequestReceived")]


@pytest.mark.parametrize("how", ["removed", "replaced", "moved away", "its directory moved away"])
def test_a_file_without_its_name_is_noticed_at_any_time(tmp_path: Path, how: str) -> None:
    """Also where nothing in its directory had been changed for long, so that a look at that was enough."""
    journal = journal_in(tmp_path)

    async def test() -> None:
        async with writing(journal, limits=QUICK) as writer:
            await writer.commit(start("a"), "a")
            os.utime(journal / "w0", (0, 0))
            for name in ("b", "c", "d"):
                await writer.commit(start(name), name)
            (path,) = segments(journal, "w0")
            match how:
                case "removed":
                    path.unlink()
                case "replaced":
                    shutil.move(shutil.copy(path, tmp_path / "other"), path)
                case "moved away":
                    path.rename(tmp_path / "other")
                case _:
                    (journal / "w0").rename(tmp_path / "other")
            with pytest.raises(JournalError, match="its file was removed"):
                await writer.commit(start("e"), "e")
            await eventually(lambda: writer.failed is None)

    run(test)


def test_closing_a_journal_in_trouble_says_so(tmp_path: Path) -> None:
    """What could not be written by the end is told, and the next start closes the calls."""

    async def test() -> None:
        async with writing(tmp_path, limits=PATIENT) as writer:
            await writer.commit(start("a", pad="x" * 100_000), "a")
            writer.append(end("a", pad="x" * 100_000), "a")
            with largest_file(1000), pytest.raises(JournalError, match="before 1 records were durable"):
                await writer.close()
        async with writing(tmp_path) as writer:
            assert writer.recovered.interrupted == 1

    run(test)
    assert report(tmp_path).finding is None


def test_closing_while_the_disk_hangs_leaves_nothing_behind(tmp_path: Path) -> None:
    """A committer that does not come back is ended all the same, and what may not be durable is told."""
    flag, journal = tmp_path / "flag", journal_in(tmp_path)
    flag.touch()

    async def test() -> None:
        command = sick_committer("hold", flag)
        async with writing(journal, limits=Limits(timeout=0.05), committer_command=command) as writer:
            writer.append(end("a"), "a")
            process = writer.committer_id
            assert process is not None
            with pytest.raises(JournalError, match="before 1 records were durable"):
                await writer.close()
            with pytest.raises(ProcessLookupError):
                os.kill(process, 0)

    run(test)
