"""The admin listener: downloads of exactly what was asked for, or visibly broken ones; metrics and health; no leaks."""

import csv
import io
import json
import socket
import ssl
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import psutil
import pytest

from kube_audit_proxy.export.csv import COLUMNS
from kube_audit_proxy.export.csv import row as csv_row
from kube_audit_proxy.index.indexer import index_once
from kube_audit_proxy.index.schema import clear, open_for_writing
from kube_audit_proxy.process.status import Kind, Snapshot, directory, write
from kube_audit_proxy.process.tally import Tally
from kube_audit_proxy.tls import ensure_certificates
from support.journals import BEGINNING, JournalWriter, Record, random_calls, whole
from support.proxies import wait_until

CALLS, LARGE = 3000, 4000
TOKEN = "a-token-for-the-tests"
Predicate = Callable[[Record], bool]


@dataclass(frozen=True, slots=True)
class Admin:
    """A running admin listener."""

    client: httpx.Client
    port: int
    process: psutil.Process
    data_dir: Path
    log: Path

    def download(self, query: str = "", form: str = "csv") -> httpx.Response:
        """Ask for a file, with the token."""
        return self.client.get(f"/export.{form}?{query}", headers={"Authorization": f"Bearer {TOKEN}"})

    def audit_ids(self, query: str) -> list[str]:
        """Return the calls in a file, in its order."""
        answer = self.download(query)
        assert answer.status_code == 200, answer.text
        return [row["Audit ID"] for row in csv.DictReader(io.StringIO(answer.text, newline=""))]

    def told(self) -> list[dict[str, Any]]:
        """Return what the log says of downloads."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line.partition(" export ")[2]) for line in lines if " export {" in line]

    def connect(self, query: str, version: str = "1.1") -> socket.socket:
        """Ask for a CSV file and leave the answer to be read, of which little fits on the way."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(("127.0.0.1", self.port))
        head = f"GET /export.csv?{query} HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        client.sendall(head.encode())
        return client


@contextmanager
def listening(data_dir: Path, *, tls: bool = False, token_file: Path | None = None) -> Iterator[Admin]:
    """Start the process as the supervisor does; stop it at the end of the block."""
    own = ensure_certificates(data_dir / "tls", ())
    settings: dict[str, Any] = {
        "data_dir": str(data_dir),
        "clusters": [{"name": "dev"}, {"name": "prod-eu"}],
        "tls": {"certificate": str(own.certificate), "key": str(own.key)},
        "admin": {"tls": tls} | ({"token_file": str(token_file)} if token_file else {}),
    }
    log = data_dir / "admin.log"
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        argv = [sys.executable, "-m", "kube_audit_proxy.process.admin", str(listener.fileno())]
        with log.open("ab") as errors:
            process = stack.enter_context(
                Popen(argv, stdin=PIPE, stdout=PIPE, stderr=errors, pass_fds=[listener.fileno()])
            )
        assert process.stdin is not None
        assert process.stdout is not None
        stack.callback(process.terminate)
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n", log.read_text()
        port = listener.getsockname()[1]
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        trust = ssl.create_default_context(cafile=str(own.authority))
        client = stack.enter_context(httpx.Client(base_url=url, verify=trust, timeout=60, trust_env=False))
        yield Admin(client, port, psutil.Process(process.pid), data_dir, log)


def fill(data_dir: Path, calls: list[list[Record]]) -> None:
    """Write a journal of these calls, and its index."""
    writer = JournalWriter(data_dir / "journal", "w0")
    writer.write_all(line for lines in calls for line in lines)
    with closing(open_for_writing(data_dir / "index.db")) as db:
        index_once(db, data_dir / "journal")


def make_data(data_dir: Path, calls: list[list[Record]]) -> Path:
    """Make a data directory with these calls and the token of the tests."""
    data_dir.mkdir()
    fill(data_dir, calls)
    (data_dir / "admin-token").write_text(TOKEN)
    return data_dir


@pytest.fixture(scope="module")
def calls() -> list[list[Record]]:
    """Give calls of all kinds, some by users whose names are made to be taken for something else."""
    hostile = ["a,b", "a", "b", "x*", "xyz", "a;b", "=1+1", '"q"', "!alice", "a b", "$__all "]
    made = list(random_calls(CALLS))
    return made + [list(whole(CALLS + 1 + number, user=user)) for number, user in enumerate(hostile)]


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory, calls: list[list[Record]]) -> Iterator[Admin]:
    """Give a listener over these calls; all tests of the module that change nothing share it."""
    with listening(make_data(tmp_path_factory.mktemp("admin") / "data", calls)) as running:
        yield running


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Admin]:
    """Give a listener of its own over more than fits into the buffers between it and a client."""
    made = [list(whole(number, message="m" * 4000, status=404)) for number in range(1, LARGE + 1)]
    with listening(make_data(tmp_path / "data", made)) as running:
        yield running


def is_(name: str, *values: object) -> Predicate:
    """Return whether a field has one of these values."""
    return lambda record: record.get(name) in values


def seconds(record: Record) -> float:
    """Return when a call was received, in seconds after the beginning."""
    received = datetime.fromisoformat(record["requestReceivedTimestamp"])
    return (received - BEGINNING).total_seconds()


FROM = int((BEGINNING + timedelta(seconds=600)).timestamp() * 1000)
CASES: dict[str, Predicate] = {
    "": lambda _: True,
    "from=now-100y&to=now%2B1y&timezone=browser&var-user=$__all&var-cluster=$__all&var-status=.*&var-q=": lambda _: (
        True
    ),
    "var-user=a,b": is_("user", "a,b"),
    "var-user=a;b": is_("user", "a;b"),
    "var-user=x*": is_("user", "x*"),
    "var-user=al*ce&var-user=[a-z]?": is_("user", "al*ce", "[a-z]?"),
    "var-user=!alice": is_("user", "!alice"),
    "var-user=%22q%22": is_("user", '"q"'),
    "var-user=a+b": is_("user", "a b"),
    f"var-user={quote('Carol O' + chr(39) + 'Neil')}": is_("user", "Carol O'Neil"),
    "var-user=nobody": lambda _: False,
    "match=contains&var-user=LIC": lambda r: "lic" in r.get("user", "").lower(),
    "match=contains&var-user=nobody": lambda _: False,
    "var-user=alice&var-cluster=prod-eu&var-method=GET&var-decision=allow": lambda r: (
        (r.get("user"), r.get("cluster"), r["method"], r.get("decision")) == ("alice", "prod-eu", "GET", "allow")
    ),
    "var-cluster=other": is_("cluster", "prod-us"),
    "var-cluster=other&var-cluster=dev": is_("cluster", "prod-us", "dev"),
    "var-namespace=team_a&var-verb=list&var-verb=watch": lambda r: (
        r.get("namespace") == "team_a" and r["verb"] in {"list", "watch"}
    ),
    "var-resource=pods/*": is_("resource", "pods"),
    "var-resource=pods/exec,+deployments.apps,nodes": lambda r: (
        (r.get("resource"), r.get("subresource")) in {("pods", "exec"), ("deployments", None), ("nodes", None)}
    ),
    "var-resource=*": lambda _: False,
    "var-namespace=default,team_a": is_("namespace", "default", "team_a"),
    "resource=pods": lambda r: r.get("resource") == "pods" and "subresource" not in r,
    "var-status=4..&var-status=503": lambda r: 400 <= r.get("status", 0) < 500 or r.get("status") == 503,
    "var-access_method=browser&var-text=%22FAILED%22": lambda r: (
        r["access_method"] == "browser" and '"failed"' in r.get("message", "")
    ),
    f"from={FROM}&to={FROM + 600_000}": lambda r: 600 <= seconds(r) < 1200,
    "user=al*,!al*ce&status=>=400": lambda r: r.get("user") == "alice!" and r.get("status", 0) >= 400,
}


@pytest.mark.parametrize("query", CASES)
def test_a_file_has_exactly_what_was_asked_for(admin: Admin, calls: list[list[Record]], query: str) -> None:
    """Each link gives the calls that a filter of the slow and obvious kind finds, oldest first."""
    latest = [lines[-1] for lines in calls]
    assert admin.audit_ids(query) == [record["auditID"] for record in latest if CASES[query](record)]


def test_the_cases_are_worth_something(calls: list[list[Record]]) -> None:
    """Only cases that say so find everything or nothing."""
    latest = [lines[-1] for lines in calls]
    found = {query: sum(map(predicate, latest)) for query, predicate in CASES.items()}
    assert sum(count in {0, len(latest)} for count in found.values()) == 6


def test_a_file_of_each_kind(admin: Admin, calls: list[list[Record]]) -> None:
    """CSV is what the table of columns makes of each call, formulas defused; JSON lines are the journal's own."""
    answer = admin.download("from=1795000000000&to=1795600000000")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == (
        'attachment; filename="kube-audit-calls-20261118T110640Z-20261125T094640Z.csv"'
    )
    journal = (admin.data_dir / "journal" / "w0").glob("*.jsonl")
    lines = {line for path in journal for line in path.read_text().splitlines()}
    jsonl = admin.download("", "jsonl")
    assert jsonl.headers["Content-Type"] == "application/x-ndjson; charset=utf-8"
    assert len(jsonl.text.splitlines()) == len(calls)
    assert set(jsonl.text.splitlines()) <= lines
    header, *rows = answer.text.split("\r\n")[:-1]
    assert header.split(",") == [title for title, _ in COLUMNS]
    assert rows == [csv_row(json.loads(line)).removesuffix("\r\n") for line in jsonl.text.splitlines()]
    assert ",'=1+1," in answer.text


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_head(admin: Admin, form: str) -> None:
    """HEAD has the headers of GET, and no rows."""
    address, headers = f"/export.{form}?var-user=alice&to=0", {"Authorization": f"Bearer {TOKEN}"}
    head, get = admin.client.head(address, headers=headers), admin.client.get(address, headers=headers)
    assert head.status_code == 200
    assert head.content == b""
    assert {**head.headers, "date": "", "transfer-encoding": "chunked"} == {**get.headers, "date": ""}


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("/export.csv?var-status=teapot", "var-status: 'teapot' is no status."),
        ("/export.jsonl?from=soon", "from: 'soon' is no time."),
        ("/export.csv?colour=red", "There is no argument 'colour'."),
        ("/export.csv?var-user=%FF", "The address is not UTF-8."),
    ],
)
def test_bad_arguments(admin: Admin, address: str, sentence: str) -> None:
    """What makes no sense is refused with a sentence before anything is sent."""
    answer = admin.client.get(address, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 400
    assert answer.text.startswith(sentence)


def test_only_the_token_opens(admin: Admin) -> None:
    """Header, password and link are taken; without, a browser is told to ask; the token is in no log and no answer."""
    for answer in (
        admin.client.get("/export.csv?to=0", auth=("me", TOKEN)),
        admin.client.get(f"/export.csv?to=0&token={TOKEN}"),
        admin.client.get(f"/export.csv?token={TOKEN}&to=0", headers={"Authorization": "Bearer wrong"}),
    ):
        assert answer.status_code == 200
    for method in ("GET", "HEAD"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic OnRva2Vu"}):
            refused = admin.client.request(method, f"/export.csv?token={TOKEN}x", headers=headers)
            assert refused.status_code == 401
            assert refused.headers.get_list("WWW-Authenticate") == [
                'Basic realm="kube-audit-proxy", charset="UTF-8"', 'Bearer realm="kube-audit-proxy"',
            ]  # fmt: skip
    assert admin.client.get(f"/export.csv?token={TOKEN}&from=soon").status_code == 400
    assert admin.client.get(f"/nothing?token={TOKEN}").status_code == 404
    assert TOKEN not in admin.log.read_text()


def test_a_download_is_told(admin: Admin) -> None:
    """The log says who asked for what, from where, and how many rows it was; a line each at the begin and the end."""
    before = len(admin.told())
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Grafana-User": "jane"}
    rows = admin.client.get("/export.csv?var-user=a,b&var-user=xyz&from=0", headers=headers).text.count("\r\n") - 1
    began, ended = wait_until(lambda: admin.told()[before + 1 :] and admin.told()[before:], "the log")
    assert (began["event"], ended["event"], ended["rows"], rows) == ("began", "complete", 2, 2)
    for line in (began, ended):
        assert line["arguments"] == {"var-user": ["a,b", "xyz"], "from": ["0"]}
        assert (line["address"], line["token"], line["grafana_user"]) == ("127.0.0.1", "bearer", "jane")
        assert (line["file"], line["since"]) == ("/export.csv", "19700101T000000Z")


def test_other_addresses(admin: Admin) -> None:
    """There is nothing else: plain sentences, headers that let nothing be made of them, and no word of the server."""
    for method, address, code, sentence in (
        ("GET", "/", 404, "There is nothing at this address.\n"),
        ("GET", "/export", 404, "There is nothing at this address.\n"),
        ("GET", "/../admin-token", 404, "There is nothing at this address.\n"),
        ("POST", "/export.csv", 405, "Only GET and HEAD are answered here.\n"),
        ("DELETE", "/metrics", 405, "Only GET and HEAD are answered here.\n"),
    ):
        answer = admin.client.request(method, address)
        assert (answer.status_code, answer.text) == (code, sentence)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "Server" not in answer.headers
        assert answer.headers.get("Allow") == ("GET, HEAD" if code == 405 else None)


def test_health_follows_the_processes(tmp_path: Path) -> None:
    """Without a token: healthy while all live, ready while the workers can record, and what is wrong by name."""
    data_dir = make_data(tmp_path / "data", [list(whole())])
    run = directory(data_dir)
    with listening(data_dir) as admin:
        get = admin.client.get
        assert (get("/healthz").status_code, get("/readyz").status_code) == (503, 503)
        assert "[-]w0 failed: it has given no sign of life yet" in get("/healthz").text
        write(run, Tally().snapshot("w0", "1", time.time()))
        assert (get("/healthz").status_code, get("/readyz").text) == (503, "ok\n")
        write(run, Snapshot("indexer", Kind.INDEXER, "1", time.time(), ready=True))
        assert (get("/healthz").text, get("/healthz?verbose").text) == (
            "ok\n", "[+]w0 ok\n[+]indexer ok\nhealthz check passed\n",
        )  # fmt: skip
        assert admin.client.head("/healthz").status_code == 200
        write(run, Tally().snapshot("w0", "1", time.time(), problem="The journal cannot be written: disk full"))
        assert (get("/healthz").status_code, get("/readyz").status_code) == (200, 503)
        assert "[-]w0 failed: The journal cannot be written: disk full" in get("/readyz").text
        write(run, Tally().snapshot("w0", "1", time.time() - 60))
        assert "[-]w0 failed: it has given no sign of life for more than 15 s" in get("/healthz").text


def test_metrics_follow_journal_and_index(tmp_path: Path) -> None:
    """How far the index is behind is told at each scrape, with or without an index; no token is needed."""
    data_dir = make_data(tmp_path / "data", [list(whole())])

    def lag(admin: Admin) -> list[str]:
        lines = admin.client.get("/metrics").text.splitlines()
        names = ('kube_audit_proxy_journal_lines_total{writer="w0"}', 'kube_audit_proxy_index_lag_lines{writer="w0"}')
        return [line.removeprefix(name).strip() for name in names for line in lines if line.startswith(name)]

    with listening(data_dir) as admin:
        answer = admin.client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert answer.text.endswith("# EOF\n")
        assert admin.client.get("/metrics").headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert lag(admin) == ["3.0", "0.0"]
        writer = JournalWriter(data_dir / "journal", "w1")
        writer.write(*whole(2))
        lines = admin.client.get("/metrics").text
        assert 'kube_audit_proxy_index_lag_lines{writer="w1"} 3.0' in lines
        assert 'kube_audit_proxy_index_lag_seconds{writer="w0"} 0.0' in lines
        assert 'kube_audit_proxy_index_lag_seconds{writer="w1"} 0.0' not in lines
        (data_dir / "index.db").unlink()
        assert lag(admin) == ["3.0", "3.0"]
        refused = admin.download()
        assert (refused.status_code, refused.text) == (
            503,
            "There is no index to read from yet. Try again in a moment.\n",
        )


def read_until_closed(client: socket.socket) -> tuple[bytes, bool]:
    """Read all there is; tell whether the connection was reset."""
    received = bytearray()
    try:
        while data := client.recv(1 << 16):
            received += data
    except ConnectionResetError:
        return bytes(received), True
    return bytes(received), False


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_half_a_file_does_not_look_whole(large: Admin, version: str) -> None:
    """Where the index is emptied during a download, the connection is reset, and the log says that it broke off."""
    with large.connect("", version) as client:
        client.recv(1000)
        with closing(open_for_writing(large.data_dir / "index.db")) as db:
            clear(db)
        received, was_reset = read_until_closed(client)
    assert was_reset
    assert not received.endswith(b"0\r\n\r\n")
    ended = wait_until(lambda: [each for each in large.told() if each["event"] == "broke off"], "the log")
    assert ended[0]["problem"] == "the index was built again meanwhile"
    assert large.client.get("/metrics").status_code == 200


def test_a_stopped_listener_breaks_off(large: Admin) -> None:
    """SIGTERM in the middle of a download leaves it visibly incomplete."""
    with large.connect("") as client:
        client.recv(1000)
        large.process.terminate()
        received, _ = read_until_closed(client)
    assert not received.endswith(b"0\r\n\r\n")
    ended = wait_until(lambda: [each for each in large.told() if each["event"] == "broke off"], "the log")
    assert ended[0]["problem"] == "the proxy was stopped"


def test_a_client_that_goes_ends_its_download(large: Admin) -> None:
    """Nothing is read on for a client that has gone."""
    with large.connect("") as client:
        client.recv(1000)
    ended = wait_until(lambda: [each for each in large.told() if each["event"] == "broke off"], "the log")
    assert ended[0]["problem"] == "the client has gone"
    assert ended[0]["rows"] < LARGE
    wait_until(lambda: large.process.num_threads() < 10 and not _reads(large, "index.db"), "the index to be closed")


def _reads(admin: Admin, name: str) -> bool:
    return any(file.path.endswith(name) for file in admin.process.open_files())


def test_a_slow_client_holds_up_nobody(large: Admin) -> None:
    """While a client takes nothing, others are answered, and it still gets all of its file in the end."""
    with large.connect("") as client:
        wait_until(large.told, "the download to begin")
        assert large.download("var-q=nothing").text.count("\r\n") == 1
        wait_until(lambda: len(large.told()) == 3, "the other download to be told")
        assert [each["event"] for each in large.told() if not each["arguments"]] == ["began"]
        assert count_lines(client) == LARGE + 1


def count_lines(client: socket.socket) -> int:
    """Count the line ends of CSV in the chunks of an answer, up to its end."""
    lines = 0
    with client.makefile("rb") as file:
        while file.readline() != b"\r\n":
            pass  # the head
        while length := int(file.readline(), 16):
            lines += file.read(length).count(b"\r\n")
            file.readline()
    return lines


def test_too_many_downloads_are_refused(large: Admin) -> None:
    """A fifth download has to wait; when one is over, there is room again."""
    with ExitStack() as stack:
        clients = [stack.enter_context(large.connect("")) for _ in range(4)]
        for client in clients:
            client.recv(1000)
        refused = large.download("to=0")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        clients[0].close()
        wait_until(lambda: large.download("to=0").status_code == 200, "room for a download")


def test_downloads_beside_each_other_are_whole(admin: Admin, calls: list[list[Record]]) -> None:
    """Downloads at the same time do not mix."""
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(admin.audit_ids, ["", "var-user=alice", "", "var-cluster=dev"]))
    latest = [lines[-1] for lines in calls]
    assert files[0] == files[2] == [record["auditID"] for record in latest]
    assert files[1] == [record["auditID"] for record in latest if record.get("user") == "alice"]
    assert files[3] == [record["auditID"] for record in latest if record.get("cluster") == "dev"]


def test_tls_and_a_token_file(tmp_path: Path) -> None:
    """With TLS it has the proxy's certificate; a token file that is named is the one that counts."""
    data_dir = make_data(tmp_path / "data", [list(whole())])
    token_file = tmp_path / "token"
    token_file.write_text("another-token-for-the-tests\n")
    with listening(data_dir, tls=True, token_file=token_file) as admin:
        assert str(admin.client.base_url).startswith("https://")
        assert admin.download().status_code == 401
        request = urllib.request.Request(
            f"https://127.0.0.1:{admin.port}/export.csv?{urlencode({'token': token_file.read_text().strip()})}"
        )
        trust = ssl.create_default_context(cafile=str(data_dir / "tls" / "ca.pem"))
        with urllib.request.urlopen(request, context=trust) as answer:
            assert answer.read().count(b"\r\n") == 2


def test_without_its_token_file_it_does_not_start(tmp_path: Path) -> None:
    """A token file that is named and missing is told, instead of anything being served."""
    data_dir = make_data(tmp_path / "data", [list(whole())])
    missing = listening(data_dir, token_file=tmp_path / "missing")
    with pytest.raises(AssertionError, match="the token of the admin listener cannot be read from"), missing:
        pass
