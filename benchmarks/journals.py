"""Journals to measure with: calls as kubectl makes them, by a few dozen people in a few dozen namespaces."""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
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
    run = _Run("", "", "", "")
    for number in range(calls):
        if number % CALLS_PER_COMMAND == 0:
            user = f"user-{choose.randrange(50)}@example.com"
            session = str(UUID(int=choose.getrandbits(128)))
            run = _Run(user, session, f"team-{choose.randrange(30)}", choose.choice(_RESOURCES))
        received = begin + timedelta(seconds=number / per_second)
        start = _start(choose, received, run, listing=number % CALLS_PER_COMMAND == 0)
        yield start
        yield _end(choose, start, received)


class _Run(NamedTuple):
    """A command: it lists something in a namespace, and gets some of it by name."""

    user: str
    session: str
    namespace: str
    resource: str


def _start(choose: random.Random, received: datetime, run: _Run, *, listing: bool) -> dict[str, Any]:
    command = command_id(run.user, run.session)
    audit_id = str(UUID(int=choose.getrandbits(128), version=4))
    name = f"checkout-{choose.randrange(40)}"
    path = f"/api/v1/namespaces/{run.namespace}/{run.resource}"
    return {
        "kind": "call",
        "stage": "RequestReceived",
        "stageTimestamp": _stamp(received),
        "auditID": audit_id,
        "requestReceivedTimestamp": _stamp(received),
        "sourceIPs": [f"192.0.2.{sum(run.user.encode()) % 250}"],
        "cluster": "prod-eu",
        "method": "GET",
        "verb": "list" if listing else "get",
        "version": "v1",
        "resource": run.resource,
        "namespace": run.namespace,
        **({} if listing else {"name": name}),
        "requestURI": f"{path}?limit=500" if listing else f"{path}/{name}",
        "userAgent": _AGENT,
        "access_method": "kubectl",
        "command": "kubectl get",
        "command_source": "header",
        "user": run.user,
        "authenticator": "token",
        "groups": ["developers"],
        "command_id": command,
        "impersonated": True,
        "upstream_user": run.user,
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
