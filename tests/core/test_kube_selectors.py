"""Selectors are parsed as apimachinery parses them."""

import pytest

from kube_audit_proxy.kube.selectors import is_int64, is_label_selector, required_field


@pytest.mark.parametrize(
    ("selector", "value"),
    [
        ("", None),
        (",", None),
        ("metadata.name=a", "a"),
        ("metadata.name==a", "a"),
        ("metadata.name=", ""),
        ("metadata.name!=a", None),
        ("metadata.names=a", None),
        ("x=1,,metadata.name=a,", "a"),
        ("metadata.name=b,metadata.name=a", "a"),
        ("metadata.name=a,metadata.name==b", "b"),
        ("metadata.name=a\\,b", "a,b"),
        ("metadata.name=a\\=b\\\\", "a=b\\"),
        ("metadata.name=a\\,metadata.name\\=b", "a,metadata.name=b"),
        ("x=\\\\,metadata.name=a", "a"),
        (" metadata.name=a", None),
        ("metadata.name= a", " a"),
        ("a!b=c,metadata.name=n", "n"),
        ("a\\=b,metadata.name=n", "n"),
    ],
)
def test_required_field(selector: str, value: str | None) -> None:
    """The value of a required field is found, unescaped; of several terms the one that sorts first counts."""
    assert required_field(selector, "metadata.name") == value


@pytest.mark.parametrize(
    "selector",
    [
        "foo",
        "metadata.name=a,foo",
        "metadata.name=a,x=b=c",
        "metadata.name===a",
        "x=a\\b,metadata.name=a",
        "metadata.name=a\\",
        "metadata.name=a,\\",
        "a\\,=b\\",
        "foo\\,metadata.name",
    ],
)
def test_bad_field_selectors(selector: str) -> None:
    """A term without operator or with a wrongly escaped value spoils the selector, wherever it stands."""
    with pytest.raises(ValueError, match="field selector"):
        required_field(selector, "metadata.name")


@pytest.mark.parametrize(
    "selector",
    [
        "",
        "  ",
        "a",
        "!a",
        " ! a ",
        "a=b",
        "a == b,c!=d",
        "a=",
        "a=,b",
        "a!=",
        "example.com/a=b",
        "a in (b)",
        "a notin(b, c)",
        "a in ()",
        "a in (,)",
        "a in (b,,c,)",
        "in in (in)",
        "notin",
        "a=in",
        "a>1,b<2",
        "a > 0009223372036854775807",
        "x in (foo,,baz),y,z notin ()",
        "\ta\r\n=\tb ",
        "a" * 63,
        f"{'a' * 253}/b",
        f"a={'b' * 63}",
    ],
)
def test_label_selectors(selector: str) -> None:
    """What labels.Parse takes is a label selector."""
    assert is_label_selector(selector)


@pytest.mark.parametrize(
    "selector",
    [
        ",",
        "a,",
        ",a",
        "a,,b",
        "-a",
        "a-",
        "a/b/c",
        "/a",
        "A.com/a",
        "a=b c",
        "a b",
        "a==!b",
        "a===b",
        "a=-b",
        "!a=b",
        "!!a",
        "a in",
        "a in b",
        "a in (b",
        "a in (b c)",
        "ain (b)",
        "a in (b) c",
        "in (a)",
        "a>",
        "a>b",
        "a>-1",
        "a>9223372036854775808",
        "a>=1",
        "a=é",
        "(a)",
        "a" * 64,
        f"{'a' * 254}/b",
        f"a={'b' * 64}",
    ],
)
def test_bad_label_selectors(selector: str) -> None:
    """What labels.Parse does not take is no label selector."""
    assert not is_label_selector(selector)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("0", True),
        ("500", True),
        ("+5", True),
        ("-5", True),
        ("000", True),
        ("9223372036854775807", True),
        ("-9223372036854775808", True),
        (f"{'0' * 5000}1", True),
        ("", False),
        ("-", False),
        ("9223372036854775808", False),
        ("-9223372036854775809", False),
        ("1" * 20, False),
        ("1_0", False),
        (" 1", False),
        ("1\n", False),
        ("0x1", False),
        ("\u0661", False),
    ],
)
def test_is_int64(text: str, taken: bool) -> None:
    """A number is one that strconv.ParseInt takes: decimal, signed, of 64 bits."""
    assert is_int64(text) is taken
