"""Puts values into queries and links as Grafana does: the formats that the dashboards use, and no others.

Read from Grafana's sources (scenes' interpolation and format registry, the Loki and Tempo data sources);
`test_interpolation.py` compares what can be compared with Grafana's own library.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Value = str | Sequence[str]
ALL = "$__all"

_REFERENCE = re.compile(r"\$(\w+)|\$\{(\w+)(?:\.([^:}]+))?(?::([^}]+))?\}")
_SPECIAL = re.compile(r"[$^*{}\[\]+?.()|]")


@dataclass(frozen=True, slots=True)
class Span:
    """A time range, in milliseconds since 1970, and the step of panels over time."""

    start: int
    end: int
    step: int = 60

    @property
    def seconds(self) -> int:
        """How long it is."""
        return round((self.end - self.start) / 1000)


def current(variables: Sequence[Mapping[str, Any]], given: Mapping[str, Value]) -> dict[str, Value]:
    """Return the value of each variable: the one given, or the one that a dashboard is opened with."""
    values: dict[str, Value] = {}
    for variable in variables:
        default = variable["query"] if variable["type"] == "constant" else variable["current"]["value"]
        values[variable["name"]] = given.get(variable["name"], default)
    unknown = given.keys() - values.keys()
    assert not unknown, f"no such variables: {unknown}"
    return values


def interpolate(
    text: str, variables: Sequence[Mapping[str, Any]], values: Mapping[str, Value], span: Span, *, loki: bool = True
) -> str:
    """Return a query with the values in it. What names no variable stays as it is."""
    models = {variable["name"]: variable for variable in variables}

    def put(match: re.Match[str]) -> str:
        name, form = match[1] or match[2], match[4]
        if name in models:
            return _formatted(models[name], values[name], form, loki=loki)
        return _built_in(name, span) or match[0]

    return _REFERENCE.sub(put, text)


def follow(link: str, row: Mapping[str, str], value: str, span: Span, parameters: Mapping[str, str]) -> str:
    """Return the address that a link in a table leads to, from a row and the cell that was clicked on."""
    link = link.replace("${__url_time_range}", f"from={span.start}&to={span.end}")
    link = link.replace("${__value.raw:percentencode}", strictly_encoded(value)).replace("${__value.raw}", value)
    link = re.sub(
        r'\$\{__data\.fields\["([^"]+)"\]:percentencode\}', lambda match: strictly_encoded(row.get(match[1], "")), link
    )
    link = re.sub(r"\$\{(\w+):queryparam\}", lambda match: parameters[match[1]], link)
    assert "${" not in link, f"left in the link: {link}"
    return link


def query_parameters(name: str, value: Value) -> str:
    """Return `var-<name>=...` as the format `queryparam` gives it, once for each value."""
    values = [value] if isinstance(value, str) else value
    return "&".join(f"var-{name}={_encoded_as_in_addresses(each)}" for each in values)


def strictly_encoded(text: str) -> str:
    """Return what the format `percentencode` makes of a text."""
    return quote(text, safe="-_.~")


def _encoded_as_in_addresses(text: str) -> str:
    return quote(text, safe="-_.~@:$,;")


def _formatted(variable: Mapping[str, Any], value: Value, form: str | None, *, loki: bool) -> str:
    name = variable["name"]
    if form == "queryparam":
        return query_parameters(name, value)
    if form == "percentencode":
        assert isinstance(value, str), f"{name}: the format is for one value"
        return strictly_encoded(value)
    assert form is None, f"{name}: the dashboards do not use {form}"
    if isinstance(value, str):
        return value
    if ALL in value:
        every: str = variable["allValue"]
        return every
    return "|".join(map(_escaped, value) if loki else value)


def _escaped(value: str) -> str:
    """Return a value as the Loki data source puts several of them into a regular expression in double quotes."""
    return _SPECIAL.sub(lambda match: rf"\\{match[0]}", value.replace("\\", r"\\\\"))


def _built_in(name: str, span: Span) -> str | None:
    return {
        "__auto": f"{span.step}s",
        "__interval": f"{span.step}s",
        "__range": f"{span.seconds}s",
        "__from": str(span.start),
        "__to": str(span.end),
    }.get(name)
