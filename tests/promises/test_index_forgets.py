"""What no call has any more leaves nothing behind in the index, and what is left is still found."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from kube_audit_proxy.index import write
from kube_audit_proxy.index.filters import parse
from kube_audit_proxy.index.indexer import index_once
from kube_audit_proxy.index.prune import Border, prune
from kube_audit_proxy.index.reader import Index
from kube_audit_proxy.index.schema import open_for_writing
from support.journals import BEGINNING, JournalWriter, end, start, whole

OF_CALLS = ("log", "records", "kinds", "tallies", "clients", "words", "runs")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Give the place of a journal."""
    return tmp_path / "journal"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Give an empty index, open for writing."""
    with closing(open_for_writing(tmp_path / "index.db")) as opened:
        yield opened


def counted(db: sqlite3.Connection) -> dict[str, int]:
    """Return how many rows each table has."""
    return {table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in OF_CALLS}  # noqa: S608 - ours


def matching(db: sqlite3.Connection, trigram: str) -> int:
    """Return how many words the index of trigrams finds."""
    found: int = db.execute("SELECT count(*) FROM trigrams WHERE trigrams MATCH ?", (f'"{trigram}"',)).fetchone()[0]
    return found


def test_words_that_an_end_replaces_are_forgotten(journal: Path, db: sqlite3.Connection) -> None:
    """A call whose end says more than its start has the words of the end, and those of the start are gone."""
    writer, first = JournalWriter(journal), start(1, requestURI="/api/v1/xyzzy")
    writer.write(first)
    index_once(db, journal)
    assert (counted(db)["words"], matching(db, "xyz")) == (1, 1)
    writer.write(end(first, status=404, message="not to be found"))
    index_once(db, journal)
    assert db.execute("SELECT text FROM words").fetchall() == [("/api/v1/xyzzy\x1fnot to be found",)]
    assert (matching(db, "xyz"), matching(db, "not")) == (1, 1)


def test_words_that_others_have_stay(journal: Path, db: sqlite3.Connection) -> None:
    """What two calls of a batch have in common is kept for the one when the other gets other words."""
    writer, first, second = JournalWriter(journal), start(1), start(2)
    writer.write(first, second)
    index_once(db, journal)
    assert counted(db)["words"] == 1
    writer.write(end(first, message="refused"))
    index_once(db, journal)
    assert counted(db)["words"] == 2
    writer.write(end(second, message="refused"))
    index_once(db, journal)
    assert [text.partition("\x1f")[2] for (text,) in db.execute("SELECT text FROM words")] == ["refused", "refused"]
    assert matching(db, "pod") == 2


def test_pruning_leaves_only_what_calls_still_have(
    journal: Path, db: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kinds, clients, words and blocks of calls that are gone are gone too; the others are found as before."""
    monkeypatch.setattr(write, "BLOCK", 5)
    writer = JournalWriter(journal)
    for number in range(1, 101):
        old = number <= 60
        writer.write(
            *whole(
                number,
                user=f"{'old' if old else 'new'}-{number % 7}",
                requestURI=f"/{'old' if old else 'new'}/{number}",
                command_id=f"{'old' if old else 'new'}-{number // 5}",
                namespace=f"ns-{number % 3}" if old else "here",
            )
        )
        if number % 4 == 0:
            index_once(db, journal)
    before = counted(db)
    for _ in prune(db, {writer.writer: Border(2 * 60 + 2, BEGINNING + timedelta(seconds=60))}, 7):
        pass
    with closing(open_for_writing(tmp_path / "other.db")) as other:
        kept = JournalWriter(tmp_path / "kept", writer.writer)
        kept.write_all(line for number in range(61, 101) for line in whole(
            number, user=f"new-{number % 7}", requestURI=f"/new/{number}", command_id=f"new-{number // 5}",
            namespace="here",
        ))  # fmt: skip
        index_once(other, tmp_path / "kept")
        after, expected = counted(db), counted(other)
        assert {**after, "words": 0} == {**expected, "words": 0}
        assert after["words"] == 40 < before["words"]
    assert (matching(db, "old"), matching(db, "new")) == (0, 40)
    oldest = db.execute("SELECT min(words) FROM words").fetchone()[0]
    assert db.execute("SELECT count(*) FROM word_blocks WHERE first <= ?", (oldest,)).fetchone() == (1,)
    with Index(tmp_path / "index.db") as index:
        for raw, number in (({"text": "/new/7"}, 10), ({"text": "old"}, 0), ({"namespace": "here"}, 40)):
            filters = parse({name: [value] for name, value in raw.items()}, now=BEGINNING)
            assert (len(index.calls(filters, 99)), index.count(filters)) == (number, number)


def test_the_oldest_writer_s_lines_are_indexed_first(journal: Path, db: sqlite3.Connection) -> None:
    """Where there is much to index, it is done in the order of time, not one writer after the other."""
    JournalWriter(journal, "a").write(*whole(50), *whole(51))
    JournalWriter(journal, "b").write(*whole(1), *whole(2))
    for path in journal.glob("*/*.jsonl"):
        path.write_bytes(path.read_bytes().split(b"\n", 1)[1])  # without the line that begins a segment
    index_once(db, journal)
    assert [writer for (writer,) in db.execute("SELECT writer FROM calls ORDER BY change")] == ["b", "b", "a", "a"]
