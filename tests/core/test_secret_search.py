"""The search that ends each run finds a credential wherever it lies, and takes no other file for a leak."""

from __future__ import annotations

import base64
import gzip
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from support import secrets
from support.secrets import leaks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Put together here: the file is looked through like all others where a copy of it lies in the folder of a run.
OURS = "kap_" + "0123456789_abcdefghijklmnopqrstuvwxyz-ABCDEF"[:43]
THEIRS = "".join(reversed("qlXwWcFdSqlQ-BoJ019WMvEyvf5Tio21JeBMOezSr"))
KEY = "".join(reversed("MHcCAQEEIEx8xVq4cqWn6yqUuV9pZQm2i7e3Jp0dYy1fT8bKc2"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder with the files that may hold credentials; the search of the run itself does not look into it."""
    with TemporaryDirectory() as name:
        made = Path(name)
        (made / "data").mkdir()
        (made / "data" / "kubeconfig").write_text(f"users:\n- name: a\n  user:\n    token: {OURS}\n")
        (made / "jane.kubeconfig").write_text(f'users:\n- user: {{}}\n  x:\n    password: "{THEIRS[::-1]}"\n')
        (made / "tokens.csv").write_text(f"{THEIRS},owner,owner,system:masters\n")
        (made / "server.key").write_text(f"-----BEGIN EC PRIVATE KEY-----\n{KEY}\n-----END EC PRIVATE KEY-----\n")
        yield made


def _database(path: Path, text: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE calls (record TEXT)")
        db.execute("INSERT INTO calls VALUES (?)", ("x" * 4060 + text + "x" * 9000,))
        db.commit()


def test_where_nothing_leaked_nothing_is_found(folder: Path) -> None:
    """Credentials in the files that are meant to hold them are no leak, and what only looks like one is none."""
    (folder / "proxy.log").write_text("token: REDACTED kap_none Bearer x PRIVATE KEY\n")
    _database(folder / "index.db", "nothing")
    assert leaks(folder) == []


@pytest.mark.parametrize("secret", [OURS, THEIRS, THEIRS[::-1], KEY], ids=["ours", "theirs", "password", "key"])
@pytest.mark.parametrize(
    "write",
    [
        lambda path, text: path.write_text(f"GET /x Bearer {text}\n"),
        lambda path, text: path.write_bytes(b"\0" * ((16 << 20) - 10) + text.encode() + b"\0" * 99),
        lambda path, text: path.write_bytes(gzip.compress(text.encode())),
        lambda path, text: path.write_text(base64.b64encode(text.encode()).decode()),
        lambda path, text: path.write_text(text.encode().hex()),
        _database,
    ],
    ids=["text", "across pieces", "gzip", "base64", "hexadecimal", "SQLite"],
)
def test_a_leak_is_found(folder: Path, secret: str, write: Callable[[Path, str], object]) -> None:
    """A credential in a log, a database or an archive is found, in the forms in which programs write such things."""
    write(folder / "data" / "some.file", secret)
    assert {leak.where for leak in leaks(folder)} == {"data/some.file"}
    assert not [leak for leak in leaks(folder) if secret in str(leak)]


def test_a_key_is_found_by_its_form(folder: Path) -> None:
    """A private key or a token of the proxy's is a leak though no file is known to hold it."""
    (folder / "a").write_text("-----BEGIN " + "PRIVATE KEY-----\n")
    (folder / "b").write_text(OURS[::-1].join(("kap_", "")))
    assert [leak.where for leak in leaks(folder)] == ["a", "b"]


def test_what_tests_say_and_print_is_looked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential that only a test knows is looked for too, and the output of tests is looked through."""
    monkeypatch.setattr(secrets, "_said", set())
    monkeypatch.setattr(secrets, "_printed", [])
    secrets.say("cookie-of-nobody-else")
    secrets.keep_output("test_x", [("Captured stdout call", f"session=cookie-of-nobody-else {THEIRS}")])
    assert {leak.where for leak in leaks(folder)} == {"Captured stdout call of test_x"}
