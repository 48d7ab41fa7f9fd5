"""Records of any content: one line each wherever they are written, read back as they were, and chained."""

from __future__ import annotations

import csv as reader
import io
import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kube_audit_proxy.audit.call import CallEnd, CallRecord, members
from kube_audit_proxy.audit.fields import FIELDS, Decision, Outcome
from kube_audit_proxy.export import csv
from kube_audit_proxy.journal.chain import Chain
from kube_audit_proxy.journal.line import FIRST_PREVIOUS, build, content, digest, head, parse

_TEXT = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    (
        "=1+1",
        "@SUM(A1)",
        "a;=1",
        "a\n=1",
        "a\t+1",
        '";=1',
        "\r\n",
        "\x1b[31m",
        "\u2028",
        "\x85",
        "\0",
        "'",
        '"',
        ",",
        "a\r",
    )
)
_VALUES = _TEXT | st.integers(-(2**53), 2**53) | st.booleans() | st.lists(_TEXT, max_size=3)
_RECORDS = st.dictionaries(st.sampled_from(sorted(field.name for field in FIELDS)) | _TEXT, _VALUES, max_size=8)
_RECEIVED = "2026-11-23T10:00:00.000000Z"


@settings(max_examples=200)
@given(st.lists(_RECORDS, min_size=1, max_size=4), _TEXT)
def test_any_records_are_a_chain_of_lines(records: list[dict[str, object]], writer: str) -> None:
    """Whatever stands in records, each is one line that is read back as it was and follows the line before."""
    own = {"writer", "seq", "prev"}
    chain, previous = Chain(writer), FIRST_PREVIOUS
    for number, record in enumerate(records, start=1):
        rest = {"kind": "call", **{key: value for key, value in record.items() if key not in own}}
        line = build(head(writer), number, previous.encode(), content(rest))
        assert line.count(b"\n") == line.count(b"\r") == 0
        assert chain.feed(line) is None
        read = parse(line)
        assert (read.writer, read.seq, read.previous) == (writer, number, previous)
        assert {key: value for key, value in read.record.items() if key not in own} == rest
        previous = digest(line)
    assert chain.previous == previous


@settings(max_examples=200)
@given(_TEXT, _TEXT, st.text(), st.text(), st.lists(st.integers(1, 65535), max_size=3))
def test_the_end_of_any_call_can_be_written(
    user: str, target: str, reason: str, message: str, ports: list[int]
) -> None:
    """Start and end of a call are JSON whatever user, target and failure say, halves of characters included."""
    record = CallRecord("5d2f2d0a-3f0e-4d65-9a3c-0f5f6b1c2d3e", _RECEIVED)
    record.add(members({"user": user, "requestURI": target}))
    end = CallEnd(
        status=500,
        decision=Decision.ERROR,
        decided_by="apiserver",
        outcome=Outcome.UPSTREAM_GONE,
        duration_ms=1.5,
        reason=reason,
        message=message,
        subprotocol=target,
        ports=tuple(ports),
    )
    first, last = (json.loads(b"{%b}" % line) for line in (record.start(), record.end(_RECEIVED, end)))
    assert (first["user"], first["requestURI"]) == (last["user"], last["requestURI"]) == (user, target)
    assert len(last.get("message", "")) <= 1024
    assert last.get("ports", []) == ports


@settings(max_examples=200)
@given(st.lists(_RECORDS, max_size=4))
@example([{"groups": 0}])
def test_any_records_are_rows_of_a_table(records: list[dict[str, object]]) -> None:
    """A CSV of any records has a row for each and a cell for each column; a text is there whole, and is no formula."""
    written = csv.header() + "".join(map(csv.row, records))
    titles, *rows = reader.reader(io.StringIO(written, newline=""))
    assert len(rows) == len(records)
    for record, row in zip(records, rows, strict=True):
        assert len(row) == len(titles)
        for (_, field), cell in zip(csv.COLUMNS, row, strict=True):
            value = record.get(field)
            if isinstance(value, str):
                assert cell.replace("'", "") == value.replace("'", "")
            if isinstance(value, str | list):
                assert not cell.startswith(csv.FORMULA)
