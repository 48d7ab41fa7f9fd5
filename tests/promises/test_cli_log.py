"""What people see of the trail: `log`, `commands`, `export`, `index` and the program around them."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kube_audit_proxy import __version__
from kube_audit_proxy.cli.follow import follow
from kube_audit_proxy.cli.main import COMMANDS, program
from kube_audit_proxy.cli.options import default_data_dir
from kube_audit_proxy.index.filters import Filters
from kube_audit_proxy.index.indexer import index_once
from kube_audit_proxy.index.reader import Index
from kube_audit_proxy.index.schema import open_for_writing
from support.journals import JournalWriter, end, random_calls, start, started, whole

PROGRAM = (sys.executable, "-c", "from kube_audit_proxy.cli.main import main; main()")
HOSTILE = "=cmd()\x1b[31m\n[bold]'\"; DROP TABLE calls; --\x9b2J"


class Trail:
    """A data directory with a journal and its index."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.writer = JournalWriter(directory / "journal")

    def index(self) -> None:
        """Bring the index up to the journal."""
        with closing(open_for_writing(self.directory / "index.db")) as db:
            index_once(db, self.directory / "journal")

    def run(self, *arguments: str) -> Result:
        """Run the program on this directory."""
        command, *rest = arguments
        return CliRunner().invoke(program, [command, "--data-dir", str(self.directory), *rest])

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the program on this directory as a process of its own."""
        command, *rest = arguments
        return subprocess.Popen(
            [*PROGRAM, command, "--data-dir", str(self.directory), *rest],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    """Give a trail with three calls: alice lists, bob is denied, carol's exec runs."""
    made = Trail(tmp_path / "data")
    made.writer.write(*whole(1, user="alice", command_id="c0ffee", command="kubectl get", command_source="header"))
    made.writer.write(*whole(2, user="bob", resource="secrets", name="db", status=403, decision="deny"))
    running = start(3, user="carol", method="POST", verb="create", subresource="exec", name="web-1")
    made.writer.write(running, started(running, status=101))
    made.index()
    return made


def rows(result: Result) -> list[list[str]]:
    """Return the words of each line of the output."""
    return [line.split() for line in result.stdout.splitlines()]


def test_log_shows_calls_newest_at_the_bottom(trail: Trail) -> None:
    """The columns are those of the seed table; a call that runs says so."""
    result = trail.run("log")
    assert result.exit_code == 0
    header, *calls = rows(result)
    assert " ".join(header) == "DATE USER CLUSTER NAMESPACE RESOURCE METHOD ACCESS DURATION STATUS"
    assert [" ".join(call[2:]) for call in calls] == [
        "alice dev default pods GET kubectl 12ms 200",
        "bob dev default secrets db GET kubectl 12ms 403",
        "carol dev default pods/exec web-1 POST kubectl running 101",
    ]


def test_limit_keeps_the_newest(trail: Trail) -> None:
    """--limit counts from the newest; 0 is all."""
    assert [row[2] for row in rows(trail.run("log", "--limit", "2"))[1:]] == ["bob", "carol"]
    assert [row[2] for row in rows(trail.run("log", "--limit", "0"))[1:]] == ["alice", "bob", "carol"]


def test_filters_are_those_of_the_filter_language(trail: Trail) -> None:
    """Options reach the question: repeated, with commas, excluded, with patterns."""
    assert [row[2] for row in rows(trail.run("log", "--user", "alice", "--user", "b*"))[1:]] == ["alice", "bob"]
    assert [row[2] for row in rows(trail.run("log", "--user", "!alice", "--decision", "deny"))[1:]] == ["bob"]
    assert [row[2] for row in rows(trail.run("log", "--resource", "pods/*", "--method", "post"))[1:]] == ["carol"]


def test_wide_shows_more(trail: Trail) -> None:
    """The wide table has verb, command, source, user agent and audit id."""
    header = rows(trail.run("log", "-o", "wide"))[0]
    assert {"VERB", "DECISION", "SOURCE", "COMMAND", "AUDIT", "AGENT"} <= set(header)


def test_json_is_the_lines_of_the_journal(trail: Trail) -> None:
    """Each line of -o json is the call's latest line, byte for byte."""
    lines = trail.run("log", "-o", "json").stdout_bytes.splitlines()
    written = trail.writer.path.read_bytes().splitlines()
    assert lines == [written[2], written[4], written[6]]


def test_csv_and_export_are_the_same(trail: Trail, tmp_path: Path) -> None:
    """`log -o csv` and `export` write the same CSV, and it is read back whole."""
    shown = trail.run("log", "-o", "csv", "--limit", "0")
    result = trail.run("export", "-o", str(tmp_path / "calls.csv"))
    assert (tmp_path / "calls.csv").read_bytes() == shown.stdout_bytes
    assert result.stderr == f"3 calls written to {tmp_path}/calls.csv\n"
    table = list(csv.DictReader(io.StringIO(shown.stdout_bytes.decode(), newline="")))
    assert [(row["User"], row["Status"], row["Decision"]) for row in table] == [
        ("alice", "200", "allow"), ("bob", "403", "deny"), ("carol", "101", ""),
    ]  # fmt: skip


def test_export_is_the_complete_filtered_set(tmp_path: Path) -> None:
    """More calls than any page are all in the file, oldest first; nothing else is left beside it."""
    trail = Trail(tmp_path / "data")
    calls = [lines[-1] for lines in random_calls(2500)]
    trail.writer.write_all(line for lines in random_calls(2500) for line in lines)
    trail.index()
    target = tmp_path / "out" / "denied.jsonl"
    target.parent.mkdir()
    result = trail.run("export", "--decision", "deny", "--format", "jsonl", "-o", str(target))
    expected = [call["auditID"] for call in calls if call.get("decision") == "deny"]
    assert [json.loads(line)["auditID"] for line in target.read_bytes().splitlines()] == expected
    assert f"{len(expected):,} calls written" in result.stderr
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_broken_export_leaves_nothing(trail: Trail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it breaks off, the old file is as it was and no part of a new one is left."""
    target = tmp_path / "out" / "calls.csv"
    target.parent.mkdir()
    target.write_text("old")

    def breaks(*_arguments: object) -> Iterator[object]:
        yield from trail_calls[:1]
        raise OSError(28, "No space left on device", str(target))

    with Index(trail.directory / "index.db") as index:
        trail_calls = list(index.iterate(Filters()))
    monkeypatch.setattr(Index, "iterate", breaks)
    result = trail.run("export", "-o", str(target))
    assert (result.exit_code, result.stderr) == (1, f"error: {target}: No space left on device\n")
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_export_to_standard_output(trail: Trail) -> None:
    """With - the calls go to standard output and the count to standard error."""
    result = trail.run("export", "--format", "jsonl", "-o", "-", "--user", "bob")
    assert json.loads(result.stdout)["user"] == "bob"
    assert result.stderr == "1 call written to standard output\n"


def test_commands(trail: Trail) -> None:
    """A command is one row; --calls shows its calls below it."""
    result = trail.run("commands", "--calls")
    header, command, call = rows(result)
    assert " ".join(header) == "DATE USER CLUSTER COMMAND ACCESS CALLS DENIED DURATION RESULT"
    assert " ".join(command[2:]) == "alice dev kubectl get kubectl 1 - 12ms 200"
    assert " ".join(call) == "└─ list pods default 12ms 200"


def test_commands_as_json(trail: Trail) -> None:
    """A command in JSON is one object with its totals."""
    (command,) = map(json.loads, trail.run("commands", "-o", "json").stdout.splitlines())
    assert (command["command_id"], command["calls"], command["clusters"]) == ("c0ffee", 1, "dev")


def test_commands_are_those_with_a_call_that_passes(trail: Trail) -> None:
    """A filter chooses commands by their calls."""
    assert len(rows(trail.run("commands", "--resource", "pods"))) == 2
    result = trail.run("commands", "--resource", "secrets")
    assert (result.stdout, result.stderr) == ("", "No command matches: resource secrets.\n")


def test_nothing_found_is_said(trail: Trail) -> None:
    """An empty answer tells the filter in words, on standard error, and is no failure."""
    result = trail.run("log", "--user", "nobody", "--status", "4xx")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "No API call matches: user nobody, status 4xx.\n"


def test_an_empty_trail_is_said(tmp_path: Path) -> None:
    """Before the first call there is nothing to match."""
    trail = Trail(tmp_path)
    trail.index()
    assert trail.run("log").stderr == "No API call is recorded yet.\n"
    assert trail.run("commands").stderr == "No command is recorded yet.\n"


def test_hostile_text_does_nothing(tmp_path: Path) -> None:
    """In tables it is shown escaped on one line; in JSON and CSV it is as it was, formulas defused."""
    trail = Trail(tmp_path)
    trail.writer.write(*whole(1, user=HOSTILE, name=HOSTILE, command=HOSTILE, command_id="c1", userAgent=HOSTILE))
    trail.index()
    shown = r"""=cmd()\x1b[31m\n[bold]'"; DROP TABLE calls; --\x9b2J"""
    for arguments in (["log"], ["log", "-o", "wide"], ["commands"], ["commands", "--calls", "-o", "wide"]):
        output = trail.run(*arguments).stdout
        assert shown in output
        assert all(line.isprintable() for line in output.splitlines())
    assert json.loads(trail.run("log", "-o", "json").stdout)["user"] == HOSTILE
    text = trail.run("log", "-o", "csv").stdout_bytes.decode()
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["User"] == f"'{HOSTILE}"
    nothing = trail.run("log", "--user", "\x1b[31mnobody")
    assert nothing.stderr == "No API call matches: user \\x1b[31mnobody.\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--status", "teapot"], "error: --status: 'teapot' is no status."),
        (["--since", "1h", "--until", "2h"], "error: --since: 1h is later than --until 2h."),
        (["--decision", "perhaps"], "error: --decision: 'perhaps' is none of allow, deny, error."),
    ],
)
@pytest.mark.parametrize("command", ["log", "commands", "export"])
def test_filters_that_make_no_sense(trail: Trail, command: str, arguments: list[str], error: str) -> None:
    """A wrong filter is exit code 2 and one sentence that says what would be right."""
    output = ["-o", "-"] if command == "export" else []
    result = trail.run(command, *arguments, *output)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(error)


@pytest.mark.parametrize("command", ["log", "commands", "export", "index"])
def test_no_trail_yet(tmp_path: Path, command: str) -> None:
    """Without data, every command says how to get some, and makes nothing."""
    output = ["-o", "-"] if command == "export" else []
    result = CliRunner().invoke(program, [command, "--data-dir", str(tmp_path), *output])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "hint: start the proxy with `kube-audit-proxy up` first, or name its --data-dir."
    )
    assert not list(tmp_path.iterdir())


def test_a_broken_index_is_said(trail: Trail) -> None:
    """A file that is no database is an error with the way out, not a traceback."""
    (trail.directory / "index.db").write_bytes(b"no database" * 100)
    result = trail.run("log")
    assert result.exit_code == 1
    assert "index --rebuild" in result.stderr


def test_index_brings_the_index_up_and_rebuilds(trail: Trail) -> None:
    """`index` reads what is new; with --rebuild it reads everything and tells of what is no record."""
    trail.writer.write(*whole(4))
    assert trail.run("index").stderr == "2 lines read; 4 calls in the index\n"
    trail.writer.write_bytes(b"\x1b[31m")
    lines = trail.run("index", "--rebuild").stderr.splitlines()
    assert lines[0] == "10 lines read; 4 calls in the index"
    assert lines[2].startswith(f"  gateway-1/{trail.writer.path.name} at byte ")
    assert [row[2] for row in rows(trail.run("log"))[1:]] == ["alice", "bob", "carol", "alice"]


def test_following_yields_what_comes(trail: Trail) -> None:
    """Calls come when they are answered and when they end, those that pass, and no call that was only received."""
    running = start(3, user="carol", method="POST", verb="create", subresource="exec", name="web-1")
    steps = iter(([start(9)], [end(running), *whole(4, user="bob")]))

    def wait() -> None:
        trail.writer.write(*next(steps))
        trail.index()

    with Index(trail.directory / "index.db") as index:
        came = follow(index, Filters(), index.last_change(), wait)
        found = [next(came).record for _ in range(2)]
    assert [(record["user"], record["stage"]) for record in found] == [
        ("carol", "ResponseComplete"), ("bob", "ResponseComplete"),
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["log", "commands"])
def test_follow_prints_at_once_and_ends_quietly(trail: Trail, command: str) -> None:
    """--follow prints a new call while it runs, and Ctrl-C ends it without a word."""
    with trail.start(command, "--follow", "--user", "erin", "-o", "json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # What comes before the process looks first is shown as well: the order does not matter.
        trail.writer.write(*whole(5, user="erin", command_id="c5", command="kubectl get"))
        trail.index()
        shown = json.loads(process.stdout.readline())
        assert shown["user"] == "erin"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
    assert process.returncode == 130


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    """`| head` gets its lines, and nobody complains."""
    trail = Trail(tmp_path)
    trail.writer.write_all(line for lines in random_calls(3000) for line in lines)
    trail.index()
    with trail.start("log", "--limit", "0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_no_colour_into_a_pipe(trail: Trail) -> None:
    """Escape sequences are for terminals."""
    assert b"\x1b" not in trail.run("log").stdout_bytes


def test_help_lists_the_commands_without_importing_them() -> None:
    """`--help` shows every command of the table; loading the program loads none of them."""
    shown = CliRunner().invoke(program, ["--help"]).stdout
    assert all(f"  {name} " in shown for name in COMMANDS)
    code = "import sys, kube_audit_proxy.cli.main; print({'rich', 'orjson', 'tornado'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert loaded.stdout == "set()\n"


@pytest.mark.parametrize("command", ["log", "commands", "export", "index", "completion"])
def test_help_has_examples_line_by_line(command: str) -> None:
    """Every command's help ends its description with examples, each on a line of its own."""
    lines = CliRunner().invoke(program, [command, "--help"]).stdout.splitlines()
    at = lines.index("  Examples:")
    assert lines[at + 1].strip().startswith(("kubectl audit ", "kube-audit-proxy ", "source "))


def test_an_unknown_command_is_a_usage_error() -> None:
    """A typing error is exit code 2."""
    assert CliRunner().invoke(program, ["lgo"]).exit_code == 2


@pytest.mark.parametrize(
    ("file", "name"), [("kubectl-audit", "kubectl audit"), ("kube-audit-proxy", "kube-audit-proxy")]
)
def test_version(file: str, name: str) -> None:
    """--version tells the program by the name it was called."""
    code = f"import sys; from kube_audit_proxy.cli.main import main; sys.argv[0] = '/usr/bin/{file}'; main()"
    shown = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, check=True, text=True)
    assert shown.stdout == f"{name} {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    """The script completes the program, and says how to install it."""
    script = CliRunner().invoke(program, ["completion", shell]).stdout
    assert "_KUBE_AUDIT_PROXY_COMPLETE" in script
    assert f"# To install: kube-audit-proxy completion {shell}" in script


def test_default_data_dir() -> None:
    """The data is where the environment says, or where data belongs."""
    assert default_data_dir({"KUBE_AUDIT_PROXY_DATA": "/a", "XDG_DATA_HOME": "/b"}) == Path("/a")
    assert default_data_dir({"XDG_DATA_HOME": "/b"}) == Path("/b/kube-audit-proxy")
    assert default_data_dir({}) == Path(os.path.expanduser("~/.local/share/kube-audit-proxy"))  # noqa: PTH111 - as shells do
