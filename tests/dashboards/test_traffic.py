"""Real kubectl through the real proxy and its shipper: the dashboards show what the journal has."""

import csv
import io
import os
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from backends import Backends
from board import Board, rows
from expected import by, passes, quantile
from generated import Record, Trail, details, is_stream, label, milliseconds, resource
from grafana import Grafana
from interpolation import Span, Value, current, query_parameters

from kube_audit_proxy.demo.child import free_ports
from kube_audit_proxy.demo.cluster import DemoCluster
from kube_audit_proxy.demo.stack import TelemetryStack
from support.proxies import Proxy, proxy, wait_until

pytest_plugins = ["trails"]
pytestmark = pytest.mark.servers

_COMMANDS = (
    ("get", "pods", "-A"),
    ("get", "nodes"),
    ("get", "secrets", "-n", "shop"),
    ("get", "nonsense"),
    ("create", "configmap", "made-here", "--from-literal=a=b"),
    ("delete", "configmap", "made-here"),
    ("exec", "-n", "shop", "deploy/web", "--", "sh", "-c", "exit 3"),
    ("logs", "toolbox"),
)
_DENIED = (("get", "secrets", "-A"), ("delete", "node", "none"))
_STRANGER = 'dave "root"'

CASES: Mapping[str, Mapping[str, Value]] = {
    "nothing chosen": {},
    "denied": {"decision": ["deny"]},
    "a user": {"user": [_STRANGER]},
    "a cluster": {"cluster": ["demo"]},
    "an exec": {"resource": "pods/exec"},
    "lists of secrets": {"resource": "secrets", "verb": ["list"]},
    "a namespace": {"namespace": "shop"},
    "failures": {"status": ["4xx"], "method": ["GET", "DELETE"]},
    "text": {"text": "exit 3"},
    "nothing found": {"text": "no such text"},
}


@dataclass(frozen=True, slots=True)
class Traffic:
    """What kubectl did: the proxy, the time, the calls that ended and the streams that were answered."""

    proxy: Proxy
    admin: str
    span: Span
    calls: list[Record]
    begun: list[Record]


@pytest.fixture(scope="module")
def traffic(
    demo: DemoCluster,
    own_stack: TelemetryStack,
    backends: Backends,
    trail: Trail,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Traffic]:
    """Give real traffic that has been shipped: commands, refusals, an exec, and a watch that still runs."""
    home = tmp_path_factory.mktemp("traffic")
    begun = wait_until(
        lambda: (now := round(time.time() * 1000)) > trail.span.end and now, "the generated trail to end"
    )
    (port,) = free_ports(1)
    command = ["--kubeconfig", str(demo.kubeconfig), "--otlp", own_stack.otlp_grpc, "--admin", f"127.0.0.1:{port}"]
    environ = {name: "" for name in os.environ if name.startswith("OTEL_")}
    with proxy(command, home / "data", home / "proxy.log", environ) as running:
        for arguments in _COMMANDS:
            _kubectl(demo, running.kubeconfig, *arguments)
        stranger = running.kubeconfig_of(_STRANGER)
        for arguments in _DENIED:
            _kubectl(demo, stranger, *arguments)
        with _watching(demo, running):
            starts = {line["auditID"] for line in running.lines() if line.get("stage") == "RequestReceived"}
            calls = running.ended(count=len(starts) - 1)
            streams = [line for line in running.lines() if line.get("stage") == "ResponseStarted"]
            ended = {call["auditID"] for call in calls}
            going_on = {stream.get("command_id") for stream in streams if stream["auditID"] not in ended}
            commands = {call["command_id"] for call in calls if "command_id" in call} - going_on

            def shipped() -> bool:
                span = Span(begun, round(time.time() * 1000))
                board = Board.open("commands", backends, span)
                known = board.backends.lines('{kind="command"}', span)
                return (
                    (Board.open("calls", backends, span).number("Calls") or 0) >= len(calls)
                    and {stream["stream"]["command_id"] for stream in known} >= commands
                )  # fmt: skip

            wait_until(shipped, "all calls and commands to be shipped")
            span = Span(begun, round(time.time() * 1000))
            yield Traffic(running, f"http://127.0.0.1:{port}", span, calls, streams)


@pytest.fixture(scope="module")
def opened(backends: Backends, traffic: Traffic) -> Callable[[str], Board]:
    """Give the dashboards, opened on the traffic."""
    return lambda name: Board.open(name, backends, traffic.span)


@pytest.mark.parametrize("chosen", CASES.values(), ids=CASES.keys())
def test_the_calls_are_those_of_the_journal(
    opened: Callable[[str], Board], traffic: Traffic, grafana: Grafana, chosen: Mapping[str, Value]
) -> None:
    """Table and numbers show the calls in the journal that pass the filters, and no others."""
    board = opened("calls")
    wanted = [call for call in traffic.calls if passes(_known(call), chosen)]
    table = board.table("API calls", grafana, chosen)
    columns = ("Date", "User", "Namespace", "Resource", "Method", "Access Method", "Status", "Duration", "Details")
    found = rows(table, *columns)
    assert Counter(found) == Counter(map(_row, wanted))
    assert (board.number("Calls", chosen) or 0) == len(wanted)
    assert (board.number("Denied", chosen) or 0) == sum(call["decision"] == "deny" for call in wanted)
    assert board.number("p95", chosen) == pytest.approx(
        quantile([call["duration_ms"] for call in wanted if not is_stream(call)], 0.95)
    )


@pytest.mark.parametrize("chosen", CASES.values(), ids=CASES.keys())
def test_the_csv_has_what_the_table_has(
    opened: Callable[[str], Board], traffic: Traffic, grafana: Grafana, chosen: Mapping[str, Value]
) -> None:
    """The link `Export CSV`, with the filters of the dashboard, gives the rows of the table."""
    board = opened("calls")
    values = current(board.variables, chosen)
    values.pop("export_url")
    asked = "&".join(query_parameters(name, value) for name, value in values.items())
    request = urllib.request.Request(
        f"{traffic.admin}/export.csv?from={traffic.span.start}&to={traffic.span.end}&timezone=browser&{asked}",
        headers={"Authorization": f"Bearer {(traffic.proxy.data_dir / 'admin-token').read_text().strip()}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        exported = list(csv.DictReader(io.StringIO(answer.read().decode())))
    ended = [row for row in exported if row["Stage"] == "ResponseComplete"]
    table = board.table("API calls", grafana, chosen)
    found = Counter(
        (user or "", method, str(int(status))) for user, method, status in rows(table, "User", "Method", "Status")
    )
    assert Counter((row["User"], row["Method"], row["Status"]) for row in ended) == found


def test_the_watch_is_running(opened: Callable[[str], Board], traffic: Traffic, grafana: Grafana) -> None:
    """The only stream that has not ended is in the table of what runs."""
    ended = {call["auditID"] for call in traffic.calls}
    running = [each for each in traffic.begun if each["auditID"] not in ended]
    table = opened("calls").table("Running", grafana)
    assert rows(table, "Resource", "Cluster") == [("pods", "demo")]
    assert len(running) == 1
    assert table["Details"] == ["watch pods"]


def test_the_commands_are_those_that_were_typed(
    opened: Callable[[str], Board], traffic: Traffic, grafana: Grafana
) -> None:
    """Each kubectl is one row, with the number of its calls, the worst of their statuses and the exit code."""
    table = opened("commands").table("Commands", grafana)
    calls: dict[str, list[Record]] = {}
    for call in traffic.calls:
        if "command_id" in call:
            calls.setdefault(call["command_id"], []).append(call)
    wanted = {
        command_id: (
            made[0]["command"],
            made[0]["user"],
            len(made),
            max(call["status"] for call in made),
            max((call["exit_code"] for call in made if "exit_code" in call), default=None),
        )
        for command_id, made in calls.items()
    }
    found = rows(table, "command_id", "Command", "User", "Calls", "Worst status", "Exit code")
    by_id = {command_id: rest for command_id, *rest in found}
    done = {command_id: list(row) for command_id, row in wanted.items() if command_id in by_id}
    assert by_id == done
    assert len(done) >= len(_COMMANDS) + len(_DENIED)


def test_a_command_unfolds(
    opened: Callable[[str], Board], traffic: Traffic, backends: Backends, grafana: Grafana
) -> None:
    """The exec that was typed has its calls below it, and a trace with a span for each and for the command."""
    board = opened("commands")
    (executed,) = [call for call in traffic.calls if call.get("subresource") == "exec"]
    chosen = {"command_id": executed["command_id"], "trace_id": executed["trace_id"]}
    made = [call for call in traffic.calls if call.get("command_id") == executed["command_id"]]
    assert rows(board.table("Its calls", grafana, chosen), "Date", "Details") == sorted(
        (milliseconds(call), details(_known(call))) for call in made
    )
    ((_, query),) = board.queries(board.panel("Its trace"), chosen)
    names = Counter(span["name"] for span in backends.trace(query) if span["kind"] != "SPAN_KIND_CLIENT")
    assert names.keys() >= {"kubectl exec", "create pods/exec"} or names.keys() >= {"kubectl exec", "get pods/exec"}


def test_the_trail_is_whole(opened: Callable[[str], Board], traffic: Traffic, grafana: Grafana) -> None:
    """Nothing is missing, nobody is silent, and the proxy's writer has a row."""
    board = opened("health")
    assert not board.number("Missing")
    assert not board.number("Dead letters")
    table = board.table("Writers", grafana)
    writers = {line["writer"] for line in traffic.calls}
    assert {row[0] for row in rows(table, "Writer")} >= writers
    assert not any(table["Missing"])


def test_latency_by_verb(opened: Callable[[str], Board], traffic: Traffic, grafana: Grafana) -> None:
    """Each verb's calls are counted, and its p95 is exact."""
    table = opened("latency").table("By verb", grafana)
    measured = [call for call in traffic.calls if not is_stream(call)]
    counts = {verb: count for (verb,), count in by(measured, "verb").items()}
    found = {verb: (p95, count) for verb, p95, count in rows(table, "Verb", "p95", "Calls")}
    assert {verb: count for verb, (_, count) in found.items()} == counts
    for verb, (p95, _) in found.items():
        assert p95 == pytest.approx(quantile([call["duration_ms"] for call in measured if call["verb"] == verb], 0.95))


def _row(call: Record) -> tuple[Any, ...]:
    return (
        milliseconds(call),
        call.get("user"),
        call.get("namespace"),
        resource(call),
        call["method"],
        call["access_method"],
        call["status"],
        call["duration_ms"],
        details(_known(call)),
    )


def _known(call: Record) -> Record:
    assert label(call, "verb") == call["verb"]
    return call


def _kubectl(demo: DemoCluster, kubeconfig: Path, *arguments: str) -> None:
    command = [str(demo.kubectl), "--kubeconfig", str(kubeconfig), *arguments]
    subprocess.run(command, capture_output=True, check=False, timeout=60, stdin=subprocess.DEVNULL)


@contextmanager
def _watching(demo: DemoCluster, running: Proxy) -> Iterator[None]:
    command = [str(demo.kubectl), "--kubeconfig", str(running.kubeconfig), "get", "pods", "-A", "--watch"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: [line for line in running.lines() if _is_watch(line)], "the watch to be answered")
            yield
        finally:
            process.terminate()


def _is_watch(line: Record) -> bool:
    return line.get("stage") == "ResponseStarted" and line["verb"] == "watch"
