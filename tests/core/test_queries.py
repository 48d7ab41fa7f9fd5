"""What the SQL finds is what the filters say, in every combination; and no text of a filter becomes part of it."""

import random
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kube_audit_proxy.index import queries, search
from kube_audit_proxy.index.filters import Filters, parse
from kube_audit_proxy.index.indexer import index_once
from kube_audit_proxy.index.reader import Index
from kube_audit_proxy.index.schema import open_for_writing
from support.journals import BEGINNING, JournalWriter, Record, random_calls, whole

CALLS = 400
NOW = BEGINNING + timedelta(seconds=CALLS + 1)

Predicate = Callable[[Record], bool]


def glob(pattern: str) -> Callable[[object], bool]:
    """Match a pattern the slow and obvious way."""
    expression = re.compile("".join(".*" if part == "*" else re.escape(part) for part in pattern), re.DOTALL)
    return lambda value: isinstance(value, str) and expression.fullmatch(value) is not None


def field(name: str, *patterns: str) -> Predicate:
    """Return whether a field matches one of the patterns."""
    return lambda record: any(glob(pattern)(record.get(name)) for pattern in patterns)


def without(name: str, *patterns: str) -> Predicate:
    """Return whether a field matches none of the patterns."""
    return lambda record: not field(name, *patterns)(record)


def status(accepts: Callable[[int], bool]) -> Predicate:
    """Return whether there is a status, and it is one of these."""
    return lambda record: "status" in record and accepts(record["status"])


def resource(name: str, group: str | None, subresource: str | None) -> Predicate:
    """Return whether the resource is this one; no group is any, no subresource is none."""
    return lambda record: (
        glob(name)(record.get("resource"))
        and (group is None or glob(group)(record.get("group", "")))
        and (glob(subresource)(record.get("subresource")) if subresource else "subresource" not in record)
    )


def text(needle: str) -> Predicate:
    """Return whether a text is in one of the fields searched."""

    def found(record: Record) -> bool:
        texts = [record.get(name, "") for name in ("user", "name", "requestURI", "command", "message", "userAgent")]
        return any(needle.casefold() in one.casefold() for one in (*texts, " ".join(record.get("exec_argv", ()))))

    return found


def seconds(record: Record) -> float:
    """Return when a call was received, in seconds after the beginning."""
    return (datetime.fromisoformat(record["requestReceivedTimestamp"]) - BEGINNING).total_seconds()


NOWHERE = ("100%", "nowhere to be found", "web-30", "§", "q/")
EVERYWHERE = ("(linux/amd64) kubernetes", "9", "e")

CASES: dict[str, list[tuple[str, Predicate]]] = {
    "user": [
        ("alice", field("user", "alice")),
        ("alice,bob", field("user", "alice", "bob")),
        ("!alice", without("user", "alice")),
        ("*e*,!alice", lambda record: field("user", "*e*")(record) and without("user", "alice")(record)),
        ("!*", lambda record: "user" not in record),
        ("*", lambda record: "user" in record),
        ("[a-z]?", field("user", "[a-z]?")),
        ("[a-z]*", field("user", "[a-z]*")),
        ("?*", field("user", "?*")),
        ("Carol O'Neil", field("user", "Carol O'Neil")),
        ("müller@*", field("user", "müller@*")),
        ("' OR 1=1 --", lambda _record: False),
    ],
    "cluster": [("prod-*", field("cluster", "prod-*")), ("!dev", without("cluster", "dev"))],
    "namespace": [
        ("team_a", field("namespace", "team_a")),
        ("team*,kube-system", field("namespace", "team*", "kube-system")),
        ("!default", without("namespace", "default")),
    ],
    "resource": [
        ("pods", resource("pods", None, None)),
        ("pods/exec", resource("pods", None, "exec")),
        ("pods/*", resource("pods", None, "*")),
        ("deployments.apps", resource("deployments", "apps", None)),
        ("deployments/scale", resource("deployments", None, "scale")),
        ("*.networking*", resource("*", "networking*", None)),
        ("pods.", resource("pods", "", None)),
        ("*", lambda record: "resource" in record),
        ("!*", lambda record: "resource" not in record),
        ("!pods/*,!secrets", lambda r: not resource("pods", None, "*")(r) and not resource("secrets", None, None)(r)),
        ("*s,pods/log", lambda r: resource("*s", None, None)(r) or resource("pods", None, "log")(r)),
    ],
    "verb": [("get,List", field("verb", "get", "list")), ("!watch", without("verb", "watch"))],
    "method": [("delete,PATCH", field("method", "DELETE", "PATCH")), ("P*", field("method", "P*"))],
    "access-method": [("browser", field("access_method", "browser")), ("!api", without("access_method", "api"))],
    "status": [
        ("404", status(lambda number: number == 404)),
        ("4xx,503", status(lambda number: 400 <= number < 500 or number == 503)),
        (">=400", status(lambda number: number >= 400)),
        ("<300,!200", lambda r: status(lambda number: number < 300)(r) and r["status"] != 200),
        ("!200", lambda record: record.get("status") != 200),
    ],
    "decision": [("deny", field("decision", "deny")), ("!allow", without("decision", "allow"))],
    "command-id": [("!*", lambda record: "command_id" not in record), ("a*,b*", field("command_id", "a*", "b*"))],
    "text": [
        ("ALICE", text("alice")),
        ("passwd", text("passwd")),
        ("kubectl get", text("kubectl get")),
        ('"failed" with 40', text('"failed" with 40')),
        ("MÜLLER", text("müller")),
        *(
            (value, text(value))
            for value in ("web-1", "web-29", "/healthz", "inside", "z", "hz", *NOWHERE, *EVERYWHERE)
        ),
    ],
    "since": [("5m", lambda record: seconds(record) >= CALLS + 1 - 300)],
    "until": [("90s", lambda record: seconds(record) < CALLS + 1 - 90)],
}


def calls() -> Iterator[list[Record]]:
    """Yield the lines of calls: two of three are like no other, of the third there are many alike."""
    for number, lines in enumerate(random_calls(CALLS), 1):
        alike = whole(
            number,
            user=("alice", "bob", None)[number // 3 % 3],
            name="web-1\0inside" if number % 2 else None,
            verb="get",
            command_id=str(uuid.UUID(int=number // 12)) if number % 4 else None,
        )
        yield lines if number % 3 else list(alike)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Give the latest line of each call, oldest first."""
    return [lines[-1] for lines in calls()]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Give an index of the calls, written by two writers."""
    directory = tmp_path_factory.mktemp("index")
    writers = [JournalWriter(directory / "journal", name) for name in ("gateway-1", "gateway-2")]
    db = open_for_writing(directory / "index.db")
    for number, lines in enumerate(calls()):
        writers[number % 2].write(*lines)
        if number % 150 == 0:
            index_once(db, directory / "journal")
    index_once(db, directory / "journal")
    db.close()
    with Index(directory / "index.db") as opened:
        yield opened


def check(index: Index, records: list[Record], raw: dict[str, str], predicate: Predicate) -> None:
    """Compare every way to ask with the predicate."""
    filters = parse({name: [value] for name, value in raw.items()}, now=NOW)
    expected = [record["auditID"] for record in records if predicate(record)]
    commands = [record["command_id"] for record in reversed(records) if predicate(record) and "command_id" in record]
    newest = index.calls(filters, 25)
    rest = index.calls(filters, CALLS, before=newest[-1].id) if newest else []
    assert [call.record["auditID"] for call in (*newest, *rest)] == expected[::-1]
    assert [call.record["auditID"] for call in index.iterate(filters)] == expected
    assert sorted(change.record["auditID"] for change in index.changes(filters, 0)) == sorted(expected)
    assert index.count(filters) == len(expected)
    assert [command.command_id for command in index.commands(filters, 0)] == list(dict.fromkeys(commands))
    assert [command.command_id for command in index.commands(filters, 7)] == list(dict.fromkeys(commands))[:7]


WAYS: dict[str, dict[str, int]] = {
    "the best": {},
    "by kinds": {
        "_FIRST": 3, "_MOST": 2, "_PAYS": 1, "_COMMON": 0, "_RECENT": 20, "_ODD": 2, "_FEW_CALLS": 30,
        "_FEWEST_CALLS": CALLS,
    },
    "by old kinds": {"_FIRST": 3, "_MOST": 2, "_PAYS": 1, "_COMMON": 0, "_RECENT": 0, "_ODD": 2, "_FEW_CALLS": 0},
    "by words": {
        "_FIRST": 3, "_MOST": 5, "_PAYS": 1, "_COMMON": 0, "_FEW_CALLS": 0, "_FEW_COMMANDS": 1, "_ODD": 2,
        "_FEWEST_CALLS": 0, "_MOST_WORDS": 5,
    },
    "by words, then by kinds": {
        "_FIRST": 3, "_MOST": 5, "_PAYS": 1, "_COMMON": 0, "_ODD": 2, "_FEWEST_CALLS": 0, "_MANY_WORDS": 20,
        "_CALL_COSTS": 1,
    },
    "all of them": {"_FIRST": 7, "_MOST": 7, "_PAYS": 10**9, "_COMMON": 10**9, "_RARE": 10**9},
}  # fmt: skip
"""Which of the ways that lead to a call are taken, by the numbers that decide on it."""


@pytest.fixture(params=WAYS)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in WAYS[request.param].items():
        monkeypatch.setattr(search, name, number)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize(("name", "value", "predicate"), [(name, *case) for name in CASES for case in CASES[name]])
def test_each_filter(index: Index, records: list[Record], name: str, value: str, predicate: Predicate) -> None:
    """Every filter alone finds exactly the calls, and the commands, that it describes, by whatever way."""
    check(index, records, {name: value}, predicate)


def test_the_cases_are_worth_something(records: list[Record]) -> None:
    """Each case finds some calls and leaves out others, but for those that try what must not work."""
    found = {(name, value): sum(map(predicate, records)) for name in CASES for value, predicate in CASES[name]}
    pointless = {case for case, count in found.items() if not 0 < count < CALLS}
    texts = {("text", value) for value in (*NOWHERE, *EVERYWHERE)}
    assert pointless == {("user", "?*"), ("user", "' OR 1=1 --"), *texts}


@pytest.mark.usefixtures("_way")
def test_a_kind_of_call_that_came_before_and_since(tmp_path: Path) -> None:
    """Before a time, a call is found of those who call once before it and once since; others only called since."""
    writer = JournalWriter(tmp_path / "journal")
    for number in range(1, 61):
        writer.write(*whole(2 * number, user=f"caller-{number % 40}"))
        writer.write(*whole(2 * number + 1, user="somebody else"))
    with closing(open_for_writing(tmp_path / "index.db")) as db:
        index_once(db, tmp_path / "journal")
    until = (BEGINNING + timedelta(seconds=61.5)).isoformat()
    with Index(tmp_path / "index.db") as index:
        found = index.calls(parse({"user": ["caller-*"], "until": [until]}, now=NOW), 100)
    assert [call.record["user"] for call in found] == [f"caller-{number}" for number in range(30, 0, -1)]


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("seed", range(150))
def test_filters_in_combination(index: Index, records: list[Record], seed: int) -> None:
    """Filters together find what passes all of them, by whatever way."""
    choose = random.Random(seed)  # noqa: S311 - the same each time is what is wanted
    chosen = {name: choose.choice(CASES[name]) for name in choose.sample(sorted(CASES), choose.randint(2, 4))}
    check(
        index,
        records,
        {name: value for name, (value, _) in chosen.items()},
        lambda record: all(predicate(record) for _, predicate in chosen.values()),
    )


def test_the_rarest_values_are_searched_by_index() -> None:
    """The column with the fewest calls is chosen, none where all are common, and at once where there are none."""
    filters = parse({"user": ["alice"], "status": ["5xx"], "cluster": ["dev"]}, now=NOW)
    facets: dict[str, dict[Any, int]] = {
        "user": {"alice": 50, "bob": 1}, "status": {200: 900, 500: 3, 503: 4}, "cluster": {"dev": 1}
    }  # fmt: skip
    indexed = {"user", "status"}
    assert queries.narrowest(filters, facets, indexed, enough=100) == queries.Narrow("status", (500, 503))
    assert queries.narrowest(filters, facets, indexed, enough=5) is None
    nowhere = queries.narrowest(filters, {**facets, "cluster": {"prod": 1}}, indexed, enough=5)
    assert nowhere == queries.Narrow("cluster", ())


def test_values_are_bound() -> None:
    """No text that a person typed is part of the SQL."""
    needle = "zzz' OR ''='"
    names = ("user", "cluster", "namespace", "resource", "verb", "command-id", "text")
    filters = parse({name: [needle, "zzz*", "!zzz*"] if name != "text" else [needle] for name in names}, now=NOW)
    some, kinds = queries.span(filters), queries.kinds(filters, queries.Narrow("user", (needle,)), said=False)
    named = queries.commands_named(filters, 1)
    assert named is not None
    built = (
        queries.scan(filters, some),
        queries.of_commands(filters, [1], some),
        queries.number_of_calls_of(kinds),
        queries.number_of_kinds(queries.Narrow("user", (needle,)), 1),
        queries.newest_kinds(kinds, some, (1, 1), (1, 1), 1),
        queries.newest_kinds_until(kinds, some, (1, 1), 1),
        queries.lately(filters, some, (1, 1), 1, said=True),
        queries.end_of_lately(some, (1, 1), 1),
        queries.calls_of_kind(filters, said=False)(1, some, 1),
        queries.calls_of_kinds(filters, kinds, some, said=False, commands=True),
        queries.words_with(needle, 1, 1),
        queries.calls_with_words(filters, needle, some),
        queries.calls_with_words(filters, needle, some, queries.Narrow("user", (needle,))),
        queries.calls_with_words_that_match(filters, needle),
        queries.changed_calls(filters, 1, 0),
        queries.calls_of(needle, filters),
        queries.oldest_calls(filters, some, 1, "found"),
        named,
    )
    assert not [query.sql for query in built if "zzz" in query.sql.lower()]
    assert all(query.sql.count("?") == len(query.parameters) for query in built)


def test_nothing_can_be_written_through_the_reader(index: Index) -> None:
    """The file is opened read-only."""
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        index._db.execute("DELETE FROM log")  # noqa: SLF001 - nothing else would try


@pytest.mark.parametrize(("pattern", "escaped"), [("a*b", "a*b"), ("[a]?", "[[]a][?]"), ("***", "*")])
def test_only_the_asterisk_is_special(pattern: str, escaped: str) -> None:
    """What SQLite's GLOB takes for more is escaped."""
    assert queries.glob(pattern) == escaped


def test_calls_of_a_command(index: Index, records: list[Record]) -> None:
    """A command's calls come oldest first, all of them or those that pass."""
    command_id = next(record["command_id"] for record in records if "command_id" in record)
    calls = [record for record in records if record.get("command_id") == command_id]
    assert [call.record["auditID"] for call in index.calls_of(command_id)] == [call["auditID"] for call in calls]
    passed = index.calls_of(command_id, parse({"user": ["!alice"]}, now=NOW))
    assert [call.record["auditID"] for call in passed] == [
        call["auditID"] for call in calls if call.get("user") != "alice"
    ]


def test_commands_add_up(index: Index, records: list[Record]) -> None:
    """What is told of a command is the sum of its calls."""
    for command in index.commands(Filters(), 0):
        calls = [record for record in records if record.get("command_id") == command.command_id]
        assert command.totals.calls == len(calls)
        assert command.totals.running == sum("decision" not in call for call in calls)
        assert command.totals.denied == sum(call.get("decision") == "deny" for call in calls)
        assert command.totals.worst_status == max((call["status"] for call in calls if "status" in call), default=None)
        assert command.totals.clusters == ",".join(sorted({call["cluster"] for call in calls}))
