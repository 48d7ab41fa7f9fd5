"""Records as CSV: RFC 4180, safe to open in a spreadsheet. Pure.

A cell whose text a spreadsheet would take for a formula begins with an apostrophe. So does what follows a semicolon or
a tab in it: where those separate columns, as semicolons do in much of Europe, it is a cell. Numbers are written as they
are.
"""

import csv
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import orjson

from kube_audit_proxy.audit.fields import FIELDS

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
_SIGN = f"[{re.escape(''.join(FORMULA))}]"
_FURTHER = re.compile(f'[;\t](?="*{_SIGN})')
_FIRST = re.compile(f"\0{_SIGN}")


def header() -> str:
    """Return the first line, with its line end."""
    return line([title for title, _ in COLUMNS])


def row(record: Mapping[str, Any]) -> str:
    """Return the line of a call, with its line end."""
    return line([cell(field, record.get(field)) for field in _FIELDS])


def rows(lines: Iterable[str | bytes]) -> str:
    """Return the lines of calls, each with its line end, given their lines in the journal."""
    return "".join([_plain(each) or row(orjson.loads(each)) for each in lines])


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
    if ";" in text or "\t" in text:
        text = _FURTHER.sub(r"\g<0>'", text)
    return f"'{text}" if text.startswith(FORMULA) else text


def line(cells: Iterable[str | float]) -> str:
    """Return one line of RFC 4180: quoted where needed, ended by CR LF."""
    written: list[str] = []
    csv.writer(_Appends(written), lineterminator="\r\n").writerow(cells)
    return "".join(written)


_FIELDS = tuple(field for _, field in COLUMNS)
_TYPES = {
    "integer": int | float,
    "number": int | float,
    "boolean": bool,
    "array of strings": list[str],
    "array of integers": list[int],
}
_TYPE_OF = {field.name: _TYPES.get(field.type, str) for field in FIELDS}
_NO_TEXTS = tuple((at, field) for at, field in enumerate(_FIELDS) if _TYPE_OF[field] is not str)
_GROUPS = _FIELDS.index("groups")
_Cells = msgspec.defstruct("_Cells", [(field, _TYPE_OF[field], "") for field in _FIELDS], gc=False)
_cells = msgspec.json.Decoder(_Cells).decode


def _plain(call: str | bytes) -> str | None:
    """Return the line of a call, if no cell is to be quoted or defused but its groups; that is nearly every one."""
    try:
        cells: list[Any] = [*msgspec.structs.astuple(_cells(call))]
    except msgspec.MsgspecError:
        return None
    for position, field in _NO_TEXTS:
        if (value := cells[position]) != "":
            cells[position] = str(cell(field, value))
    before, after, groups = "\0".join(cells[:_GROUPS]), "\0".join(cells[_GROUPS + 1 :]), cells[_GROUPS]
    text = f"\0{before}\0{after}"
    if "," in text or _to_quote(text) or _to_quote(groups) or _to_defuse(text) or text.count("\0") != len(_FIELDS) - 1:
        return None
    quoted = f'"{groups}"' if "," in groups else groups
    return f"{before.replace(_NUL, ',')},{quoted},{after.replace(_NUL, ',')}\r\n"


def _to_quote(text: str) -> bool:
    return '"' in text or "\r" in text or "\n" in text


def _to_defuse(text: str) -> bool:
    return ";" in text or "\t" in text or _FIRST.search(text) is not None


_NUL = "\0"


class _Appends:
    """The part of a file that csv writes to."""

    def __init__(self, written: list[str]) -> None:
        self.write = written.append
