"""Retention deletes what was shipped or is too old, nothing else, and both the trail and its index stay whole."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from journal_rig import report, run, stages

from kube_audit_proxy.audit.document import AFTER_CHECK, CHECK
from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.index.filters import Filters
from kube_audit_proxy.index.indexer import heads, index_once
from kube_audit_proxy.index.indexer import run as run_indexer
from kube_audit_proxy.index.prune import prune
from kube_audit_proxy.index.reader import Index
from kube_audit_proxy.index.schema import FACETED, open_for_writing
from kube_audit_proxy.journal.chain import Wrong
from kube_audit_proxy.journal.cursor import Cursor
from kube_audit_proxy.journal.deletion import delete, survey
from kube_audit_proxy.journal.line import content
from kube_audit_proxy.journal.notes import FILE_NAME, read_notes
from kube_audit_proxy.journal.reader import read_batches, segments, writers
from kube_audit_proxy.journal.recovery import recover
from kube_audit_proxy.journal.retention import Policy, Trail, decide
from kube_audit_proxy.journal.verify import verify
from kube_audit_proxy.journal.writer import JournalWriter, Limits
from kube_audit_proxy.process.retention import Retention, borders, shipped_cursors
from kube_audit_proxy.telemetry.state import Position, opened_for_writing
from support.journals import BEGINNING, Record, random_calls, stamp, start, whole
from support.proxies import wait_until

TINY = Limits(segment_bytes=3000)
HALF = Policy(keep_seconds=50)
"""Of a hundred calls, each a second after the other, and looked at when they are all made: the newest half."""
EVERYTHING = Filters()
TABLES = ("calls", "records", "texts", "facets", "commands", "cursors", "problems")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Give the place of an empty journal."""
    path = tmp_path / "journal"
    path.mkdir()
    return path


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Give an empty index, open for writing."""
    with closing(open_for_writing(tmp_path / "index.db")) as opened:
        yield opened


def write(journal: Path, *calls: list[Record], names: tuple[str, ...] = ("w0",), limits: Limits = TINY) -> None:
    """Have real writers write these calls' lines, call by call and writer by writer; the clock is that of the calls."""
    now = [calls[0][0]["stageTimestamp"] if calls else stamp(BEGINNING)]

    async def test() -> None:
        opened = [
            JournalWriter.open(journal, name, clock=lambda: now[0], product="test", limits=limits) for name in names
        ]
        for number, lines in enumerate(calls):
            writer = opened[number % len(opened)]
            now[0] = lines[-1]["stageTimestamp"]
            call = lines[0]["auditID"]
            await writer.commit(content(lines[0]), call)
            for line in lines[1:]:
                writer.append(content(line), call if line["stage"] == "ResponseComplete" else None)
        for writer in opened:
            await writer.close()

    run(test)


def hundred() -> list[list[Record]]:
    """Give a hundred calls, a second apart, all of which have ended."""
    return [list(whole(number)) for number in range(1, 101)]


def retention(
    journal: Path,
    policy: Policy = HALF,
    *,
    shipped: Callable[[], Mapping[str, Cursor]] | None = None,
    seconds: float = 101,
) -> Retention:
    """Give retention so many seconds after the first call."""
    now = stamp(BEGINNING + timedelta(seconds=seconds))
    return Retention(journal, policy, shipped=shipped, clock=lambda: now, every=3600)


def do(work: Retention, db: sqlite3.Connection) -> None:
    """Do one round; rounds that have little to do are over long before so many steps."""
    for _ in islice(work.chores(db), 300):
        pass


def delete_only(journal: Path, db: sqlite3.Connection, policy: Policy, seconds: float) -> None:
    """Delete from the journal, so many seconds after the first call, and leave the index as it is."""
    now = BEGINNING + timedelta(seconds=seconds)
    read = heads(db)
    trails = [Trail(name, survey(journal, name), read[name].cursor, None) for name in writers(journal)]
    for deletion in decide(trails, policy, now, ships=False):
        delete(journal, deletion, lambda: stamp(now))


def tables(db: sqlite3.Connection) -> dict[str, list[Any]]:
    """Return all rows of all tables, save the numbers of changes and counts of 0."""
    found = {table: sorted(db.execute(f"SELECT * FROM {table}"), key=repr) for table in TABLES}  # noqa: S608 - our names
    found["calls"] = sorted((id_, *row) for id_, _change, *row in found["calls"])
    found["facets"] = [row for row in found["facets"] if row[2]]
    return found


def rebuilt(journal: Path) -> dict[str, list[Any]]:
    """Return what an index has that is built from what is there of a journal."""
    with closing(open_for_writing(journal.parent / "rebuilt.db")) as other:
        other.execute("DELETE FROM cursors")
        index_once(other, journal)
        found = tables(other)
    for path in journal.parent.glob("rebuilt.db*"):
        path.unlink()
    return found


def names(journal: Path, writer: str = "w0") -> list[str]:
    """Return the names of a writer's segments."""
    return [path.name for path in segments(journal, writer)]


def ship(path: Path, cursors: Mapping[Signal, Cursor]) -> None:
    """Note how far w0 was shipped, as the shipper does."""
    with opened_for_writing(path) as state:
        for kind, cursor in cursors.items():
            state.save(kind, {"w0": Position(cursor, 0, 0, 0)}, {})


# The trail and the index


def test_what_is_left_is_whole(journal: Path, db: sqlite3.Connection) -> None:
    """The old half goes, the young one stays to the byte, verify follows the notes, and the index is a rebuilt one."""
    write(journal, *hundred())
    index_once(db, journal)
    before = {path.name: path.read_bytes() for path in segments(journal, "w0")}
    assert len(before) > 20
    do(retention(journal), db)
    after = {path.name: path.read_bytes() for path in segments(journal, "w0")}
    assert after.items() < before.items()
    told = report(journal)
    assert (told.finding, told.unnoted) == (None, 0)
    assert told.remarks == [f"lines before {told.first_seq} are no longer kept"] + [
        f"{told.ends_without_start} calls have an end and no start"
    ] * bool(told.ends_without_start)
    notes = read_notes(journal / "w0")
    assert [note.segment for note in notes] == sorted(before.keys() - after.keys())
    assert {(note.reason, note.shipped) for note in notes} == {("age", None)}
    kept = {call for call, _ in stages(journal)}
    assert {call[0]["auditID"] for call in hundred()[51:]} <= kept
    assert 50 <= len(kept) <= 60
    assert tables(db) == rebuilt(journal)


@pytest.mark.parametrize("seed", range(4))
def test_the_index_is_a_rebuilt_one_whatever_the_calls(journal: Path, db: sqlite3.Connection, seed: int) -> None:
    """Calls, records, texts, counts and commands are those of what is left, for calls of all kinds and two writers."""
    write(journal, *random_calls(300, seed), names=("w0", "w1"))
    write(journal, *(list(whole(number)) for number in range(400, 410)), names=("w0", "w1"))
    index_once(db, journal)
    count = db.execute("SELECT count(*) FROM calls").fetchone()[0]
    delete_only(journal, db, Policy(keep_seconds=350), 500)
    for _ in prune(db, borders(journal), 10):
        pass
    assert 160 < db.execute("SELECT count(*) FROM calls").fetchone()[0] < count - 60
    left, again = tables(db), rebuilt(journal)
    # The one difference: of an interrupted call, only the line before its last one has a status.
    interrupted = {row[0] for row in db.execute("SELECT command_id FROM calls WHERE outcome = 'interrupted'")}
    for found in (left, again):
        found["commands"] = [(*row[:-2], row[0] in interrupted or row[-2], row[-1]) for row in found["commands"]]
    assert left == again
    assert db.execute("SELECT count(*) FROM facets WHERE calls <= 0").fetchone() == (0,)
    for field in FACETED:
        counted = db.execute(f"SELECT {field}, count(*) FROM calls WHERE {field} IS NOT NULL GROUP BY 1")  # noqa: S608 - our names
        kept = db.execute("SELECT value, calls FROM facets WHERE field = ?", (field,))
        assert dict(counted.fetchall()) == dict(kept.fetchall())


@pytest.mark.parametrize("page", [1, 7, 1000])
def test_a_command_that_is_cut_adds_up_what_is_left(journal: Path, db: sqlite3.Connection, page: int) -> None:
    """However small the steps, a command that goes on is what its calls that stay add up to; one that is over goes."""
    long = {"command_id": "long", "command": "k9s", "command_source": "header"}
    short = {"command_id": "short", "command": "kubectl get", "command_source": "header"}
    calls = [list(whole(number, 12.5, **(short if number < 5 else long))) for number in range(1, 101)]
    calls[30][1].update(decision="deny", status=403)
    write(journal, *calls)
    index_once(db, journal)
    delete_only(journal, db, HALF, 101)
    for _ in prune(db, borders(journal), page):
        pass
    found = dict(db.execute("SELECT command_id, calls FROM commands"))
    assert found == {"long": db.execute("SELECT count(*) FROM calls").fetchone()[0]}
    assert tables(db) == rebuilt(journal)


def test_the_indexer_and_readers_go_on(journal: Path, db: sqlite3.Connection, tmp_path: Path) -> None:
    """What is written after a deletion is indexed without a gap; who reads pages meanwhile gets the rest of them."""
    write(journal, *hundred())
    index_once(db, journal)
    with Index(tmp_path / "index.db") as index:
        reading = index.iterate(EVERYTHING)
        next(reading)
        do(retention(journal), db)
        assert len(list(reading)) >= 50
        write(journal, *(list(whole(number)) for number in range(101, 111)))
        index_once(db, journal)
        assert [call.record["auditID"] for call in index.calls(EVERYTHING, 1)] == [whole(110)[0]["auditID"]]
        assert index.problems() == 0
    assert report(journal).finding is None


def test_who_follows_misses_nothing(journal: Path, db: sqlite3.Connection, tmp_path: Path) -> None:
    """The numbers of changes go on even where all calls are gone: the one that changed last stays until the next."""
    write(journal, *hundred())
    write(journal)
    write(journal)  # the two newest segments have no calls
    index_once(db, journal)
    with Index(tmp_path / "index.db") as index:
        after = index.last_change()
        do(retention(journal, seconds=9999), db)
        assert len(names(journal)) == 2
        assert [call.record["auditID"] for call in index.iterate(EVERYTHING)] == [hundred()[-1][0]["auditID"]]
        assert sum(index.facets("verb").values()) == 1
        write(journal, *(list(whole(number)) for number in (101, 102)))
        index_once(db, journal)
        changes = [change.record["auditID"] for change in index.changes(EVERYTHING, after)]
        assert changes == [whole(101)[0]["auditID"], whole(102)[0]["auditID"]]
        write(journal)
        index_once(db, journal)
        do(retention(journal, seconds=102), db)
    assert tables(db) == rebuilt(journal)


def test_calls_that_others_have_removed_are_not_forgotten(journal: Path, db: sqlite3.Connection) -> None:
    """Where somebody else deletes files, the index still knows the calls in them: they are evidence."""
    write(journal, *hundred())
    index_once(db, journal)
    do(retention(journal), db)
    left = db.execute("SELECT count(*) FROM calls").fetchone()
    segments(journal, "w0")[0].unlink()
    do(retention(journal), db)
    assert db.execute("SELECT count(*) FROM calls").fetchone() == left


def test_problems_of_deleted_segments_are_forgotten(journal: Path, db: sqlite3.Connection) -> None:
    """What was wrong with lines that are gone is not told for ever; what is wrong with others is."""
    calls = hundred()
    calls[10][0]["requestReceivedTimestamp"] = calls[90][0]["requestReceivedTimestamp"] = "yesterday"
    write(journal, *calls)
    index_once(db, journal)
    assert db.execute("SELECT count(*) FROM problems").fetchone() == (2,)
    do(retention(journal), db)
    assert db.execute("SELECT count(*) FROM problems").fetchone() == (1,)
    assert tables(db) == rebuilt(journal)


# What stays


def test_an_open_call_keeps_its_start(journal: Path, db: sqlite3.Connection) -> None:
    """However old it is, the start of a call that has not ended stays, and recovery closes the call."""
    calls = hundred()
    forever = start(1000, requestReceivedTimestamp=stamp(BEGINNING), stageTimestamp=calls[19][0]["stageTimestamp"])
    calls.insert(20, [forever])
    write(journal, *calls)
    index_once(db, journal)
    do(retention(journal, seconds=9999), db)
    (begun,) = (path for path in segments(journal, "w0") if forever["auditID"].encode() in path.read_bytes())
    assert begun == segments(journal, "w0")[0]
    assert report(journal).first_seq > 1
    assert recover(journal, "w0", clock=lambda: stamp(BEGINNING), product="x").interrupted == 1
    assert report(journal).finding is None
    assert stages(journal)[-1] == (forever["auditID"], "ResponseComplete")


@pytest.mark.parametrize("torn", [0, 30])
def test_a_crash_right_after_a_deletion_is_recovered(journal: Path, db: sqlite3.Connection, torn: int) -> None:
    """Even where the newest segment loses all of its lines, the chain goes on from what retention has left."""
    write(journal, *hundred())
    write(journal)
    index_once(db, journal)
    do(retention(journal, seconds=9999), db)
    newest = segments(journal, "w0")[-1]
    newest.write_bytes(newest.read_bytes()[:torn])
    write(journal, *hundred())
    told = report(journal)
    assert (told.finding, told.unnoted) == (None, 0)
    assert told.first_seq > 100


def test_what_the_index_has_not_read_stays(journal: Path, db: sqlite3.Connection) -> None:
    """An index that is behind, or is empty, holds the journal; so its cursor never names a file that is gone."""
    write(journal, *hundred())
    before = names(journal)
    do(retention(journal, seconds=9999), db)
    assert names(journal) == before
    index_once(db, journal)
    db.execute("UPDATE cursors SET segment = ?", (before[3],))
    do(retention(journal, seconds=9999), db)
    assert names(journal) == before[3:]


@pytest.mark.parametrize(("old", "new"), [(b'"kind"', b'"k\xffnd"'), (b"alice", b"mally"), (b"}\n", b"}")])
def test_evidence_stays(journal: Path, db: sqlite3.Connection, old: bytes, new: bytes) -> None:
    """A segment that the next one does not go on from is not deleted: verify has to show it."""
    write(journal, *hundred())
    index_once(db, journal)
    changed = segments(journal, "w0")[5]
    before, last = changed.read_bytes().rsplit(b"\n", 2)[:2]
    changed.write_bytes(before + b"\n" + (last + b"\n").replace(old, new))
    do(retention(journal, seconds=9999), db)
    assert segments(journal, "w0")[0] == changed
    assert report(journal).finding is not None


def test_without_limits_nothing_is_deleted(journal: Path, db: sqlite3.Connection) -> None:
    """By default everything is kept for ever."""
    write(journal, *hundred())
    index_once(db, journal)
    before = names(journal)
    do(retention(journal, Policy(), seconds=10**9), db)
    assert names(journal) == before


def test_size_is_a_limit_too(journal: Path, db: sqlite3.Connection) -> None:
    """With a number of bytes to keep, no more than these, and at most a segment less, is left of all writers."""
    write(journal, *hundred(), names=("w0", "w1"))
    index_once(db, journal)
    do(retention(journal, Policy(keep_bytes=40_000)), db)
    left = sum(path.stat().st_size for name in writers(journal) for path in segments(journal, name))
    assert 40_000 - 2 * TINY.segment_bytes < left <= 40_000
    assert {note.reason for name in writers(journal) for note in read_notes(journal / name)} == {"size"}
    assert tables(db) == rebuilt(journal)


# Shipping


def test_only_what_was_shipped_goes(journal: Path, db: sqlite3.Connection, tmp_path: Path) -> None:
    """Without a word of the shipper nothing goes; then what every signal has behind it; its cursor stays valid."""
    write(journal, *hundred())
    index_once(db, journal)
    before = names(journal)
    state = tmp_path / "ship.db"
    both = (Signal.LOGS, Signal.TRACES)

    def left(*signals: Signal) -> list[str]:
        do(retention(journal, shipped=lambda: shipped_cursors(state, signals)), db)
        return names(journal)

    assert left(*both) == before
    ship(state, {Signal.LOGS: Cursor(before[7], 10)})
    assert left(*both) == before
    ship(state, {Signal.TRACES: Cursor(before[3], 10)})
    assert left(*both) == before[3:]
    assert left(Signal.LOGS) == before[7:]
    assert next(read_batches(journal, shipped_cursors(state, [Signal.LOGS]))).writer == "w0"
    assert {note.shipped for note in read_notes(journal / "w0")} == {True}


def test_what_nobody_can_read_is_not_shipped(journal: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged note of the shipper's, or one without tables, says nothing, and that is told."""
    assert shipped_cursors(tmp_path / "none.db", list(Signal)) == {}
    assert not caplog.records
    path = tmp_path / "ship.db"
    with closing(sqlite3.connect(path)) as empty:
        empty.execute("CREATE TABLE other (id)")
    assert shipped_cursors(path, list(Signal)) == {}
    path.write_bytes(b"no database" * 1000)
    assert shipped_cursors(path, list(Signal)) == {}
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [
        f"{path} cannot be read, so nothing counts as shipped"
    ] * 2
    assert shipped_cursors(path, []) == {}
    assert not list(journal.iterdir())


def test_past_the_hard_limit_it_goes_loudly(
    journal: Path, db: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """What is too old even unshipped is deleted, with a warning for each file and a note that says so."""
    write(journal, *hundred())
    index_once(db, journal)
    before = names(journal)
    policy = Policy(keep_seconds=50, hard_limit_seconds=70)
    do(retention(journal, policy, shipped=lambda: {"w0": Cursor(before[2], 1)}), db)
    notes = read_notes(journal / "w0")
    assert [(note.reason, note.shipped) for note in notes[:2]] == [("age", True)] * 2
    assert {(note.reason, note.shipped) for note in notes[2:]} == {("hard_limit", False)}
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == len(notes) - 2 > 3
    assert all("NEVER SHIPPED" in words for words in warned)
    youngest = names(journal)[0]
    assert youngest not in {note.segment for note in notes}
    assert report(journal).finding is None


# Crashes

KILLED = """
import os, signal, sys
from pathlib import Path
from kube_audit_proxy.journal import deletion
from kube_audit_proxy.journal.retention import Deletion, Reason

def die(*_arguments, **_options):
    os.kill(os.getpid(), signal.SIGKILL)

where, journal = sys.argv[1], Path(sys.argv[2])
if where == "before the note":
    deletion.write_note = die
elif where == "before the deletion":
    Path.unlink = die
else:
    deletion.flush_directory = die
segment = deletion.survey(journal, "w0")[0]
deletion.delete(journal, Deletion("w0", segment, segment.seal, Reason.AGE, None), lambda: "now")
"""


@pytest.mark.parametrize("where", ["before the note", "before the deletion", "after the deletion"])
def test_a_kill_leaves_a_trail_that_is_whole(journal: Path, db: sqlite3.Connection, where: str) -> None:
    """Wherever the process dies, verify finds nothing missing that is not noted, and the next round goes on."""
    write(journal, *hundred())
    index_once(db, journal)
    before = names(journal)
    done = subprocess.run([sys.executable, "-c", KILLED, where, str(journal)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (len(read_notes(journal / "w0")), len(before) - len(names(journal))) == {
        "before the note": (0, 0),
        "before the deletion": (1, 0),
        "after the deletion": (1, 1),
    }[where]
    told = report(journal)
    assert (told.finding, told.unnoted) == (None, 0)
    do(retention(journal), db)
    assert [note.segment for note in read_notes(journal / "w0")] == sorted(set(before) - set(names(journal)))
    told = report(journal)
    assert (told.finding, told.unnoted) == (None, 0)
    assert tables(db) == rebuilt(journal)


def test_a_noted_segment_that_is_there_is_still_in_the_index(journal: Path, db: sqlite3.Connection) -> None:
    """Where the process died before the deletion, the index keeps what the journal keeps."""
    write(journal, *hundred())
    index_once(db, journal)
    subprocess.run([sys.executable, "-c", KILLED, "before the deletion", str(journal)], check=False)
    for _ in prune(db, borders(journal)):
        pass
    assert tables(db) == rebuilt(journal)
    assert db.execute("SELECT count(*) FROM calls").fetchone() == (100,)


def test_a_torn_note_is_cut_off(journal: Path, db: sqlite3.Connection) -> None:
    """What a crash has left of a note is replaced by a whole one."""
    write(journal, *hundred())
    index_once(db, journal)
    do(retention(journal, seconds=60), db)
    notes = read_notes(journal / "w0")
    with (journal / "w0" / FILE_NAME).open("ab") as file:
        file.write(b'{"segment":"000')
    assert report(journal).finding is None
    do(retention(journal), db)
    assert (journal / "w0" / FILE_NAME).read_bytes().count(b"\n") == len(read_notes(journal / "w0")) > len(notes)
    assert report(journal).finding is None


def test_trouble_is_told_and_stops_nobody(
    journal: Path, db: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a note cannot be written, nothing is deleted, and the indexer goes on."""
    write(journal, *hundred())
    index_once(db, journal)
    before = names(journal)
    (journal / "w0" / FILE_NAME).mkdir()
    work = retention(journal).chores(db)
    next(work)
    next(work)
    assert names(journal) == before
    assert "retention cannot delete" in caplog.text


# The proof


def deleted(journal: Path, db: sqlite3.Connection) -> list[Path]:
    """Write a journal, delete its old half, and return the segments that are left."""
    write(journal, *hundred())
    index_once(db, journal)
    do(retention(journal), db)
    return segments(journal, "w0")


def test_a_removed_beginning_is_no_retention(journal: Path, db: sqlite3.Connection) -> None:
    """Who removes the oldest file after retention has begun is found out, with the line that is missing."""
    first, second, *_ = deleted(journal, db)
    first.unlink()
    finding = report(journal).finding
    assert finding is not None
    assert (finding.what, finding.segment, finding.line) == (Wrong.MISSING, second.name, 1)
    assert finding.seq == int(first.stem)
    assert "which retention did not delete" in str(finding)


def test_a_removal_between_two_deletions_is_found(journal: Path, db: sqlite3.Connection) -> None:
    """Later deletions do not cover up that something was removed before them."""
    write(journal, *hundred())
    index_once(db, journal)
    do(retention(journal, seconds=60), db)
    removed = segments(journal, "w0")[0]
    removed.unlink()
    do(retention(journal), db)
    finding = report(journal).finding
    assert finding is not None
    assert (finding.what, finding.seq) == (Wrong.MISSING, int(removed.stem))


def test_a_replaced_beginning_is_found(journal: Path, db: sqlite3.Connection) -> None:
    """The first line left has to follow the last one deleted, by its hash."""
    first, *_ = deleted(journal, db)
    log = journal / "w0" / FILE_NAME
    last = read_notes(journal / "w0")[-1]
    log.write_bytes(log.read_bytes().replace(last.last_hash.encode(), b"f" * 64))
    finding = report(journal).finding
    assert finding is not None
    assert (finding.what, finding.segment, finding.line, finding.seq) == (
        Wrong.ALTERED,
        first.name,
        1,
        last.last_seq,
    )


def test_a_trail_that_is_gone_but_for_its_notes_is_missing(journal: Path, db: sqlite3.Connection) -> None:
    """Retention never deletes everything: somebody else did."""
    for path in deleted(journal, db):
        path.unlink()
    finding = report(journal).finding
    assert finding is not None
    assert (finding.what, finding.found) == (Wrong.MISSING, "no line at all")


def test_without_notes_it_is_said_that_nobody_knows(journal: Path, db: sqlite3.Connection) -> None:
    """A beginning that is gone and was never noted is told as that, and how many lines it is."""
    first, *_ = deleted(journal, db)
    (journal / "w0" / FILE_NAME).unlink()
    told = report(journal)
    before = int(first.stem)
    assert told.unnoted == before - 1
    assert told.remarks[0] == (
        f"lines before {before} are no longer kept, and {before - 1} of them were not deleted by retention"
    )


def test_verify_goes_on_while_retention_deletes(journal: Path, db: sqlite3.Connection) -> None:
    """Files that are deleted between being listed and being read count by their notes."""
    write(journal, *hundred())
    index_once(db, journal)
    told: list[int] = []

    def meanwhile(read: int) -> None:
        if not told:
            do(retention(journal), db)
        told.append(read)

    (only,) = verify(journal, progress=meanwhile)
    assert (only.finding, only.first_seq, only.unnoted) == (None, 1, 0)
    assert only.lines < only.last_seq
    assert segments(journal, "w0")[0].stem == f"{read_notes(journal / 'w0')[-1].last_seq + 1:020d}"


@pytest.mark.skipif(not shutil.which("jq") or not shutil.which("sha256sum"), reason="needs jq and sha256sum")
def test_the_check_by_hand_begins_with_the_last_note(journal: Path, db: sqlite3.Connection) -> None:
    """The document's shell lines say nothing about what is left, begun as the document says; no note is among them."""
    write(journal, *hundred()[:25])
    index_once(db, journal)
    do(retention(journal, Policy(keep_seconds=15), seconds=26), db)
    assert len(names(journal)) > 2
    environment = {"DATA_DIR": str(journal.parent), "WRITER": "w0", "PATH": "/usr/bin:/bin:/usr/local/bin"}

    def shell(script: str) -> str:
        done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, check=True, text=True)
        return done.stdout + done.stderr

    (tail,) = (line for line in AFTER_CHECK.splitlines() if line.startswith("tail "))
    (begin,) = (line for line in CHECK.splitlines() if line.strip().startswith("seq=0 "))
    assert "does not follow" in shell(CHECK)
    assert shell(CHECK.replace(begin, shell(tail))) == ""


# The process


def test_the_indexer_deletes_while_it_follows(journal: Path, tmp_path: Path) -> None:
    """The loop of the indexer's process keeps both the journal and the index within the limits, round after round."""
    write(journal, *hundred())
    before = names(journal)
    policy = Policy(keep_seconds=50)
    now = [stamp(BEGINNING + timedelta(seconds=101))]
    work = Retention(journal, policy, shipped=None, clock=lambda: now[0], every=0)
    stop = Event()
    thread = Thread(target=run_indexer, args=(journal, tmp_path / "index.db", stop, work.chores))
    thread.start()
    try:
        wait_until(lambda: names(journal)[0] > before[0], "the oldest segments to be deleted")
        write(journal, *(list(whole(number)) for number in range(101, 201)))
        now[0] = stamp(BEGINNING + timedelta(seconds=9999))
        wait_until(lambda: len(names(journal)) == 2, "all that may go to be deleted")
    finally:
        stop.set()
        thread.join()
    with closing(open_for_writing(tmp_path / "index.db")) as db:
        for _ in prune(db, borders(journal)):
            pass
        assert tables(db) == rebuilt(journal)
    assert report(journal).finding is None


def test_the_process_is_told_by_its_configuration(tmp_path: Path) -> None:
    """The settings decide what is kept, and whether anything is to be shipped."""
    from kube_audit_proxy.config import parse as parse_config
    from kube_audit_proxy.process.indexer import make_retention

    settings: dict[str, Any] = {"clusters": [{"name": "a"}], "retention": {"keep": 0.001}}
    telemetries: tuple[dict[str, Any] | None, ...] = (None, {})
    for telemetry in telemetries:
        data = tmp_path / f"{telemetry}"
        journal = data / "journal"
        journal.mkdir(parents=True)
        write(journal, *hundred())
        before = names(journal)
        config = parse_config({**settings, "telemetry": telemetry, "data_dir": str(data)}, tmp_path)
        with closing(open_for_writing(config.index)) as db:
            index_once(db, journal)
            do(make_retention(config), db)
        assert (len(names(journal)) < len(before)) is (telemetry is None)


def test_the_indexers_process_deletes(journal: Path, tmp_path: Path) -> None:
    """Started as the supervisor starts it, the process deletes what is too old, and ends when its parent is gone."""
    write(journal, *hundred())
    before = names(journal)
    settings = {"data_dir": str(tmp_path), "clusters": [{"name": "a"}], "retention": {"keep": 0.001}}
    command = [sys.executable, "-m", "kube_audit_proxy.process.indexer"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        process.stdin.flush()
        wait_until(lambda: process.poll() is not None or len(names(journal)) == 2, "all that may go to be deleted")
        process.stdin.close()
        assert process.stderr is not None
        log = process.stderr.read().decode()
    assert process.returncode == 0, log
    assert log.count("retention deleted lines") == len(before) - 2
    assert report(journal).finding is None
