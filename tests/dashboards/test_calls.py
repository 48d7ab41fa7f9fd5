"""The dashboard of API calls, on real Loki: whatever is filtered by, it shows exactly the calls of the trail."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

import pytest
from backends import Backends, RefusedError
from board import Board, rows
from expected import by, passes, per_step, quantile
from generated import HOSTILE, Record, Trail, details, is_stream, label, milliseconds, resource
from grafana import Grafana
from interpolation import Value

pytest_plugins = ["trails"]
pytestmark = pytest.mark.servers

CASES: Mapping[str, Mapping[str, Value]] = {
    "nothing chosen": {},
    "a user": {"user": ["alice"]},
    "users with difficult names": {"user": list(HOSTILE)},
    "a user without a trace": {"user": ["nobody"]},
    "clusters": {"cluster": ["prod-eu", "prod-us"]},
    "clusters that are none": {"cluster": ["other"]},
    "a namespace": {"namespace": "kube-system"},
    "namespaces": {"namespace": "kube-system, team_a"},
    "a resource": {"resource": "pods"},
    "a subresource": {"resource": "pods/exec"},
    "any subresource": {"resource": "pods/*"},
    "a resource of a group": {"resource": "deployments.apps"},
    "any subresource of a group": {"resource": "deployments.apps/*"},
    "resources": {"resource": "secrets,nodes,deployments/scale"},
    "methods": {"method": ["POST", "DELETE"]},
    "verbs": {"verb": ["get", "list"]},
    "access methods": {"access_method": ["browser"]},
    "a class of statuses": {"status": ["4xx"]},
    "statuses": {"status": ["2xx", "403", "5xx"]},
    "a decision": {"decision": ["deny"]},
    "text in a message": {"text": "Failed"},
    "text in a command line": {"text": "/ETC/passwd"},
    "text in an address": {"text": "limit=500"},
    "all at once": {
        "user": ["alice", "bob"],
        "cluster": ["dev", "prod-eu"],
        "namespace": "default,team_a",
        "resource": "pods,pods/*,secrets",
        "method": ["GET", "POST", "DELETE"],
        "verb": ["get", "list", "create", "delete"],
        "access_method": ["kubectl", "api"],
        "status": ["2xx", "4xx"],
        "decision": ["allow", "deny"],
        "text": "kubectl",
    },
}
_FREE = ("user", "namespace", "resource", "command_id", "text")


@pytest.fixture(scope="module")
def board(backends: Backends, trail: Trail) -> Board:
    """Give the dashboard, opened on the trail."""
    return Board.open("calls", backends, trail.span)


@pytest.mark.parametrize("chosen", CASES.values(), ids=CASES.keys())
def test_the_table_has_exactly_the_calls_that_pass(
    board: Board, trail: Trail, grafana: Grafana, chosen: Mapping[str, Value]
) -> None:
    """Each column has what the record has, newest first, and no row is missing or one too many."""
    table = board.table("API calls", grafana, chosen)
    wanted = [call for call in trail.calls if passes(call, chosen)]
    found = rows(table, *_COLUMNS)
    assert Counter(found) == Counter(map(_row, wanted))
    dates = table.get("Date", [])
    assert dates == sorted(dates, reverse=True)
    assert list(table) == [title for title in _TITLES if title in table]


@pytest.mark.parametrize("chosen", CASES.values(), ids=CASES.keys())
def test_the_numbers_count_what_the_table_shows(board: Board, trail: Trail, chosen: Mapping[str, Value]) -> None:
    """Calls, users, denied, errors and p95 are those of the same calls."""
    wanted = [call for call in trail.calls if passes(call, chosen)]
    failed = [call for call in wanted if call["decision"] == "error" or call["status"] >= 500]
    assert (board.number("Calls", chosen) or 0) == len(wanted)
    assert (board.number("Users", chosen) or 0) == len({call["user"] for call in wanted if "user" in call})
    assert (board.number("Denied", chosen) or 0) == sum(call["decision"] == "deny" for call in wanted)
    assert (board.number("Errors", chosen) or 0) == len(failed)
    durations = [call["duration_ms"] for call in wanted if not is_stream(call)]
    assert board.number("p95", chosen) == pytest.approx(quantile(durations, 0.95))


@pytest.mark.parametrize(("title", "name"), [("Calls by verb", "verb"), ("Calls by decision", "decision")])
@pytest.mark.parametrize("case", ["nothing chosen", "a class of statuses", "all at once"])
def test_calls_over_time(board: Board, trail: Trail, title: str, name: str, case: str) -> None:
    """Each bar has the calls of its minute, by verb or decision."""
    wanted = [call for call in trail.calls if passes(call, CASES[case])]
    (series,) = board.over_time(title, CASES[case])
    counts = {
        (step, value): count for step, calls in per_step(wanted).items() for (value,), count in by(calls, name).items()
    }
    found = {(step, dict(labels)[name]): value for labels, values in series.items() for step, value in values.items()}
    assert found == counts


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("name", _FREE)
def test_no_text_breaks_out_of_a_filter(board: Board, trail: Trail, grafana: Grafana, name: str, text: str) -> None:
    """Whatever is typed into a free filter is looked for as it is: the query stays a query, and finds just that."""
    chosen: Mapping[str, Value] = {name: [text] if name == "user" else text}
    wanted = [call for call in trail.calls if passes(call, chosen)]
    if name == "user":
        wanted = _confusable(trail, wanted, text)
    found = rows(board.table("API calls", grafana, chosen), *_COLUMNS)
    assert Counter(found) == Counter(map(_row, wanted))
    assert (board.number("Calls", chosen) or 0) == len(wanted)


def test_empty_filters_pass_everything(board: Board, trail: Trail) -> None:
    """A list with nothing chosen and a box with no text are as good as all."""
    empty: dict[str, Value] = {"user": [], "method": [], "status": [], "decision": []}
    empty |= dict.fromkeys(("namespace", "resource", "command_id", "text"), "")
    assert board.number("Calls", empty) == len(trail.calls)


def test_tampered_lists_only_show_less(board: Board, trail: Trail) -> None:
    """What is put into an address in place of a list's values is refused, or finds nothing beyond what there is."""
    for name in ("cluster", "verb", "access_method", "method", "status", "decision"):
        for text in HOSTILE:
            with suppress(RefusedError):
                assert (board.number("Calls", {name: [text]}) or 0) <= len(trail.calls)


def test_a_call_leads_to_its_command(board: Board, trail: Trail, grafana: Grafana) -> None:
    """`command_id` and `trace_id` are in the row, hidden, so that links from it lead to the command and its trace."""
    table = board.table("API calls", grafana)
    wanted = sorted(call["command_id"] for call in trail.calls if "command_id" in call)
    assert sorted(filter(None, table["command_id"])) == wanted
    assert all(
        trace == command.replace("-", "")
        for command, trace in rows(table, "command_id", "trace_id")
        if command is not None
    )
    assert table["Trace"] == table["trace_id"]


def test_streams_that_run(board: Board, trail: Trail, grafana: Grafana) -> None:
    """The table has the streams that were answered and did not end, and no other."""
    table = board.table("Running", grafana)
    found = sorted(rows(table, "Since", "Cluster", "Resource"))
    assert found == sorted((milliseconds(each), label(each, "cluster"), resource(each)) for each in trail.running)


def test_the_lists_have_every_value(board: Board, trail: Trail, backends: Backends) -> None:
    """Each drop-down list offers what occurs in the trail."""
    for variable in board.variables:
        if variable["type"] != "query":
            continue
        if variable["datasource"]["type"] == "loki":
            query = variable["query"]
            found = backends.label_values(query["label"], query["stream"], trail.span)
            records = [*trail.calls, *trail.begun, *trail.commands]
            assert set(found) >= {label(each, query["label"]) for each in records} - {""}
        else:
            found = backends.attribute_values(variable["query"]["label"], trail.span)
            assert set(found) >= {call["user"] for call in trail.calls if "user" in call}


_TITLES = (
    "Date", "User", "Cluster", "Namespace", "Resource", "Method", "Access Method", "Status", "Duration", "Details",
    "Trace", "command_id", "trace_id",
)  # fmt: skip
_COLUMNS = _TITLES[:10]


def _row(call: Record) -> tuple[object, ...]:
    return (
        milliseconds(call),
        call.get("user"),
        label(call, "cluster") or None,
        call.get("namespace"),
        resource(call),
        call["method"],
        call["access_method"],
        call["status"],
        call["duration_ms"],
        details(call),
    )


def _confusable(trail: Trail, wanted: list[Record], text: str) -> list[Record]:
    """Who chooses a user with `&var-user=` in the name sees the calls of more users, never of fewer."""
    more = text.split("&var-user=")
    return wanted if len(more) == 1 else [call for call in trail.calls if call.get("user") in {text, *more}]
