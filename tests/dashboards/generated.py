"""A trail with all that the dashboards have to show: hostile names, refusals, streams, a gap, a silent writer."""

import random
import shlex
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
from interpolation import Span

from kube_audit_proxy.telemetry import lines, spans
from kube_audit_proxy.telemetry.commands import Commands
from kube_audit_proxy.telemetry.entries import kind_of
from kube_audit_proxy.telemetry.spans import Times
from kube_audit_proxy.telemetry.times import nanoseconds
from support.journals import BEGINNING, end, random_calls, stamp, start, started

Record = dict[str, Any]

CLUSTERS = ("dev", "prod-eu", "prod-us")
MISSING = 3
"""Lines of gateway-2 that are never sent."""
_SECONDS = 1440
"""How long the trail is: short enough that Tempo counts its spans before it has put them away."""
_SILENT_AFTER = 840
"""When gateway-2 sends its last heartbeat."""
_STOPPED_AFTER = 600
"""When gateway-3, which takes no calls, ends in good order."""
STREAMS = frozenset(("exec", "attach", "log", "portforward", "proxy"))

HOSTILE = (
    'dave "root" o\'neil',
    "eve`id`",
    "CORP\\mallory",
    "new\nline",
    ".*",
    "a,b;c",
    "a&var-user=b",
    "$__all",
    "${user}",
    "{{.user}}",
    '"} or {kind="call"',
    "` or user!=`",
    "100%41",
    "  spaces  ",
    "日本語 \U0001f600",
    "[a-z]+(",
    "a|b",
    "'; DROP TABLE calls; --",
    "x\r\ny\tz",
)


@dataclass(slots=True)
class Trail:
    """What was sent: the calls that ended, those that were answered only, and the rest, as records."""

    span: Span
    calls: list[Record] = field(default_factory=list)
    begun: list[Record] = field(default_factory=list)
    commands: list[Record] = field(default_factory=list)
    heartbeats: list[Record] = field(default_factory=list)
    lost: list[Record] = field(default_factory=list)

    @property
    def running(self) -> list[Record]:
        """The streams that were answered and did not end."""
        ended = {call["auditID"] for call in self.calls}
        return [each for each in self.begun if each["auditID"] not in ended]

    @property
    def measured(self) -> list[Record]:
        """The calls whose durations are compared: all but streams."""
        return [call for call in self.calls if not is_stream(call)]


def is_stream(call: Record) -> bool:
    """Tell whether a call lasts as long as somebody looks."""
    return call.get("verb") in {"watch", "proxy"} or call.get("subresource") in STREAMS


def generate(now: datetime, count: int = 500) -> tuple[Trail, list[Record]]:
    """Return the trail, and the records in the order in which they were made."""
    beginning = now.replace(second=0, microsecond=0) - timedelta(seconds=_SECONDS)
    first = int(beginning.timestamp() * 1000)
    trail = Trail(Span(first, first + _SECONDS * 1000))
    shift = beginning + timedelta(minutes=2) - BEGINNING
    records = [*_random(count, shift), *_hostile(shift, count), *_secrets(shift, count)]
    numbers = {"gateway-1": 0, "gateway-2": 0, "gateway-3": 0}
    made: list[Record] = []
    made.extend({"writer": f"gateway-{1 + at % 2}", **record} for at, record in enumerate(records))
    for second in range(5, _SECONDS, 15):
        moment = stamp(beginning + timedelta(seconds=second))
        last = {"gateway-1": _SECONDS, "gateway-2": _SILENT_AFTER, "gateway-3": _STOPPED_AFTER}
        writers = [writer for writer in numbers if second < last[writer]]
        made.extend({"writer": writer, **_heartbeat(moment, second)} for writer in writers)
    stopped = stamp(beginning + timedelta(seconds=_STOPPED_AFTER))
    made.append({"writer": "gateway-3", **_heartbeat(stopped, _STOPPED_AFTER), "ending": True})
    made.append({
        "writer": "gateway-1", "kind": "lost", "count": 7, "since": stamp(beginning),
        "stageTimestamp": stamp(beginning + timedelta(minutes=10)),
    })  # fmt: skip
    made.sort(key=lambda record: record["stageTimestamp"])
    sent = []
    for record in made:
        numbers[record["writer"]] += 1
        numbered = {**record, "seq": numbers[record["writer"]], "export_seq": numbers[record["writer"]]}
        if record["writer"] == "gateway-2" and 100 < numbered["export_seq"] <= 100 + MISSING:
            continue
        sent.append(numbered)
        _keep(trail, numbered)
    for command in _commands(trail):
        trail.commands.append(command)
        sent.append(command)
    return trail, sent


def send(loki: str, otlp: str, records: list[Record]) -> None:
    """Send records to Loki and their spans to a collector, made by the shipper's own encoders."""
    encoder, span_encoder = lines.LineEncoder(CLUSTERS), spans.SpanEncoder()
    encoded, traced = [], []
    for record in records:
        kind = kind_of(record)
        assert kind is not None
        time = nanoseconds(record["stageTimestamp"])
        number = record.get("export_seq")
        line = {key: value for key, value in record.items() if key != "export_seq"}
        encoded.append(encoder.encode(line, orjson.dumps(line), (), time=time, kind=kind, export_seq=number))
        if kind == "call":
            began = nanoseconds(record["requestReceivedTimestamp"])
            traced.append(span_encoder.encode_call(record, Times(began, time), ()))
        if kind == "command":
            began = nanoseconds(record["requestReceivedTimestamp"])
            traced.append(span_encoder.encode_command(record, Times(began, time)))
    for at in range(0, len(encoded), 500):
        _post(f"{loki}/otlp/v1/logs", lines.request(encoded[at : at + 500]))
    for at in range(0, len(traced), 500):
        _post(f"{otlp}/v1/traces", spans.request(traced[at : at + 500], "test"))


def label(record: Record, name: str) -> str:
    """Return the value of an index label: strangers' clusters and methods become `other`."""
    value: str = record.get(name, "")
    known = {"cluster": frozenset((*CLUSTERS, "demo")), "verb": lines.VERBS}.get(name)
    return value if known is None or not value or value in known else lines.OTHER


def resource(record: Record) -> str:
    """Return the resource with its subresource."""
    sub = record.get("subresource")
    return f"{record.get('resource', '')}/{sub}" if sub else record.get("resource", "")


def details(record: Record) -> str:
    """Return what the column Details says of a call."""
    text = f"{label(record, 'verb')} "
    text += (
        resource(record) + (f" {record['name']}" if "name" in record else "")
        if "resource" in record
        else record["requestURI"]
    )
    text += f" $ {shlex.join(record['exec_argv'])}" if "exec_argv" in record else ""
    text += f" (exit code {record['exit_code']})" if "exit_code" in record else ""
    text += f" [{record['outcome']}]" if record.get("outcome", "complete") != "complete" else ""
    why = record.get("message") or record.get("reason")
    return f"{text}: {why}" if why else text


def milliseconds(record: Mapping[str, Any]) -> float:
    """Return the time of a record as the column Date has it."""
    return nanoseconds(record["stageTimestamp"]) / 1e6


def _random(count: int, shift: timedelta) -> Iterator[Record]:
    for stages in random_calls(count, seed=7):
        for record in stages[1:]:
            if record["stage"] == "ResponseStarted" and not is_stream(record):
                continue
            yield _shifted(_plausible(record), shift)


def _plausible(record: Record) -> Record:
    if record["stage"] != "ResponseComplete":
        return record
    refused = record["decision"] != "allow"
    more = {"decided_by": "proxy" if refused else "apiserver", "outcome": "refused" if refused else "complete"}
    if refused:
        record = {key: value for key, value in record.items() if key != "upstream_ms"}
    if record.get("subresource") == "exec" and not refused:
        more["exit_code"] = record["response_bytes"] % 3
    return {**record, **more}


def _hostile(shift: timedelta, number: int) -> Iterator[Record]:
    for at, text in enumerate(HOSTILE):
        yield _shifted(
            end(
                start(
                    number + at,
                    auditID=_uuid(number + at),
                    user=text,
                    namespace=text,
                    name=text,
                    command=f"kubectl {text}",
                    command_id=_uuid(10_000 + at),
                    command_source="header",
                    cluster="dev" if at % 2 else text,
                    userAgent=text,
                    verb="get" if at % 3 else text,
                ),
                status=403,
                decision="deny",
                decided_by="proxy",
                reason="Forbidden",
                message=text,
                outcome="refused",
                upstream_ms=None,
            ),
            shift,
        )


def _secrets(shift: timedelta, number: int) -> Iterator[Record]:
    for at in range(30):
        denied = start(number + 50 + at, auditID=_uuid(2000 + at), user="mallory", resource="secrets", cluster="dev")
        yield _shifted(end(denied, status=403, decision="deny", decided_by="apiserver", reason="Forbidden"), shift)
    for at in range(5):
        opened = start(
            number + 90 + at,
            auditID=_uuid(3000 + at),
            user="alice",
            cluster="prod-eu",
            method="POST",
            verb="create",
            subresource="exec",
            name=f"web-{at}",
            exec_argv=["sh", "-c", "echo 'a b'"],
        )
        yield _shifted(started(opened, status=101), shift)
        if at % 2:
            yield _shifted(end(opened, 5000.25, status=101, exit_code=at, upstream_ms=4999.0), shift)


def _commands(trail: Trail) -> Iterator[Record]:
    """Yield the commands twice over, as for those that went on after they seemed over."""
    half = len(trail.calls) // 2
    commands = Commands()
    order = sorted(trail.calls, key=milliseconds)
    for part in (order[:half], order[half:]):
        for call in part:
            if "command_id" not in call:
                continue
            began, ended = nanoseconds(call["requestReceivedTimestamp"]), nanoseconds(call["stageTimestamp"])
            commands.started(call["command_id"], began)
            commands.ended(call, began, ended)
        for command in commands.over(nanoseconds(part[-1]["stageTimestamp"]), 0):
            yield command.record()


def _heartbeat(moment: str, second: int) -> Record:
    return {
        "kind": "heartbeat",
        "stageTimestamp": moment,
        "product": "kube-audit-proxy test",
        "calls": second % 4,
        "refused": second // 60,
        "journal_bytes": 1000 * second,
        "shipped_seq": second,
        "lag_seconds": round(second / 1000, 3),
        "dead_letters": 1 if second > 1200 else 0,
    }


def _keep(trail: Trail, record: Record) -> None:
    kept = {
        "call": trail.calls,
        "call_started": trail.begun,
        "heartbeat": trail.heartbeats,
        "lost": trail.lost,
    }
    kept[str(kind_of(record))].append(record)


def _shifted(record: Record, shift: timedelta) -> Record:
    moved = {
        name: stamp(datetime.fromisoformat(record[name]) + shift)
        for name in ("stageTimestamp", "requestReceivedTimestamp")
    }
    return {**record, **moved}


def _uuid(number: int) -> str:
    return str(uuid.UUID(int=random.Random(number).getrandbits(128)))  # noqa: S311 - the same each time is what is wanted


def _post(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, body, {"Content-Type": "application/x-protobuf"})
    with urllib.request.urlopen(request, timeout=60):
        pass
