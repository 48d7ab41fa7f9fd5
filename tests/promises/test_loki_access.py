"""What is asked of Loki, with which credentials, and what a person is told where it does not answer."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from kube_audit_proxy.cli.main import program
from kube_audit_proxy.loki.client import Access, Loki, LokiError, access

VARIABLES = (
    "LOKI_URL", "LOKI_ADDR", "LOKI_ORG_ID", "LOKI_BEARER_TOKEN", "LOKI_BEARER_TOKEN_FILE", "LOKI_USERNAME",
    "LOKI_PASSWORD", "LOKI_CA_CERT_PATH",
)  # fmt: skip

NOTHING = b'{"status":"success","data":{"resultType":"streams","result":[]}}'
LARGE = b"rpc error: grpc: received message larger than max (5242880 vs. 4194304)"
MANY = b"max entries limit per query exceeded, limit > max_entries_limit_per_query (800 > 500)"


Answer = tuple[int, bytes | Callable[[str], bytes]]


class Answers(ThreadingHTTPServer):
    """A server that gives the same answer to all, or one after the other, and keeps what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Answer] = list(answers) or [(200, NOTHING)]
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Answers
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        answers = self.server.answers
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        content = body if isinstance(body, bytes) else body(self.path)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@contextmanager
def answering(*answers: Answer) -> Iterator[Answers]:
    """Run a server with these answers."""
    with Answers(*answers) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def page_from(where: Access, waited: list[float] | None = None) -> tuple[list[tuple[int, str]], bool]:
    """Ask for a page."""
    with Loki(where, sleep=(waited if waited is not None else []).append) as loki:
        return loki.page('{a="b"}', 10**18, 10**18 + 5, 800, forward=True)


def log(*arguments: str) -> Result:
    """Run `log --from loki`."""
    return CliRunner().invoke(program, ["log", "--from", "loki", *arguments])


def test_what_is_asked() -> None:
    """The question, its time in nanoseconds, its limit and direction are those of Loki's query_range."""
    with answering() as server:
        assert page_from(Access(server.url)) == ([], False)
        ((path, headers),) = server.asked
    asked = urlsplit(path)
    assert asked.path == "/loki/api/v1/query_range"
    assert parse_qs(asked.query) == {
        "query": ['{a="b"}'], "start": [f"{10**18}"], "end": [f"{10**18 + 5}"], "limit": ["800"],
        "direction": ["forward"],
    }  # fmt: skip
    assert not {"authorization", "x-scope-orgid", "cookie"} & headers.keys()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"tenant": "audit"}, {"x-scope-orgid": "audit"}),
        ({"token": "t0ken"}, {"authorization": "Bearer t0ken"}),
        ({"user": "jane", "password": "secret"}, {"authorization": "Basic amFuZTpzZWNyZXQ="}),
        ({"user": "jane", "password": "secret", "token": "t0ken"}, {"authorization": "Bearer t0ken"}),
    ],
)
def test_credentials(where: dict[str, str], expected: dict[str, str]) -> None:
    """The tenant, a token, or a user and a password go with the question."""
    with answering() as server:
        page_from(Access(server.url, **where))
        ((_, headers),) = server.asked
    assert {name: headers.get(name) for name in expected} == expected


def test_access_from_the_environment(tmp_path: Path) -> None:
    """What is not typed comes from logcli's variables; ours for the URL counts more than logcli's."""
    (tmp_path / "token").write_text("from a file\n")
    found = access(None, None, {
        "LOKI_ADDR": "http://a:3100/", "LOKI_ORG_ID": "one", "LOKI_USERNAME": "jane", "LOKI_PASSWORD": "secret",
        "LOKI_BEARER_TOKEN_FILE": str(tmp_path / "token"), "LOKI_CA_CERT_PATH": "/ca.crt",
    })  # fmt: skip
    assert found == Access("http://a:3100", "one", "from a file", "jane", "secret", "/ca.crt")
    assert access(None, None, {"LOKI_ADDR": "http://a", "LOKI_URL": "http://b"}).url == "http://b"
    typed = access("http://c", "two", {"LOKI_URL": "http://b", "LOKI_ORG_ID": "one", "LOKI_BEARER_TOKEN": "x"})
    assert (typed.url, typed.tenant, typed.token) == ("http://c", "two", "x")


def test_the_program_asks_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands take URL, tenant and token from the environment or from options."""
    with answering() as server:
        monkeypatch.setenv("LOKI_ADDR", server.url)
        monkeypatch.setenv("LOKI_BEARER_TOKEN", "t0ken")
        result = log("--tenant", "audit", "--since", "1h")
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.startswith("No API call matches: since 1h")
        assert {"authorization": "Bearer t0ken", "x-scope-orgid": "audit"}.items() <= server.asked[0][1].items()


@pytest.mark.parametrize(
    ("status", "body", "error", "hint"),
    [
        (401, b"no\n  entry \x1b[31m", "answered 401: no entry \\x1b[31m", "LOKI_BEARER_TOKEN"),
        (403, b"", "answered 403", "--tenant"),
        (404, b"404 page not found", "answered 404: 404 page", "--loki-url"),
        (400, b"parse error", "answered 400: parse error", "--loki-url"),
        (302, b"", "answered 302", "--loki-url"),
        (400, b"the query time range exceeds the limit (query length: 720h)", "answered 400: the query", "--since"),
        (500, b"context deadline exceeded", "answered 500: context", "--since"),
        (200, b"<html>", "but not as Loki does", "--loki-url"),
        (200, b"[]", "but not as Loki does", "--loki-url"),
        (200, b'{"data":{"resultType":"matrix","result":[]}}', "but not as Loki does", "--loki-url"),
        (200, b'{"data":{"resultType":"vector","result":[]}}', "but not as Loki does", "--loki-url"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_said(status: int, body: bytes, error: str, hint: str) -> None:
    """An answer that is no answer is exit code 1, one sentence, and what to do; nothing in it acts on the terminal."""
    with answering((status, body)) as server:
        result = log("--loki-url", server.url, "--since", "1h")
        assert (result.exit_code, result.stdout) == (1, "")
        first, second = result.stderr.splitlines()
    assert first.startswith(f"error: the trail in Loki cannot be read: {server.url} answered")
    assert error in first
    assert second.startswith("hint: ")
    assert hint in second


def test_nobody_there() -> None:
    """A Loki that cannot be reached is said, and secrets in its URL are not."""
    with Answers() as server:
        port = server.server_port
    result = log("--loki-url", f"http://jane:secret@127.0.0.1:{port}", "--since", "1h")
    assert result.exit_code == 1
    assert f"http://127.0.0.1:{port} cannot be reached" in result.stderr
    assert "secret" not in result.stderr


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_loki_is_asked_again(status: int) -> None:
    """What passes by itself is waited for, a few times; then it is said."""
    waited: list[float] = []
    with answering((status, b"busy"), (status, b"busy"), (200, NOTHING)) as server:
        assert page_from(Access(server.url), waited) == ([], False)
        assert len(waited) == 2
    with answering((status, b"too many outstanding requests")) as server:
        with pytest.raises(LokiError, match=f"answered {status}: too many") as raised:
            page_from(Access(server.url), waited := [])
        assert len(server.asked) == len(waited) + 1 == 5
        assert "--since" in raised.value.hint


def test_answers_that_are_too_large_are_asked_for_in_smaller_parts() -> None:
    """Where Loki's parts cannot pass so much to each other, fewer lines are asked for, from then on."""
    streams = [{"stream": {}, "values": [["7", "a"]] * 200}]
    body = {"status": "success", "data": {"resultType": "streams", "result": streams}}
    with answering((500, LARGE), (400, MANY), (200, json.dumps(body).encode())) as server:
        lines, more = page_from(Access(server.url))
        assert (len(lines), more) == (200, True)
        assert [parse_qs(urlsplit(path).query)["limit"] for path, _ in server.asked] == [["800"], ["400"], ["200"]]


@pytest.mark.parametrize(("size", "lines"), [(50, 5000), (1000, 2800), (3000, 980)])
def test_answers_are_as_large_as_loki_passes_on(size: int, lines: int) -> None:
    """The longer lines are, the fewer are asked for at once: never more than 4 MiB, nor more than 5,000 lines."""

    def answer(path: str) -> bytes:
        limit = int(parse_qs(urlsplit(path).query)["limit"][0])
        assert limit * size < 4 * 2**20
        return json.dumps(
            {"data": {"resultType": "streams", "result": [{"values": [["7", "a" * size]] * limit}]}}
        ).encode()

    with answering((200, answer)) as server, Loki(Access(server.url)) as loki:
        found = [len(loki.page("{}", 10**18, 10**18 + 5, 5000, forward=True)[0]) for _ in range(3)]
    assert found[0] == 1000
    assert lines <= found[1] == found[2] <= 5000


@pytest.mark.parametrize(
    ("url", "error"), [(None, "where is Loki?"), ("loki:3100", "no http:// or https:// URL"), ("http://", "URL")]
)
def test_where_loki_is_has_to_be_said(url: str | None, error: str) -> None:
    """Without a URL, or with none, the way to say it is told."""
    result = log(*(["--loki-url", url] if url else []))
    assert (result.exit_code, result.stdout) == (1, "")
    assert error in result.stderr
    assert "hint: " in result.stderr


@pytest.mark.parametrize("variable", ["LOKI_BEARER_TOKEN_FILE", "LOKI_CA_CERT_PATH"])
def test_files_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    """A file that the environment names and that is not there is said by the variable's name."""
    monkeypatch.setenv(variable, str(tmp_path / "nothing"))
    result = log("--loki-url", "https://127.0.0.1:1")
    assert result.exit_code == 1
    assert variable in result.stderr


@pytest.mark.parametrize("command", ["log", "commands", "export"])
@pytest.mark.parametrize("option", ["--loki-url", "--tenant"])
def test_loki_has_to_be_asked_for(command: str, option: str) -> None:
    """An option for Loki without --from loki is a usage error, so that nobody reads the wrong trail."""
    output = ["-o", "-"] if command == "export" else []
    result = CliRunner().invoke(program, [command, option, "http://loki", *output])
    assert result.exit_code == 2
    assert "--from loki" in result.stderr


def test_an_export_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    """If Loki fails on the way, no part of a file is left."""
    with answering((500, b"broken")) as server:
        target = tmp_path / "calls.csv"
        arguments = ["export", "--from", "loki", "--loki-url", server.url, "-o", str(target), "--since", "1h"]
        result = CliRunner().invoke(program, arguments)
        assert (result.exit_code, list(tmp_path.iterdir())) == (1, [])


@pytest.mark.parametrize("command", ["log", "commands", "export"])
def test_the_help_says_what_is_not_in_loki(command: str) -> None:
    """The help shows an example, and tells what Loki does not have and how far back it is asked."""
    shown = " ".join(CliRunner().invoke(program, [command, "--help"]).stdout.split())
    assert "--from loki --loki-url http" in shown
    assert "without calls whose answer has not begun" in shown
    assert "90 days" in shown
