"""Records as CSV: RFC 4180, safe to open in a spreadsheet. Pure.

A cell whose text a spreadsheet would take for a formula begins with an apostrophe. Numbers are written as they are.
"""

import csv
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

# Every field of a call, in the order of the columns; `kind` is always `call`, and `prev` proves nothing outside the
# journal.
COLUMNS: tuple[tuple[str, str], ...] = (
    ("Date", "requestReceivedTimestamp"),
    ("User", "user"),
    ("Cluster", "cluster"),
    ("Namespace", "namespace"),
    ("Resource", "resource"),
    ("Method", "method"),
    ("Access Method", "access_method"),
    ("Duration (ms)", "duration_ms"),
    ("Status", "status"),
    ("Verb", "verb"),
    ("Subresource", "subresource"),
    ("Name", "name"),
    ("API Group", "group"),
    ("API Version", "version"),
    ("Decision", "decision"),
    ("Decided By", "decided_by"),
    ("Outcome", "outcome"),
    ("Reason", "reason"),
    ("Message", "message"),
    ("Request URI", "requestURI"),
    ("Field Selector", "fieldSelector"),
    ("Label Selector", "labelSelector"),
    ("Command", "command"),
    ("Command Source", "command_source"),
    ("Command ID", "command_id"),
    ("Audit ID", "auditID"),
    ("Trace ID", "trace_id"),
    ("Span ID", "span_id"),
    ("Stage", "stage"),
    ("Stage Date", "stageTimestamp"),
    ("Groups", "groups"),
    ("Authenticator", "authenticator"),
    ("Upstream User", "upstream_user"),
    ("Impersonated", "impersonated"),
    ("Source IPs", "sourceIPs"),
    ("User Agent", "userAgent"),
    ("Upstream Start (ms)", "upstream_start_ms"),
    ("Upstream (ms)", "upstream_ms"),
    ("First Byte (ms)", "first_byte_ms"),
    ("Request Bytes", "request_bytes"),
    ("Response Bytes", "response_bytes"),
    ("Upgrade", "upgrade"),
    ("Subprotocol", "subprotocol"),
    ("Exec Command Line", "exec_argv"),
    ("Exec Container", "exec_container"),
    ("Exec TTY", "exec_tty"),
    ("Exec Stdin", "exec_stdin"),
    ("Exit Code", "exit_code"),
    ("Ports", "ports"),
    ("Relaxed", "relaxed"),
    ("Writer", "writer"),
    ("Seq", "seq"),
)

# What spreadsheets take for the beginning of a formula; the last four are the wide forms of the first four.
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def header() -> str:
    """Return the first line, with its line end."""
    return line([title for title, _ in COLUMNS])


def row(record: Mapping[str, Any]) -> str:
    """Return the line of a call, with its line end."""
    return line([cell(field, record.get(field)) for _, field in COLUMNS])


def cell(field: str, value: object) -> str | int | float:
    """Return what stands in a cell for the value of a field; "" where the record does not have it."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int() | float():
            return value
        case list():
            items = [str(item) for item in value]
            return defused(shlex.join(items) if field == "exec_argv" else ", ".join(items))
        case _:
            return defused(str(value))


def defused(text: str) -> str:
    """Return the text such that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def line(cells: Iterable[str | float]) -> str:
    """Return one line of RFC 4180: quoted where needed, ended by CR LF."""
    written: list[str] = []
    csv.writer(_Appends(written), lineterminator="\r\n").writerow(cells)
    return "".join(written)


class _Appends:
    """The part of a file that csv writes to."""

    def __init__(self, written: list[str]) -> None:
        self.write = written.append
