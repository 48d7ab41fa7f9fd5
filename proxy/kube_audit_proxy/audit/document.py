"""Writes docs/record.md from the vocabulary: `python -m kube_audit_proxy.audit.document`."""

from pathlib import Path

from kube_audit_proxy.audit.fields import FIELDS, Field
from kube_audit_proxy.export.csv import COLUMNS

DOCUMENT = Path("docs/record.md")

INTRODUCTION = """\
<!-- Written by `python -m kube_audit_proxy.audit.document` from audit/fields.py. Do not edit. -->

# The audit record

A record says what one call to a Kubernetes API was: who made it, from where, on what, whether it was let through, how
it ended and how long that took. It is one flat JSON object on one line. A field that does not apply is absent; it is
never null or empty. Names are those of Kubernetes' own audit log where that has one.

The same record is a line of the journal, an entry in Loki, a row of the index and a line of
`kubectl audit log -o json`.

## Three stages

A call has up to three lines, with one `auditID`:

1. `RequestReceived`, the start. It is durable on disk before the first byte of the call goes to the API server. If it
   cannot be written, the call is refused.
2. `ResponseStarted`, for long-running calls only: watch, logs -f, exec, attach, port-forward.
3. `ResponseComplete`, the end; `Panic`, where a fault of the proxy ended the call. An end repeats everything of its
   start, so that one line tells the whole call.

A call without an end is running. Where the proxy died, its next start ends such calls with the outcome `interrupted`.
Refused calls (400, 401, 403, 503) are records of the same shape.

## Files and chain

The journal is in `<data dir>/journal/<writer>/<number of the first line>.jsonl`. Each gateway worker is a writer. Its
lines are numbered from 1 without gaps (`seq`), and each has the SHA-256 of the line before (`prev`), so a line that was
changed, removed or put in breaks the chain. The first line of each file is of the kind `segment`. While a file is
written, it has room for more lines at its end, NULs that are no part of the trail, since a line that does not change
the size of its file is durable sooner; so `tail -f` shows little, and `log --follow` all.

`kube-audit-proxy verify` checks all of it. With nothing but common tools, one writer's chain is checked like this; it
prints nothing if every line follows the one before:

```sh
"""

CHECK = """\
cat "$DATA_DIR"/journal/"$WRITER"/*.jsonl | tr -d '\\0' | {
  seq=0 prev=$(printf '0%.0s' $(seq 64))
  while IFS= read -r line; do
    seq=$((seq + 1))
    found=$(printf '%s\\n' "$line" | jq -r '"\\(.seq) \\(.prev)"')
    [ "$found" = "$seq $prev" ] || { echo "line $seq does not follow the line before"; break; }
    prev=$(printf '%s' "$line" | sha256sum | cut -d ' ' -f 1)
  done
}
"""

AFTER_CHECK = """\
```

## Retention

Everything is kept for ever, unless the settings say otherwise. With `retention.keep`, files whose newest line is older
are deleted; where telemetry is configured, only those of which every line was shipped. With `retention.hard_limit`,
files that are older than that are deleted even so; the proxy's log then warns of each. Whole files go, a writer's
oldest first, and never its two newest, one that the index has not read, or one with the start of a call that has not
ended. The index forgets what it had from them.

Before a file is deleted, `retention.log` beside it gets a line of JSON: the file's `segment` (name), `first_seq`,
`last_seq`, `prev` (of its first line), `last_hash`, `newest` (time of its last line), `bytes`; and `deleted` (when),
`reason` (`age`, `size` or `hard_limit`) and `shipped` (null where nothing was to be shipped). `verify` checks that the
notes have no gap and that the first line left follows the last one deleted. Where files were deleted, the check above
begins with `seq` and `prev` from the note of the last of them:

```sh
tail -n 1 "$DATA_DIR"/journal/"$WRITER"/retention.log | jq -r '"seq=\\(.last_seq) prev=\\(.last_hash)"'
```

## Fields

*Forgeable* says whether the client can make the field say something untrue. All other fields come from the proxy, the
credential that was checked, or the request as it went to the API server.

"""

CSV = """
## Columns of the CSV

`kubectl audit export` and `kubectl audit log -o csv` write these columns, in this order. Lines are those of RFC 4180:
UTF-8, ended by CR LF, quoted where needed. A text that a spreadsheet would take for a formula begins with an
apostrophe; so does the rest of a text after a semicolon or a tab, which separate columns in some places.
Lists are one cell, separated by commas; an exec command line is quoted as for a shell. What a record does not have is
empty. `kind` and `prev` are not among them.

"""

EXAMPLE = """
## Example

The end of `kubectl get pods --namespace team-checkout`, with line breaks for reading:

```json
{
  "writer": "gateway-1",
  "seq": 4182,
  "prev": "9b1f6f0c7f4f3f8f0f1d2a4be2c5c6b75d1f6a8f4f6a7d3b4f0e6a9d1c2b3a40",
  "kind": "call",
  "stage": "ResponseComplete",
  "stageTimestamp": "2026-11-23T10:15:02.152904Z",
  "auditID": "5d2f2d0a-3f0e-4d65-9a3c-0f5f6b1c2d3e",
  "requestReceivedTimestamp": "2026-11-23T10:15:02.131220Z",
  "cluster": "prod-eu",
  "user": "alice@example.com",
  "groups": ["developers"],
  "authenticator": "token",
  "upstream_user": "alice@example.com",
  "impersonated": true,
  "access_method": "kubectl",
  "sourceIPs": ["192.0.2.7"],
  "userAgent": "kubectl/v1.35.0 (linux/amd64) kubernetes/66452049",
  "method": "GET",
  "requestURI": "/api/v1/namespaces/team-checkout/pods?limit=500",
  "verb": "list",
  "version": "v1",
  "resource": "pods",
  "namespace": "team-checkout",
  "command": "kubectl get",
  "command_source": "header",
  "command_id": "0b5c6f0e-6a53-5c1e-9f6a-2f0d9d6c7b8a",
  "status": 200,
  "decision": "allow",
  "decided_by": "apiserver",
  "outcome": "complete",
  "duration_ms": 21.684,
  "upstream_ms": 20.911,
  "first_byte_ms": 20.417,
  "request_bytes": 0,
  "response_bytes": 48213
}
```
"""


def document() -> str:
    """Return the whole document."""
    fields = table(
        ("Field", "Type", "In", "Meaning", "Source", "Forgeable"),
        [_row(field) for field in FIELDS],
    )
    columns = table(("Column", "Field"), [(title, f"`{field}`") for title, field in COLUMNS])
    return f"{INTRODUCTION}{CHECK}{AFTER_CHECK}{fields}{CSV}{columns}{EXAMPLE}"


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _row(field: Field) -> tuple[str, ...]:
    forgeable = "yes" if field.forgeable else "no"
    return f"`{field.name}`", field.type, field.lines, field.meaning, field.source, forgeable


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document(), encoding="utf-8")
