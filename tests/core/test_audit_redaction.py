"""What of a command line is kept out of the record."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_audit_proxy.audit.redaction import DEFAULT_PATTERNS, REDACTED, Redaction, with_arguments
from kube_audit_proxy.kube.query import exec_options

DEFAULT = Redaction.compile(DEFAULT_PATTERNS)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["env", "PASSWORD=x1"], ["env", "PASSWORD=REDACTED"]),
        (["env", "DB_PASSWORD=x1", "A=b"], ["env", "DB_PASSWORD=REDACTED", "A=b"]),
        (["mysql", "--password=x1", "-e", "select 1"], ["mysql", "--password=REDACTED", "-e", "select 1"]),
        (["sh", "-c", "export TOKEN=x1; run"], ["sh", "-c", "export TOKEN=REDACTED run"]),
        (["curl", "-H", "api-key: x1"], ["curl", "-H", "api-key: REDACTED"]),
        (["curl", "-H", "Authorization: Bearer x1"], ["curl", "-H", "Authorization: Bearer REDACTED"]),
        (["a", "AWS_SECRET_ACCESS_KEY=x1"], ["a", "AWS_SECRET_ACCESS_KEY=REDACTED"]),
        (["a", "Passwd = x1"], ["a", "Passwd = REDACTED"]),
        (["a", "token=x1 secret=x2"], ["a", "token=REDACTED secret=REDACTED"]),
        (["psql", "postgres://me:x1@db/app"], ["psql", "postgres://me:REDACTED@db/app"]),
        (["redis-cli", "-u", "redis://:x1@db"], ["redis-cli", "-u", "redis://:REDACTED@db"]),
    ],
)
def test_values_are_replaced(argv: list[str], expected: list[str]) -> None:
    """Only the value goes: the name that tells, and all around it, stays readable."""
    assert DEFAULT.argv(argv) == tuple(expected)


@pytest.mark.parametrize(
    "option",
    ["--password", "--token", "-token", "--client-secret", "--api-key", "--apikey", "--Private-Key", "--db-passwd"],
)
def test_the_argument_after_an_option_is_replaced(option: str) -> None:
    """What follows a telling option goes whole, whatever it looks like; the next argument stays."""
    assert DEFAULT.argv(["a", option, "x 1 --y", "z"]) == ("a", option, REDACTED, "z")
    assert DEFAULT.argv([option]) == (option,)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["ls", "-l", "/etc/passwd"],
        ["cat", "/var/run/secrets/token"],
        ["--password-file", "/x"],
        ["password", "x"],
        ["--", "x"],
        ["", "", " "],
        ["tokens=", "secretary"],
        ["curl", "http://host:8080/a@b"],
        ["bearer"],
        ["--token"],
    ],
    ids=str,
)
def test_the_rest_stays(argv: list[str]) -> None:
    """A command line without a secret stays as it is, empty arguments too."""
    assert DEFAULT.argv(argv) == tuple(argv)


@pytest.mark.parametrize(
    "argument",
    [
        '{"password":"hunter2"}',
        "mysql --password hunter2 -e 'select 1'",
        'PASSWORD="correct hunter2 battery"',
        "Authorization: Basic hunter2",
        "redis://me:p/hunter2@host",
        "https://me:a@hunter2@host",
    ],
)
def test_common_ways_to_write_secrets(argument: str) -> None:
    """JSON, options within a shell's line, quoted values and basic authentication are redacted."""
    assert "hunter2" not in "".join(DEFAULT.argv(["sh", "-c", argument]))


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("hunter2", "a hunter2 b", "a REDACTED b"),
        ("x=(\\d+)", "x=12 x=y x=3", "x=REDACTED x=y x=REDACTED"),
        ("(?:x|y)=(\\d+)(;)", "y=1;z", "y=REDACTED;z"),
        ("^(.*)$", "all", REDACTED),
        ("x(y*)z", "xz", f"x{REDACTED}z"),
        pytest.param(
            "x=(\\d+)|hunter2",
            "a hunter2 b",
            "a REDACTED b",
        ),
    ],
)
def test_patterns_of_the_configuration(pattern: str, text: str, expected: str) -> None:
    """The first group of a pattern is replaced, or the whole match where it has none or the group took no part."""
    assert Redaction.compile([pattern]).argv([text]) == (expected,)


def test_every_pattern_is_applied() -> None:
    """Patterns work one after the other on what is left."""
    assert Redaction.compile(["a", "b"]).argv(["a-b-c"]) == (f"{REDACTED}-{REDACTED}-c",)


def test_no_patterns_is_no_redaction() -> None:
    """Whoever configures none gets the command line as it was, telling options too."""
    assert Redaction.compile(()).argv(["--password", "x", "token=y"]) == ("--password", "x", "token=y")


def test_a_wrong_pattern_is_told() -> None:
    """A pattern that is no regular expression raises at once, not at the first exec."""
    with pytest.raises(re.error):
        Redaction.compile(["fine", "("])


@settings(derandomize=True)
@given(st.lists(st.text(), max_size=5))
def test_the_number_of_arguments_stays(argv: list[str]) -> None:
    """Redaction replaces within arguments: it adds none, takes none away, and is done after one pass."""
    shown = DEFAULT.argv(argv)
    assert len(shown) == len(argv)
    assert DEFAULT.argv(shown) == shown


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/p/exec?command=a&command=b", "/p/exec?command=x+y&command=%26%3D%25"),
        (
            "/p/exec?stdin=1&command=a&tty=1&commander=c",
            "/p/exec?command=x+y&command=%26%3D%25&stdin=1&tty=1&commander=c",
        ),
        ("/p/exec?command&&container=a%20b", "/p/exec?command=x+y&command=%26%3D%25&container=a%20b"),
        pytest.param(
            "/p/exec?%63ommand=a",
            "/p/exec?command=x+y&command=%26%3D%25",
        ),
    ],
)
def test_with_arguments(target: str, expected: str) -> None:
    """All `command` parameters are replaced, however the key is written; the others stay byte for byte."""
    assert with_arguments(target, ["x y", "&=%"]) == expected


@settings(derandomize=True)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_with_arguments_is_read_back(argv: list[str]) -> None:
    """What is written into a target is what the API server would read there."""
    target = with_arguments("/p/exec?command=old&tty=true", argv)
    options = exec_options(target.partition("?")[2])
    assert (options.argv, options.tty) == (tuple(argv), True)
