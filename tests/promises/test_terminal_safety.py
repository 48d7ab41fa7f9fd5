"""What clients put into names, agents and queries acts on nobody's terminal, log or spreadsheet: it is only shown."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len

from kube_audit_proxy.audit.fields import FIELDS
from kube_audit_proxy.index.indexer import index_once
from kube_audit_proxy.index.schema import open_for_writing
from support.journals import JournalWriter, end, start
from support.proxies import PROGRAM, Proxy, wait_until
from support.raw import Raw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from support.journals import Record

_DEADLINE = 60.0

_HOSTILE = (
    "\x1b[31mred", "\x1b]0;title\x07", "\x1b]8;;http://other.example\x1b\\link", "\x1b]52;c;Y2FsYw==\x07", "\x9b2J",
    "\x90q\x9c",
    "\x1bc", "\rover", "up\x1b[1A\x1b[2K", "two\nlines", "\x0b\x0c", "\x08\x08\x08", "\u202egpj.exe", "\u2066\u2069",
    "\u200b\ufeff",
    "\u2028\u2029\x85", "\0", "\x7f", "\x0e", "[bold]markup[/bold]", ":smile:", "=1+1", "\U000e0041", "x" * 3000,
    "\t\ttabs",
    '"quotes" \'both\'', "{braces} %s %d", "日本" * 40, "e\u0301", "$(reboot)", "`reboot`", "\\x1b[31m",
)  # fmt: skip
_ALL = "|".join(_HOSTILE)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LINE_END = re.compile(r"\r+\n")  # the terminal adds one CR to whatever ends a line, CSV has its own before
_TEXTS = sorted(
    {each.name for each in FIELDS if each.type == "string"}
    - {"writer", "prev", "kind", "stage", "decision", "decided_by", "outcome", "product", "cluster"}
)


class Screen:
    """What a program has written to its terminal, as it stood on the wire."""

    def __init__(self, argv: Sequence[str], columns: int) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "PYTHONUTF8": "1"}
        self.process = subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, env=environ, start_new_session=True
        )
        os.close(theirs)
        self._terminal = ours
        self._seen = b""

    @property
    def text(self) -> str:
        """All of it so far."""
        return self._seen.decode("utf-8", "replace")

    def read(self) -> bool:
        """Read what has come; false at the end."""
        assert select.select([self._terminal], [], [], _DEADLINE)[0], f"nothing came after {self.text!r}"
        try:
            data = os.read(self._terminal, 1 << 16)
        except OSError:  # as a terminal without a program ends
            return False
        self._seen += data
        return bool(data)

    def read_until(self, text: str) -> None:
        """Read until this has been written."""
        while text not in self.text:
            assert self.read(), self.text

    def close(self) -> int:
        """End the program, as Ctrl-C does, and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        while self.read():
            pass
        os.close(self._terminal)
        return self.process.wait(60)


@contextmanager
def _on_a_terminal(*arguments: str, columns: int = 150) -> Iterator[Screen]:
    screen = Screen([*PROGRAM, *arguments], columns)
    try:
        yield screen
    finally:
        if screen.process.poll() is None:
            screen.close()


def _shown(*arguments: str, columns: int = 150) -> tuple[str, int]:
    """Run the program on a terminal; give what it wrote, and its exit code."""
    with _on_a_terminal(*arguments, columns=columns) as screen:
        while screen.read():
            pass
        code = screen.process.wait(60)
        os.close(screen._terminal)  # noqa: SLF001 - it has ended by itself
        return screen.text, code


def _check_harmless(text: str) -> None:
    """Nothing in it but text, colours and line ends."""
    plain = _LINE_END.sub("", _COLOURS.sub("", text))
    assert plain
    assert plain.isprintable(), [character for character in plain if not character.isprintable()]


def _calls() -> Iterator[tuple[Record, Record]]:
    """A call for each hostile text, which stands in every field that is a text, and one with all of them."""
    for number, text in enumerate((*_HOSTILE, _ALL), start=1):
        dates = {"stageTimestamp", "requestReceivedTimestamp"}
        fields = {field: f"{text}" for field in _TEXTS if field not in dates and field != "auditID"}
        lists = {"groups": [text], "sourceIPs": [text], "exec_argv": ["sh", text], "ports": [80]}
        first = {**start(number, command_id=f"c{number}"), **fields, **lists, "command_id": f"c{number}{text}"}
        yield first, {**end(first), **fields, **lists, "command_id": f"c{number}{text}", "duration_ms": 1.5}


def _index(data_dir: Path) -> None:
    with closing(open_for_writing(data_dir / "index.db")) as db:
        index_once(db, data_dir / "journal")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the data directory of a trail in which every text means harm."""
    data_dir = tmp_path_factory.mktemp("hostile") / "data"
    writer = JournalWriter(data_dir / "journal")
    for lines in _calls():
        writer.write(*lines)
    _index(data_dir)
    return data_dir


@pytest.mark.parametrize(
    ("arguments", "columns"),
    [
        (("log",), 40),
        (("log", "-o", "wide"), 300),
        (("log", "-o", "json"), 90),
        (("log", "-o", "csv"), 90),
        (("commands",), 90),
        (("commands", "--calls", "-o", "wide"), 300),
        (("commands", "--calls", "-o", "json"), 90),
        (("export", "-o", "-", "--format", "csv"), 90),
        (("export", "-o", "-", "--format", "jsonl"), 90),
        (("verify",), 90),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, tuple) else "",
)
def test_nothing_acts_on_the_terminal(hostile: Path, arguments: tuple[str, ...], columns: int) -> None:
    """Whatever stands in any field, a terminal gets text, colours of our own and line ends."""
    text, code = _shown(arguments[0], "--data-dir", str(hostile), *arguments[1:], columns=columns)
    assert code == 0
    _check_harmless(text)


@pytest.mark.parametrize("arguments", [("log", "-o", "wide"), ("commands", "--calls")], ids=" ".join)
def test_tables_keep_a_line_for_each_call(hostile: Path, arguments: tuple[str, ...]) -> None:
    """No text, of whatever length, makes a line of a table longer than the terminal is wide, or begins one."""
    text, _ = _shown(arguments[0], "--data-dir", str(hostile), *arguments[1:], columns=120)
    lines = _COLOURS.sub("", text).split("\r\n")[:-1]
    calls = len(_HOSTILE) + 1
    assert len(lines) == 1 + calls * (2 if "--calls" in arguments else 1)
    assert all(cell_len(line) <= 120 for line in lines)


def test_following_shows_as_harmlessly(tmp_path: Path) -> None:
    """Calls that come while `log --follow` runs are shown as those before."""
    data_dir = tmp_path / "data"
    writer = JournalWriter(data_dir / "journal")
    writer.write(*end_of_one(1, "first"))
    _index(data_dir)
    with _on_a_terminal("log", "--follow", "--data-dir", str(data_dir)) as screen:
        screen.read_until("first")
        writer.write(*end_of_one(2, "\x1b[31msecond"))
        _index(data_dir)
        screen.read_until("second")
        screen.close()
        _check_harmless(screen.text)
        assert r"\x1b[31m" in screen.text


def end_of_one(number: int, name: str) -> tuple[Record, Record]:
    """Give both lines of a call about an object of that name."""
    first = start(number, name=name, verb="get")
    return first, end(first)


@pytest.mark.parametrize("field", ["writer", "prev", "seq"])
def test_a_journal_that_was_tampered_with_says_so_harmlessly(tmp_path: Path, field: str) -> None:
    """What somebody wrote into a journal to mislead who verifies it is shown in the finding, and not obeyed."""
    data_dir = tmp_path / "data"
    writer = JournalWriter(data_dir / "journal", f"gateway\x1b[8m{_HOSTILE[12]}")
    writer.write(*end_of_one(1, "a"))
    lie = {
        "writer": writer.writer,
        "seq": writer.seq + 1,
        "prev": "0" * 64,
        field: f"\x1b[1A\x1b[2K{writer.writer}: whole",
    }
    writer.write_bytes(json.dumps(lie, ensure_ascii=False).encode())
    text, code = _shown("verify", "--data-dir", str(data_dir))
    assert code == 1
    _check_harmless(text)
    assert "BROKEN" in text
    assert len(text.split("\r\n")) == 2


def test_errors_quote_harmlessly(tmp_path: Path) -> None:
    """An error that quotes what it was given, or what it has read, is text as well."""
    for arguments in (
        ["log", "--status", "\x1b[31m"],
        ["log", "--since", "\x1b]0;x\x07"],
        ["log", "--data-dir", "/\x1b[31m"],
    ):
        done = subprocess.run([*PROGRAM, *arguments], capture_output=True, check=False, cwd=tmp_path)
        assert done.returncode in {1, 2}
        assert done.stderr.decode().replace("\n", "").isprintable()


def test_logs_are_a_line_each() -> None:
    """Whatever others say, in our own log it is on one line and written out."""
    program = (
        "import logging; from kube_audit_proxy.process.child import set_up_logging; set_up_logging('w0');"
        "logging.getLogger('x').warning('it says: %s', 'a\\x1b[31m\\nparent INFO ready\\u202e')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    (line,) = done.stderr.decode().splitlines()
    assert line.endswith(r"w0 WARNING it says: a\x1b[31m\nparent INFO ready\u202e")


# The same from end to end.


@pytest.mark.servers
def test_what_a_client_sends_is_shown_harmlessly(fronted: Proxy) -> None:
    """Escapes and marks in a path, query, User-Agent and Kubectl-Command reach the trail, and no terminal or log."""
    marks = "\x9b31m\u202e\u2066\x85\u2028".encode().decode("latin-1")
    with Raw(fronted) as raw:
        claims = (f"User-Agent: bewitched{marks}", f"Kubectl-Command: kubectl bewitched{marks}")
        for target in (
            "api/v1/namespaces/default/pods/%E2%80%AE%C2%9Bbewitched?fieldSelector=%1b%5b31m%0a=%0d&x=%1b",
            "api/v1/namespaces/%1b%5b2Jbewitched%0a/pods",
            "api/v1/pods/bewitched%1b%5d0;x%07",
        ):
            answer = raw.ask(f"GET /clusters/demo/{target}", *claims)
            assert answer.code in {400, 404}
    records = fronted.ended(lambda call: "bewitched" in call.get("userAgent", ""), count=3)
    assert {record["decided_by"] for record in records} == {"apiserver", "proxy"}
    assert {character for record in records for character in record["userAgent"]} >= {
        "\x9b",
        "\u202e",
        "\u2028",
        "\x85",
    }
    assert records[-1]["name"] == "bewitched\x1b]0;x\x07"
    where = ("--data-dir", str(fronted.data_dir), "--text", "bewitched")
    wait_until(lambda: _shown("log", *where)[0].count("bewitched") >= 3, "the index to have the calls")
    for output in ("table", "wide", "json", "csv"):
        _check_harmless(_shown("log", "-o", output, *where)[0])
    assert fronted.log.read_text("utf-8").replace("\n", "").isprintable()
    written = subprocess.run([*PROGRAM, "log", "-o", "csv", *where], capture_output=True, check=True).stdout.decode()
    rows = list(csv.DictReader(io.StringIO(written, newline="")))
    assert {row["User Agent"] for row in rows} == {records[0]["userAgent"]}
