"""A dashboard's link asks for exactly what was chosen on the dashboard, whatever was chosen."""

from datetime import UTC, datetime, tzinfo
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest

from kube_audit_proxy.admin import grafana_time
from kube_audit_proxy.admin.grafana_query import Asked, QueryError, arguments, in_utc, parse
from kube_audit_proxy.index.filters import Choice, Exact, Filters, Range, ResourcePattern, microseconds
from kube_audit_proxy.index.filters import parse as parse_typed

NOW = datetime(2026, 11, 23, 14, 30, 5, 250_000, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
KNOWN = {"cluster": ("dev", "prod-eu", "prod-us"), "verb": ("get", "list")}


def asked(query: str) -> Asked:
    """Read the arguments of an address."""
    return parse(arguments(query), now=NOW, known=KNOWN)


def moment(text: str) -> int:
    """Return a time in microseconds."""
    return microseconds(datetime.fromisoformat(text))


@pytest.mark.parametrize("value", ["", "$__all", ".*", "$__all&var-user=bob"])
def test_all_is_no_filter(value: str) -> None:
    """All of a variable, in each way Grafana says it, and an empty text box pass everything."""
    names = ("user", "cluster", "namespace", "resource", "method", "verb", "access_method", "status", "decision")
    for name in (*names, "command_id"):
        assert asked(f"var-{name}={value.replace('user', name)}").filters == Filters()
    assert asked("var-text=&var-q=").filters == asked("").filters == Filters()


@pytest.mark.parametrize(
    "value",
    [
        "alice",
        'dave "root" o\'neil',
        "eve`id`",
        "a,b;c",
        "a:b@c$d",
        "x*",
        "!x",
        "*",
        "a+b",
        "100%",
        "m\u00fcller",
        "a\nb",
        " a ",
    ],
)
def test_a_value_stands_for_itself(value: str) -> None:
    """Commas, exclamation marks, asterisks and all else in a chosen value mean nothing."""
    filters = asked(f"var-user={quote(value)}&var-cluster={quote(value)}&var-method={quote(value)}").filters
    for choice in (filters.user, filters.cluster, filters.method):
        assert choice == Choice((value,))
        assert isinstance(choice.wanted[0], Exact)
    listed = asked(f"var-namespace={quote(value)}&var-command_id={quote(value)}").filters
    for choice in (listed.namespace, listed.command_id):
        assert choice.wanted[0] == value
        assert all(isinstance(each, Exact) for each in choice.wanted)


def test_what_grafana_leaves_unescaped_is_taken_as_it_is() -> None:
    """A raw semicolon separates nothing; a plus is a space."""
    assert asked("var-user=a,b;c:@$&var-user=a+b").filters.user == Choice(("a,b;c:@$", "a b"))


def test_values_are_alternatives() -> None:
    """Several values of a variable are each wanted, and each once."""
    assert asked("var-user=a&var-user=b&var-user=a").filters.user.wanted == ("a", "b")


def test_boxes_that_take_a_list() -> None:
    """Namespaces and command ids are separated by commas; blanks do not count."""
    assert asked("var-namespace=a,+b").filters.namespace.wanted == ("a, b", "a", "b")
    assert asked("var-command_id=x").filters.command_id.wanted == ("x",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pods", [ResourcePattern("pods", None, "")]),
        ("pods/exec", [ResourcePattern("pods", None, "exec")]),
        ("pods/*", [ResourcePattern("pods", None, None)]),
        (
            "deployments.apps",
            [ResourcePattern("deployments.apps", None, ""), ResourcePattern("deployments", "apps", "")],
        ),
        ("p*", [ResourcePattern("p*", None, "")]),
    ],
)
def test_resources(text: str, expected: list[ResourcePattern]) -> None:
    """A resource is read as the dashboard reads it: with a group, a subresource, or any of these."""
    wanted = asked(f"var-resource={text}").filters.resource.wanted
    assert wanted == tuple(expected)
    assert all(isinstance(each.resource, Exact) for each in wanted)
    assert asked(f"var-resource=x/*,{text}").filters.resource.wanted[-len(expected) :] == tuple(expected)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("var-status=2..", [Range(200, 299)]),
        ("var-status=40.", [Range(400, 409)]),
        ("var-status=403", [Range(403, 403)]),
        ("var-status=2..&var-status=5..", [Range(200, 299), Range(500, 599)]),
        ("var-status=2..|403", [Range(200, 299), Range(403, 403)]),
        ("var-status=4xx", [Range(400, 499)]),
        ("var-status=%3E%3D400", [Range(400, 999)]),
        ("var-status=.%2B", [Range(0, 999)]),
        ("status=4xx,200", [Range(400, 499), Range(200, 200)]),
    ],
)
def test_statuses(query: str, expected: list[Range]) -> None:
    """A status is what the dashboard's list has as its value, or what people type."""
    assert asked(query).filters.status == Choice(tuple(expected))


def test_other_is_what_has_no_label_of_its_own() -> None:
    """`other` means the clusters or verbs that are none of those known, as the label in Loki does."""
    assert asked("var-cluster=other").filters.cluster == Choice(("*",), ("dev", "prod-eu", "prod-us"))
    assert asked("var-cluster=other&var-cluster=dev").filters.cluster == Choice(("*",), ("prod-eu", "prod-us"))
    assert asked("var-verb=other").filters.verb == Choice(("*",), ("get", "list"))
    assert asked("var-namespace=other").filters.namespace == Choice(("other",))


def test_text_is_searched_as_it_is() -> None:
    """The free text is taken literally."""
    assert asked("var-text=!a,*b+c").filters.text == asked("var-q=!a,*b+c").filters.text == "!a,*b c"


def test_a_part_of_a_name_is_looked_up_among_the_users() -> None:
    """With match=contains a user is whoever has one of the texts in the name, in any case; nobody if there is none."""
    found = asked("match=contains&var-user=LI&var-user=x*")
    assert found.filters_for(["alice", "bob", "Oliver", "x*y", "xyz"]).user == Choice(("alice", "Oliver", "x*y"))
    assert found.filters_for(["bob"]).user == Choice(("",))
    assert asked("match=contains").filters_for(["bob"]) == Filters()


def test_plain_arguments_are_the_command_line() -> None:
    """What has no var- before it is read like the option of the same name."""
    query = "user=dev-*,!dev-1&resource=pods/exec&access_method=kubectl&command-id=a*&text=x&since=2h&until=1h&verb="
    raw = {"user": ["dev-*,!dev-1"], "resource": ["pods/exec"], "access-method": ["kubectl"], "command-id": ["a*"]}
    assert asked(query).filters == parse_typed({**raw, "text": ["x"], "since": ["2h"], "until": ["1h"]}, now=NOW)


def test_the_range() -> None:
    """From and to are times of Grafana's, and become the range that is asked for."""
    filters = asked("from=1795422014289&to=now&timezone=browser&orgId=1").filters
    assert (filters.since, filters.until) == (1795422014289000, microseconds(NOW))
    assert asked("from=now/d&to=now/d&timezone=Europe/Berlin").filters == Filters(
        since=moment("2026-11-23T00:00+01:00"), until=moment("2026-11-24T00:00+01:00")
    )
    assert in_utc(filters.since) == "20261123T082014Z"
    assert in_utc(None) == in_utc(2**62) == ""


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("colour=red", "There is no argument 'colour'"),
        ("var-colour=red", "There is no argument 'var-colour'"),
        ("var-status=teapot", "var-status: 'teapot' is no status"),
        ("var-decision=maybe", "var-decision: 'maybe' is none of allow, deny, error"),
        ("decision=maybe", "decision: 'maybe' is none of allow, deny, error"),
        ("from=soon", "from: 'soon' is no time"),
        ("to=now-1x", "to: 'now-1x' is no time"),
        ("from=now&to=now-1h", "ends before it begins"),
        ("since=1h&until=2h", "later than until 2h"),
        ("from=now-1h&since=1h", "either from or since"),
        ("user=a&var-user=b", "either user or var-user"),
        ("from=now&from=now", "from: give it only once"),
        ("text=a&text=b", "text: give it only once"),
        ("var-text=a&var-text=b", "var-text: give it only once"),
        ("var-text=a&var-q=b", "either text or var-q"),
        ("timezone=Mars/Olympus&from=now", "'Mars/Olympus' is not known"),
        ("timezone=../../etc/passwd", "is not known"),
        ("match=fuzzy", "'fuzzy'"),
        ("var-user=%FF", "not UTF-8"),
        ("a=b&" * 1001, "more than 1000 arguments"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(query: str, hint: str) -> None:
    """What cannot be meant is not left out in silence."""
    with pytest.raises(QueryError) as refused:
        asked(query)
    assert hint in str(refused.value)
    assert "--" not in str(refused.value)


def test_variables_that_narrow_nothing_are_let_be() -> None:
    """A dashboard may have other variables, as long as they stand at all, and the address of the export itself."""
    assert asked("var-colour=$__all&var-shape=&var-export_url=/export.csv&refresh=5s&kiosk").filters == Filters()


def test_the_token_is_not_among_what_is_told() -> None:
    """The arguments for the log are those given, without the token."""
    assert asked("token=secret&var-user=a,b").arguments == {"var-user": ["a,b"]}


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("now", "2026-11-23T14:30:05.250+00:00", None),
        ("now-2h", "2026-11-23T12:30:05.250+00:00", None),
        ("now+1m", "2026-11-23T14:31:05.250+00:00", None),
        ("now-1d-30s", "2026-11-22T14:29:35.250+00:00", None),
        ("now/h", "2026-11-23T14:00+00:00", "2026-11-23T15:00+00:00"),
        ("now/d", "2026-11-23T00:00+01:00", "2026-11-24T00:00+01:00"),
        ("now-1d/d", "2026-11-22T00:00+01:00", "2026-11-23T00:00+01:00"),
        ("now/w", "2026-11-23T00:00+01:00", "2026-11-30T00:00+01:00"),
        ("now-1w/w", "2026-11-16T00:00+01:00", "2026-11-23T00:00+01:00"),
        ("now/M", "2026-11-01T00:00+01:00", "2026-12-01T00:00+01:00"),
        ("now-1M/M", "2026-10-01T00:00+02:00", "2026-11-01T00:00+01:00"),
        ("now/Q", "2026-10-01T00:00+02:00", "2027-01-01T00:00+01:00"),
        ("now-1y/y", "2025-01-01T00:00+01:00", "2026-01-01T00:00+01:00"),
        ("now-9M", "2026-02-23T15:30:05.250+01:00", None),
        ("now-30d", "2026-10-24T15:30:05.250+02:00", None),
        ("1795422014289", "2026-11-23T08:20:14.289+00:00", None),
        ("0", "1970-01-01T00:00+00:00", None),
        ("2026-11-23T10:00:00.000Z", "2026-11-23T10:00+00:00", None),
        ("2026-07-01 10:00", "2026-07-01T10:00+02:00", None),
    ],
)
def test_times(text: str, begin: str, end: str | None) -> None:
    """Every time of Grafana's means one moment, in the time zone of the dashboard; a rounded end has its unit in it."""
    assert grafana_time.parse(text, now=NOW, zone=BERLIN, is_end=False) == moment(begin)
    assert grafana_time.parse(text, now=NOW, zone=BERLIN, is_end=True) == moment(end or begin)


def test_a_month_ends_with_its_last_day() -> None:
    """A month before a 31st is the last day of a shorter one."""
    late = datetime(2026, 3, 31, 12, tzinfo=UTC)
    assert grafana_time.parse("now-1M", now=late, zone=UTC, is_end=False) == moment("2026-02-28T12:00+00:00")


@pytest.mark.parametrize("zone", [None, BERLIN])
@pytest.mark.parametrize(
    "text", ["", "nowish", "now-", "now/x", "now-999999999y", "2026-02-30", "-1", "1e9", "99999999999999999"]
)
def test_what_is_no_time_is_refused(text: str, zone: tzinfo | None) -> None:
    """Nonsense and times beyond the calendar are refused."""
    with pytest.raises(grafana_time.TimeError, match="is no time"):
        grafana_time.parse(text, now=NOW, zone=zone, is_end=False)
