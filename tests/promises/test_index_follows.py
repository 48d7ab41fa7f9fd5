"""The index says what the journal says: all of it, once, soon, and again after it was deleted."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from kube_audit_proxy.index import indexer
from kube_audit_proxy.index.filters import Filters
from kube_audit_proxy.index.indexer import heads, index_once, rebuild, run
from kube_audit_proxy.index.reader import Index
from kube_audit_proxy.index.schema import NoIndex, open_for_reading, open_for_writing
from kube_audit_proxy.journal.line import digest
from support.journals import BEGINNING, JournalWriter, end, random_calls, stamp, start, started, whole
from support.proxies import wait_until

EVERYTHING = Filters()
TABLES = ("calls", "records", "texts", "facets", "commands", "cursors", "problems")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Give the place of a journal."""
    return tmp_path / "journal"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Give an empty index, open for writing."""
    with closing(open_for_writing(tmp_path / "index.db")) as opened:
        yield opened


def rows(db: sqlite3.Connection) -> dict[str, list[Any]]:
    """Return all rows of all tables; values that only number the changes are left out."""
    found = {table: sorted(db.execute(f"SELECT * FROM {table}"), key=repr) for table in TABLES}  # noqa: S608 - our names
    found["calls"] = sorted((id_, *row) for id_, _change, *row in found["calls"])
    found["facets"] = [row for row in found["facets"] if row[2]]
    return found


def stages(db: sqlite3.Connection) -> list[str]:
    """Return how far each call has come, oldest call first."""
    return [stage for (stage,) in db.execute("SELECT stage FROM calls ORDER BY id")]


def test_new_lines_are_followed(journal: Path, db: sqlite3.Connection) -> None:
    """Each look takes what is new: a start, then its end, then the next call."""
    writer = JournalWriter(journal)
    first = start(1)
    writer.write(first)
    assert index_once(db, journal) == 2  # and the line that begins the segment
    assert stages(db) == ["RequestReceived"]
    writer.write(started(first))
    index_once(db, journal)
    assert stages(db) == ["ResponseStarted"]
    writer.write(end(first), start(2))
    assert index_once(db, journal) == 2
    assert stages(db) == ["ResponseComplete", "RequestReceived"]
    assert index_once(db, journal) == 0


def test_an_end_without_a_start_is_a_call(journal: Path, db: sqlite3.Connection) -> None:
    """One line tells the whole call."""
    JournalWriter(journal).write(whole()[1])
    index_once(db, journal)
    assert stages(db) == ["ResponseComplete"]


def test_a_start_after_its_end_changes_nothing(journal: Path, db: sqlite3.Connection) -> None:
    """The index keeps the line that says most, whatever the order of the files."""
    first, last = whole()
    JournalWriter(journal, "gateway-1").write(last)
    JournalWriter(journal, "gateway-2").write(first)
    index_once(db, journal)
    assert stages(db) == ["ResponseComplete"]


def test_a_second_look_at_the_same_lines_changes_nothing(journal: Path, db: sqlite3.Connection) -> None:
    """Lines that are read twice, because the cursors were lost, are the same rows as before, changes included."""
    writer = JournalWriter(journal)
    for lines in random_calls(100):
        writer.write(*lines)
    index_once(db, journal)
    before, changes = rows(db), db.execute("SELECT id, change FROM calls ORDER BY id").fetchall()
    db.execute("DELETE FROM cursors")
    assert index_once(db, journal) == writer.seq
    assert rows(db) == before
    assert db.execute("SELECT id, change FROM calls ORDER BY id").fetchall() == changes


def test_piece_by_piece_is_the_same_as_at_once(journal: Path, db: sqlite3.Connection, tmp_path: Path) -> None:
    """However the lines were cut into looks, segments and writers, the rows are those of a rebuild."""
    writers = [JournalWriter(journal, f"gateway-{number}") for number in range(3)]
    for number, lines in enumerate(random_calls(200)):
        for line in lines:
            writers[number % 3].write(line)
            if number % 7 == 0:
                index_once(db, journal)
        if number % 50 == 49:
            writers[number % 3].open_segment()
    index_once(db, journal)
    with closing(open_for_writing(tmp_path / "other.db")) as other:
        index_once(other, journal)
        assert rows(db) == rows(other)
        rebuild(other, journal)
        assert rows(db) == rows(other)


def test_numbers_in_facets_are_those_of_the_calls(journal: Path, db: sqlite3.Connection) -> None:
    """What is counted for each value is what a count of the calls gives."""
    writer = JournalWriter(journal)
    for lines in random_calls(100):
        for line in lines:
            writer.write(line)
            index_once(db, journal)
    for field in ("user", "status", "decision", "cluster"):
        counted = db.execute(f"SELECT {field}, count(*) FROM calls WHERE {field} IS NOT NULL GROUP BY 1")  # noqa: S608 - our names
        kept = db.execute("SELECT value, calls FROM facets WHERE field = ? AND calls > 0", (field,))
        assert dict(counted.fetchall()) == dict(kept.fetchall())


def test_calls_of_one_microsecond_stay_apart(journal: Path, db: sqlite3.Connection) -> None:
    """Calls that were received at the same time are calls of their own, each with its own end."""
    moment = start(1)["requestReceivedTimestamp"]
    calls = [start(number, requestReceivedTimestamp=moment) for number in range(1, 51)]
    writer = JournalWriter(journal)
    writer.write(*calls)
    index_once(db, journal)
    writer.write(*(end(call) for call in reversed(calls)))
    index_once(db, journal)
    assert stages(db) == ["ResponseComplete"] * 50
    assert db.execute("SELECT count(DISTINCT audit_id) FROM calls").fetchone() == (50,)


def test_too_many_calls_of_one_microsecond_are_a_problem(journal: Path, db: sqlite3.Connection) -> None:
    """What cannot be told apart any more is noted, not lost in silence."""
    moment = start(1)["requestReceivedTimestamp"]
    JournalWriter(journal).write(*(start(number, requestReceivedTimestamp=moment) for number in range(1, 1027)))
    index_once(db, journal)
    assert len(stages(db)) == 1024
    assert db.execute("SELECT what FROM problems").fetchall() == [("too many calls in one microsecond",)] * 2


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"not json", "not JSON"),
        (b"", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"kind":"moon"}', "unknown kind 'moon'"),
        (b'{"kind":"call"}', "auditID is missing"),
        (b'{"kind":"call","auditID":"x","stage":"Later","writer":"w","seq":9}', "unknown stage 'Later'"),
        (b'{"kind":"call","auditID":"x","stage":"Panic","writer":"w","seq":9}', "requestReceivedTimestamp is missing"),
        (
            b'{"kind":"call","auditID":["x"],"stage":"Panic","writer":"w","seq":9}',
            "auditID is missing or of",
        ),
        (
            b'{"kind":"call","auditID":"x","stage":"Panic","writer":"w","seq":9,"status":1e99}',
            "status is missing or",
        ),
        (b'{"user":"\xff"}', "not JSON"),
    ],
)
def test_what_is_no_record_is_noted_and_skipped(journal: Path, db: sqlite3.Connection, line: bytes, what: str) -> None:
    """A line that cannot be understood is named by its place, and the lines around it are indexed."""
    writer = JournalWriter(journal)
    writer.write(*whole(1))
    offset = writer.path.stat().st_size
    writer.write_bytes(line)
    writer.write(*whole(2))
    index_once(db, journal)
    assert stages(db) == ["ResponseComplete", "ResponseComplete"]
    ((writer_name, segment, at, problem),) = db.execute("SELECT * FROM problems")
    assert (writer_name, segment, at) == (writer.writer, writer.path.name, offset)
    assert problem.startswith(what)


def test_times_out_of_range_are_noted(journal: Path, db: sqlite3.Connection) -> None:
    """A time that no id can be made of is a problem."""
    JournalWriter(journal).write(
        start(1, requestReceivedTimestamp="1815-12-10T00:00:00.000000Z"), start(2, stageTimestamp="2026-11-23T10:00:00")
    )
    index_once(db, journal)
    assert stages(db) == []
    assert db.execute("SELECT count(*) FROM problems").fetchone() == (2,)


def test_lines_that_were_cut_off_are_forgotten(journal: Path, db: sqlite3.Connection) -> None:
    """Where recovery cut off lines that were never durable, and others got their numbers, only those are left."""
    writer = JournalWriter(journal)
    writer.write(*whole(1))
    durable, seq, previous = writer.path.read_bytes(), writer.seq, writer.previous
    writer.write(start(2), start(3, user="mallory"))
    index_once(db, journal)
    assert len(stages(db)) == 3
    writer.path.write_bytes(durable)
    writer.seq, writer.previous = seq, previous
    writer.write(*whole(4), *whole(5), *whole(6))
    index_once(db, journal)
    found = db.execute("SELECT audit_id FROM calls ORDER BY id").fetchall()
    assert found == [(whole(number)[0]["auditID"],) for number in (1, 4, 5, 6)]


def test_a_removed_segment_is_noted(journal: Path, db: sqlite3.Connection) -> None:
    """Where retention removed what was not read yet, the rest is read, calls known stay, and it is noted."""
    writer = JournalWriter(journal)
    writer.write(*whole(1))
    index_once(db, journal)
    removed = writer.path
    writer.write(*whole(2))
    writer.open_segment()
    writer.write(*whole(3))
    removed.unlink()
    index_once(db, journal)
    assert len(stages(db)) == 2
    assert db.execute("SELECT segment, what FROM problems").fetchall() == [
        (removed.name, "the segment was removed before it was read")
    ]


def test_heads_are_what_verify_needs(journal: Path, db: sqlite3.Connection) -> None:
    """For each writer the index knows the last line's number and hash, and the place after it."""
    writer = JournalWriter(journal)
    writer.write(*whole(1))
    index_once(db, journal)
    head = heads(db)[writer.writer]
    assert (head.seq, head.hash) == (3, digest(writer.path.read_bytes().splitlines()[-1]))
    assert (head.cursor.segment, head.cursor.offset) == (writer.path.name, writer.path.stat().st_size)


def test_two_indexers_do_not_disturb_each_other(journal: Path, db: sqlite3.Connection, tmp_path: Path) -> None:
    """A second indexer, such as a rebuild while the proxy runs, leaves neither gaps nor doubles."""
    writers = [JournalWriter(journal, f"gateway-{number}") for number in range(20)]
    for number, lines in enumerate(random_calls(200)):
        writers[number % 20].write(*lines)
    with closing(open_for_writing(tmp_path / "index.db")) as other:
        # In the middle of the first one's look, the second reads the journal to its end.

        def read_too(_lines: int) -> None:
            index_once(other, journal)

        index_once(db, journal, read_too)
    with closing(open_for_writing(tmp_path / "alone.db")) as alone:
        index_once(alone, journal)
        assert rows(db) == rows(alone)


def test_run_follows_until_it_is_told_to_stop(journal: Path, tmp_path: Path) -> None:
    """The loop of the indexer's process makes the file, brings lines in while it runs, and survives a deleted file."""
    writer = JournalWriter(journal)
    writer.write(*whole(1))
    stop = Event()
    thread = Thread(target=run, args=(journal, tmp_path / "index.db", stop))
    thread.start()
    try:
        wait_for_calls(tmp_path / "index.db", 1)
        writer.write(*whole(2))
        wait_for_calls(tmp_path / "index.db", 2)
        (tmp_path / "index.db").unlink()
        wait_for_calls(tmp_path / "index.db", 2)
    finally:
        stop.set()
        thread.join()


def test_who_is_told_to_stop_leaves_much_to_the_next(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop in the middle of a long journal does not wait for its end, and the next start goes on from there."""
    monkeypatch.setattr(indexer, "_LAST_LINES", 1)
    for number in range(1, 6):
        JournalWriter(journal, f"gateway-{number}").write(*whole(number))

    class Stop(Event):
        """Set as soon as something was read."""

        def is_set(self) -> bool:
            return (tmp_path / "index.db").exists() and bool(calls())

    def calls() -> list[str]:
        with closing(open_for_writing(tmp_path / "index.db")) as db:
            return stages(db)

    run(journal, tmp_path / "index.db", Stop())
    assert len(calls()) == 1
    with closing(open_for_writing(tmp_path / "index.db")) as db:
        index_once(db, journal)
    assert len(calls()) == 5


def wait_for_calls(path: Path, count: int) -> None:
    """Look until the index has so many calls; fail after many looks."""
    pause = Event()
    for _ in range(400):
        try:
            with Index(path) as index:
                if index.count(EVERYTHING) == count:
                    return
        except NoIndex:
            pass
        pause.wait(0.05)
    pytest.fail(f"the index never had {count} calls")


def test_another_version_is_built_again(journal: Path, tmp_path: Path) -> None:
    """A file of another version cannot be read; the next indexer replaces what is in it."""
    path = tmp_path / "index.db"
    JournalWriter(journal).write(*whole(1))
    with closing(sqlite3.connect(path)) as old:
        old.execute("CREATE TABLE calls (id)")
        old.execute("PRAGMA user_version = 999")
        old.commit()
    with pytest.raises(NoIndex, match="another version"):
        open_for_reading(path)
    with closing(open_for_writing(path)) as db:
        index_once(db, journal)
        assert stages(db) == ["ResponseComplete"]


def test_a_damaged_index_is_built_again(journal: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is no database any more is set aside and built again from the journal, without anybody's help."""
    JournalWriter(journal).write(*whole(1))
    path = tmp_path / "index.db"
    path.write_bytes(b"this is no database" * 1000)
    stop = Event()
    following = Thread(target=run, args=(journal, path, stop))
    following.start()
    wait_until((tmp_path / "index.db.damaged").exists, "the damaged file to be set aside")
    stop.set()
    following.join()
    with closing(open_for_writing(path)) as db:
        index_once(db, journal)
        assert stages(db) == ["ResponseComplete"]
    assert "is built again" in caplog.text


def test_no_file_is_no_index(tmp_path: Path) -> None:
    """Reading never makes the file."""
    with pytest.raises(NoIndex, match="no such file"):
        Index(tmp_path / "index.db")
    assert not list(tmp_path.iterdir())


def test_hostile_text_is_neither_interpreted_nor_lost(journal: Path, db: sqlite3.Connection, tmp_path: Path) -> None:
    """Quotes, SQL, escape sequences, markup and line ends come out as they went in."""
    text = "'; DROP TABLE calls; --\x1b[31m\"[bold]\n=cmd()\x00ü"
    first, last = whole(1, user=text, name=text, namespace=text, command=text, command_id=text, userAgent=text)
    JournalWriter(journal).write(first, last)
    index_once(db, journal)
    with Index(tmp_path / "index.db") as index:
        (call,) = index.calls(EVERYTHING, 10)
        assert {key: call.record[key] for key in last} == last
        assert index.command(text) is not None
        assert index.facets("user") == {text: 1}


def test_commands_follow_their_calls(journal: Path, db: sqlite3.Connection, tmp_path: Path) -> None:
    """A command grows with its calls: it runs while one of them runs, and lasts until the last one ended."""
    identity = {"command_id": "c1", "command": "kubectl get", "command_source": "header"}
    writer = JournalWriter(journal)
    first, second = start(1, **identity), start(2, cluster="prod", **identity)
    writer.write(first, second)
    index_once(db, journal)
    with Index(tmp_path / "index.db") as index:
        before = index.command("c1")
        writer.write(end(first, status=403, decision="deny"), end(second, duration_ms=3000, exit_code=7))
        index_once(db, journal)
        after = index.command("c1")
    assert before is not None
    assert after is not None
    assert (before.totals.calls, before.totals.running, before.totals.denied) == (2, 2, 0)
    totals = after.totals
    assert (totals.calls, totals.running, totals.denied, totals.clusters) == (2, 0, 1, "dev,prod")
    assert (totals.worst_status, totals.exit_code, totals.last - totals.first) == (403, 7, 4_000_000)


def test_changes_come_in_order_and_once(journal: Path, db: sqlite3.Connection, tmp_path: Path) -> None:
    """Who follows the index gets a call when it comes and when it ends, and nothing twice."""
    writer = JournalWriter(journal)
    first, second = start(1), start(2)
    writer.write(first)
    index_once(db, journal)
    with Index(tmp_path / "index.db") as index:
        after = index.last_change()
        writer.write(second, end(first))
        index_once(db, journal)
        changes = list(index.changes(EVERYTHING, after))
        assert [(change.record["auditID"], change.record["stage"]) for change in changes] == [
            (second["auditID"], "RequestReceived"),
            (first["auditID"], "ResponseComplete"),
        ]
        assert list(index.changes(EVERYTHING, changes[-1].number)) == []


def test_an_export_is_what_there_was_when_it_began(journal: Path, db: sqlite3.Connection, tmp_path: Path) -> None:
    """Going through all calls ends even where new ones keep coming."""
    writer = JournalWriter(journal)
    writer.write(*whole(1), *whole(2))
    index_once(db, journal)
    with Index(tmp_path / "index.db") as index:
        calls = index.iterate(EVERYTHING)
        next(calls)
        writer.write(*whole(3))
        index_once(db, journal)
        assert [call.record["auditID"] for call in calls] == [whole(2)[0]["auditID"]]


def test_pages_end(journal: Path, db: sqlite3.Connection, tmp_path: Path) -> None:
    """More calls than a page has come whole and in order, also of one microsecond."""
    moment = stamp(BEGINNING)
    calls = [start(number, requestReceivedTimestamp=moment) for number in range(1, 901)]
    JournalWriter(journal).write(*calls, *(start(number) for number in range(901, 2301)))
    index_once(db, journal)
    with Index(tmp_path / "index.db") as index:
        assert len({call.id for call in index.iterate(EVERYTHING)}) == 2300
        assert len(list(index.changes(EVERYTHING, 0))) == 2300
