"""Tables of calls and commands that fit the terminal, row by row: nothing has to be in memory at once. Pure."""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Generic, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from kube_audit_proxy.audit.fields import Decision
from kube_audit_proxy.cli.text import visible
from kube_audit_proxy.index.reader import Command
from kube_audit_proxy.index.rows import ended

Item = TypeVar("Item")
Record = Mapping[str, Any]

GAP = 2
NONE = "-"
RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Column(Generic[Item]):
    """A column: what stands in it, and how it gives way where there is little room.

    It is cut to no less than `least`; `usual` is a width that mostly suffices, for rows nobody has seen yet. Of the
    columns that do not fit, those with the lowest `keep` go first.
    """

    title: str
    cell: Callable[[Item], str]
    least: int
    usual: int
    keep: int
    style: Callable[[Item], str] = lambda _item: ""
    right: bool = False


@dataclass(frozen=True, slots=True)
class Layout(Generic[Item]):
    """Columns with their widths. Where `cut` is set, cells are cut to them; otherwise they may go beyond."""

    columns: tuple[Column[Item], ...]
    widths: tuple[int, ...]
    cut: bool

    def header(self) -> Text:
        """Return the line of titles."""
        titles = (column.title.upper() for column in self.columns)
        return self._line(titles, ["bold"] * len(self.columns))

    def row(self, item: Item) -> Text:
        """Return the line of a call or command."""
        cells = (visible(column.cell(item)) or NONE for column in self.columns)
        return self._line(cells, [column.style(item) for column in self.columns])

    def _line(self, cells: Iterable[str], styles: Sequence[str]) -> Text:
        line = Text()
        for position, (cell, width, style) in enumerate(zip(cells, self.widths, styles, strict=True)):
            last = position == len(self.columns) - 1
            text = shortened(cell, width) if self.cut else cell
            room = " " * (width - cell_len(text))
            right = self.columns[position].right
            line.append(room if right else "")
            line.append(text, style)
            line.append("" if last else ("" if right else room) + " " * GAP)
        return line


def fit(columns: Sequence[Column[Item]], items: Sequence[Item], width: int | None, *, more: bool) -> Layout[Item]:
    """Choose columns and widths for these rows so that a line fits into `width` cells; None is any width.

    `more` says that other rows will follow, which nobody has seen yet.
    """
    needed = [_needed(column, items, more=more) for column in columns]
    if width is None:
        return Layout(tuple(columns), tuple(needed), cut=False)
    shown = _chosen(columns, needed, width)
    widths = [needed[at] for at in shown]
    least = [min(columns[at].least, needed[at]) for at in shown]
    for _ in range(sum(widths) + GAP * (len(shown) - 1) - width):
        spare = [at for at in range(len(shown)) if widths[at] > least[at]]
        # One column alone may be wider than the terminal.
        widths[max(spare or [0], key=widths.__getitem__)] -= 1
    return Layout(tuple(columns[at] for at in shown), tuple(widths), cut=True)


def shortened(text: str, width: int) -> str:
    """Return the text in at most so many cells, with … where something was cut off."""
    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, width - 1).rstrip()}…"


def duration(milliseconds: float) -> str:
    """Return a duration as people read it: `0.4ms`, `12ms`, `3.2s`, `4m05s`, `3h20m`."""
    if milliseconds < 9.95:
        return f"{milliseconds:.1f}ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f}ms"
    if milliseconds < 59_950:
        return f"{milliseconds / 1000:.1f}s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes}m{seconds:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


def call_columns(width: int | None, zone: tzinfo | None = None) -> tuple[Column[Record], ...]:
    """Return the columns of a call: those of the seed table; `width` decides how much of the date is shown."""
    date = _SHORT_DATE if width is not None and width < _NARROW else _LONG_DATE
    return (
        Column("Date", lambda call: _local(_received(call), zone, date), len(date), len(date), 100, _dim),
        Column("User", _text("user"), 8, 20, 99),
        Column("Cluster", _text("cluster"), 7, 10, 60),
        Column("Namespace", _text("namespace"), 9, 14, 70),
        Column("Resource", resource, 16, 36, 98),
        Column("Method", _text("method"), 6, 6, 90),
        Column("Access", _text("access_method"), 7, 7, 50),
        Column("Duration", call_duration, 8, 8, 80, _running_style, right=True),
        Column("Status", call_status, 6, 6, 97, _status_style, right=True),
    )


def wide_call_columns(width: int | None, zone: tzinfo | None = None) -> tuple[Column[Record], ...]:
    """Return the columns of a call with the rest of what people look for."""
    return (
        *call_columns(width, zone),
        Column("Verb", _text("verb"), 6, 8, 96),
        Column("Decision", _text("decision"), 8, 8, 30, _status_style),
        Column("Source", lambda call: " ".join(map(str, call.get("sourceIPs", ()))), 9, 15, 75),
        Column("Command", _command_line, 12, 24, 85),
        Column("Audit ID", _text("auditID"), 36, 36, 35),
        Column("User Agent", _text("userAgent"), 12, 40, 40),
    )


def call_columns_in_tree() -> tuple[Column[Record], ...]:
    """Return the columns of a call under its command."""
    return (
        Column("Verb", _text("verb"), 6, 6, 90),
        Column("Resource", resource, 16, 40, 98),
        Column("Namespace", _text("namespace"), 9, 12, 70),
        Column("Duration", call_duration, 8, 8, 80, _running_style, right=True),
        Column("Status", call_status, 6, 6, 97, _status_style, right=True),
    )


def command_columns(width: int | None, zone: tzinfo | None = None) -> tuple[Column[Command], ...]:
    """Return the columns of a command; `width` decides how much of the date is shown."""
    date = _SHORT_DATE if width is not None and width < _NARROW else _LONG_DATE
    return (
        Column("Date", lambda item: _local(_moment(item.totals.first), zone, date), len(date), len(date), 100, _dim),
        Column("User", lambda item: item.totals.user or "", 8, 20, 99),
        Column("Cluster", lambda item: item.totals.clusters, 7, 10, 60),
        Column("Command", lambda item: item.totals.command or "", 12, 36, 98, lambda _item: "bold"),
        Column("Access", lambda item: item.totals.access_method or "", 7, 7, 50),
        Column("Calls", lambda item: str(item.totals.calls), 5, 5, 90, right=True),
        Column("Denied", lambda item: str(item.totals.denied or ""), 6, 6, 55, _result_style, right=True),
        Column("Duration", command_duration, 8, 8, 80, right=True),
        Column("Result", result, 7, 7, 97, _result_style, right=True),
    )


def wide_command_columns(width: int | None, zone: tzinfo | None = None) -> tuple[Column[Command], ...]:
    """Return the columns of a command with the rest of what is known."""
    return (
        *command_columns(width, zone),
        Column("Source", lambda item: item.totals.command_source or "", 6, 6, 30),
        Column("Command ID", lambda item: item.command_id, 36, 36, 95),
    )


def indented(layout: Layout[Record], record: Record, branch: str) -> Text:
    """Return the line of a call under its command."""
    return Text(branch, "dim").append_text(layout.row(record))


def resource(call: Record) -> str:
    """Return what a call was about: `pods/exec web-1 -- sh -c 'exit 3'`, or the path where it was no resource."""
    name = call.get("resource")
    if not name:
        return str(call.get("requestURI", ""))
    parts = [f"{name}/{call['subresource']}" if "subresource" in call else str(name)]
    if "name" in call:
        parts.append(str(call["name"]))
    parts += [f":{port}" for port in call.get("ports", ())]
    if "exec_argv" in call:
        parts += ["--", shlex.join(map(str, call["exec_argv"]))]
    return " ".join(parts)


def call_duration(call: Record) -> str:
    """Return how long a call took; `running` where it has not ended; nothing where nobody knows."""
    if not ended(call["stage"]):
        return RUNNING
    return duration(call["duration_ms"]) if "duration_ms" in call else ""


def call_status(call: Record) -> str:
    """Return the status of a call; nothing where it was never answered."""
    return str(call.get("status", ""))


def command_duration(command: Command) -> str:
    """Return the time from the command's first start to its last end."""
    return duration((command.totals.last - command.totals.first) / 1000)


def result(command: Command) -> str:
    """Return how a command ended: its exit code where it is known, else the worst status of its calls."""
    totals = command.totals
    if totals.running:
        return RUNNING
    if totals.exit_code is not None:
        return f"exit {totals.exit_code}"
    return str(totals.worst_status or "")


_NARROW = 112
_LONG_DATE, _SHORT_DATE = "2026-11-23 14:30:59", "11-23 14:30:59"
_FORMATS = {_LONG_DATE: "%Y-%m-%d %H:%M:%S", _SHORT_DATE: "%m-%d %H:%M:%S"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _text(field: str) -> Callable[[Record], str]:
    return lambda call: str(call.get(field, ""))


def _command_line(call: Record) -> str:
    argv = " ".join(map(str, call.get("exec_argv", ())))
    return " -- ".join(filter(None, (call.get("command", ""), argv)))


def _received(call: Record) -> datetime:
    return datetime.fromisoformat(call["requestReceivedTimestamp"])


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _local(moment: datetime, zone: tzinfo | None, date: str) -> str:
    return moment.astimezone(zone).strftime(_FORMATS[date])


def _dim(_item: object) -> str:
    return "dim"


def _running_style(call: Record) -> str:
    return "" if ended(call["stage"]) else "cyan"


def _status_style(call: Record) -> str:
    if call.get("decision") == Decision.DENY:
        return "bold red"
    return _severity(call.get("status"))


def _result_style(command: Command) -> str:
    if command.totals.denied:
        return "bold red"
    if command.totals.running:
        return "cyan"
    return "red" if command.totals.exit_code else _severity(command.totals.worst_status)


def _severity(status: object) -> str:
    if not isinstance(status, int) or status < 400:
        return ""
    return "yellow" if status < 500 else "magenta"


def _needed(column: Column[Item], items: Sequence[Item], *, more: bool) -> int:
    widths = [cell_len(visible(column.cell(item))) for item in items]
    return max((cell_len(column.title), *widths, column.usual if more else 1))


def _chosen(columns: Sequence[Column[Item]], needed: Sequence[int], width: int) -> list[int]:
    """Return the places of the columns that fit side by side, each cut as far as it may be: the first in any case."""
    chosen: list[int] = []
    room = width
    for at in sorted(range(len(columns)), key=lambda place: -columns[place].keep):
        least = min(columns[at].least, needed[at]) + (GAP if chosen else 0)
        if least <= room or not chosen:
            chosen.append(at)
            room -= least
    return sorted(chosen)
