"""Runs curl on one of the ways to a cluster."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.ways import Way


@dataclass(frozen=True, slots=True)
class Answer:
    """What curl says of one answer."""

    code: int
    version: str
    """Of HTTP, such as `1.1`."""
    headers: dict[str, list[str]]
    body: bytes
    connects: int
    """How many connections were made for it."""
    failure: str
    """What curl found wrong, if it did."""
    location: str
    """Where a redirect leads, as a whole URL."""

    def header(self, name: str) -> str:
        """The values of a header, by its lower-case name, joined by commas; empty if it is not there."""
        return ", ".join(self.headers.get(name, ()))

    @property
    def audit_id(self) -> str:
        """The call's Audit-Id."""
        return self.header("audit-id")

    def json(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)


def argv(way: Way, *arguments: str) -> list[str]:
    """The command line of a curl that trusts a way and has its token."""
    fixed = ["curl", "--disable", "--silent", "--noproxy", "*", "--max-time", "60", "--cacert", str(way.authority)]
    return [*fixed, "--header", f"Authorization: Bearer {way.token}", *arguments]


def curl(way: Way, paths: str | list[str], *arguments: str, stdin: bytes = b"") -> list[Answer]:
    """Run it for one or more paths, and give its answers."""
    paths = [paths] if isinstance(paths, str) else paths
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / str(number) for number in range(len(paths))]
        targets = [part for path, to in zip(paths, outputs, strict=True) for part in ("-o", str(to), way.url + path)]
        told = ["--write-out", '{"curl":%{json},"headers":%{header_json}}']
        done = subprocess.run(argv(way, *told, *arguments, *targets), input=stdin, capture_output=True, check=False)
        # of HEAD curl writes the head in the body's place
        kept = [output for output in outputs if output.exists() and "--head" not in arguments]
        bodies = [output.read_bytes() if output in kept else b"" for output in outputs]
    return [_answer(each, body) for each, body in zip(_values(done.stdout.decode()), bodies, strict=True)]


def ask(way: Way, path: str, *arguments: str, stdin: bytes = b"") -> Answer:
    """Run it for one path, and give its answer."""
    (answer,) = curl(way, path, *arguments, stdin=stdin)
    return answer


def _values(text: str) -> list[dict[str, Any]]:
    values, at = [], 0
    while at < len(text):
        value, at = json.JSONDecoder().raw_decode(text, at)
        values.append(value)
    return values


def _answer(told: dict[str, Any], body: bytes) -> Answer:
    known = told["curl"]
    return Answer(
        code=known["response_code"],
        version=known["http_version"],
        headers=told["headers"],
        body=body,
        connects=known["num_connects"],
        failure=known["errormsg"] or "",
        location=known["redirect_url"] or "",
    )
