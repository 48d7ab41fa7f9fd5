"""What people type as a filter means one thing, or is refused with a sentence that helps."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from kube_audit_proxy.index import queries
from kube_audit_proxy.index.filters import (
    OPTIONS,
    Choice,
    Exact,
    FilterError,
    Filters,
    Range,
    ResourcePattern,
    in_words,
    microseconds,
    parse,
    parse_time,
)

NOW = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def parsed(**raw: str) -> Filters:
    """Parse one value for each option."""
    return parse({name.replace("_", "-"): [value] for name, value in raw.items()}, now=NOW, zone=BERLIN)


def moment(*numbers: int, zone: ZoneInfo | None = None) -> int:
    """Return a time in microseconds."""
    return microseconds(datetime(*numbers, tzinfo=zone or UTC))  # type: ignore[arg-type,misc] # year, month, ...


def test_nothing_given_passes_everything() -> None:
    """No option, or options without values, are no filter."""
    assert parse({}, now=NOW) == parse({option.name: [] for option in OPTIONS}, now=NOW) == Filters()


def test_commas_and_repetition_are_the_same() -> None:
    """`--user a,b` is `--user a --user b`; blanks around a name do not count."""
    assert parse({"user": ["a, b"]}, now=NOW) == parse({"user": ["a", "b"]}, now=NOW)
    assert parse({"user": ["a,b"]}, now=NOW).user == Choice(("a", "b"))


def test_exclamation_mark_excludes() -> None:
    """`!x` goes to the unwanted, beside wanted ones."""
    assert parsed(namespace="team-*,!team-test").namespace == Choice(("team-*",), ("team-test",))


def test_method_verb_and_words_ignore_case() -> None:
    """Methods, verbs, access methods and decisions are found in any case."""
    filters = parsed(method="get,Delete", verb="GET", access_method="KubeCTL", decision="Deny")
    assert filters.method.wanted == ("GET", "DELETE")
    assert filters.verb.wanted == ("get",)
    assert filters.access_method.wanted == ("kubectl",)
    assert filters.decision.wanted == ("deny",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("404", Range(404, 404)),
        ("4xx", Range(400, 499)),
        ("5XX", Range(500, 599)),
        (">=400", Range(400, 999)),
        ("> 400", Range(401, 999)),
        ("<400", Range(0, 399)),
        ("<=400", Range(0, 400)),
    ],
)
def test_status(text: str, expected: Range) -> None:
    """A status is a number, a class or a comparison."""
    assert parsed(status=text).status == Choice((expected,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pods", ResourcePattern("pods", None, "")),
        ("Pods/Exec", ResourcePattern("pods", None, "exec")),
        ("pods/*", ResourcePattern("pods", None, "*")),
        ("*/scale", ResourcePattern("*", None, "scale")),
        ("deployments.apps", ResourcePattern("deployments", "apps", "")),
        ("ingresses.networking.k8s.io/status", ResourcePattern("ingresses", "networking.k8s.io", "status")),
        ("pods.", ResourcePattern("pods", "", "")),
        ("*.apps", ResourcePattern("*", "apps", "")),
        ("*", ResourcePattern("*", None, None)),
    ],
)
def test_resource(text: str, expected: ResourcePattern) -> None:
    """A resource may name its group and its subresource, as in audit policies."""
    assert parsed(resource=text).resource == Choice((expected,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", moment(2026, 11, 23, 14, 30)),
        ("15m", moment(2026, 11, 23, 14, 15)),
        ("2h", moment(2026, 11, 23, 12, 30)),
        ("3d", moment(2026, 11, 20, 14, 30)),
        ("90s", moment(2026, 11, 23, 14, 28, 30)),
        ("1w", moment(2026, 11, 16, 14, 30)),
        ("today", moment(2026, 11, 23, zone=BERLIN)),
        ("Yesterday", moment(2026, 11, 22, zone=BERLIN)),
        ("2026-07-01", moment(2026, 7, 1, zone=BERLIN)),
        ("2026-11-23T10:00", moment(2026, 11, 23, 10, zone=BERLIN)),
        ("2026-11-23 10:00:05", moment(2026, 11, 23, 10, 0, 5, zone=BERLIN)),
        ("2026-11-23T10:00:05.123456Z", moment(2026, 11, 23, 10, 0, 5, 123456)),
        ("2026-11-23t10:00:05z", moment(2026, 11, 23, 10, 0, 5)),
        ("2026-11-23T10:00:05+02:00", moment(2026, 11, 23, 8, 0, 5)),
    ],
)
def test_time(text: str, expected: int) -> None:
    """A time is told from now, by a word, by a date or in full; without a zone it is local."""
    assert parsed(since=text).since == expected


def test_midnight_follows_summer_time() -> None:
    """Yesterday's midnight has the offset of yesterday, also across a change of the clocks."""
    after_change = datetime(2026, 10, 26, 12, tzinfo=UTC)
    assert parse_time("since", "yesterday", now=after_change, zone=BERLIN) == moment(2026, 10, 24, 22)
    assert parse_time("since", "today", now=after_change, zone=BERLIN) == moment(2026, 10, 25, 23)


def test_times_of_this_machine_are_the_default() -> None:
    """Without a zone, a date is midnight here."""
    expected = microseconds(datetime(2026, 11, 23).astimezone())
    assert parse_time("since", "2026-11-23", now=NOW) == expected


@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("status", "teapot", "404"),
        ("status", "9xx", "4xx"),
        ("status", "40", ">=400"),
        ("decision", "maybe", "allow, deny, error"),
        ("access-method", "telnet", "browser, kubectl, api"),
        ("since", "tomorrow", "15m"),
        ("since", "2026-02-30", "2026-11-23"),
        ("until", "99999999999999d", "2h"),
        ("user", "", "empty"),
        ("user", "a,,b", "empty"),
        ("user", "!", "empty"),
        ("text", "", "empty"),
        ("since", " ", "empty"),
        ("colour", "red", "Filters are user, cluster"),
    ],
)
def test_nonsense_is_refused_with_advice(option: str, value: str, hint: str) -> None:
    """The error names the option and says what would be right."""
    with pytest.raises(FilterError) as refused:
        parse({option: [value]}, now=NOW)
    assert refused.value.option == option
    assert str(refused.value).startswith(f"--{option}: ")
    assert hint in str(refused.value)


def test_since_after_until_is_refused() -> None:
    """A span that ends before it begins is an error, not an empty answer."""
    with pytest.raises(FilterError, match="1h is later than --until 2h"):
        parsed(since="1h", until="2h")
    assert parsed(since="2h", until="2h").since == parsed(until="2h").until


@pytest.mark.parametrize("option", ["text", "since", "until"])
def test_what_has_one_value_is_refused_twice(option: str) -> None:
    """Text and times are given once."""
    with pytest.raises(FilterError, match="only once"):
        parse({option: ["1h", "2h"]}, now=NOW)


def test_text_is_taken_as_it_is() -> None:
    """In --text neither comma, exclamation mark nor asterisk means anything."""
    assert parsed(text="!a,*b").text == "!a,*b"


def test_in_words() -> None:
    """The filters are told as they were typed."""
    raw = {"user": ["alice", "bob"], "access-method": ["api"], "status": [], "since": ["2h"]}
    assert in_words(raw) == "user alice,bob, access method api, since 2h"
    assert in_words({}) == ""


def test_an_exact_text_is_no_pattern() -> None:
    """Where a text is to stand for itself, its asterisks are asterisks, in the SQL and beside it."""
    assert queries.matches("al*ce", "alice")
    assert not queries.matches(Exact("al*ce"), "alice")
    assert queries.matches(Exact("al*ce"), "al*ce")
    exact = Filters(user=Choice((Exact("al*ce"),)), command_id=Choice((Exact("*"),)))
    assert queries.condition(exact).sql.count("GLOB") == 0
    assert queries.condition(exact).parameters == ("al*ce", "*")
    named = queries.commands_named(exact, 5)
    assert named is not None
    assert named.parameters == ("*", 5)
    assert "l*c" in Exact("al*ce")
