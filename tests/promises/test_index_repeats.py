"""Starts that their ends repeat are not read, and nothing is lost by that."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kube_audit_proxy.audit.call import CallEnd, CallRecord
from kube_audit_proxy.audit.fields import Decision, Outcome
from kube_audit_proxy.index.indexer import index_once
from kube_audit_proxy.index.pairs import repeated
from kube_audit_proxy.index.schema import open_for_writing
from kube_audit_proxy.journal.line import FIRST_PREVIOUS, build, content, head
from support.journals import JournalWriter, Record, end, random_calls, start, whole


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Give the place of a journal."""
    return tmp_path / "journal"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Give an empty index, open for writing."""
    with closing(open_for_writing(tmp_path / "index.db")) as opened:
        yield opened


def lines(*bodies: bytes) -> list[bytes]:
    """Return lines as a writer builds them."""
    first, previous = head("gateway-1"), FIRST_PREVIOUS.encode()
    return [build(first, seq, previous, body) for seq, body in enumerate(bodies, 1)]


def pairs(*records: Record) -> dict[int, int]:
    """Return which of the records' lines repeat which."""
    return repeated("gateway-1", lines(*map(content, records)))


@pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.FAILED])
def test_the_gateway_s_own_lines_are_known_again(outcome: Outcome) -> None:
    """What a gateway writes of a call is a pair, whatever is written between."""
    record = CallRecord("5d2f2d0a-3f0e-4d65-9a3c-0f5f6b1c2d3e", "2026-11-23T10:15:02.131220Z")
    record.add(b'"cluster":"dev","user":"alice"')
    record.trace("5d2f2d0a3f0e4d659a3c0f5f6b1c2d3e")
    ending = CallEnd(status=200, decision=Decision.ALLOW, decided_by="apiserver", outcome=outcome, duration_ms=1.5)
    written = lines(record.start(), content(start(2)), record.end("2026-11-23T10:15:02.152904Z", ending))
    assert repeated("gateway-1", written) == {2: 0}


@pytest.mark.parametrize(
    "changed",
    [
        {"user": "mallory"},
        {"stageTimestamp": "2026-11-23T10:00:09.000000Z"},
        {"relaxed": True},
        {"auditID": "00000000-0000-0000-0000-000000000009"},
        {"cluster": None},
    ],
)
def test_a_start_that_says_something_else_is_read(changed: Record) -> None:
    """Where one member of a start is not in its end, or is another, the start is not left out."""
    first, last = whole(1)
    assert pairs(first, last) == {1: 0}
    assert pairs({key: value for key, value in {**first, **changed}.items() if value is not None}, last) == {}


@pytest.mark.parametrize("cut", [b'"user":"ali', b'"groups":["dev', b'"user"', b'"verb":"list",'])
def test_a_start_that_is_no_record_is_read(cut: bytes) -> None:
    """A start whose members break off within one is no part of its end, so that it is told to be no record."""
    first, last = whole(1)
    broken = content(first)
    broken = broken[: broken.index(cut) + len(cut)]
    assert repeated("gateway-1", lines(broken, content(last))) == {}


def test_only_the_writer_s_own_lines_are_pairs() -> None:
    """A line that another writer is named in is read."""
    written = lines(*map(content, whole(1)))
    assert repeated("gateway-1", written) == {1: 0}
    assert repeated("gateway-2", written) == {}


def test_a_start_is_read_where_its_end_is_no_record(journal: Path, db: sqlite3.Connection) -> None:
    """Where the end that repeats a start turns out not to be one, the call is known by its start."""
    first, last = whole(1)
    JournalWriter(journal).write(first, {**last, "status": "teapot"}, *whole(2))
    index_once(db, journal)
    assert db.execute("SELECT stage FROM calls ORDER BY id").fetchall() == [("RequestReceived",), ("ResponseComplete",)]
    assert db.execute("SELECT what FROM problems").fetchall() == [("status is missing or of a wrong type",)]


def test_nothing_is_different_from_reading_all(
    journal: Path, db: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is the one that is made where every line is read."""
    writer = JournalWriter(journal)
    for number, call in enumerate(random_calls(200)):
        writer.write(*call, *([end(call[0], 7_000)] if number % 9 == 0 and len(call) > 1 else []))
    index_once(db, journal)
    monkeypatch.setattr("kube_audit_proxy.index.ahead.repeated", lambda _writer, _lines: {})
    with closing(open_for_writing(tmp_path / "other.db")) as other:
        index_once(other, journal)
        for table in ("calls", "records", "texts", "commands", "facets"):
            found, expected = (sorted(each.execute(f"SELECT * FROM {table}"), key=repr) for each in (db, other))  # noqa: S608 - our names
            assert found == expected
