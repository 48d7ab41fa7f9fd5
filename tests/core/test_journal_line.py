"""What one line of the journal is."""

from hashlib import sha256

import orjson
import pytest

from kube_audit_proxy.journal.line import FIRST_PREVIOUS, LineError, build, content, digest, head, parse


def test_line_is_the_documented_bytes() -> None:
    """A line is JSON in the documented order, the caller's content untouched."""
    line = build(head("w0"), 12, FIRST_PREVIOUS.encode(), b'"kind":"call","user":"\xc3\xa9"')
    assert line == b'{"writer":"w0","seq":12,"prev":"' + b"0" * 64 + b'","kind":"call","user":"\xc3\xa9"}'
    assert digest(line) == sha256(line).hexdigest()


def test_parse_gives_back_what_was_built() -> None:
    """Building and parsing are inverse to each other, also for a writer with a name that needs escaping."""
    record = {"kind": "call", "groups": ["a", "b"]}
    line = parse(build(head('w"0'), 1, FIRST_PREVIOUS.encode(), content(record)))
    assert (line.writer, line.seq, line.previous) == ('w"0', 1, FIRST_PREVIOUS)
    assert line.record == {"writer": 'w"0', "seq": 1, "prev": FIRST_PREVIOUS, **record}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b'{"writer":"w0"', "not JSON"),
        (b'{"writer":"w0","seq":1,"prev":"\x00\x00"}', "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"seq":1,"prev":""}', "no writer"),
        (b'{"writer":"w0","seq":"1","prev":""}', "no seq"),
        (b'{"writer":"w0","seq":true,"prev":""}', "no seq"),
        (b'{"writer":"w0","seq":0,"prev":""}', "no seq"),
        (b'{"writer":"w0","seq":100000000000000000000,"prev":""}', "no seq"),
        (b'{"writer":"w0","seq":1}', "no prev"),
    ],
)
def test_what_is_no_line_is_told_apart(data: bytes, reason: str) -> None:
    """Bytes that no writer would have written are refused with the reason."""
    with pytest.raises(LineError, match=reason):
        parse(data)


def test_content_is_an_object_without_its_braces() -> None:
    """Content plus braces is the record."""
    assert orjson.loads(b"{" + content({"a": 1}) + b"}") == {"a": 1}
