"""Grafana's times: `now-2h`, `now/d`, milliseconds since 1970, or a time in full. Pure.

Units are s, m, h, d, w, M, Q and y. Days and longer are those of a time zone; weeks begin on Monday.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo

from kube_audit_proxy.index.filters import microseconds


class TimeError(ValueError):
    """What is no time; the message says what would be one."""


def parse(text: str, *, now: datetime, zone: tzinfo | None, is_end: bool) -> int:
    """Return the microseconds since 1970 that a time means; `now` has a zone, a `zone` of None is this machine's.

    Where a range ends with `now/d`, it has the whole day in it: `is_end` gives the day's end. Raises TimeError.
    """
    text = text.strip()
    try:
        if found := _RELATIVE.fullmatch(text):
            moment = now
            for operator, number, unit in _STEP.findall(found[1]):
                if operator == "/":
                    begin = _BEGINNINGS[unit](_local(moment, zone))
                    moment = _instant(_later(begin, 1, unit) if is_end else begin, zone)
                else:
                    count = int(number or 1) * (1 if operator == "+" else -1)
                    moment = _moved(moment, count, unit, zone)
            return microseconds(moment)
        if _MILLISECONDS.fullmatch(text):
            return int(text) * 1000
        if _IN_FULL.fullmatch(text):
            moment = datetime.fromisoformat(text)
            return microseconds(moment if moment.tzinfo else _instant(moment, zone))
    except (ValueError, OverflowError):
        pass  # such as February 30
    raise TimeError(
        f"{text!r} is no time. Give milliseconds since 1970, a time such as 2026-11-23T14:30:00Z, or one from now, such"
        " as now-2h or now/d."
    )


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


_RELATIVE = re.compile(r"now((?:[+-][0-9]{0,9}[smhdwMQy]|/[smhdwMQy])*)")
_STEP = re.compile(r"([+/-])([0-9]*)([smhdwMQy])")
_MILLISECONDS = re.compile(r"[0-9]{1,16}")
_IN_FULL = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_EXACT = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1)}
_DAYS = {"d": 1, "w": 7}
_MONTHS = {"M": 1, "Q": 3, "y": 12}

_BEGINNINGS: dict[str, Callable[[datetime], datetime]] = {
    "s": lambda moment: moment.replace(microsecond=0),
    "m": lambda moment: moment.replace(second=0, microsecond=0),
    "h": lambda moment: moment.replace(minute=0, second=0, microsecond=0),
    "d": _midnight,
    "w": lambda moment: _midnight(moment) - timedelta(days=moment.weekday()),
    "M": lambda moment: _midnight(moment).replace(day=1),
    "Q": lambda moment: _midnight(moment).replace(day=1, month=(moment.month - 1) // 3 * 3 + 1),
    "y": lambda moment: _midnight(moment).replace(day=1, month=1),
}


def _moved(moment: datetime, count: int, unit: str, zone: tzinfo | None) -> datetime:
    """Hours are exact, days and more are what the clock on the wall says, whatever summer time does in between."""
    if unit in _EXACT:
        return moment.astimezone(UTC) + count * _EXACT[unit]
    return _instant(_later(_local(moment, zone), count, unit), zone)


def _later(moment: datetime, count: int, unit: str) -> datetime:
    if unit in _EXACT:
        return moment + count * _EXACT[unit]
    if unit in _DAYS:
        return moment + timedelta(days=count * _DAYS[unit])
    year, month = divmod(moment.year * 12 + moment.month - 1 + count * _MONTHS[unit], 12)
    first = moment.replace(year=year, month=month + 1, day=1)
    last_day = ((first + timedelta(days=31)).replace(day=1) - timedelta(days=1)).day
    return first.replace(day=min(moment.day, last_day))


def _local(moment: datetime, zone: tzinfo | None) -> datetime:
    """What the clock on the wall shows."""
    return moment.astimezone(zone).replace(tzinfo=None)


def _instant(shown: datetime, zone: tzinfo | None) -> datetime:
    return shown.astimezone() if zone is None else shown.replace(tzinfo=zone)
