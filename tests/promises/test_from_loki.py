"""The trail read from Loki is the trail beside the journal: the same rows, in the same order, for every question."""

import json
import random
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kube_audit_proxy.cli.main import program
from kube_audit_proxy.demo.stack import TelemetryStack
from kube_audit_proxy.export.trail import IndexTrail
from kube_audit_proxy.index.filters import Choice, Filters, microseconds
from kube_audit_proxy.index.indexer import index_once
from kube_audit_proxy.index.reader import Call, Command
from kube_audit_proxy.index.schema import open_for_writing
from kube_audit_proxy.loki.client import Access, Loki
from kube_audit_proxy.loki.logql import FOLDS_TO_ASCII, calls
from kube_audit_proxy.loki.order import parsed
from kube_audit_proxy.loki.pages import walk
from kube_audit_proxy.loki.predicate import passes
from kube_audit_proxy.loki.trail import DAY, LokiTrail
from support.journals import BEGINNING, JournalWriter, Record, end, start, started, whole
from support.loki_lines import fill, lines_of
from support.proxies import wait_until
from support.questions import CLUSTERS, HOSTILE, LONG, asked, combinations, every_question, hard_calls, shifted

pytestmark = pytest.mark.servers

CONFIGURATION = Path(__file__).parents[2] / "collector-config"
PROGRAM = (sys.executable, "-c", "from kube_audit_proxy.cli.main import main; main()")

# Each test's traffic has hours of its own. The hard calls go on for five hours.
NOW = datetime.now(UTC).replace(microsecond=0)
HARD, MANY = NOW - timedelta(hours=30), NOW - timedelta(hours=50)
LOOK_BACK = 31 * DAY // 24
CROWD = 6_000


def now() -> int:
    """Give the present in microseconds."""
    return microseconds(datetime.now(UTC))


def just(**ago: float) -> timedelta:
    """Return how much later than the beginning of all journals it was, this long before the present.

    What is followed has to be new: `NOW` is as old as the whole run.
    """
    return datetime.now(UTC).replace(microsecond=0) - timedelta(**ago) - BEGINNING


class Both:
    """The same traffic in a journal with its index, and in Loki."""

    def __init__(self, directory: Path, loki_url: str, calls: list[list[Record]]) -> None:
        self.directory = directory
        self.url = loki_url
        self.writer = JournalWriter(directory / "journal", directory.name)
        self.shipped = 0
        self.add(*calls)

    def add(self, *calls: list[Record]) -> None:
        """Record calls, index and ship them, and wait until Loki shows the last of them."""
        self.writer.write_all(line for call in calls for line in call)
        with closing(open_for_writing(self.directory / "index.db")) as db:
            index_once(db, self.directory / "journal")
        lines = lines_of(self.directory / "journal")
        fill(self.url, lines[self.shipped :], CLUSTERS)
        self.shipped = len(lines)
        with LokiTrail(Loki(Access(self.url)), now) as trail:
            last = Filters(since=microseconds(datetime.fromisoformat(calls[-1][0]["requestReceivedTimestamp"])))
            wait_until(lambda: trail.calls(last, 1), "Loki to show what it was sent")

    @contextmanager
    def opened(self) -> Iterator[tuple[IndexTrail, LokiTrail]]:
        """Open both trails."""
        with (
            IndexTrail(self.directory / "index.db") as index,
            LokiTrail(Loki(Access(self.url)), now, LOOK_BACK) as loki,
        ):
            yield index, loki

    def run(self, source: str, *arguments: str) -> Result:
        """Run the program on one of the two."""
        command, *rest = arguments
        where = ["--data-dir", str(self.directory)] if source == "index" else ["--from", "loki", "--loki-url", self.url]
        return CliRunner().invoke(program, [command, *where, *rest])


@pytest.fixture(scope="module")
def loki_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give a Loki that nobody else writes to."""
    with TelemetryStack(tmp_path_factory.mktemp("stack"), CONFIGURATION, progress=print, parts=("loki",)) as stack:
        yield stack.loki_url


@pytest.fixture(scope="module")
def hard(loki_url: str, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Give calls of all kinds."""
    return Both(tmp_path_factory.mktemp("hard"), loki_url, hard_calls(beginning=HARD))


@pytest.fixture(scope="module")
def many(loki_url: str, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Give more calls than two pages: 6,000 that end at one moment, and as many over three minutes."""
    later = MANY - BEGINNING
    choose = random.Random(1)  # noqa: S311 - ids like those of real calls, the same each time

    def call(duration_ms: float, seconds: float, **fields: object) -> list[Record]:
        first = start(0, auditID=str(uuid.UUID(int=choose.getrandbits(128))), **fields)
        first, last = shifted([first, end(first, duration_ms)], later + timedelta(seconds=seconds))
        return [first, last]

    crowd = [call(10_000 - number, 60 + number / 1000, user="crowd") for number in range(1, CROWD + 1)]
    others = [
        call(number * 37 % 1900 + 1, number * 0.03 + 0.0005, user=f"user-{number % 7}")
        for number in range(CROWD + 1, 2 * CROWD + 1)
    ]
    return Both(tmp_path_factory.mktemp("many"), loki_url, [*crowd, *others])


def place(call: Call) -> tuple[str, str]:
    """Return where a call belongs; the index has calls of one microsecond in the order in which they came."""
    return call.record["requestReceivedTimestamp"], call.record["auditID"]


def shortened(raw: Mapping[str, str]) -> str:
    """Return what a test with these filters is called."""
    return " ".join(f"{name}={value[:40]!r}" for name, value in raw.items()) or "everything"


def totals(found: list[Command]) -> list[tuple[str, object]]:
    """Return what is told of commands, in an order that does not depend on their place."""
    return sorted((command.command_id, command.totals) for command in found)


@pytest.mark.parametrize("raw", [*every_question(), *combinations(60)], ids=shortened)
def test_every_question_has_the_same_answer(hard: Both, raw: Mapping[str, str]) -> None:
    """Whatever the filters: all calls, the newest calls and the commands are those that the index has."""
    filters = asked(raw, HARD)
    with hard.opened() as (index, loki):
        expected = sorted(index.iterate(filters), key=place)
        assert [call.line for call in loki.iterate(filters)] == [call.line for call in expected]
        for limit in (30, 10_000):
            assert [call.line for call in loki.calls(filters, limit)] == [call.line for call in expected[::-1][:limit]]
        assert totals(loki.commands(filters, 0)) == totals(index.commands(filters, 0))


@pytest.mark.parametrize(
    "raw",
    [
        {"user": "alice,b*"},
        {"user": "!alice,!b*"},
        {"user": "!*"},
        {"namespace": "*-system"},
        {"resource": "pods/*,secrets"},
        {"resource": "!pods,!deployments.apps"},
        {"resource": "*.networking*"},
        {"method": "delete,P*"},
        {"access-method": "browser"},
        {"status": "4xx,>=500"},
        {"status": "!2xx"},
        {"decision": "deny"},
        {"command-id": "a*,b*"},
        {"text": "etc/Passwd"},
        {"user": "alice", "status": "!200", "decision": "!allow", "resource": "*s"},
    ],
    ids=shortened,
)
def test_loki_does_the_filtering(hard: Both, raw: Mapping[str, str]) -> None:
    """Where LogQL can say what a filter means, Loki sends nothing else, but for values that it holds cut or folded."""
    filters = asked(raw, HARD)
    test = passes(filters)
    odd = {"wilma", "will", HOSTILE, LONG, LONG.replace("-tail", "-TAIL")}
    with Loki(Access(hard.url)) as loki:
        since, until = microseconds(HARD), microseconds(HARD) + DAY // 4
        pages = walk(loki, calls(filters), since * 1000, until * 1000, forward=True)
        sent = [line for page in pages for line in parsed(page)]
    assert len(sent) > 10
    foreign = [line for line in sent if not test(line) and line.kind.user not in odd]
    assert [line.record for line in foreign if not re.search(f"[{FOLDS_TO_ASCII}]", line.record)] == []


def test_calls_are_the_parsed_lines(hard: Both) -> None:
    """A call from Loki is the line, the record in it, and its place in time."""
    with hard.opened() as (index, loki):
        filters = Filters(user=Choice(("alice",)))
        assert list(loki.iterate(filters)) == list(index.iterate(filters))
        assert loki.count(filters) == index.count(filters)


def test_commands_are_in_the_order_of_their_newest_calls(hard: Both) -> None:
    """The newest commands come first, as many as are asked for, each with all that its calls add up to."""
    filters = Filters(user=Choice((), ("twin-*",)))
    with hard.opened() as (index, loki):
        for limit in (1, 7, 60):
            assert loki.commands(filters, limit) == index.commands(filters, limit)


def test_calls_of_a_command(hard: Both) -> None:
    """A command's calls are found, whether or not it was just listed; an unknown one has none."""
    with hard.opened() as (index, loki):
        listed = index.commands(Filters(), 0)[:5]
        for command in listed:
            assert loki.calls_of(command.command_id) == index.calls_of(command.command_id)
            found = loki.command(command.command_id)
            assert found is not None
            assert found.totals == command.totals
        loki.commands(Filters(), 5)
        assert all(loki.calls_of(each.command_id) == index.calls_of(each.command_id) for each in listed)
        assert loki.command(str(uuid.UUID(int=1))) is None
        assert loki.calls_of(str(uuid.UUID(int=1))) == []


def test_a_command_that_went_on_for_days(loki_url: str, tmp_path: Path) -> None:
    """Calls of a command that passed filters lead to those before and after, across hours in which nothing happened."""
    named: Record = {
        "command_id": str(uuid.uuid4()),
        "command": "kubectl edit",
        "command_source": "header",
        "user": "eddy",
    }
    later = NOW - timedelta(days=6) - BEGINNING
    days = [0.0, 0.6, 1.3, 2.1]
    made = [
        shifted(list(whole(auditID=str(uuid.uuid4()), verb=verb, **named)), later + timedelta(days=day))
        for day, verb in zip(days, ("get", "list", "patch", "get"), strict=True)
    ]
    watch = start(auditID=str(uuid.uuid4()), verb="watch", **named)
    made.append(shifted([watch, started(watch), end(watch, 3 * DAY / 1000)], later + timedelta(days=2.2)))
    both = Both(tmp_path / "days", loki_url, made)
    with both.opened() as (index, _), LokiTrail(Loki(Access(loki_url)), now) as loki:
        filters = Filters(user=Choice(("eddy",)), verb=Choice(("patch",)))
        (command,) = loki.commands(filters, 0)
        assert command == index.commands(filters, 0)[0]
        assert command.totals.calls == 5
        assert loki.calls_of(command.command_id) == index.calls_of(command.command_id)


def test_more_calls_than_two_pages(many: Both) -> None:
    """Calls come once and in order, although pages end anywhere and one moment has more calls than a page."""
    filters = Filters(since=microseconds(MANY), until=microseconds(MANY) + DAY // 4)
    with many.opened() as (index, loki):
        expected = [call.line for call in index.iterate(filters)]
        assert len(expected) == 2 * CROWD
        assert [call.line for call in loki.iterate(filters)] == expected
        assert [call.line for call in loki.calls(filters, 3 * CROWD)] == expected[::-1]
        assert [call.line for call in loki.calls(filters, 5_001)] == expected[::-1][:5_001]


def test_what_is_shipped_twice_counts_once(hard: Both) -> None:
    """Lines that are sent again change nothing."""
    with hard.opened() as (_, loki):
        before = [call.line for call in loki.iterate(Filters())]
        fill(hard.url, lines_of(hard.directory / "journal")[:200], CLUSTERS)
        assert [call.line for call in loki.iterate(Filters())] == before


def test_lines_under_other_labels_count_once(loki_url: str, tmp_path: Path) -> None:
    """A line that is sent again when its cluster has become known is one call all the same."""
    made = shifted(
        list(whole(auditID=str(uuid.uuid4()), user="moved", cluster="new")), NOW - timedelta(hours=80) - BEGINNING
    )
    both = Both(tmp_path / "moved", loki_url, [made])
    fill(loki_url, lines_of(both.directory / "journal"), {"new"})
    filters = Filters(user=Choice(("moved",)), cluster=Choice(("new",)))
    with LokiTrail(Loki(Access(loki_url)), now) as trail, Loki(Access(loki_url)) as loki:
        query = str(calls(filters))
        wait_until(
            lambda: len(loki.page(query, (now() - 4 * DAY) * 1000, now() * 1000, 10, forward=True)[0]) == 2,
            "the line to be there under both labels",
        )
        assert len(trail.calls(filters, 10)) == len(list(trail.iterate(filters))) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("log",),
        ("log", "--limit", "7", "-o", "wide"),
        ("log", "-o", "json", "--status", ">=400"),
        ("log", "-o", "csv", "--limit", "0", "--namespace", "team*"),
        ("log", "--user", "nobody"),
        ("commands",),
        ("commands", "--calls", "-o", "wide", "--limit", "12"),
        ("commands", "--calls", "-o", "json", "--decision", "deny"),
        ("commands", "--user", "nobody"),
        ("export", "-o", "-"),
        ("export", "-o", "-", "--format", "jsonl", "--resource", "pods/*"),
        ("export", "-o", "-", "--text", "kubectl get"),
    ],
    ids=" ".join,
)
def test_the_program_shows_the_same(hard: Both, arguments: tuple[str, ...]) -> None:
    """Every command prints the same, byte for byte, from either source."""
    times = ("--since", HARD.isoformat(), "--until", (HARD + timedelta(hours=1)).isoformat(), "--user", "!twin-*")
    index, loki = (hard.run(source, *arguments, *times) for source in ("index", "loki"))
    assert (loki.exit_code, loki.stderr) == (0, index.stderr)
    assert loki.stdout_bytes == index.stdout_bytes
    assert loki.stdout_bytes or "nobody" in arguments


def test_following_shows_what_comes_late(loki_url: str, tmp_path: Path) -> None:
    """A call that is shipped minutes after it ended is noticed; one that was there before is not shown again."""
    ago = just(minutes=8)
    before = shifted(list(whole(auditID=str(uuid.uuid4()), user="lena")), ago)
    both = Both(tmp_path / "late", loki_url, [before])
    with LokiTrail(Loki(Access(loki_url)), now) as trail:
        watch = trail.watch(Filters(user=Choice(("lena",))))
        assert list(watch.changes()) == []
        late = shifted(list(whole(auditID=str(uuid.uuid4()), user="lena", name="late")), ago + timedelta(minutes=1))
        both.add(late)
        seen = [change.record.get("name") for _ in range(40) for change in watch.changes()]
        assert seen == ["late"]


def test_following_tells_the_beginning_and_the_end(loki_url: str, tmp_path: Path) -> None:
    """A long call is told of when its answer begins and when it ends; if both came since the last look, once."""
    both = Both(tmp_path / "long", loki_url, [list(whole(auditID=str(uuid.uuid4()), user="nora"))])
    with LokiTrail(Loki(Access(loki_url)), now) as trail:
        watch = trail.watch(Filters(user=Choice(("lucy",))))
        first = start(auditID=str(uuid.uuid4()), user="lucy", verb="watch")
        call = shifted([first, started(first), end(first, 90_000)], just(seconds=100))
        both.add(call[:2])
        assert [change.record["stage"] for change in watch.changes()] == ["ResponseStarted"]
        both.add(call[2:])
        other = trail.watch(Filters(user=Choice(("lily",))))
        assert [change.record["stage"] for change in watch.changes()] == ["ResponseComplete"]
        short = start(auditID=str(uuid.uuid4()), user="lily", verb="watch")
        both.add(shifted([short, started(short), end(short, 900)], just(seconds=50)))
        assert [change.record["stage"] for change in other.changes()] == ["ResponseComplete"]
        assert list(watch.changes()) == list(other.changes()) == []


@pytest.mark.parametrize("command", ["log", "commands"])
def test_follow_prints_what_comes(loki_url: str, tmp_path: Path, command: str) -> None:
    """--follow --from loki prints a new call while it runs, and Ctrl-C ends it without a word."""
    user = f"erin-{command}"
    named: Record = {"command_id": str(uuid.uuid4()), "command": "kubectl get", "user": user}
    both = Both(tmp_path / command, loki_url, [list(whole(auditID=str(uuid.uuid4()), user="nora"))])
    arguments = (
        command,
        "--from",
        "loki",
        "--loki-url",
        loki_url,
        "--follow",
        "--since",
        "1h",
        "--user",
        user,
        "-o",
        "json",
    )
    with subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        both.add(shifted(list(whole(auditID=str(uuid.uuid4()), **named)), just(seconds=20)))
        shown = json.loads(process.stdout.readline())
        assert shown["user"] == user
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
    assert process.returncode == 130
