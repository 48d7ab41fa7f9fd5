"""Filters to ask different trails with, and calls that are hard to tell apart: for comparing their answers."""

import random
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from kube_audit_proxy.index.filters import Filters, parse
from support.journals import BEGINNING, Record, end, random_calls, stamp, start, started

CLUSTERS = ("dev", "prod-eu", "prod-us")
"""The clusters that a proxy knows; others stand in records of refused calls only."""

AFTER = timedelta(hours=1)
"""How long after the beginning of the calls the questions are asked."""

LONG = "x" * 1020 + "-tail" * 10
HOSTILE = 'a"} | line_format `pwned` or "\\ \n\x1b[31m{{.user}} \u202e`'

TABLE: Mapping[str, tuple[str, ...]] = {
    "user": (
        "alice", "alice,bob", "!alice", "*e*,!alice", "!*", "*", "!a*", "[a-z]?", "[a-z]*", "?*", "al*ce",
        "Carol O'Neil", "müller@*", "*@example.com", "!*@example.com", "' OR 1=1 --", "ALICE", ".*", "a.ice",
        "x*tail", "x*,!*tail", "!x*l", LONG, f"!{LONG}", LONG[:1024], f"{LONG[:1010]}*", HOSTILE, f"!{HOSTILE}",
        f"{HOSTILE}*", '*"*', "*\\*", "*`*", "nobody", "a*|b*", "(alice)", "^alice$", "{{.user}}", "\U0001f600*",
        "*\u202e*", "*\n*",
    ),
    "cluster": (
        "prod-*", "!dev", "dev,prod-eu", "*", "!*", "other", "!other", "o*", "!o*", "forged", "!forged", "forg*,dev",
        "!*e*", '"', 'dev"} or {', "nowhere",
    ),
    "namespace": (
        "team_a", "team*,kube-system", "!default", "!*", "*", "*-system", HOSTILE, 'default" or user!="', "no*",
    ),
    "resource": (
        "pods", "pods/exec", "pods/*", "deployments.apps", "deployments/scale", "*.networking*", "*.*networking*",
        "pods.", "*.", "*", "!*", "!pods/*,!secrets", "*s,pods/log", "!pods", "!pods.", "!*.apps", "!*/*", "*/*",
        "!deployments.apps", "pods.*", '"/"', "!deployments.apps/scale", "Pods/EXEC", "widgets.*",
    ),
    "verb": (
        "get,List", "!watch", "watch", "*", "!*", "other", "!other", "!oth*", "propfind", "*find,get", "!prop*", '"',
    ),
    "method": ("delete,PATCH", "P*", "!get", "!P*", "*", '"', "PROPFIND"),
    "access-method": ("browser", "!api", "kubectl,api", "!browser,!kubectl"),
    "status": ("404", "4xx,503", ">=400", "<300,!200", "!200", "!2xx", "101", "!>=400", "<=200", ">200,!4xx"),
    "decision": ("deny", "!allow", "allow,error", "!deny,!error", "deny,!error"),
    "command-id": ("!*", "*", "a*,b*", "!a*", "*f", '" or "'),
    "text": (
        "ALICE", "passwd", "cat /etc/passwd", "kubectl get", '"failed" with 40', "MÜLLER", "100%", "strasse", "STRASSE",
        "Straße", "kelvin", "finance", "\\", '"', 'a"} |', "pods?limit=500", "limit=", "`", "\u202e",
        "kubectl/v1.35.0 (linux", "-tail-tail-tail-tail-tail-tail", "nowhere to be found", "x1b", "s", "[31m",
        "\ufb01n",
    ),
    "since": ("59m", "3400s", "2d", "now", "53m"),
    "until": ("56m", "3400s", "2d", "now", "2031-01-01"),
}  # fmt: skip

TOGETHER: tuple[Mapping[str, str], ...] = (
    {},
    {"since": "58m", "until": "55m"},
    {"since": "58m", "until": "55m", "user": "!alice", "status": "!4xx"},
    {"user": "alice,bob", "resource": "pods/*", "decision": "!deny"},
    {"user": "*e*,!alice", "cluster": "prod-*", "text": "kubectl", "status": "<400"},
    {"verb": "!get", "method": "GET", "namespace": "!kube-*", "until": "56m"},
    {"command-id": "*", "decision": "deny", "since": "57m"},
    {"text": "kubectl get", "verb": "get", "decision": "allow", "resource": "!secrets"},
    {"decision": "!allow", "status": "101,200"},
    {"cluster": "forged,dev", "verb": "propfind,list"},
)


def asked(raw: Mapping[str, str], beginning: datetime = BEGINNING) -> Filters:
    """Read filters as a command line would a while after the calls began."""
    return parse({name: [value] for name, value in raw.items()}, now=beginning + AFTER, zone=UTC)


def every_question() -> Iterator[Mapping[str, str]]:
    """Yield the filters of the table one by one, then those that go together."""
    for name, values in TABLE.items():
        yield from ({name: value} for value in values)
    yield from TOGETHER


def combinations(count: int, seed: int = 7) -> Iterator[Mapping[str, str]]:
    """Yield filters put together by chance, the same for the same seed."""
    choose = random.Random(seed)  # noqa: S311 - the same each time is what is wanted
    for _ in range(count):
        names = choose.sample(sorted(TABLE), choose.randint(2, 4))
        raw = {name: choose.choice(TABLE[name]) for name in names}
        if not {"since", "until"} <= raw.keys():
            yield raw


def hard_calls(count: int = 400, beginning: datetime = BEGINNING) -> list[list[Record]]:
    """Return the lines of calls of all kinds: random ones, and among them those that are easily lost or mixed up.

    All lines of one call are together; no call has only its first. None but those whose users are `twin-*` were
    received at the same time.
    """
    later = beginning - BEGINNING
    hard = [
        shifted(call, later + timedelta(seconds=0.25, milliseconds=0 if _twin(call) else number))
        for number, call in enumerate(_hard(count), 1)
    ]
    return [*(shifted(call, later) for call in random_calls(count)), *hard]


def shifted(call: list[Record], later: timedelta) -> list[Record]:
    """Return the lines of a call that happened later."""
    return [{**line, **{name: _later(line[name], later) for name in _TIMES}} for line in call]


_TIMES = ("requestReceivedTimestamp", "stageTimestamp")


def _twin(call: list[Record]) -> bool:
    return str(call[0].get("user")).startswith("twin-")


def _hard(number: int) -> Iterator[list[Record]]:
    command = {"command_id": str(uuid.UUID(int=77)), "command": "kubectl get", "command_source": "header"}
    odd: list[Record] = [
        {"user": LONG, "name": LONG},
        {"user": LONG.replace("-tail", "-TAIL"), "namespace": LONG},
        {"user": HOSTILE, "namespace": HOSTILE, "userAgent": HOSTILE, "command": HOSTILE},
        {"user": "\U0001f600 smile", "name": "straße"},
        {"name": "STRASSE", "command": "\u212aelvin", "userAgent": "\ufb01nance"},
        {"cluster": "forged", "verb": "propfind", "method": "PROPFIND"},
        {"cluster": "other", "verb": "other", "method": "OTHER"},
        {"cluster": 'dev"} or {', "user": None, "verb": None, "resource": None, "namespace": None},
        {"resource": "widgets", "group": "shop.example.com", "requestURI": '/apis/x?a="b"\\c`d'},
        {"exec_argv": ["cat", "/etc/passwd"], "subresource": "exec", "resource": "pods", "name": "a" * 2000},
        {"resource": "*", "user": "*", "namespace": "a*b"},
        command,
    ]
    for at, fields in enumerate(odd):
        first = start(at * 17 + 3, auditID=str(uuid.UUID(int=1000 + number + at)), **fields)
        yield [first, end(first, 40 + at)]
    # Long ones: received early, ended late or never; one that was cut off by a crash, of which no duration is known.
    for at, minutes in enumerate((0.1, 0.2, 0.99, 1, 1.01, 5, 45, 300)):
        part = command if at % 2 else {}
        first = start(at * 23 + 5, auditID=str(uuid.UUID(int=2000 + number + at)), verb="watch", user="wilma", **part)
        yield [first, _begun(first), end(first, minutes * 60_000, status=200 + at)]
        running = start(at * 29 + 7, auditID=str(uuid.UUID(int=3000 + number + at)), verb="watch", user="will")
        yield [running, _begun(running, status=101 if at % 2 else 200)]
    refused = start(31, auditID=str(uuid.UUID(int=4000 + number)), verb="watch", user="alice", **command)
    yield [refused, started(refused), end(refused, 90_000, status=500, decision="error", message="the end: strasse")]
    crashed = start(37, auditID=str(uuid.UUID(int=4001 + number)), user="alice")
    ended = end(crashed, 7_200_000, outcome="interrupted", decision="error", status=None)
    yield [crashed, {key: value for key, value in ended.items() if key not in {"duration_ms", "upstream_ms"}}]
    # Many at one moment: received together, and others that end together.
    for at in range(60):
        first = start(100, auditID=str(uuid.UUID(int=5000 + number + at)), user=f"twin-{at % 3}")
        yield [first, end(first, 10)]
    for at in range(60):
        first = start(200, auditID=str(uuid.UUID(int=6000 + number + at)), user="twin-1")
        (first,) = shifted([first], timedelta(milliseconds=at))
        yield [first, end(first, 1000 - at)]


def _begun(record: Record, **fields: Any) -> Record:
    return started(record, stageTimestamp=_later(record["stageTimestamp"], timedelta(seconds=0.5)), **fields)


def _later(text: str, later: timedelta) -> str:
    return stamp(datetime.fromisoformat(text) + later)
