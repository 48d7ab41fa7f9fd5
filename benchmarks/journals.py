"""Journals to measure with: calls that are all alike, of a few dozen people, or varied, as a company makes them."""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from kube_audit_proxy.audit.call import CallEnd, CallRecord, members
from kube_audit_proxy.audit.command import command_id
from kube_audit_proxy.audit.fields import Decision, Outcome
from kube_audit_proxy.audit.trace import server_span_id, trace_id
from kube_audit_proxy.gateway.describe import describe_client, describe_connection, describe_user
from kube_audit_proxy.journal.line import FIRST_PREVIOUS, build, content, digest, head
from kube_audit_proxy.journal.reader import segment_name

Item = TypeVar("Item")

CALLS_PER_COMMAND = 5
_AGENT = "kubectl/v1.36.3 (linux/amd64) kubernetes/66452049"
_RESOURCES = ("pods", "secrets", "configmaps", "services", "events")
_SEGMENT_LINES = 60_000
_UNDER_WAY = 12
"""Calls that begin before one that began earlier ends."""


def write_journal(journal: Path, calls: int, *, begin: datetime, per_second: float = 500.0, writer: str = "w0") -> None:
    """Write a journal of so many calls that are all alike, each a start and an end, so many a second."""
    write_lines(journal, map(content, _records(calls, begin, per_second)), begin=begin, writer=writer)


def write_varied_journal(journal: Path, calls: int, *, begin: datetime, writer: str = "w0", seed: int = 1) -> None:
    """Write a journal of so many varied calls, 500 a second."""
    calls_made = Population().calls(calls, begin, 500.0, seed)
    write_lines(journal, overlapping(calls_made), begin=begin, writer=writer)


def write_lines(journal: Path, bodies: Iterable[bytes], *, begin: datetime, writer: str) -> None:
    """Write the lines of a writer, in segments."""
    folder = journal / writer
    folder.mkdir(parents=True)
    first, previous, seq = head(writer), FIRST_PREVIOUS.encode(), 0
    segment = content({"kind": "segment", "format": 1, "product": "kube-audit-proxy/bench", "opened": stamp(begin)})
    with ExitStack() as open_files:
        for number, body in enumerate(bodies):
            if number % _SEGMENT_LINES == 0:
                open_files.close()
                file = open_files.enter_context((folder / segment_name(seq + 1)).open("wb"))
            for each in (body,) if number % _SEGMENT_LINES else (segment, body):
                seq += 1
                line = build(first, seq, previous, each)
                previous = digest(line).encode()
                file.write(line + b"\n")


def overlapping(calls: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield starts and ends as they are written where several calls are under way at any time."""
    ends: list[bytes] = []
    for start, end in calls:
        yield start
        ends.append(end)
        if len(ends) > _UNDER_WAY:
            yield ends.pop(0)
    yield from ends


def _records(calls: int, begin: datetime, per_second: float) -> Iterator[dict[str, Any]]:
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
        "stageTimestamp": stamp(received),
        "auditID": audit_id,
        "requestReceivedTimestamp": stamp(received),
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
        "stageTimestamp": stamp(received + timedelta(milliseconds=duration)),
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


def stamp(moment: datetime) -> str:
    """Return a time as records have it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Caller(NamedTuple):
    """A person or a program: what they call with, where, and what they care about."""

    name: str
    groups: tuple[str, ...]
    agents: tuple[str, ...]
    namespaces: tuple[str, ...]
    kinds: tuple[tuple[str, str, str], ...]


class Population:
    """Who calls, and what there is to be called: a few of each do most, and many do little."""

    def __init__(self, callers: int = 400, namespaces: int = 300) -> None:
        choose = self._choose = random.Random(1)  # noqa: S311 - the same each time is what is wanted
        self.namespaces = [f"{choose.choice(_TEAMS)}-{number}" for number in range(namespaces)]
        self.services = {
            namespace: [f"{choose.choice(_SERVICES)}-{choose.randrange(100)}" for _ in range(_SERVICES_EACH)]
            for namespace in self.namespaces
        }
        self.callers = [self._caller(number) for number in range(callers)]
        sizes = (callers, namespaces, _SERVICES_EACH, *range(1, len(_KINDS) + 1))
        self._weights = {size: [*accumulate(1 / rank for rank in range(1, size + 1))] for size in sizes}

    def calls(self, count: int, begin: datetime, per_second: float, seed: int = 1) -> Iterator[tuple[bytes, bytes]]:
        """Yield the members of the start and of the end of so many calls, so many a second."""
        self._choose.seed(seed)
        left = 0
        for number in range(count):
            if not left:
                left, doing = int(self._choose.random() * self._choose.random() * 14) + 1, self._doing()
            left -= 1
            yield self._call(doing, begin + timedelta(microseconds=int(number * 1e6 / per_second)), number)

    def _caller(self, number: int) -> Caller:
        choose = self._choose
        namespaces = tuple(choose.sample(self.namespaces, choose.randint(1, 6)))
        kinds = tuple(choose.sample(_KINDS, choose.randint(3, 12)))
        if number % 5 == 4:
            programs = (choose.choice(_PROGRAMS),)
            return Caller(f"system:serviceaccount:ci-{number}:robot", ("robots",), programs, namespaces, kinds)
        groups = ("developers", f"owners-{namespaces[0]}")
        agents = tuple(choose.sample(_AGENTS, choose.choice((1, 1, 1, 2))))
        return Caller(f"{choose.choice(_NAMES)}.{number}@example.com", groups, agents, namespaces, kinds)

    def _pick(self, items: Sequence[Item]) -> Item:
        return self._choose.choices(items, cum_weights=self._weights[len(items)])[0]

    def _doing(self) -> "_Doing":
        choose = self._choose
        caller = self._pick(self.callers)
        namespace = choose.choice(caller.namespaces) if choose.random() < 0.93 else self._pick(self.namespaces)
        kind = self._pick(caller.kinds) if choose.random() < 0.95 else choose.choice(_KINDS)
        session = str(UUID(int=choose.getrandbits(128), version=4)) if "system:" not in caller.name else ""
        verb = choose.choices(_VERBS, cum_weights=_VERB_WEIGHTS)[0]
        return _Doing(caller, choose.choice(caller.agents), namespace, verb, *kind, session)

    def _call(self, doing: "_Doing", received: datetime, number: int) -> tuple[bytes, bytes]:
        choose, caller = self._choose, doing.caller
        record = CallRecord(str(UUID(int=choose.getrandbits(128), version=4)), stamp(received))
        name = self._name(doing, number)
        record.add(describe_connection(_CLUSTERS[len(doing.namespace) % 3], f"192.0.2.{len(caller.name) * 3}"))
        record.add(doing.asked(name, number // 50, choose.random()))
        record.add(describe_client(doing.agent, f"kubectl {doing.verb}" if doing.session else "", ""))
        fate = choose.random()
        if fate > _UNKNOWN_CALLERS:
            record.add(describe_user(caller.name, caller.groups, "token"))
            record.add(f'"command_id":"{doing.session}"'.encode() if doing.session else b"")
            record.add(f'"impersonated":true,"upstream_user":"{caller.name}"'.encode())
        record.trace((doing.session or record.audit_id).replace("-", ""))
        took = choose.uniform(1, 40)
        end = CallEnd(
            **doing.answer(name, fate), duration_ms=took, upstream_ms=took - 0.9, upstream_start_ms=0.8,
            first_byte_ms=took - 0.4, response_bytes=choose.randrange(50_000),
        )  # fmt: skip
        return record.start(), record.end(stamp(received + timedelta(milliseconds=took)), end)

    def _name(self, doing: "_Doing", number: int) -> str:
        """Return the name of something that is there now: pods come and go."""
        if doing.verb in {"list", "watch", "create"}:
            return ""
        service = self._pick(self.services[doing.namespace])
        if doing.resource not in {"pods", "replicasets"}:
            return service
        made = number // 130_000 * 7 + self._choose.randrange(3)
        suffix = sha256(f"{doing.namespace}/{service}/{made}".encode()).hexdigest()
        return f"{service}-{suffix[:10]}" + (f"-{suffix[10:15]}" if doing.resource == "pods" else "")


class _Doing(NamedTuple):
    """Something that a caller does with a few calls."""

    caller: Caller
    agent: str
    namespace: str
    verb: str
    group: str
    version: str
    resource: str
    session: str

    def asked(self, name: str, version: int, chance: float) -> bytes:
        """Return what one of its calls asks for."""
        verb, subresource, query = self.verb, "", _QUERIES.get(self.verb, "")
        if self.resource == "pods" and verb == "get" and chance < 0.3:
            subresource, query = "log", "?container=main&tailLines=100"
        elif self.resource == "pods" and verb == "get" and chance < 0.32:
            verb, subresource, query = (
                "create",
                "exec",
                "?command=cat&command=%2Fetc%2Fpasswd&container=main&stdout=true",
            )
        path = "/".join(
            part
            for part in (
                f"/apis/{self.group}" if self.group else "/api", self.version, "namespaces", self.namespace,
                self.resource, name, subresource,
            )
            if part
        )  # fmt: skip
        return members({
            "method": _METHODS[verb],
            "verb": verb,
            **({"group": self.group} if self.group else {}),
            "version": self.version,
            "resource": self.resource,
            **({"subresource": subresource} if subresource else {}),
            "namespace": self.namespace,
            **({"name": name} if name else {}),
            **({"exec_tty": False, "exec_stdin": False, "exec_argv": ["cat", "/etc/passwd"]} if "exec" in path else {}),
            "requestURI": path + query.format(version),
        })  # fmt: skip

    def answer(self, name: str, fate: float) -> dict[str, Any]:
        """Return what one of its calls is answered: nearly always what it asked for."""
        where = f'"{self.resource}" in API group "{self.group}" in the namespace "{self.namespace}"'
        refused = f'{self.resource} is forbidden: User "{self.caller.name}" cannot {self.verb} resource {where}'
        for below, status, reason, message in (
            (_UNKNOWN_CALLERS, 401, "Unauthorized", "the token is not known"),
            (0.03, 404, "NotFound", f'{self.resource} "{name}" not found'),
            (0.045, 403, "Forbidden", refused),
            (0.05, 409, "Conflict", "the object has been modified; please apply your changes to the latest version"),
            (0.0502, 503, "ServiceUnavailable", "the API server did not answer"),
        ):
            if fate <= below:
                return _said(status, reason, message)
        return _said(201 if self.verb == "create" else 200)


def _said(status: int, reason: str = "", message: str = "") -> dict[str, Any]:
    decision = Decision.DENY if status in {401, 403} else Decision.ERROR if status == 503 else Decision.ALLOW
    outcome = {401: Outcome.REFUSED, 503: Outcome.UPSTREAM_UNREACHABLE}.get(status, Outcome.COMPLETE)
    by = "proxy" if status in {401, 503} else "apiserver"
    return {
        "status": status, "decision": decision, "decided_by": by, "outcome": outcome, "reason": reason,
        "message": message,
    }  # fmt: skip


_UNKNOWN_CALLERS = 0.004
_SERVICES_EACH = 40
_CLUSTERS = ("prod-eu", "prod-us", "dev")
_TEAMS = ("team", "shop", "pay", "data", "ml", "infra")
_SERVICES = ("checkout", "cart", "search", "ledger", "auth", "mail", "feed", "etl", "cache", "proxy")
_NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
_KINDS = (
    ("", "v1", "pods"), ("apps", "v1", "deployments"), ("", "v1", "services"), ("", "v1", "configmaps"),
    ("", "v1", "secrets"), ("", "v1", "events"), ("apps", "v1", "replicasets"), ("batch", "v1", "jobs"),
    ("networking.k8s.io", "v1", "ingresses"), ("apps", "v1", "statefulsets"), ("apps", "v1", "daemonsets"),
    ("batch", "v1", "cronjobs"), ("", "v1", "persistentvolumeclaims"), ("", "v1", "serviceaccounts"),
    ("rbac.authorization.k8s.io", "v1", "rolebindings"), ("coordination.k8s.io", "v1", "leases"),
    ("autoscaling", "v2", "horizontalpodautoscalers"), ("argoproj.io", "v1alpha1", "applications"),
    ("cert-manager.io", "v1", "certificates"), ("policy", "v1", "poddisruptionbudgets"),
)  # fmt: skip
_METHODS = {
    "get": "GET", "list": "GET", "watch": "GET", "patch": "PATCH", "create": "POST", "delete": "DELETE", "update": "PUT"
}  # fmt: skip
_VERBS = tuple(_METHODS)
_VERB_WEIGHTS = (*accumulate((40, 30, 8, 9, 6, 3, 4)),)
_QUERIES = {"list": "?limit=500", "watch": "?watch=true&resourceVersion={}"}
_AGENTS = tuple(
    f"kubectl/v1.{minor} ({system}) kubernetes/{build}"
    for minor, build in (("36.3", "66452049"), ("35.0", "a1b2c3d4"), ("33.2", "9f8e7d6c"), ("30.1", "0011aabb"))
    for system in ("linux/amd64", "darwin/arm64")
)
_PROGRAMS = (
    "argocd-application-controller/v3.1",
    "python-requests/2.32",
    "Helm/4.0.1",
    "k9s/v0.50.9",
    "terraform/1.14",
)
