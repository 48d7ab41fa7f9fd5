"""Journals to measure with: calls as kubectl makes them, by a few dozen people in a few dozen namespaces."""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from kube_audit_proxy.audit.command import command_id
from kube_audit_proxy.audit.trace import server_span_id, trace_id
from kube_audit_proxy.journal.line import FIRST_PREVIOUS, build, content, digest, head
from kube_audit_proxy.journal.reader import segment_name

CALLS_PER_COMMAND = 5
_AGENT = "kubectl/v1.36.3 (linux/amd64) kubernetes/66452049"
_RESOURCES = ("pods", "secrets", "configmaps", "services", "events")
_SEGMENT_LINES = 60_000


def write_journal(journal: Path, calls: int, *, begin: datetime, per_second: float = 500.0, writer: str = "w0") -> None:
    """Write a journal of so many calls, each a start and an end, so many a second."""
    folder = journal / writer
    folder.mkdir(parents=True)
    first, previous = head(writer), FIRST_PREVIOUS.encode()
    with ExitStack() as files:
        for seq, record in enumerate(_records(calls, begin, per_second), 1):
            if seq % _SEGMENT_LINES == 1:
                file = files.enter_context((folder / segment_name(seq)).open("wb"))
            line = build(first, seq, previous, content(record))
            previous = digest(line).encode()
            file.write(line + b"\n")


def _records(calls: int, begin: datetime, per_second: float) -> Iterator[dict[str, Any]]:
    yield {"kind": "segment", "format": 1, "product": "kube-audit-proxy/bench", "opened": _stamp(begin)}
    choose = random.Random(1)  # noqa: S311 - the same each time is what is wanted
    session = user = ""
    for number in range(calls):
        if number % CALLS_PER_COMMAND == 0:
            session, user = str(UUID(int=choose.getrandbits(128))), f"user-{choose.randrange(50)}@example.com"
        received = begin + timedelta(seconds=number / per_second)
        start = _start(choose, received, session, user)
        yield start
        yield _end(choose, start, received)


def _start(choose: random.Random, received: datetime, session: str, user: str) -> dict[str, Any]:
    namespace = f"team-{choose.randrange(30)}"
    resource, command = choose.choice(_RESOURCES), command_id(user, session)
    audit_id = str(UUID(int=choose.getrandbits(128), version=4))
    return {
        "kind": "call",
        "stage": "RequestReceived",
        "stageTimestamp": _stamp(received),
        "auditID": audit_id,
        "requestReceivedTimestamp": _stamp(received),
        "cluster": "prod-eu",
        "sourceIPs": [f"192.0.2.{choose.randrange(250)}"],
        "method": "GET",
        "verb": "list",
        "version": "v1",
        "resource": resource,
        "namespace": namespace,
        "requestURI": f"/api/v1/namespaces/{namespace}/{resource}?limit=500",
        "userAgent": _AGENT,
        "access_method": "kubectl",
        "command": "kubectl get",
        "command_source": "header",
        "user": user,
        "authenticator": "token",
        "groups": ["developers"],
        "command_id": command,
        "impersonated": True,
        "upstream_user": user,
        "trace_id": trace_id(command),
        "span_id": server_span_id(audit_id),
    }


def _end(choose: random.Random, start: dict[str, Any], received: datetime) -> dict[str, Any]:
    duration = round(choose.uniform(2, 40), 3)
    return start | {
        "stage": "ResponseComplete",
        "stageTimestamp": _stamp(received + timedelta(milliseconds=duration)),
        "decision": "allow",
        "decided_by": "apiserver",
        "outcome": "complete",
        "duration_ms": duration,
        "request_bytes": 0,
        "response_bytes": choose.randrange(500, 50_000),
        "status": 200,
        "upstream_start_ms": 0.8,
        "upstream_ms": round(duration - 1, 3),
        "first_byte_ms": round(duration - 0.5, 3),
    }


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
