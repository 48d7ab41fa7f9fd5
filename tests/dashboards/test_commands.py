"""The dashboard of commands: a row for each, and for the one that is chosen its calls and its trace."""

from collections import Counter
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

import pytest
from backends import Backends
from board import Board, rows
from generated import HOSTILE, Record, Trail, details, milliseconds
from grafana import Grafana
from interpolation import ALL, Value, follow, query_parameters

pytest_plugins = ["trails"]
pytestmark = pytest.mark.servers

_COLUMNS = ("Date", "User", "Command", "Cluster", "Access Method", "Calls", "Duration", "Worst status", "Exit code")

CASES: Mapping[str, Mapping[str, Value]] = {
    "nothing chosen": {},
    "users": {"user": ["alice", "bob"]},
    "a cluster": {"cluster": ["prod-eu"]},
    "an access method": {"access_method": ["kubectl"]},
    "statuses": {"status": ["4xx", "500"]},
    "text": {"text": "KUBECTL get"},
}


@pytest.fixture(scope="module")
def board(backends: Backends, trail: Trail) -> Board:
    """Give the dashboard, opened on the trail."""
    return Board.open("commands", backends, trail.span)


@pytest.mark.parametrize("chosen", CASES.values(), ids=CASES.keys())
def test_each_command_has_one_row(board: Board, trail: Trail, grafana: Grafana, chosen: Mapping[str, Value]) -> None:
    """A command that was told of twice has one row, with its last line and its highest numbers; newest first."""
    table = board.table("Commands", grafana, chosen)
    lines = [command for command in trail.commands if _passes(command, chosen)]
    wanted = {command["command_id"]: _row(lines, command["command_id"]) for command in lines}
    found = dict(zip(table.get("command_id", []), rows(table, *_COLUMNS), strict=True))
    assert found == wanted
    assert len(lines) > len(wanted) or chosen, "some commands are told of twice"
    assert table["Date"] == sorted(table["Date"], reverse=True)


@pytest.mark.parametrize("name", ["user", "text"])
@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_out_of_a_filter(board: Board, trail: Trail, grafana: Grafana, name: str, text: str) -> None:
    """Whatever is typed is looked for as it is."""
    chosen: Mapping[str, Value] = {name: [text] if name == "user" else text}
    table = board.table("Commands", grafana, chosen)
    assert set(table.get("command_id", [])) == {
        command["command_id"] for command in trail.commands if _passes(command, chosen)
    }


def test_a_click_shows_the_command_its_calls_and_its_trace(
    board: Board, trail: Trail, backends: Backends, grafana: Grafana
) -> None:
    """The link in a row leads to this dashboard with the command chosen; its calls and its trace are all there."""
    (command_id, calls), *_ = Counter(call["command_id"] for call in trail.calls if "command_id" in call).most_common(1)
    table = board.table("Commands", grafana)
    row = dict(zip(table, next(row for row in zip(*table.values(), strict=True) if command_id in row), strict=True))
    parameters = {name: query_parameters(name, [ALL]) for name in ("user", "cluster", "access_method", "status")}
    url = follow(_link(board, "Command"), row, "", board.span, {**parameters, "text": "var-text="})
    assert urlsplit(url).path == "/d/kubeaudit-commands"
    asked = parse_qs(urlsplit(url).query)
    chosen = {name: asked[f"var-{name}"][0] for name in ("command_id", "trace_id")}

    assert board.table("The command", grafana, chosen)["command_id"] == [command_id]
    shown = board.table("Its calls", grafana, chosen)
    wanted = [call for call in trail.calls if call.get("command_id") == command_id]
    assert len(wanted) == calls
    found = rows(shown, "Date", "Details")
    assert Counter(found) == Counter((milliseconds(call), details(call)) for call in wanted)
    assert shown["Date"] == sorted(shown["Date"])

    ((_, trace_id),) = board.queries(board.panel("Its trace"), chosen)
    spans = backends.trace(trace_id)
    server = [span for span in spans if span["kind"] == "SPAN_KIND_SERVER"]
    assert len(server) == calls
    others = [span["spanId"] for span in spans if span["kind"] != "SPAN_KIND_INTERNAL"]
    assert len(set(others)) == len(others)
    (command,) = {span["spanId"] for span in spans if span["kind"] == "SPAN_KIND_INTERNAL"}
    assert {span["parentSpanId"] for span in server} == {command}


@pytest.mark.parametrize("text", ["", *HOSTILE])
def test_nothing_is_shown_where_no_command_is_chosen(board: Board, grafana: Grafana, text: str) -> None:
    """Without a command, or with one that there is not, the tables below are empty and no query is refused."""
    for title in ("The command", "Its calls"):
        assert not board.table(title, grafana, {"command_id": text}).get("Date")


def test_no_trace_is_no_error(board: Board, backends: Backends) -> None:
    """Where no trace is chosen, the panel's query finds nothing and is not refused."""
    ((_, query),) = board.queries(board.panel("Its trace"))
    assert query.startswith("{")
    assert backends.search(query, board.span) == []


def _passes(command: Record, chosen: Mapping[str, Value]) -> bool:
    status = str(command.get("status", ""))
    text = str(chosen.get("text", "")).lower()
    users = chosen.get("user", ALL)
    seen = "\n".join(command.get(name, "") for name in ("user", "command", "clusters")).lower()
    names = set(users) | {part for user in users for part in user.split("&var-user=")}
    return (
        (users == ALL or ALL in users or command.get("user") in names)
        and ("cluster" not in chosen or command.get("cluster") in chosen["cluster"])
        and ("access_method" not in chosen or command["access_method"] in chosen["access_method"])
        and ("status" not in chosen or status in chosen["status"] or f"{status[:1]}xx" in chosen["status"])
        and text in seen
    )


def _row(lines: list[Record], command_id: str) -> tuple[object, ...]:
    own = [line for line in lines if line["command_id"] == command_id]
    last = max(own, key=milliseconds)
    cluster = last.get("cluster")
    return (
        milliseconds(last),
        last.get("user"),
        last["command"],
        cluster if cluster in {"dev", "prod-eu", "prod-us"} else "other",
        last["access_method"],
        max(line["calls"] for line in own),
        max(line["duration_ms"] for line in own),
        max(line["status"] for line in own),
        max((line["exit_code"] for line in own if "exit_code" in line), default=None),
    )


def _link(board: Board, column: str) -> str:
    overrides = board.panel("Commands")["fieldConfig"]["overrides"]
    properties = next(each["properties"] for each in overrides if each["matcher"]["options"] == column)
    url: str = next(each["value"] for each in properties if each["id"] == "links")[0]["url"]
    return url
