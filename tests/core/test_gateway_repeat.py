"""Heads that repeat the one before."""

import pytest

from kube_audit_proxy.gateway.repeat import header_block, repeated

BLOCK = b"Host: a\r\nAuthorization: Bearer t\r\n\r\n"


def test_the_block_of_a_plain_head_is_what_follows_its_request_line() -> None:
    """What is remembered begins after the request line and ends with the head."""
    assert header_block(b"GET /api/v1/pods?limit=500 HTTP/1.1\r\n" + BLOCK) == BLOCK


@pytest.mark.parametrize(
    "head",
    [
        b"POST /x HTTP/1.1\r\n" + BLOCK,
        b"GET /x HTTP/1.0\r\n" + BLOCK,
        b"\r\nGET /x HTTP/1.1\r\n" + BLOCK,
        b"GET http://a/x HTTP/1.1\r\n" + BLOCK,
        b"GET /x HTTP/1.1\r\nHost: a\r\n",
        b"",
    ],
    ids=["post", "http/1.0", "empty line first", "absolute", "not whole", "nothing"],
)
def test_nothing_is_remembered_of_other_heads(head: bytes) -> None:
    """Only a whole, plain head is remembered."""
    assert header_block(head) == b""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET /a/b?c=d%20e HTTP/1.1\r\n", ("GET", "/a/b?c=d%20e")),
        (b"HEAD / HTTP/1.1\r\n", ("HEAD", "/")),
    ],
)
def test_a_repetition_is_its_request_line(line: bytes, expected: tuple[str, str]) -> None:
    """The same header fields after a plain request line: method and target are all that is new."""
    assert repeated(line + BLOCK, BLOCK) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"GET /x HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer t\r\n\r\n",
        b"GET /x HTTP/1.1\r\nX: y\r\n" + BLOCK,
        b"GET /x HTTP/1.1\r\n" + BLOCK + b"GET /y HTTP/1.1\r\n" + BLOCK,
        b"GET /x HTTP/1.1\r\n" + BLOCK + b"x",
        b"GET /x HTTP/1.1\r\n" + BLOCK[:-1],
        b"GET  /x HTTP/1.1\r\n" + BLOCK,
        b"GET /x  HTTP/1.1\r\n" + BLOCK,
        b"GET /x HTTP/1.1\n" + BLOCK,
        b"GET /x#y HTTP/1.1\r\n" + BLOCK,
        b"GET /\x80 HTTP/1.1\r\n" + BLOCK,
        b"GET /x\r\nA: HTTP/1.1\r\n" + BLOCK,
        b"DELETE /x HTTP/1.1\r\n" + BLOCK,
        b"GET /x HTTP/1.1\r\n\r\n" + BLOCK,
        b" GET /x HTTP/1.1\r\n" + BLOCK,
        BLOCK,
    ],
)
def test_what_is_no_plain_repetition_is_left_to_the_parser(data: bytes) -> None:
    """A byte of difference, more or less, or a request line with anything odd is not recognized."""
    assert repeated(data, BLOCK) is None
