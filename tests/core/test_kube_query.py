"""What is read from the queries of streams, and what is left of secrets in queries."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_audit_proxy.kube.query import ExecOptions, exec_options, parse_port, portforward_ports, redact_query


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ExecOptions((), "", tty=False, stdin=False, stdout=False, stderr=False)),
        (
            "command=sh&command=-c&command=echo+hi%26%2B+%C3%A9&container=main&stderr=true&stdout=true",
            ExecOptions(("sh", "-c", "echo hi&+ é"), "main", tty=False, stdin=False, stdout=True, stderr=True),
        ),
        (
            "command=&container=a&container=b&tty=1&tty=0&stdin=&stdout=0&stderr=FALSE",
            ExecOptions(("",), "a", tty=True, stdin=True, stdout=False, stderr=False),
        ),
        (
            "command=a;b&command=%zz&command=%0A&%63ommand=c&stdin=no",
            ExecOptions(("\n", "c"), "", tty=False, stdin=True, stdout=False, stderr=False),
        ),
    ],
)
def test_exec_options(query: str, expected: ExecOptions) -> None:
    """Arguments stand in order, empty ones too; of all else the first value counts, by Kubernetes' idea of true."""
    assert exec_options(query) == expected


@pytest.mark.parametrize(
    ("query", "ports"),
    [
        ("", ()),
        ("ports=80", (80,)),
        ("ports=80&ports=8080,443&ports=80", (80, 8080, 443)),
        ("ports=80%2C81", (80, 81)),
        ("ports=80&ports=x", ()),
        ("ports=80,", ()),
        ("ports=65536", ()),
        ("port=80", ()),
    ],
)
def test_portforward_ports(query: str, ports: tuple[int, ...]) -> None:
    """Ports repeat or are parted by commas, and one that is wrong spoils them all."""
    assert portforward_ports(query) == ports


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("1", 1),
        ("0000080", 80),
        ("65535", 65535),
        ("0", None),
        ("65536", None),
        ("100000", None),
        ("", None),
        ("-1", None),
        ("\u0661", None),
        ("8 ", None),
    ],
)
def test_parse_port(text: str, port: int | None) -> None:
    """A port is a number from 1 to 65535 in ASCII digits."""
    assert parse_port(text) == port


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/x?token=abc", "/x?token=REDACTED"),
        ("/x?a=1&access_token=abc&b=2", "/x?a=1&access_token=REDACTED&b=2"),
        ("/x?id_token=a&refresh_token=b", "/x?id_token=REDACTED&refresh_token=REDACTED"),
        (
            "/x?Password=a&client_secret=b&Authorization=c",
            "/x?Password=REDACTED&client_secret=REDACTED&Authorization=REDACTED",
        ),
        ("/x?sig=a&X-Amz-Signature=b", "/x?sig=REDACTED&X-Amz-Signature=REDACTED"),
        (
            "/x?X-Amz-Security-Token=a&api_key=b&x.api-key=c",
            "/x?X-Amz-Security-Token=REDACTED&api_key=REDACTED&x.api-key=REDACTED",
        ),
        ("/x?%74oken=a&tok%65n=b", "/x?%74oken=REDACTED&tok%65n=REDACTED"),
        ("/x?token=a;b=c&d", "/x?token=REDACTED&d"),
        ("/x?a=1;token=b;c=d&e", "/x?a=1;token=REDACTED&e"),
        ("/x?token=&token", "/x?token=REDACTED&token"),
        ("/x?token=a=b?token=c", "/x?token=REDACTED"),
        ("/x?%zztoken=a", "/x?%zztoken=REDACTED"),
        ("/x?&&token=a&", "/x?&&token=REDACTED&"),
    ],
)
def test_redact_query(target: str, expected: str) -> None:
    """Values of keys that are called like a secret are replaced, however the key is written."""
    assert redact_query(target) == expected


@pytest.mark.parametrize(
    "target",
    [
        "/x",
        "/x?",
        "/token=a",
        "/api/v1/namespaces/x/secrets?limit=500&continue=abc",
        "/api/v1/namespaces/x/pods/p/exec?command=--token%3Dabc&command=design&container=secret",
        "/x?tokens=a&signed=b&%zz&secretName=c&a=token",
    ],
)
def test_other_targets_stay(target: str) -> None:
    """A target without a secret's key stays as it is."""
    assert redact_query(target) == target


@settings(derandomize=True, max_examples=300)
@given(st.lists(st.text(alphabet="ab=%&;?tokensig41", max_size=12), max_size=6))
def test_redaction_changes_values_only(pairs: list[str]) -> None:
    """Redaction keeps the number of pairs, is the same when done again, and leaves no `token=` with a value."""
    target = "/x?" + "&".join(pairs)
    redacted = redact_query(target)
    assert redacted.count("&") == target.count("&")
    assert redact_query(redacted) == redacted
    for pair in redacted[3:].split("&"):
        assert not pair.startswith("token=") or pair == "token=REDACTED"
