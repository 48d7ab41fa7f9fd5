"""What the dashboards should show, worked out from the records themselves."""

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from generated import Record, label, milliseconds, resource
from interpolation import ALL, Value

SEARCHED = ("user", "name", "requestURI", "command", "message", "userAgent")


def passes(record: Record, chosen: Mapping[str, Value]) -> bool:
    """Tell whether a call passes the filters of the dashboard of API calls."""
    return all(_FILTERS[name](record, value) for name, value in chosen.items())


def by(records: Iterable[Record], *names: str) -> Counter[tuple[str, ...]]:
    """Count records by the values of labels."""
    return Counter(tuple(label(record, name) for name in names) for record in records)


def quantile(values: Sequence[float], q: float) -> float | None:
    """Return the quantile of exactly these values, with a straight line between two of them; None for none."""
    ordered = sorted(values)
    if not ordered:
        return None
    rank = q * (len(ordered) - 1)
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def per_step(records: Iterable[Record], step: int = 60) -> dict[int, list[Record]]:
    """Return the records by the end of their step, in seconds since 1970; a step's end belongs to it."""
    steps: dict[int, list[Record]] = {}
    for record in records:
        seconds = milliseconds(record) / 1000
        steps.setdefault(int(-(-seconds // step) * step), []).append(record)
    return steps


def number(value: Any) -> float | None:
    """Return a number as a cell has it."""
    return None if value is None else float(value)


def _text(record: Record, value: Value) -> bool:
    texts = [str(record.get(name, "")) for name in SEARCHED] + [shlex.join(record.get("exec_argv", []))]
    return str(value).lower() in "\n".join(texts).lower()


def _one_of(name: str) -> Callable[[Record, Value], bool]:
    return lambda record, value: ALL in value or label(record, name) in value


def _listed(*values: Callable[[Record], str]) -> Callable[[Record, Value], bool]:
    def check(record: Record, text: Value) -> bool:
        assert isinstance(text, str)
        listed = f",{text.replace(' ', '')},"
        return not text or any(value(record) == text or f",{value(record)}," in listed for value in values)

    return check


def _status(record: Record, value: Value) -> bool:
    status = str(record.get("status", ""))
    return ALL in value or status in value or f"{status[:1]}xx" in value


def _with_group(record: Record) -> str:
    name, _, sub = resource(record).partition("/")
    return f"{name}.{record.get('group', '')}" + (f"/{sub}" if sub else "")


_FILTERS: Mapping[str, Callable[[Record, Value], bool]] = {
    **{name: _one_of(name) for name in ("cluster", "verb", "access_method", "method", "decision", "user")},
    "status": _status,
    "namespace": _listed(lambda record: record.get("namespace", "")),
    "command_id": _listed(lambda record: record.get("command_id", "")),
    "resource": _listed(
        resource,
        lambda record: f"{record.get('resource', '')}/*",
        _with_group,
        lambda record: f"{record.get('resource', '')}.{record.get('group', '')}/*",
    ),
    "text": _text,
}
