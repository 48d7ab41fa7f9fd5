"""What the LogQL and the predicate say together is what the filters say; and no text of a filter becomes part of it."""

import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import orjson
import pytest

from kube_audit_proxy.export.names import Kind
from kube_audit_proxy.index.filters import Choice, Exact, Filters, Range, ResourcePattern
from kube_audit_proxy.index.indexer import index_once
from kube_audit_proxy.index.reader import Index
from kube_audit_proxy.index.rows import CallLine, parse
from kube_audit_proxy.index.schema import open_for_writing
from kube_audit_proxy.loki import logql
from kube_audit_proxy.loki.client import LokiError
from kube_audit_proxy.loki.order import PROMPT, key, merged, newest_first, oldest_first
from kube_audit_proxy.loki.pages import FIRST_MOMENT, LONGEST_SPAN, walk
from kube_audit_proxy.loki.predicate import passes
from kube_audit_proxy.loki.spool import Spool
from support.journals import JournalWriter, Record, end, start, started
from support.questions import HOSTILE, LONG, TABLE, asked, combinations, every_question, hard_calls

STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def _duration(line: CallLine) -> float | None:
    """Return what a line says of how long its call took."""
    found: float | None = json.loads(line.record).get("duration_ms")
    return found


def line(record: Record) -> CallLine:
    """Return a record as it is read from a line."""
    found = parse(orjson.dumps({"writer": "gateway-1", "seq": 1, **record}))
    assert found is not None
    return found


def shortened(raw: Mapping[str, str]) -> str:
    """Return what a test with these filters is called."""
    return " ".join(f"{name}={value[:40]!r}" for name, value in raw.items()) or "everything"


@pytest.fixture(scope="module")
def lines() -> list[CallLine]:
    """Give the latest line of each call."""
    return [line(call[-1]) for call in hard_calls()]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Give an index of the calls."""
    directory = tmp_path_factory.mktemp("index")
    JournalWriter(directory / "journal").write_all(each for call in hard_calls() for each in call)
    db = open_for_writing(directory / "index.db")
    index_once(db, directory / "journal")
    db.close()
    with Index(directory / "index.db") as opened:
        yield opened


@pytest.mark.parametrize("raw", [*every_question(), *combinations(150)], ids=shortened)
def test_the_predicate_says_what_the_index_finds(index: Index, lines: list[CallLine], raw: Mapping[str, str]) -> None:
    """A call passes the predicate if and only if the index finds it, whatever the filter."""
    test = passes(asked(raw))
    expected = sorted(call.record["auditID"] for call in index.iterate(asked(raw)))
    assert sorted(each.audit_id for each in lines if test(each)) == expected


def test_the_questions_are_worth_something(lines: list[CallLine]) -> None:
    """Of each option, some values find a part of the calls, so that what is compared can differ."""
    for name, values in TABLE.items():
        found = {sum(map(passes(asked({name: value})), lines)) for value in values}
        assert len([count for count in found if 0 < count < len(lines)]) >= 2, name


@pytest.mark.parametrize("raw", list(every_question()), ids=shortened)
def test_nothing_typed_is_part_of_the_query(raw: Mapping[str, str]) -> None:
    """What stands outside of its quoted strings is made of our own words, and each string ends where it should."""
    outside = STRING.sub('""', str(logql.calls(asked(raw))))
    assert '"' not in outside.replace('""', "")
    assert "`" not in outside
    assert "\\" not in outside
    words = set(re.findall(r"[A-Za-z_]+", outside))
    assert words <= {
        "service_name", "kind", "cluster", "access_method", "verb", "user", "namespace", "method", "decision",
        "command_id", "resource", "group", "subresource", "status", "and", "or", "keep",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "selector", "stages"),
    [
        ({}, "", ""),
        ({"user": "alice"}, "", '| user="alice"'),
        ({"user": "alice,b*"}, "", '| user=~"(?s)alice|b.*"'),
        ({"user": "!alice"}, "", '| user!="alice"'),
        ({"user": "!*"}, "", '| user=""'),
        ({"user": "*"}, "", '| user=~"(?s).+"'),
        ({"user": "*.com"}, "", '| user=~"(?s).*\\\\.com|.{1000}.*"'),
        ({"user": "!*.com"}, "", '| (user!~"(?s).*\\\\.com" or user=~"(?s).{1000}.*")'),
        ({"cluster": "dev"}, 'cluster=~"(?s)dev|other"', ""),
        ({"cluster": "!dev"}, 'cluster!~"(?s)dev"', ""),
        ({"cluster": "!o*"}, "", ""),
        ({"access-method": "!api"}, 'access_method!~"(?s)api"', ""),
        ({"status": "4xx,500"}, "", "| (status>=400 and status<=499) or (status>=500 and status<=500)"),
        ({"status": "!404"}, "", '| (status="" or status<404 or status>404)'),
        ({"resource": "pods"}, "", '| (resource="pods" and subresource="")'),
        ({"resource": "!pods/*"}, "", '| (resource!="pods" or subresource="")'),
        ({"resource": "deployments.apps,*"}, "",
         '| (resource="deployments" and group="apps" and subresource="") or (resource=~"(?s).+")'),
        ({"text": "kg 404"}, "", '|~ "(?i)kg" or "\u212a" |~ "(?i)404"'),
        ({"text": "ü"}, "", ""),
    ],
    ids=repr,
)  # fmt: skip
def test_the_query(raw: Mapping[str, str], selector: str, stages: str) -> None:
    """Each filter becomes the narrowest selector and stages that let pass all it may mean."""
    labels = ", ".join(filter(None, ('service_name="kube-audit-proxy"', 'kind=~"call|call_started"', selector)))
    expected = " ".join(filter(None, (f"{{{labels}}}", stages, "| keep kind")))
    assert str(logql.calls(asked(raw))) == expected


def test_one_kind_only() -> None:
    """The kinds of lines are chosen by name."""
    assert 'kind=~"call"' in str(logql.calls(Filters(), Kind.CALL))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Filters)])
def test_every_filter_is_looked_at(field: str) -> None:
    """A filter that is added and that the predicate does not know would let everything pass: none is."""
    impossible: Any = {"text": "zz", "since": 2**52, "until": 0, "status": Choice((Range(999, 999),))}
    resource = Choice((ResourcePattern("zz"),))
    value = impossible.get(field, resource if field == "resource" else Choice(("zz",)))
    assert not passes(Filters(**{field: value}))(line(end(start())))


def test_an_exact_text_has_no_wildcards() -> None:
    """A text that stands for itself is compared as it is."""
    filters = Filters(user=Choice((Exact("a*"),), (Exact("*"),)), cluster=Choice((Exact("*"),)))
    query = str(logql.calls(filters))
    assert '| user="a*" | user!="*" |' in query
    assert 'cluster=~"(?s)\\\\*|other"' in query


def test_texts_that_no_record_can_hold() -> None:
    """A lone surrogate, which a shell can type, finds nothing and excludes nothing, and the query is sound."""
    for choice in (Choice(("\ud800",)), Choice(("a", "\ud800*")), Choice((), ("\ud800",))):
        filters = Filters(user=choice, cluster=choice, text="\ud800")
        str(logql.calls(filters)).encode()
    assert passes(Filters(user=Choice((), ("\ud800",))))(line(start()))
    assert not passes(Filters(user=Choice(("\ud800",))))(line(start()))


def test_what_is_too_long_for_a_url_is_left_to_the_predicate() -> None:
    """A query stays short however much is asked for; what it does not say is told by the predicate."""
    raw = {"user": ",".join(f"user-{number}" for number in range(3000)), "decision": "deny"}
    query = str(logql.calls(asked(raw)))
    assert len(query) < 7000
    assert 'decision="deny"' in query
    assert not passes(asked(raw))(line(end(start(user="alice"), decision="deny")))
    assert passes(asked(raw))(line(end(start(user="user-2999"), decision="deny")))


@pytest.mark.parametrize("text", [HOSTILE, LONG, "\0\x07\x7f\u2028\ufeff\U000e0001", "\\x", "ß", "'`{}|=~!"])
def test_quoted_is_one_string(text: str) -> None:
    """A quoted text is printable, one string, and means the text again."""
    quoted = logql.quoted(text)
    assert quoted.isprintable()
    assert STRING.fullmatch(quoted)
    plain = re.sub(r"\\U([0-9a-f]{8})", lambda found: chr(int(found[1], 16)), quoted)
    assert orjson.loads(plain) == text


def test_every_letter_that_folds_to_ascii_is_known() -> None:
    """The letters that may stand for an ASCII letter, if case does not matter, are those of this Python's Unicode."""
    known = re.compile(f"[{logql.FOLDS_TO_ASCII}]")
    everything = (chr(code) for code in range(0x80, sys.maxunicode) if not 0xD800 <= code < 0xE000)
    assert [
        letter
        for letter in everything
        if any(part.isascii() for part in letter.casefold()) != bool(known.match(letter))
    ] == []


class Pages:
    """Answers as Loki does, from a list of lines; a query's own text does not matter unless it asks for parts."""

    def __init__(self, lines: list[tuple[int, str]]) -> None:
        self.lines = lines
        self.ordered = {forward: sorted(lines, reverse=not forward) for forward in (True, False)}
        self.asked: list[tuple[int, int, int]] = []

    def page(
        self, query: str, start: int, end: int, limit: int, *, forward: bool
    ) -> tuple[list[tuple[int, str]], bool]:
        """Return the first lines."""
        assert end - start <= LONGEST_SPAN
        self.asked.append((start, end, limit))
        wanted = re.findall(r'auditID=~"\(\?s\)([0-9a-f\\-]*)\.\*"', query)
        barred = re.findall(r'auditID!~"\(\?s\)([0-9a-f\\-]*)\[', query)
        found = [
            (moment, text)
            for moment, text in self.ordered[forward]
            if start <= moment < end
            and all(text.startswith(prefix.replace("\\", "")) for prefix in wanted)
            and not any(re.match(prefix.replace("\\\\", "") + "[0-9a-f-]", text) for prefix in barred)
        ]
        return found[:limit], len(found[:limit]) == limit


NOW = FIRST_MOMENT * 2


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("spread", [1, 7, 4000])
@pytest.mark.parametrize("first", [100, 5000])
def test_pages_give_each_line_once(spread: int, first: int, *, forward: bool) -> None:
    """Whatever the borders of pages fall on, each line comes once, in order, moments whole."""
    lines = [(NOW - 1 - number // spread, f"{number:06x}") for number in range(12_345)]
    found = list(walk(Pages(lines), logql.calls(Filters()), FIRST_MOMENT, NOW, forward=forward, first=first))
    flat = [each for page in found for each in page]
    assert sorted(flat) == sorted(lines)
    moments = [moment for moment, _ in flat]
    assert moments == sorted(moments, reverse=not forward)
    borders = [(one[-1][0], other[0][0]) for one, other in pairwise(found) if one and other]
    assert all(last != following for last, following in borders)


@pytest.mark.parametrize("forward", [True, False])
def test_more_lines_at_one_moment_than_a_page(*, forward: bool) -> None:
    """A moment with more lines than Loki gives at once is read in parts, by the ids of calls."""
    lines = [(NOW - 10, f"{number % 17 % 2:x}{number:030x}") for number in range(8_000)]
    lines += [(NOW - 10, f"no id {number}") for number in range(1000)]
    lines += [(NOW - 20, "0a"), (NOW - 5, "0b")]
    found = list(walk(Pages(lines), logql.calls(Filters()), FIRST_MOMENT, NOW, forward=forward))
    assert sorted(each for page in found for each in page) == sorted(lines)


@pytest.mark.parametrize("text", ["the same id{}", "0" * 36 + "{}"])
def test_a_moment_that_cannot_be_read_whole(text: str) -> None:
    """Where lines of one moment cannot be told apart, it is said instead of leaving some out."""
    lines = [(NOW - 10, text.format(number)) for number in range(6000)]
    with pytest.raises(LokiError, match="more than 5,000 lines"):
        list(walk(Pages(lines), logql.calls(Filters()), FIRST_MOMENT, NOW, forward=True))


def test_long_times_are_asked_in_parts() -> None:
    """No question is about more time than Loki allows, and none about times that it would take for seconds."""
    pages = Pages([(FIRST_MOMENT, "a"), (NOW - 1, "b")])
    assert [each for page in walk(pages, logql.calls(Filters()), 0, NOW, forward=True) for each in page] == pages.lines
    assert pages.asked[0][0] == FIRST_MOMENT


def by_end(lines: list[CallLine]) -> list[tuple[int, str]]:
    """Return lines as Loki has them."""
    return sorted((each.reached * 1000, each.record) for each in lines)


def places() -> list[tuple[int, str]]:
    """Return where calls belong, in order."""
    return sorted(key(line(call[-1])) for call in hard_calls())


def pages_of(lines: list[tuple[int, str]], size: int) -> list[list[tuple[int, str]]]:
    """Return lines in pages; lines of one moment stay together."""
    pages: list[list[tuple[int, str]]] = [[]]
    for number, each in enumerate(lines):
        if len(pages[-1]) >= size and lines[number - 1][0] != each[0]:
            pages.append([])
        pages[-1].append(each)
    return pages


@pytest.mark.parametrize("size", [1, 10, 5000])
def test_newest_first(size: int) -> None:
    """From lines in the order of ends come calls in the order of receipt: once, the end instead of the beginning."""
    every = [line(each) for call in hard_calls() for each in call[1:]]
    groups = list(newest_first(pages_of(by_end(every)[::-1], size), passes(Filters())))
    assert [each.audit_id for group in groups for each in group] == [
        audit_id
        for _, audit_id in sorted(((line(c[-1]).received, c[-1]["auditID"]) for c in hard_calls()), reverse=True)
    ]
    latest = {call[-1]["auditID"]: call[-1]["stage"] for call in hard_calls()}
    assert all(latest[each.audit_id] == each.kind.stage for group in groups for each in group)


@pytest.mark.parametrize("size", [1, 10, 5000])
def test_oldest_first(size: int) -> None:
    """Late calls, kept on disk, and the others, as they end, make one sequence in the order of receipt."""
    every = [line(each) for call in hard_calls() for each in call[1:]]
    late = [
        each
        for each in every
        if (took := _duration(each)) is None or took >= logql.LATE_MS or each.kind.outcome == "interrupted"
    ]
    rest = [each for each in every if each not in late]
    with Spool() as spool:
        spool.keep(late)
        spool.keep(late[::-1])
        found = list(merged(spool.lines(), oldest_first(pages_of(by_end(rest), size), passes(Filters()))))
    assert [key(each) for each in found] == places()
    latest = {call[-1]["auditID"]: call[-1]["stage"] for call in hard_calls()}
    assert all(latest[each.audit_id] == each.kind.stage for each in found)


def test_what_is_held_is_what_is_under_way() -> None:
    """While calls are put in order, those that were received too long ago to be overtaken are let go."""
    calls = [end(start(number), 100, auditID=str(number)) for number in range(1, 500)]
    pages = pages_of(by_end([line(call) for call in calls]), 20)
    given = 0
    taken: list[int] = []

    def counted() -> Iterator[list[tuple[int, str]]]:
        for number, page in enumerate(pages):
            taken.append(number * 20 - given)
            yield page

    for _ in oldest_first(counted(), passes(Filters())):
        given += 1
    assert max(taken) < PROMPT / 1e6 + 2 * 20


def test_what_is_no_record_is_left_out() -> None:
    """Lines that somebody else wrote under our name are no calls."""
    rubbish = [(2, "rubbish"), (2, "[1]"), (2, '{"kind":"call"}'), (1, '{"kind":"heartbeat"}')]
    assert [group for group in newest_first([rubbish], passes(Filters())) if group] == []


def test_a_beginning_is_no_call_of_its_own() -> None:
    """An answer that began and its end are one call, whichever comes first."""
    first = start()
    both = [line(started(first)), line(end(first))]
    assert [each.kind.stage for each in merged(both[:1], both[1:])] == ["ResponseComplete"]
    assert [each.kind.stage for each in merged(both[1:], both[:1])] == ["ResponseComplete"]
