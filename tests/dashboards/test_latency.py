"""The dashboard of latency: exact from the lines, estimated from the traces, and what of it is the proxy's own."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress

import pytest
from backends import Backends, RefusedError, Series
from board import Board, rows
from expected import passes, per_step, quantile
from generated import HOSTILE, Record, Trail, label, milliseconds
from grafana import Grafana
from interpolation import Value

pytest_plugins = ["trails"]
pytestmark = pytest.mark.servers

_QUANTILES = (0.5, 0.95, 0.99)
_EDGES = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10000)

CASES: Mapping[str, Mapping[str, Value]] = {
    "nothing chosen": {},
    "filters": {
        "user": ["alice", "bob"],
        "cluster": ["dev", "prod-eu"],
        "verb": ["get", "list"],
        "resource": "pods,nodes",
    },
}


@pytest.fixture(scope="module")
def board(backends: Backends, trail: Trail) -> Board:
    """Give the dashboard, opened on the trail."""
    return Board.open("latency", backends, trail.span)


@pytest.mark.parametrize("chosen", CASES.values(), ids=CASES.keys())
def test_quantiles_over_time(board: Board, trail: Trail, chosen: Mapping[str, Value]) -> None:
    """p50, p95 and p99 of each minute are exact."""
    measured = per_step(_measured(trail, chosen))
    for q, series in zip(_QUANTILES, board.over_time("Duration", chosen), strict=True):
        assert _only(series) == pytest.approx(_quantiles(measured, q, _duration))


def test_through_the_proxy_and_upstream_alone(board: Board, trail: Trail) -> None:
    """The whole time stands beside the part upstream; where a call was never upstream, that part is not made up."""
    measured = per_step(_measured(trail))
    found = [_only(series) for series in board.over_time("Through the proxy, and upstream alone")]
    upstream = per_step(call for call in _measured(trail) if "upstream_ms" in call)
    assert found[0] == pytest.approx(_quantiles(measured, 0.5, _duration))
    assert found[1] == pytest.approx(_quantiles(upstream, 0.5, lambda call: call["upstream_ms"]))
    assert found[2] == pytest.approx(_quantiles(measured, 0.95, _duration))
    assert found[3] == pytest.approx(_quantiles(upstream, 0.95, lambda call: call["upstream_ms"]))


def test_the_part_of_the_proxy(board: Board, trail: Trail) -> None:
    """What the proxy itself takes is the whole less the part upstream, call by call, without streams and refusals."""
    upstream = per_step(call for call in _measured(trail) if "upstream_ms" in call)
    for q, series in zip(_QUANTILES, board.over_time("The proxy's own part"), strict=True):
        wanted = _quantiles(upstream, q, lambda call: call["duration_ms"] - call["upstream_ms"])
        assert _only(series) == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["verb", "resource", "cluster"])
@pytest.mark.parametrize("chosen", CASES.values(), ids=CASES.keys())
def test_tables_by_label(board: Board, trail: Trail, grafana: Grafana, name: str, chosen: Mapping[str, Value]) -> None:
    """Each verb, resource or cluster has one row with its quantiles and its calls, the slowest first."""
    table = board.table(f"By {name}", grafana, chosen)
    groups: dict[str, list[float]] = {}
    for call in _measured(trail, chosen):
        groups.setdefault(label(call, name), []).append(call["duration_ms"])
    wanted = {
        value: (*(quantile(durations, q) for q in _QUANTILES), len(durations)) for value, durations in groups.items()
    }
    found = {row[0] or "": row[1:] for row in rows(table, name.capitalize(), "p50", "p95", "p99", "Calls")}
    assert found.keys() == wanted.keys()
    for value, numbers in wanted.items():
        assert found[value] == pytest.approx(numbers)
    assert table["p95"] == sorted(table["p95"], reverse=True)


def test_the_heat_map_has_every_call_once(board: Board, trail: Trail) -> None:
    """Each call counts in the bucket that its duration falls in, in its minute."""
    (series,) = board.over_time("Durations, how often")
    wanted = Counter(
        (step, str(next(edge for edge in _EDGES if call["duration_ms"] <= edge or edge == _EDGES[-1])))
        for step, calls in per_step(_measured(trail)).items()
        for call in calls
    )
    found = {(step, dict(labels)["le"]): count for labels, steps in series.items() for step, count in steps.items()}
    assert found == wanted


@pytest.mark.parametrize("bound", ["", "100", "2500.5", "1e3"])
def test_the_slowest_calls(board: Board, trail: Trail, grafana: Grafana, bound: str) -> None:
    """The 20 slowest of those above the bound, slowest first, with their part upstream."""
    table = board.table("Slowest calls", grafana, {"slower_than": bound})
    slow = [call for call in _measured(trail) if call["duration_ms"] > float(bound or 0)]
    slow.sort(key=_duration, reverse=True)
    assert rows(table, "Duration") == [(call["duration_ms"],) for call in slow[:20]]
    known = {milliseconds(call): call.get("upstream_ms") for call in slow}
    assert all(known[date] == upstream for date, upstream in rows(table, "Date", "Upstream"))


@pytest.mark.parametrize("name", ["user", "resource", "slower_than"])
@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_out_of_a_filter(board: Board, grafana: Grafana, name: str, text: str) -> None:
    """Whatever is typed, no query is refused; what is no number is no bound."""
    table = board.table("Slowest calls", grafana, {name: [text] if name == "user" else text})
    if name == "slower_than":
        assert len(table["Date"]) == 20
    if name == "resource":
        assert not table.get("Date")


@pytest.mark.parametrize("chosen", [{}, {"cluster": ["dev", "prod-eu"], "verb": ["get", "list"]}])
def test_traces_count_the_same_calls(
    board: Board, trail: Trail, backends: Backends, chosen: Mapping[str, Value]
) -> None:
    """From the traces, the calls by verb and the heat map count those of the lines, and the quantiles are near."""
    wanted = [call for call in _measured(trail, chosen) if "cluster" in call]
    rates = _traced(board, backends, "Calls by verb, from the traces", chosen)
    counts: Counter[str] = Counter()
    for labels, samples in rates.items():
        counts[labels] += round(sum(samples) * board.span.step)
    assert counts == Counter(call["verb"] for call in wanted)
    heat = _traced(board, backends, "Durations, how often, from the traces", chosen)
    assert sum(map(sum, heat.values())) == len(wanted)
    quantiles = _traced(board, backends, "Duration, from the traces", chosen)
    assert len(quantiles) == len(_QUANTILES)
    longest = max(map(_duration, wanted)) / 1000
    assert all(0 <= value <= 2 * longest for values in quantiles.values() for value in values)


def test_tampered_lists_only_show_less(board: Board, trail: Trail, backends: Backends) -> None:
    """What is put into an address in place of a verb or cluster finds nothing beyond what there is in the traces."""
    for name in ("cluster", "verb"):
        for text in HOSTILE:
            with suppress(RefusedError):
                rates = _traced(board, backends, "Calls by verb, from the traces", {name: [text]})
                assert sum(map(sum, rates.values())) * board.span.step <= len(trail.calls) + 1


def _traced(board: Board, backends: Backends, title: str, chosen: Mapping[str, Value]) -> dict[str, list[float]]:
    ((_, query),) = board.queries(board.panel(title), chosen)
    found: dict[str, list[float]] = {}
    for series in backends.traced(query, board.span):
        name = ",".join(str(next(iter(each["value"].values()))) for each in series["labels"])
        found[name] = [sample.get("value", 0.0) for sample in series["samples"]]
    return found


def _measured(trail: Trail, chosen: Mapping[str, Value] | None = None) -> list[Record]:
    return [call for call in trail.measured if passes(call, chosen or {})]


def _duration(call: Record) -> float:
    duration: float = call["duration_ms"]
    return duration


def _quantiles(steps: Mapping[int, list[Record]], q: float, of: Callable[[Record], float]) -> dict[int, float | None]:
    return {step: quantile([of(call) for call in calls], q) for step, calls in steps.items()}


def _only(series: Series) -> dict[int, float]:
    (values,) = series.values()
    return values
