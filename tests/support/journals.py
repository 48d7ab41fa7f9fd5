"""Writes journals for tests: real files with a valid chain, and calls to put into them."""

import random
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kube_audit_proxy.journal.line import FIRST_PREVIOUS, build, content, digest, head
from kube_audit_proxy.journal.reader import segment_name

Record = dict[str, Any]

BEGINNING = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


class JournalWriter:
    """Appends records of one writer to a journal, each line chained to the one before."""

    def __init__(self, journal: Path, writer: str = "gateway-1") -> None:
        self.directory = journal / writer
        self.directory.mkdir(parents=True, exist_ok=True)
        self.writer = writer
        self.seq = 0
        self.previous = FIRST_PREVIOUS.encode()
        self.open_segment()

    def open_segment(self) -> None:
        """Go on in a new file."""
        self.path = self.directory / segment_name(self.seq + 1)
        self.write({"kind": "segment", "format": 1, "product": "kube-audit-proxy 0.1.0", "opened": stamp(BEGINNING)})

    def write(self, *records: Record) -> None:
        """Append these records."""
        self.write_all(records)

    def write_all(self, records: Iterable[Record]) -> None:
        """Append these records, however many."""
        with self.path.open("ab") as file:
            for record in records:
                self.seq += 1
                line = build(head(self.writer), self.seq, self.previous, content(record))
                self.previous = digest(line).encode()
                file.write(line + b"\n")

    def write_bytes(self, line: bytes) -> None:
        """Append a line as it is, outside of the chain."""
        with self.path.open("ab") as file:
            file.write(line + b"\n")


def stamp(moment: datetime) -> str:
    """Return a time as records have it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def start(number: int = 1, **fields: Any) -> Record:
    """Return the first line of the call with this number, a second after the call before. None leaves a field out."""
    received = stamp(BEGINNING + timedelta(seconds=number))
    record = {
        "kind": "call",
        "stage": "RequestReceived",
        "stageTimestamp": received,
        "auditID": str(uuid.UUID(int=number)),
        "requestReceivedTimestamp": received,
        "cluster": "dev",
        "user": "alice",
        "groups": ["developers"],
        "authenticator": "token",
        "access_method": "kubectl",
        "sourceIPs": ["192.0.2.7"],
        "userAgent": "kubectl/v1.35.0 (linux/amd64) kubernetes/66452049",
        "method": "GET",
        "requestURI": "/api/v1/namespaces/default/pods?limit=500",
        "verb": "list",
        "version": "v1",
        "resource": "pods",
        "namespace": "default",
    }
    return _with(record, fields)


def started(of: Record, **fields: Any) -> Record:
    """Return the line that says that the answer of a long-running call has begun."""
    return _with({**of, "stage": "ResponseStarted", "status": 200}, fields)


def end(of: Record, duration_ms: float = 12.5, **fields: Any) -> Record:
    """Return the last line of a call."""
    received = datetime.fromisoformat(of["requestReceivedTimestamp"])
    record = {
        **of,
        "stage": "ResponseComplete",
        "stageTimestamp": stamp(received + timedelta(milliseconds=duration_ms)),
        "status": 200,
        "decision": "allow",
        "decided_by": "apiserver",
        "outcome": "complete",
        "duration_ms": duration_ms,
        "upstream_ms": duration_ms / 2,
        "first_byte_ms": duration_ms / 2,
        "request_bytes": 0,
        "response_bytes": 3072,
    }
    return _with(record, fields)


def whole(number: int = 1, duration_ms: float = 12.5, **fields: Any) -> tuple[Record, Record]:
    """Return the first and the last line of a call that was answered."""
    first = start(number, **fields)
    return first, end(first, duration_ms, **{key: value for key, value in fields.items() if key in _END_FIELDS})


def random_calls(count: int, seed: int = 1) -> Iterator[list[Record]]:
    """Yield the lines of calls as different as they come, the same for the same seed."""
    choose = random.Random(seed)  # noqa: S311 - the same each time is what is wanted
    commands = [str(uuid.UUID(int=choose.getrandbits(128))) for _ in range(max(1, count // 5))]
    for number in range(1, count + 1):
        lines = [_random_start(choose, number, commands)]
        fate = choose.random()
        if fate < 0.1:
            lines.append(started(lines[0], status=choose.choice((101, 200))))
        if fate > 0.05:
            status = choose.choice((200, 200, 200, 201, 301, 400, 401, 403, 404, 409, 500, 503))
            failure = {"reason": "Failed", "message": f'it "failed" with {status}'} if status >= 400 else {}
            decision = "deny" if status in {401, 403} else "error" if status == 503 else "allow"
            lines.append(end(lines[0], choose.randrange(1, 5000), status=status, decision=decision, **failure))
        yield lines


_END_FIELDS = ("status", "decision", "decided_by", "reason", "message", "outcome", "exit_code", "subprotocol", "ports")

_RESOURCES: tuple[Record, ...] = (
    {"resource": "pods", "version": "v1"},
    {"resource": "pods", "version": "v1", "subresource": "exec", "exec_argv": ["cat", "/etc/Passwd"]},
    {"resource": "pods", "version": "v1", "subresource": "log"},
    {"resource": "secrets", "version": "v1"},
    {"resource": "nodes", "version": "v1", "namespace": None},
    {"resource": "deployments", "group": "apps", "version": "v1"},
    {"resource": "deployments", "group": "apps", "version": "v1", "subresource": "scale"},
    {"resource": "ingresses", "group": "networking.k8s.io", "version": "v1"},
    {"resource": None, "namespace": None, "requestURI": "/healthz?verbose"},
)
_VERBS = (
    ("GET", "get"),
    ("GET", "list"),
    ("GET", "watch"),
    ("POST", "create"),
    ("PATCH", "patch"),
    ("DELETE", "delete"),
)
_USERS = (
    None,
    "alice",
    "bob",
    "Carol O'Neil",
    "system:serviceaccount:ci:robot",
    "al*ce",
    "[a-z]?",
    "müller@example.com",
)


def _random_start(choose: random.Random, number: int, commands: list[str]) -> Record:
    method, verb = choose.choice(_VERBS)
    command = {"command_id": choose.choice(commands), "command": f"kubectl {verb}", "command_source": "header"}
    return start(
        number,
        auditID=str(uuid.UUID(int=choose.getrandbits(128))),
        cluster=choose.choice(("dev", "prod-eu", "prod-us")),
        user=choose.choice(_USERS),
        access_method=choose.choice(("browser", "kubectl", "api")),
        method=method,
        verb=verb,
        **{"namespace": choose.choice(("default", "kube-system", "team_a")), **choose.choice(_RESOURCES)},
        **({"name": f"web-{choose.randrange(30)}"} if verb != "list" else {}),
        **(command if choose.random() < 0.7 else {}),
    )


def _with(record: Record, fields: Record) -> Record:
    return {key: value for key, value in {**record, **fields}.items() if value is not None}
