"""CSV is read back as it was written, whatever is in a record, and no spreadsheet runs anything in it."""

import csv as reader
import io
import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_audit_proxy.audit.fields import END, EVERY, FIELDS, START, STARTED
from kube_audit_proxy.export import csv, jsonl
from support.journals import end, start, whole

TITLES = [title for title, _ in csv.COLUMNS]
HOSTILE = [
    'say "hi", alice',
    "two\nlines",
    "a\r\nb",
    "'; DROP TABLE calls; --",
    "\x1b[31mred",
    "[bold]x[/]",
    "ünï ☃",
    "a,b;c",
]


def read_back(text: str) -> list[list[str]]:
    """Read CSV as the standard library does."""
    return list(reader.reader(io.StringIO(text, newline="")))


def test_columns_begin_with_those_of_the_table() -> None:
    """The first ten columns are the ones everybody knows, in their order."""
    assert TITLES[:10] == [
        "Date", "User", "Cluster", "Namespace", "Resource",
        "Method", "Access Method", "Duration (ms)", "Status", "Verb",
    ]  # fmt: skip


def test_columns_are_all_fields_of_a_call() -> None:
    """No field of a call is missing, save the chain, and none comes twice."""
    fields = [field for _, field in csv.COLUMNS]
    assert len(set(fields)) == len(fields)
    of_calls = {field.name for field in FIELDS if field.lines in {EVERY, START, STARTED, END}}
    assert set(fields) == of_calls - {"kind", "prev"}
    assert len(set(TITLES)) == len(TITLES)


def test_lines_are_rfc_4180() -> None:
    """Lines end with CR LF; a cell with a comma, quote or line end is quoted."""
    assert csv.line(["a", 'b"c', "d,e", "f\ng", 1, 2.5]) == 'a,"b""c","d,e","f\ng",1,2.5\r\n'
    assert csv.header().endswith("\r\n")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_read_back_unchanged(text: str) -> None:
    """Quotes, line ends, escapes and markup neither break a row nor get lost."""
    first, last = whole(user=text, name=text, command=text)
    header, row, *more = read_back(csv.header() + csv.row(last))
    assert not more
    cells = dict(zip(header, row, strict=True))
    assert (cells["User"], cells["Name"], cells["Command"]) == (text, text, text)
    assert cells["Audit ID"] == first["auditID"]


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t1", "\r=1", "\n=1", "＝1+1"])  # noqa: RUF001
def test_formulas_are_defused(text: str) -> None:
    """What a spreadsheet would calculate begins with an apostrophe; nothing else is changed."""
    (row,) = read_back(csv.row(end(start(user=text))))
    assert row[TITLES.index("User")] == f"'{text}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x;=1+1", "x;'=1+1"),
        ("\t=1", "'\t'=1"),
        ("x\t@SUM(A1);-1", "x\t'@SUM(A1);'-1"),
        ('x;""=1+1', 'x;\'""=1+1'),
        ("a;b=1;q=0.9", "a;b=1;q=0.9"),
    ],
)
def test_formulas_are_defused_where_other_characters_separate_columns(text: str, shown: str) -> None:
    """No cell is a formula where a semicolon or a tab begins one, as in a spreadsheet of much of Europe."""
    (row,) = read_back(csv.row(end(start(user=text))))
    assert row[TITLES.index("User")] == shown


@given(st.text() | st.text(alphabet=[*csv.FORMULA, *';\t",x']))
def test_any_text_survives(text: str) -> None:
    """Whatever the text, it is read back, with apostrophes before what would be formulas, and has none."""
    (row,) = read_back(csv.line(["x", csv.defused(text)]))
    assert row[1].replace("'", "") == text.replace("'", "")
    first, *further = re.split("[;\t]", row[1])
    assert not any(part.startswith(csv.FORMULA) for part in (first, *(part.lstrip('"') for part in further)))


FIELDS_OF_CALLS = [field for _, field in csv.COLUMNS]
HARD = [*HOSTILE, *(f"{before}{sign}1" for sign in csv.FORMULA for before in ("", "a;", "a\t")), "a\0b", "", ",", '"']
TEXTS = st.one_of(st.text(), st.sampled_from(HARD))
NUMBERS = st.one_of(st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.one_of(TEXTS, NUMBERS, st.booleans(), st.none(), st.lists(TEXTS, max_size=3), st.lists(NUMBERS, max_size=2))


@given(st.dictionaries(st.sampled_from(FIELDS_OF_CALLS), VALUES))
def test_every_row_is_made_of_its_cells(fields: dict[str, object]) -> None:
    """However rows are made, they are the cells of their records, whatever stands in which field."""
    records = [{**end(start()), **fields}, fields, end(start())]
    cells = [[csv.cell(field, record.get(field)) for field in FIELDS_OF_CALLS] for record in records]
    assert csv.rows(map(orjson.dumps, records)) == "".join(map(csv.line, cells))


def test_numbers_of_our_own_stay_numbers() -> None:
    """Durations, sizes and codes are not quoted and not defused, below zero neither."""
    assert csv.cell("exit_code", -1) == -1
    assert csv.cell("duration_ms", 0.25) == 0.25
    assert csv.cell("exec_tty", value=True) == "true"


def test_lists_and_absent_fields() -> None:
    """A list is one cell, a command line as a shell would take it; what is absent is empty."""
    assert csv.cell("groups", ["a", "b"]) == "a, b"
    assert csv.cell("exec_argv", ["sh", "-c", "echo $HOME"]) == "sh -c 'echo $HOME'"
    assert csv.cell("exec_argv", ["=1"]) == "'=1"
    (row,) = read_back(csv.row(start()))
    assert row[TITLES.index("Status")] == ""


def test_json_lines_are_the_lines_themselves() -> None:
    """JSON lines are those of the journal, each ended by a newline."""
    assert jsonl.row('{"a":1}') == '{"a":1}\n'
