"""What the journal says reaches Loki and Tempo: all of it, once, byte for byte, whatever goes wrong between."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from kube_audit_proxy.demo.stack import TelemetryStack
from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.telemetry import state as shipped
from kube_audit_proxy.telemetry.rewind import rewound
from servers.stack import CONFIGURATION, get, loki_lines, loki_number, loki_streams
from support.journals import JournalWriter, Record
from support.proxies import wait_until
from support.shipping import (
    calls,
    clear_environment,
    config,
    ends,
    ship_all,
    shippers,
    shipping,
    state_of,
)

pytestmark = pytest.mark.servers


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)


@pytest.fixture
def cluster() -> str:
    """Give a cluster that no other test has, so that its streams in Loki are the test's own."""
    return f"c-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TelemetryStack]:
    """Give a stack whose parts may be stopped, with limits that can be reached."""
    limits = {"LOKI_MAX_LINE_SIZE": "32KB"}
    home = tmp_path_factory.mktemp("own-stack")
    with TelemetryStack(home, CONFIGURATION, parts=("loki", "collector"), environ=limits, progress=print) as running:
        yield running


def in_loki(stack: TelemetryStack, cluster: str, count: int, kind: str = "call") -> list[Record]:
    """Give the records of a cluster in Loki, once there are so many."""
    query = f'{{service_name="kube-audit-proxy", cluster="{cluster}", kind="{kind}"}}'

    def found() -> list[Record]:
        lines = loki_lines(stack.loki_url, query)
        return [orjson.loads(line) for line in lines] if len(lines) >= count else []

    return sorted(wait_until(found, f"{count} lines of {kind} in Loki"), key=lambda each: each.get("seq", 0))


def direct(monkeypatch: pytest.MonkeyPatch, stack: TelemetryStack) -> None:
    """Set where lines and spans go without a collector."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", f"{stack.loki_url}/otlp/v1/logs")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", stack.tempo_otlp)


def written(journal: Path) -> set[bytes]:
    """Give every line of a journal."""
    return {line for path in journal.glob("*/*.jsonl") for line in path.read_bytes().splitlines()}


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf", "direct"])
def test_each_call_is_one_line_and_one_span(
    stack: TelemetryStack, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """Through the collector over either protocol, or directly: every end is in Loki as in the journal, and in Tempo."""
    if protocol == "direct":
        direct(monkeypatch, stack)
    else:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        base = stack.otlp_grpc if protocol == "grpc" else stack.otlp_http
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", base)
    lines = calls(cluster, 50)
    JournalWriter(tmp_path / "journal").write(*lines)
    made = ship_all(config(tmp_path, cluster))
    assert all(each.tried.delivered == 50 for each in made.values())
    found = in_loki(stack, cluster, 50)
    assert [each["auditID"] for each in found] == [each["auditID"] for each in ends(lines)]
    assert {orjson.dumps(each) for each in found} <= written(tmp_path / "journal")
    trace = wait_until(lambda: trace_of(stack, lines[0]["auditID"].replace("-", "")), "the span in Tempo")
    assert {span["name"] for span in trace} == {"list pods", "GET"}


def trace_of(stack: TelemetryStack, trace_id: str) -> list[dict[str, Any]]:
    """Give the spans of a trace; none while Tempo does not know it."""
    try:
        answer = get(f"{stack.tempo_url}/api/traces/{trace_id}", {})
    except OSError:
        return []
    return [span for batch in answer["batches"] for scope in batch["scopeSpans"] for span in scope["spans"]]


def test_sent_twice_counts_once(stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """A shipper that forgets all it has shipped sends the same bytes again, and Loki keeps one of each."""
    lines = calls(cluster, 40, command_id=str(uuid.uuid4()), begin=datetime.now(UTC) - timedelta(minutes=5))
    JournalWriter(tmp_path / "journal").write(*lines)
    settings = config(tmp_path, cluster, stack.otlp_grpc)
    for _ in range(2):
        made = ship_all(settings)
        assert made[Signal.LOGS].tried.delivered == 41
        for path in tmp_path.glob(f"{shipped.FILE_NAME}*"):
            path.unlink()
    in_loki(stack, cluster, 40)
    marker = calls(cluster, 1)
    JournalWriter(tmp_path / "journal", "later").write(*marker)
    ship_all(settings)
    assert len(in_loki(stack, cluster, 41)) == 41
    count = f'sum(count_over_time({{cluster="{cluster}", kind="command"}}[1h]))'
    assert wait_until(lambda: loki_number(stack.loki_url, count), "the command") == 1


def test_damaged_notes(stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """Where what was shipped cannot be read any more, all is shipped again, and Loki still has one of each."""
    JournalWriter(tmp_path / "journal").write(*calls(cluster, 5))
    settings = config(tmp_path, cluster, stack.otlp_grpc, [Signal.LOGS])
    ship_all(settings)
    settings.shipped.write_bytes(b"no database at all, but long enough to look like a page of one" * 200)
    assert ship_all(settings)[Signal.LOGS].tried.delivered == 5
    assert len(in_loki(stack, cluster, 5)) == 5


def test_numbers_without_gaps(stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """The lines of a writer are numbered in Loki without a gap, over restarts and a new segment under the cursor."""
    writer = JournalWriter(tmp_path / "journal")
    settings = config(tmp_path, cluster, stack.otlp_grpc)
    for _ in range(3):
        writer.write(*calls(cluster, 7))
        ship_all(settings)
        writer.write(*calls(cluster, 4))
        writer.open_segment()
    ship_all(settings)
    in_loki(stack, cluster, 33)
    streams = loki_streams(stack.loki_url, f'{{cluster="{cluster}"}}')
    numbers = [int(value[2]["structuredMetadata"]["export_seq"]) for one in streams for value in one["values"]]
    assert sorted(numbers) == list(range(1, 34))


def test_shipped_again_from_a_time(stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """What is shipped again, from the segment in which a time lies, has the numbers it had: nothing comes twice."""
    writer = JournalWriter(tmp_path / "journal")
    writer.write(*calls(cluster, 5))
    writer.open_segment()
    writer.write(*calls(cluster, 6))
    settings = config(tmp_path, cluster, stack.otlp_grpc)
    ship_all(settings)
    with shipped.opened_for_writing(settings.shipped) as state:
        positions = state.positions(Signal.LOGS)
        state.rewind(rewound(settings.journal, positions, 0))
        begun = state.positions(Signal.LOGS)
        assert {each.exported for each in begun.values()} == {0}
    assert ship_all(settings)[Signal.LOGS].tried.delivered == 11
    assert len(in_loki(stack, cluster, 11)) == 11


def test_commands(stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """A command is one line and one span above its calls, once it is over."""
    command = str(uuid.uuid4())
    begin = datetime.now(UTC) - timedelta(minutes=2)
    lines = calls(cluster, 3, begin=begin, apart=1.0, command_id=command, command="kubectl apply", status=201)
    JournalWriter(tmp_path / "journal").write(*lines)
    ship_all(config(tmp_path, cluster, stack.otlp_grpc))
    (found,) = in_loki(stack, cluster, 1, "command")
    assert found.items() >= {"command_id": command, "calls": 3, "status": 201, "duration_ms": 2012.5}.items()
    trace = wait_until(
        lambda: [each for each in trace_of(stack, command.replace("-", "")) if "parentSpanId" not in each], "the span"
    )
    assert [each["name"] for each in trace] == ["kubectl apply"]


def test_a_command_that_goes_on_is_not_over(stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """While one of its calls runs, a command is not told of, and its long-running call is told of when it starts."""
    start, _ = calls(cluster, 1, command_id=str(uuid.uuid4()), verb="watch", begin=datetime.now(UTC))
    started = {**start, "stage": "ResponseStarted", "status": 200}
    JournalWriter(tmp_path / "journal").write(start, started)
    made = ship_all(config(tmp_path, cluster, stack.otlp_grpc))
    assert [each["status"] for each in in_loki(stack, cluster, 1, "call_started")] == [200]
    assert made[Signal.LOGS].tried.delivered == 1
    assert made[Signal.TRACES].tried.delivered == 0


def test_hours_of_several_writers(stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """After hours without a collector the writers' lines go out as they came, so that Loki takes all of them."""
    begin = datetime.now(UTC) - timedelta(hours=20)
    for writer in ("w0", "w1"):
        JournalWriter(tmp_path / "journal", writer).write(*calls(cluster, 200, begin=begin, apart=360))
    made = ship_all(config(tmp_path, cluster, stack.otlp_grpc, [Signal.LOGS]))
    assert made[Signal.LOGS].tried.delivered == 400
    assert len(in_loki(stack, cluster, 400)) == 400


def test_clock_set_back(stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """Lines from before and after the clock was set back by an hour are all there, under their own times."""
    now = datetime.now(UTC)
    writer = JournalWriter(tmp_path / "journal")
    writer.write(*calls(cluster, 5, begin=now))
    writer.write(*calls(cluster, 5, begin=now - timedelta(hours=1)))
    ship_all(config(tmp_path, cluster, stack.otlp_grpc))
    assert len(in_loki(stack, cluster, 10)) == 10


def test_what_was_cut_off_by_recovery(stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """Where lines that were shipped were not durable after all, those that take their numbers are shipped too."""
    journal = tmp_path / "journal"
    writer = JournalWriter(journal)
    writer.write(*calls(cluster, 3))
    seq, previous, size = writer.seq, writer.previous, writer.path.stat().st_size
    writer.write(*calls(cluster, 2))
    settings = config(tmp_path, cluster, stack.otlp_grpc)
    ship_all(settings)
    with writer.path.open("r+b") as file:
        file.truncate(size)
    writer.seq, writer.previous = seq, previous
    others = calls(cluster, 1)
    writer.write(*others)
    ship_all(settings)
    found = in_loki(stack, cluster, 6)
    assert {each["auditID"] for each in ends(others)} <= {each["auditID"] for each in found}
    assert len(found) == 6


def test_an_interrupted_call(stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """A call that a crash ended is in Loki as interrupted, and its span is an error."""
    start, end = calls(cluster, 1)
    closed = {key: value for key, value in end.items() if not key.endswith(("_ms", "_bytes"))}
    closed |= {"outcome": "interrupted", "decision": "error", "decided_by": "proxy"}
    JournalWriter(tmp_path / "journal").write(start, closed)
    ship_all(config(tmp_path, cluster, stack.otlp_grpc))
    assert [each["outcome"] for each in in_loki(stack, cluster, 1)] == ["interrupted"]
    (span,) = wait_until(lambda: trace_of(stack, start["auditID"].replace("-", "")), "the span")
    assert span["status"]["code"] == "STATUS_CODE_ERROR"


def test_no_record_stops_the_rest(stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """Lines that are no records are kept as dead letters, with their reason; what stands around them is shipped."""
    writer = JournalWriter(tmp_path / "journal")
    writer.write(*calls(cluster, 2))
    writer.write_bytes(b"{this is no record")
    writer.write({"kind": "call", "stage": "ResponseComplete", "stageTimestamp": "yesterday", "auditID": "x"})
    writer.write(*calls(cluster, 2))
    settings = config(tmp_path, cluster, stack.otlp_grpc)
    made = ship_all(settings)
    assert len(in_loki(stack, cluster, 4)) == 4
    assert {each.dead_letters for each in made.values()} == {2}
    with state_of(settings) as state:
        assert {each.record[:16] for each in state.dead_letters()} >= {b"{this is no reco"}
        assert all(each.reason for each in state.dead_letters())


def test_collector_away(own_stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """While the collector is away lines wait in the journal, which is told, and all arrive once it is back."""
    own_stack.kill("collector")
    writer = JournalWriter(tmp_path / "journal")
    writer.write(*calls(cluster, 30))
    settings = config(tmp_path, cluster, own_stack.otlp_grpc, [Signal.LOGS])
    with shipping(settings) as running:
        logs = running[Signal.LOGS]
        wait_until(lambda: logs.tried.problem, "the shipper to say what is wrong")
        writer.open_segment()
        writer.write(*calls(cluster, 30))
        assert logs.waiting
        assert logs.tried.failures.get("UNAVAILABLE")
        own_stack.start("collector")
        wait_until(lambda: not logs.waiting and logs.tried.delivered >= 60, "all to be delivered")
        assert not logs.tried.problem
    assert len(in_loki(own_stack, cluster, 60)) == 60


def test_loki_away(own_stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """While Loki is away the collector keeps what it took; the shipper goes on, and nothing is lost."""
    own_stack.stop("loki")
    JournalWriter(tmp_path / "journal").write(*calls(cluster, 30))
    made = ship_all(config(tmp_path, cluster, own_stack.otlp_grpc, [Signal.LOGS]))
    assert made[Signal.LOGS].tried.delivered == 30
    own_stack.start("loki")
    assert len(in_loki(own_stack, cluster, 30)) == 30


def test_loki_refuses_a_record(
    own_stack: TelemetryStack, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that Loki answers with 400 becomes a dead letter; the 30 around it are taken, and the cursor moves on."""
    direct(monkeypatch, own_stack)
    writer = JournalWriter(tmp_path / "journal")
    writer.write(*calls(cluster, 15))
    writer.write(*calls(cluster, 1, requestURI="/api/v1/pods?continue=" + "x" * 40_000))
    writer.write(*calls(cluster, 15))
    settings = config(tmp_path, cluster, signals=[Signal.LOGS])
    logs = ship_all(settings)[Signal.LOGS]
    assert (logs.tried.delivered, logs.dead_letters) == (30, 1)
    assert len(in_loki(own_stack, cluster, 30)) == 30
    with state_of(settings) as state:
        (letter,) = state.dead_letters()
        assert "400" in letter.reason
        assert len(letter.record) > 40_000
    assert ship_all(settings)[Signal.LOGS].tried.delivered == 0


def test_loki_is_full_for_the_moment(tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answered with 429, the shipper waits and sends again: all lines arrive, and no dead letter is made."""
    limits = {"LOKI_INGESTION_RATE_MB": "1", "LOKI_INGESTION_BURST_MB": "1"}
    with TelemetryStack(tmp_path / "stack", CONFIGURATION, parts=("loki",), environ=limits) as loki:
        direct(monkeypatch, loki)
        JournalWriter(tmp_path / "journal").write(*calls(cluster, 1200, message="m" * 900))
        logs = ship_all(config(tmp_path, cluster, signals=[Signal.LOGS]))[Signal.LOGS]
        assert (logs.tried.delivered, logs.dead_letters) == (1200, 0)
        assert any(reason.startswith("429") for reason in logs.tried.failures)
        assert len(in_loki(loki, cluster, 1200)) == 1200


def test_tempo_away_does_not_hold_up_lines(
    stack: TelemetryStack, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines and spans are shipped each at their own pace: without Tempo the trail in Loki is complete all the same."""
    direct(monkeypatch, stack)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
    JournalWriter(tmp_path / "journal").write(*calls(cluster, 20))
    with shipping(config(tmp_path, cluster)) as running:
        wait_until(lambda: running[Signal.LOGS].tried.delivered == 20, "the lines")
        wait_until(lambda: running[Signal.TRACES].tried.problem, "the spans' trouble")
        assert running[Signal.TRACES].tried.delivered == 0
    assert len(in_loki(stack, cluster, 20)) == 20


def test_a_segment_that_is_gone(stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """Where somebody removed a segment before it was shipped, shipping goes on behind it, and the gap shows in Loki."""
    writer = JournalWriter(tmp_path / "journal")
    writer.write(*calls(cluster, 3))
    settings = config(tmp_path, cluster, stack.otlp_grpc)
    ship_all(settings)
    gone = writer.path
    writer.write(*calls(cluster, 2))
    writer.open_segment()
    writer.write(*calls(cluster, 4))
    gone.unlink()
    ship_all(settings)
    found = in_loki(stack, cluster, 7)
    seqs = [each["seq"] for each in found]
    assert len(seqs) == 7
    assert max(seqs) - min(seqs) > 2 * 7


def test_a_shipper_that_finds_nothing_to_do(stack: TelemetryStack, cluster: str, tmp_path: Path) -> None:
    """Without a journal, or with one that is shipped, nothing is sent."""
    settings = config(tmp_path, cluster, stack.otlp_grpc)
    tmp_path.joinpath("journal").mkdir()
    with shippers(settings) as made:
        assert all(each.step() is False for each in made.values())
        assert all(each.tried.requests == 0 for each in made.values())
