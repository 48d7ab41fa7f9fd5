"""Heads that repeat the one before, but for their request line: what llhttp has judged once it need not judge again.

Clients with a kept connection send the same header fields with call after call. Only what cannot be taken for
anything else is recognized: a whole request without a body, whose header fields are the bytes of the last one's, after
a plain request line. All else is llhttp's to judge.
"""

import re
from functools import lru_cache
from typing import Final

LONGEST: Final = 8192
"""Bytes of the longest head that is remembered."""

_LONGEST_REMEMBERED: Final = 512
"""Bytes of the longest request line that is remembered."""

_REQUEST_LINE: Final = re.compile(rb"(GET|HEAD) (/[A-Za-z0-9/._~%?=&,:+@!*-]*) HTTP/1\.1\r\n")


def header_block(head: bytes) -> bytes:
    """The bytes after the request line of a head that was judged to be one whole request; empty if it is not plain."""
    line = _REQUEST_LINE.match(head)
    return head[line.end() :] if line and head.endswith(b"\r\n\r\n") else b""


def repeated(data: bytes, block: bytes) -> tuple[str, str] | None:
    """Method and target, if `data` is a plain request line and then `block` to the byte; else None."""
    if not data.endswith(block):
        return None
    line = data[: len(data) - len(block)]
    return _remembered(line) if len(line) <= _LONGEST_REMEMBERED else _request_line(line)


def _request_line(line: bytes) -> tuple[str, str] | None:
    found = _REQUEST_LINE.fullmatch(line)
    return (found[1].decode(), found[2].decode()) if found else None


_remembered: Final = lru_cache(maxsize=4096)(_request_line)
