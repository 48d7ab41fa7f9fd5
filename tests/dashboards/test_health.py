"""The dashboard of the trail's health, on a trail with a hole, a silent writer and a dead letter."""

from collections import Counter
from collections.abc import Iterator

import pytest
from backends import Backends
from board import Board, rows
from expected import per_step
from generated import MISSING, Record, Trail, milliseconds
from grafana import Grafana

pytest_plugins = ["trails"]
pytestmark = pytest.mark.servers

_WRITERS = ("gateway-1", "gateway-2", "gateway-3")


@pytest.fixture(scope="module")
def board(backends: Backends, trail: Trail) -> Board:
    """Give the dashboard, opened on the trail."""
    return Board.open("health", backends, trail.span)


def test_the_hole_is_found(board: Board) -> None:
    """The number of missing lines is that of the lines that were never sent."""
    assert board.number("Missing") == MISSING


def test_the_writer_that_is_silent_is_counted(board: Board) -> None:
    """One of three stopped its heartbeats before the end of the time; another said so before, and is no worry."""
    assert board.number("Silent writers") == 1


def test_dead_letters_and_lost_ends(board: Board) -> None:
    """What the heartbeats and the line of lost ends say is shown."""
    assert board.number("Dead letters") == 1
    assert board.number("Ends lost") == 7


def test_the_table_of_writers(board: Board, trail: Trail, grafana: Grafana) -> None:
    """Each writer has a row with its lines, what is missing, its last heartbeat and what that said."""
    table = board.table("Writers", grafana)
    columns = ("Writer", "Last line", "First line", "Lines", "Missing", "Last heartbeat", "Refused", "In flight")
    wanted = []
    for writer, missing in zip(_WRITERS, (0, MISSING, 0), strict=True):
        numbers = [line["export_seq"] for line in _numbered(trail) if line["writer"] == writer]
        beats = [beat for beat in trail.heartbeats if beat["writer"] == writer]
        last = max(beats, key=milliseconds)
        refused = max(beat["refused"] for beat in beats)
        wanted.append((writer, max(numbers), 1, len(numbers), missing, milliseconds(last), refused, last["calls"]))
    assert sorted(rows(table, *columns)) == wanted


def test_heartbeats_calls_and_lag_over_time(board: Board, trail: Trail) -> None:
    """By writer and minute: heartbeats that came, calls a second, and the greatest lag."""
    (beats,) = board.over_time("Heartbeats")
    (rates,) = board.over_time("Calls a second")
    (lags,) = board.over_time("Lag")
    (sizes,) = board.over_time("Size of the journal")
    for writer in _WRITERS:
        labels = (("writer", writer),)
        by_minute = per_step(beat for beat in trail.heartbeats if beat["writer"] == writer)
        calls = per_step(call for call in trail.calls if call["writer"] == writer)
        assert beats[labels] == {step: len(each) for step, each in by_minute.items()}
        assert rates.get(labels, {}) == pytest.approx({step: len(each) / 60 for step, each in calls.items()})
        assert lags[labels] == pytest.approx(
            {step: max(beat["lag_seconds"] for beat in each) for step, each in by_minute.items()}
        )
        assert sizes[labels] == {step: max(beat["journal_bytes"] for beat in each) for step, each in by_minute.items()}


def test_the_lag_of_now(board: Board, trail: Trail) -> None:
    """The number is that of the last minute."""
    (series,) = board.over_time("Lag")
    (highest,) = board.over_time("Lag now")
    ((_, values),) = highest.items()
    assert values[max(values)] == max(each[max(values)] for each in series.values() if max(values) in each)
    assert trail.heartbeats


def test_the_hole_is_shown_when_it_was(board: Board, trail: Trail) -> None:
    """Within the minutes in which lines are missing, they are counted; elsewhere nothing is."""
    (series,) = board.over_time("Missing lines")
    for writer in _WRITERS:
        wanted = {}
        for step, lines in per_step(line for line in _numbered(trail) if line["writer"] == writer).items():
            numbers = [line["export_seq"] for line in lines]
            wanted[step] = max(numbers) - min(numbers) + 1 - len(numbers)
        assert series[(("writer", writer),)] == wanted


def test_refusals_over_time(board: Board, trail: Trail) -> None:
    """Calls that the proxy refused are counted by status and reason."""
    (series,) = board.over_time("Refused by the proxy")
    refused = [call for call in trail.calls if call["decided_by"] == "proxy" and call["decision"] != "allow"]
    wanted = {
        (step, status, reason): count
        for step, calls in per_step(refused).items()
        for (status, reason), count in Counter((str(call["status"]), call.get("reason")) for call in calls).items()
    }
    found = {
        (step, dict(labels)["status"], dict(labels).get("reason")): value
        for labels, values in series.items()
        for step, value in values.items()
    }
    assert found == wanted


def test_denied_calls_by_user(board: Board, trail: Trail, grafana: Grafana) -> None:
    """The users with the most denied calls stand first; those that nobody knows have no name."""
    table = board.table("Denied calls by user", grafana)
    counts = Counter(call.get("user", "") for call in trail.calls if call["decision"] == "deny")
    found = [(user or "", count) for user, count in rows(table, "User", "Denied calls")]
    assert [count for _, count in found] == sorted(counts.values(), reverse=True)[:20]
    assert all(counts[user] == count for user, count in found)


def _numbered(trail: Trail) -> Iterator[Record]:
    yield from trail.calls
    yield from trail.begun
    yield from trail.heartbeats
    yield from trail.lost
