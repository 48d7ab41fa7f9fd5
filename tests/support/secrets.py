"""Looks for every credential of a run in all that the run has left behind: files of any kind, and what tests printed.

Credentials are known from the files that are meant to hold them, from tests that say what they send, and by their form.
Not looked into: what is compressed in other ways than gzip, such as Loki's chunks; the same lines stand in journals.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import os
import re
import sqlite3
import stat
import subprocess
import zlib
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_HOLDS = re.compile(r"token|kubeconfig|.+\.kubeconfig|tokens\.csv|.+\.key")
"""Names of the files that are meant to hold credentials: a user's, the API server's list of tokens, private keys."""

_HELD = (
    re.compile(rb"^ *(?:- *)?(?:token|password|client-key-data): *[\"']?([^\s\"']+)", re.MULTILINE),
    re.compile(rb"^([^\s,]{20,}),[^,\n]+,", re.MULTILINE),  # a line of tokens.csv
    re.compile(rb"PRIVATE KEY-----\n([A-Za-z0-9+/=]{40,})\n"),
)
_HOLDERS = ("token", "kubeconfig", "*.kubeconfig", "tokens.csv", "*.key")
"""The same names, as grep takes them."""

_BY_FORM = "kap_[A-Za-z0-9_-]{43}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
"""A token of the proxy's, and a private key, whosever they are."""

_BY_FORM_SAYS = "a token or private key, by its form"
_C_LOCALE = {**os.environ, "LC_ALL": "C"}

_SHORTEST = 12
"""Characters of what is looked for: `token: x` of a made-up kubeconfig is no secret, and in every file."""

_PIECE = 16 << 20
_OVERLAP = 8 << 10
_LARGEST_DATABASE = 64 << 20
"""Bytes of a database whose rows are read as well: a long one is not in one piece in its file."""

_said: set[bytes] = set()
_printed: list[tuple[str, bytes]] = []


class Leak(NamedTuple):
    """A credential where none should be. It does not say which: what it says is printed."""

    where: str
    form: str


def say(secret: str) -> str:
    """Have a credential looked for that stands in no file; give it."""
    _said.add(secret.encode())
    return secret


def keep_output(test: str, sections: Iterable[tuple[str, str]]) -> None:
    """Have what a test printed looked through as well."""
    _printed.extend((f"{title} of {test}", text.encode("utf-8", "surrogateescape")) for title, text in sections)


def leaks(folder: Path) -> list[Leak]:
    """Look through every file below a folder, and through what was printed."""
    files = [path for path in sorted(folder.rglob("*")) if _is_plain(path)]
    known = set(_said).union(*(_secrets_in(path) for path in files if _HOLDS.fullmatch(path.name)))
    wanted = {form: what for secret in known if len(secret) >= _SHORTEST for form, what in _forms(secret)}
    with _Search(wanted) as search:
        found = {Leak(where, what) for where, text in _printed for what in search.data(text)}
        found |= {Leak(str(path.relative_to(folder)), what) for path, what in search.files(folder)}
        for path in files:
            if not _HOLDS.fullmatch(path.name):
                inside = (what for data in _inside(path) for what in search.data(data))
                found |= {Leak(str(path.relative_to(folder)), what) for what in inside}
    return sorted(found)


class _Search:
    """Looks for many forms at once: grep does that in one pass, whatever their number."""

    def __init__(self, wanted: Mapping[bytes, str]) -> None:
        self._wanted = wanted
        self._folder = TemporaryDirectory()
        self._forms = Path(self._folder.name) / "forms"

    def __enter__(self) -> Self:
        """Write down what is looked for."""
        self._forms.write_bytes(b"".join(form + b"\n" for form in self._wanted))
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing of it."""
        self._folder.cleanup()

    def data(self, data: bytes) -> set[str]:
        """Give what is found in this."""
        return {what for _, what in self._grep(["--no-filename"], data)}

    def files(self, folder: Path) -> set[tuple[Path, str]]:
        """Give what is found in the files below a folder that are not meant to hold any."""
        where = ["--recursive", "--devices=skip", *(f"--exclude={name}" for name in _HOLDERS), str(folder)]
        return {(Path(os.fsdecode(name)), what) for name, what in self._grep(["--with-filename", "--null", *where])}

    def _grep(self, options: Sequence[str], data: bytes | None = None) -> Iterator[tuple[bytes, str]]:
        for kind, what in ((["--fixed-strings", f"--file={self._forms}"], None), (["-E", _BY_FORM], _BY_FORM_SAYS)):
            command = ["grep", "--text", "--only-matching", *kind, *options]
            done = subprocess.run(command, input=data, capture_output=True, check=False, env=_C_LOCALE)
            for line in done.stdout.splitlines():
                name, _, match = line.rpartition(b"\0")
                yield name, what or self._wanted[match]


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:  # gone, or of a file system that is
        return False


def _secrets_in(path: Path) -> set[bytes]:
    data = path.read_bytes()
    return {secret for pattern in _HELD for secret in pattern.findall(data)}


def _forms(secret: bytes) -> Iterator[tuple[bytes, str]]:
    """Give a secret as it may be written. What is one by its form is found anyway, as it is."""
    if not re.fullmatch(_BY_FORM.encode(), secret):
        yield secret, "a credential"
    yield base64.b64encode(secret).rstrip(b"=")[:-1], "a credential in base64"  # the last digit depends on what follows
    yield secret.hex().encode(), "a credential in hexadecimal"
    if (quoted := quote(secret, safe="").encode()) != secret:
        yield quoted, "a credential, percent-encoded"


def _inside(path: Path) -> Iterator[bytes]:
    """Give what stands in a file otherwise than as it is: what is zipped, and the texts of a database."""
    try:
        with path.open("rb") as file:
            begin = file.read(16)
        if begin.startswith(b"\x1f\x8b"):
            yield from _unzipped(path)
        elif begin == b"SQLite format 3\0" and path.stat().st_size <= _LARGEST_DATABASE:
            yield b"\n".join(_rows(path))
    except OSError:
        return


def _unzipped(path: Path) -> Iterator[bytes]:
    before = b""
    with (
        contextlib.suppress(EOFError, gzip.BadGzipFile, zlib.error),
        gzip.open(path) as file,
    ):  # cut off, as a test wants
        while piece := file.read(_PIECE):
            yield before + piece
            before = piece[-_OVERLAP:]


def _rows(path: Path) -> Iterator[bytes]:
    """Give the texts of a database, some hundred rows at a time."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)) as db:
            tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                rows = db.execute(f'SELECT * FROM "{table}"')  # noqa: S608 - names of the database's own
                while some := rows.fetchmany(500):
                    values = (value for row in some for value in row if isinstance(value, str | bytes))
                    yield b"\n".join(value.encode() if isinstance(value, str) else value for value in values)
    except sqlite3.DatabaseError:
        return  # damaged, as a test may want it, or with a module that only its program has
