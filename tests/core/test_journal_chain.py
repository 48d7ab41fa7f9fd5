"""Every way of changing a trail is noticed, and its place named."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_audit_proxy.journal.chain import Break, Chain, Wrong
from kube_audit_proxy.journal.line import FIRST_PREVIOUS, build, digest, head

Lines = list[bytes]


def lines_of(count: int, writer: str = "w0") -> Lines:
    """Return the lines 1 to `count` of a writer."""
    lines: Lines = []
    previous = FIRST_PREVIOUS
    for seq in range(1, count + 1):
        line = build(head(writer), seq, previous.encode(), b'"user":"user-%d"' % seq)
        previous = digest(line)
        lines.append(line)
    return lines


def first_break(lines: Lines) -> Break | None:
    """Return the first break of a whole trail of w0."""
    chain = Chain("w0")
    return next(filter(None, map(chain.feed, lines)), None)


def replaced(lines: Lines, seq: int, old: bytes, new: bytes) -> Lines:
    """Return the lines with a change in one of them."""
    changed = lines[seq - 1].replace(old, new)
    assert changed != lines[seq - 1]
    return [*lines[: seq - 1], changed, *lines[seq:]]


def test_an_untouched_trail_has_no_break() -> None:
    """Lines as written pass."""
    assert first_break(lines_of(50)) is None


@pytest.mark.parametrize(
    ("tamper", "what", "seq"),
    [
        pytest.param(lambda s: replaced(s, 3, b"user-3", b"user-9"), Wrong.ALTERED, 3, id="altered byte"),
        pytest.param(lambda s: replaced(s, 1, b"user-1", b"user-9"), Wrong.ALTERED, 1, id="altered first line"),
        pytest.param(lambda s: replaced(s, 3, b"}", b""), Wrong.NOT_A_LINE, 3, id="no JSON any more"),
        pytest.param(lambda s: replaced(s, 3, b'"w0"', b'"w1"'), Wrong.WRONG_WRITER, 3, id="altered writer"),
        pytest.param(lambda s: replaced(s, 3, b'"seq":3', b'"seq":4'), Wrong.GAP, 3, id="altered number"),
        pytest.param(lambda s: s[:2] + s[3:], Wrong.GAP, 3, id="removed line"),
        pytest.param(lambda s: s[1:], Wrong.GAP, 1, id="removed first line"),
        pytest.param(lambda s: [*s[:2], s[3], s[2], *s[4:]], Wrong.GAP, 3, id="swapped lines"),
        pytest.param(lambda s: [*s[:3], s[2], *s[3:]], Wrong.DUPLICATE, 3, id="repeated line"),
        pytest.param(lambda s: [*s[:2], *lines_of(3, "w1")[2:], *s[3:]], Wrong.WRONG_WRITER, 3, id="another's line"),
        pytest.param(lambda s: [*s[:2], b"", *s[2:]], Wrong.NOT_A_LINE, 3, id="empty line"),
        pytest.param(lambda s: replaced(s, 1, b"0" * 64, b"1" * 64), Wrong.ALTERED, 1, id="not the beginning"),
    ],
)
def test_tampering_is_named(tamper: Callable[[Lines], Lines], what: Wrong, seq: int) -> None:
    """Each kind of tampering is found at its line, under its name."""
    found = first_break(tamper(lines_of(6)))
    assert found is not None
    assert (found.what, found.seq) == (what, seq)


def test_after_a_break_the_rest_is_still_followed() -> None:
    """A break is told once: the lines after it are judged by what follows it, and numbers never go back."""
    lines = lines_of(6)
    chain = Chain("w0")
    assert [line is not None for line in map(chain.feed, lines[:2] + lines[3:])] == [False, False, True, False, False]
    assert chain.seq == 6
    chain.feed(lines[1])
    assert chain.seq == 7


def test_a_trail_can_begin_where_the_older_part_is_gone() -> None:
    """Where the segments before were deleted, the first line's `prev` is taken as it is."""
    chain = Chain("w0", 3, None)
    assert [chain.feed(line) for line in lines_of(6)[3:]] == [None, None, None]


@given(st.integers(1, 8), st.data())
def test_no_byte_can_change_unnoticed(count: int, data: st.DataObject) -> None:
    """Whatever byte of whatever line changes: there is a break, or the last hash is another."""
    lines = lines_of(count)
    last = digest(lines[-1])
    at = data.draw(st.integers(0, count - 1))
    place = data.draw(st.integers(0, len(lines[at]) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != lines[at][place]))
    lines[at] = lines[at][:place] + bytes([byte]) + lines[at][place + 1 :]
    chain = Chain("w0")
    breaks = [chain.feed(line) for line in lines]
    assert any(breaks) or chain.previous != last
