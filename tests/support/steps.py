"""What is to be true of a command that is run directly and through the proxy."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from support.kubectl import Kubectl, Place, Said, Shown
from support.server_audit import Event
from support.trail import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FLEETING = (
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| \+0000)", "TIME"),
    (r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000", "TIME"),
    (r"(?<=\s)(?<!=)\d+[smhd](\d+[smh])?(?=\s|\)|$)[^\S\n]*", "AGE "),
    (r"\b(LIVE|MERGED|kubectl\S*-edit)-\d+", r"\1"),
    (r"^I\d{4} .*due to client-side throttling.*\n", ""),  # what a slow machine brings about
    (r"^I\d{4} .*very short watch.*\n", ""),  # what a timeout brings about, by chance
)
"""What differs from one moment to the next, and what to write in its place."""

OWN = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID"),
    (r'(resourceVersion"?: ?"?)\d+', r"\1N"),
    (r"\beyJ[\w-]+\.[\w-]+\.[\w-]+", "TOKEN"),
    (r"\b10\.\d+\.\d+\.\d+", "IP"),
    (r"\b3[0-2]\d{3}\b", "PORT"),
    (r"(-[0-9a-f]{6,10})?-[bcdfghjklmnpqrstvwxz2456789]{5}\b", "-SUFFIX"),
    (r"[^\S\n]+", " "),
    (r"-{3,}", "---"),
)
"""What differs from one object to another that was made alike."""


_GROUPS = frozenset({"auth", "certificate", "create", "create secret", "create service", "rollout", "set", "top"})
_SUBCOMMANDS = frozenset({"apply view-last-applied", "apply set-last-applied"})
"""Commands with commands below them: some do nothing themselves, `apply` does."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command line, and what it is to do. `{ns}` in it is the namespace, `{files}` the folder of files."""

    arguments: str
    calls: str = ""
    """Calls that every version makes for it, besides others such as discovery; each as `call()` writes it."""
    code: int = 0
    """The exit code."""
    waits: bool = False
    """How often it looks until it is done is chance, and so is what it says of that: its last line is compared."""
    environ: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Give the command line."""
        return self.arguments

    @property
    def command(self) -> str:
        """What kubectl says of itself in Kubectl-Command."""
        command, *words = shlex.split(self.arguments)
        for word in words:
            longer = f"{command} {word}"
            if longer not in _SUBCOMMANDS and (command not in _GROUPS or word.startswith("-")):
                break
            command = longer
        return f"kubectl {command}"

    def expected(self, place: Place) -> Counter[str]:
        """The calls, and how often each is to be made there."""
        return Counter(filter(None, self.calls.replace("{ns}", place.namespace).split(", ")))


def check(kubectl: Kubectl, step: Step, stdin: str = "") -> Shown:
    """Run a step on both ways: they show the same, and the trail has exactly the calls that kubectl makes."""
    shown = kubectl.side_by_side(step.arguments, stdin, step.environ)
    told = f"kubectl {kubectl.version}: {step.arguments}"
    patterns = FLEETING if kubectl.direct.namespace == kubectl.fronted.namespace else FLEETING + OWN
    plainly, through = plain(shown.direct, *patterns), plain(shown.fronted, *patterns)
    assert (through.code, through.stderr) == (plainly.code, plainly.stderr), (told, through, plainly)
    assert plainly.code == step.code, (told, plainly)
    if step.waits:
        assert through.last == plainly.last, told
    else:
        assert through.stdout == plainly.stdout, (told, through.stdout, plainly.stdout)
        made = Counter(shape(event, kubectl.fronted) for event in shown.events.values())
        plain_made = Counter(shape(event, kubectl.direct) for event in shown.calls)
        assert made == plain_made, (told, made - plain_made, plain_made - made)
    calls = Counter(map(call, shown.records))
    assert step.expected(kubectl.fronted) <= calls, (told, calls)
    check_records(step, shown)
    return shown


def check_records(step: Step, shown: Shown) -> None:
    """The records of a command are of one command, complete, and as the API server's own audit log has them."""
    assert {record["auditID"] for record in shown.records} == set(shown.events)
    assert len({(record["user"], record["command_id"], record["trace_id"]) for record in shown.records}) <= 1, step
    for record in shown.records:
        assert record["command"] == step.command, record
        assert (record["command_source"], record["access_method"], record["cluster"]) == ("header", "kubectl", "demo")
        assert record["decided_by"] == "apiserver"
        assert record["decision"] == ("deny" if record["status"] in {401, 403} else "allow")
        assert record["outcome"] in ({"complete", "client_gone"} if record["verb"] == "watch" else {"complete"})
        assert (record["status"] < 400) == ("reason" not in record), record
        assert not disagreements(record, shown.events[record["auditID"]]), record


def plain(said: Said, *patterns: tuple[str, str]) -> Said:
    """What was said, without what matches these patterns."""
    return Said(without(said.stdout, *patterns), without(said.stderr, *patterns), said.code)


def without(text: str, *patterns: tuple[str, str]) -> str:
    """A text without what matches these patterns."""
    for pattern, instead in patterns:
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text


def call(record: Record) -> str:
    """A record in a line: verb, resource with subresource (or path), name, status."""
    resource = "/".join(filter(None, (record.get("resource"), record.get("subresource"))))
    path = record["requestURI"].partition("?")[0]
    return f"{record['verb']} {resource or path} {record.get('name', '-')} {record['status']}"


def shape(event: Event, place: Place) -> tuple[str, str, int]:
    """Verb, URI and status of a call in the API server's audit log, without what differs from one run to the next."""
    path, _, query = place.common(event["requestURI"]).partition("?")
    told = [f"{key}={_CHANCE.get(key, _as_it_is)(value)}" for key, value in parse_qsl(query, keep_blank_values=True)]
    code = event["responseStatus"]["code"]
    return event["verb"], "&".join([path, *told]), 200 if code == _UNCHANGED else code


def _as_it_is(value: str) -> str:
    return value


def _in_order(selector: str) -> str:
    # kubectl makes it from a Go map
    return ",".join(sorted(without(selector, *OWN).split(",")))


_UNCHANGED = 304
"""Of /openapi/v3 the API server says so, or not, by the second in which it is asked."""

_CHANCE: Mapping[str, Callable[[str], str]] = {
    "fieldSelector": _in_order,
    "resourceVersion": lambda _: "N",
    "timeoutSeconds": lambda _: "N",
}
"""What is chance in the parameters of a query."""


def disagreements(record: Record, event: Event) -> dict[str, tuple[Any, Any]]:
    """What our record and the API server's event of a call disagree on."""
    reference = event.get("objectRef", {})
    pairs = {
        "verb": (record["verb"], event["verb"]),
        "requestURI": (record["requestURI"], event["requestURI"]),
        "status": (record["status"], event["responseStatus"]["code"]),
        "resource": (record.get("resource"), reference.get("resource")),
        "subresource": (record.get("subresource"), reference.get("subresource")),
        "namespace": (record.get("namespace"), reference.get("namespace")),
        "group": (record.get("group"), reference.get("apiGroup")),
        "version": (record.get("version"), reference.get("apiVersion")),
        "user": (record.get("upstream_user"), (event.get("impersonatedUser") or event["user"])["username"]),
        "userAgent": (record.get("userAgent"), event["userAgent"]),
    }
    if record["verb"] != "create" or "name" in record:  # of an object to be made the API server reads the name inside
        pairs["name"] = (record.get("name"), reference.get("name"))
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
