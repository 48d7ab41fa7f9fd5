"""Tables fit the terminal, keep what matters, and show what is in a record without obeying it."""

from datetime import UTC
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from kube_audit_proxy.cli.render import (
    Layout,
    call_columns,
    command_columns,
    duration,
    fit,
    resource,
    result,
    shortened,
    wide_call_columns,
    wide_command_columns,
)
from kube_audit_proxy.cli.text import visible, visible_json, visible_record
from kube_audit_proxy.index.commands import Totals
from kube_audit_proxy.index.reader import Command
from support.journals import Record, end, random_calls, start, started

HOSTILE = "\x1b[31mred\x1b]0;title\x07\n\r\t\x9b2J\u202eevil\u2028 [bold]no[/bold] :smile:"

TOTALS = Totals(
    user="alice",
    access_method="kubectl",
    command="kubectl get",
    command_source="header",
    clusters="dev,prod",
    first=1_795_000_000_000_000,
    last=1_795_000_001_500_000,
    calls=3,
    running=0,
    denied=0,
    worst_status=404,
    exit_code=None,
)


def layout(records: list[Record], width: int | None, *, more: bool = False) -> Layout[Any]:
    """Lay out calls as `log` does."""
    return fit(call_columns(width, UTC), records, width, more=more)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 160, 200])
@pytest.mark.parametrize("more", [True, False])
def test_no_line_is_wider_than_the_terminal(width: int, more: bool) -> None:
    """Whatever the width, header and rows fit into it."""
    records = [lines[-1] for lines in random_calls(200)]
    table = layout(records, width, more=more)
    for line in (table.header(), *map(table.row, records)):
        assert cell_len(line.plain) <= width


@given(st.text(), st.integers(1, 30))
def test_shortened_text_fits(text: str, width: int) -> None:
    """A cell is never wider than its column, wide characters included; what fits is not touched."""
    cell = visible(text)
    short = shortened(cell, width)
    assert cell_len(short) <= width
    assert short == cell or short.endswith("…")


def test_the_columns_everybody_knows() -> None:
    """With room enough, the table has the columns of the seed table, in their order."""
    titles = layout([start()], 200).header().plain.split()
    assert titles == [
        "DATE", "USER", "CLUSTER", "NAMESPACE", "RESOURCE", "METHOD", "ACCESS", "DURATION", "STATUS",
    ]  # fmt: skip


def test_at_80_columns_the_least_important_go() -> None:
    """In a narrow terminal who, what, when and how it ended stay."""
    long = start(user="someone.with.a.long.name@example.com", namespace="a-very-long-namespace", name="x" * 60)
    titles = layout([long], 80).header().plain.split()
    assert {"DATE", "USER", "RESOURCE", "METHOD", "DURATION", "STATUS"} <= set(titles)


def test_nothing_is_cut_where_there_is_no_terminal() -> None:
    """Into a pipe, every cell is whole."""
    name = "x" * 300
    assert f"pods {name}" in layout([start()], None).row(start(name=name)).plain


def test_rows_nobody_has_seen_yet_have_room() -> None:
    """Before anything has come, columns are as wide as mostly suffices."""
    table = layout([], 150, more=True)
    assert "alice.wonder@example" in table.row(start(user="alice.wonder@example")).plain


def test_hostile_text_is_shown_and_not_obeyed() -> None:
    """Escape sequences, line ends, marks of direction and markup are written out, in every column."""
    record = end(start(user=HOSTILE, name=HOSTILE, command=HOSTILE, userAgent=HOSTILE, namespace=HOSTILE))
    for table in (layout([record], None), fit(wide_call_columns(None, UTC), [record], None, more=False)):
        line = table.row(record)
        assert line.plain.isprintable()
        assert r"\x1b[31mred\x1b]0;title\x07\n\r\t\x9b2J\u202eevil\u2028 [bold]no[/bold] :smile:" in line.plain
        assert {str(span.style) for span in line.spans} <= {"dim", ""}


@given(st.text())
def test_visible_text_is_printable(text: str) -> None:
    """Nothing that is not printable comes through; printable text is not touched."""
    shown = visible(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


@given(st.text(st.characters(codec="utf-8")))
def test_visible_json_means_the_same(text: str) -> None:
    """JSON for a terminal has nothing unprintable in it and is read back as the same record."""
    line = visible_json(orjson.dumps({"user": text}).decode())
    assert line.isprintable()
    assert orjson.loads(line) == {"user": text}


def test_visible_record() -> None:
    """All texts of a record are made visible, those in lists too; numbers stay numbers."""
    assert visible_record({"a": "\x1b", "b": ["\n", 1], "c": 2}) == {"a": r"\x1b", "b": [r"\n", 1], "c": 2}


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0.0ms"),
        (0.44, "0.4ms"),
        (9.96, "10ms"),
        (999, "999ms"),
        (999.9, "1.0s"),
        (3210, "3.2s"),
        (59_960, "1m00s"),
        (245_000, "4m05s"),
        (3_599_900, "1h00m"),
        (12_000_000, "3h20m"),
    ],
)
def test_duration(milliseconds: float, text: str) -> None:
    """Durations have two to four digits and a unit."""
    assert duration(milliseconds) == text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "pods"),
        ({"name": "web-1"}, "pods web-1"),
        ({"name": "web-1", "subresource": "exec"}, "pods/exec web-1"),
        (
            {"name": "web-1", "subresource": "exec", "exec_argv": ["sh", "-c", "exit 3"]},
            "pods/exec web-1 -- sh -c 'exit 3'",
        ),
        ({"name": "web-1", "subresource": "portforward", "ports": [80, 81]}, "pods/portforward web-1 :80 :81"),
        ({"resource": None, "requestURI": "/healthz?verbose"}, "/healthz?verbose"),
    ],
)
def test_resource(fields: Record, text: str) -> None:
    """A resource is shown with its subresource, name and what was run or reached, a path where there is none."""
    assert resource(start(**fields)) == text


def test_running_calls_say_so() -> None:
    """A call without an end is running; one that was interrupted has no duration."""
    running = started(start(), status=101)
    assert layout([], None).row(running).plain.split()[-2:] == ["running", "101"]
    assert layout([], None).row(end(start(), duration_ms=1) | {"stage": "Panic"}).plain.split()[-2] == "1.0ms"
    interrupted = {key: value for key, value in end(start()).items() if key not in {"duration_ms", "status"}}
    assert layout([], None).row(interrupted).plain.split()[-2:] == ["-", "-"]


def test_denied_calls_are_red() -> None:
    """The status of a denied call is red; of one that went well it has no colour."""
    denied = layout([], None).row(end(start(), status=403, decision="deny"))
    allowed = layout([], None).row(end(start()))
    assert "bold red" in {str(span.style) for span in denied.spans}
    assert {str(span.style) for span in allowed.spans} <= {"dim", ""}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "404"),
        ({"exit_code": 0}, "exit 0"),
        ({"exit_code": 137}, "exit 137"),
        ({"running": 1, "exit_code": 1}, "running"),
        ({"worst_status": None}, ""),
    ],
)
def test_result_of_a_command(changes: dict[str, Any], text: str) -> None:
    """A command's result is its exit code where that is known, else its worst status, unless it still runs."""
    assert result(Command("id", TOTALS._replace(**changes), 0)) == text


def test_commands_table() -> None:
    """A command is one row with what its calls add up to."""
    command = Command("5f0c", TOTALS, 0)
    row = fit(command_columns(None, UTC), [command], None, more=False).row(command).plain.split()
    assert row[2:] == ["alice", "dev,prod", "kubectl", "get", "kubectl", "3", "-", "1.5s", "404"]
    assert "5f0c" in fit(wide_command_columns(None, UTC), [command], None, more=False).row(command).plain
