"""A committed dashboard, whose panels answer as they do in Grafana."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backends import Backends, Series
from dashboards.render import FOLDER
from grafana import Columns, Grafana, lines_frame, numbers_frame
from interpolation import Span, Value, current, interpolate

Panel = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard that is open, with a time range."""

    model: Mapping[str, Any]
    backends: Backends
    span: Span

    @classmethod
    def open(cls, name: str, backends: Backends, span: Span) -> "Board":
        """Open the dashboard `kubeaudit-<name>`."""
        return cls(json.loads((FOLDER / "json" / f"kubeaudit-{name}.json").read_text()), backends, span)

    @property
    def variables(self) -> list[dict[str, Any]]:
        """The models of its variables."""
        variables: list[dict[str, Any]] = self.model["templating"]["list"]
        return variables

    def panel(self, title: str) -> Panel:
        """Return the panel with a title."""
        found: Panel = next(panel for panel in self.model["panels"] if panel["title"] == title)
        return found

    def queries(self, panel: Panel, chosen: Mapping[str, Value] | None = None) -> Iterator[tuple[Panel, str]]:
        """Yield the queries of a panel, with the chosen values in them."""
        values = current(self.variables, chosen or {})
        for target in panel.get("targets", []):
            loki = target["datasource"]["type"] == "loki"
            text = target["expr"] if loki else target["query"]
            yield target, interpolate(text, self.variables, values, self.span, loki=loki)

    def number(self, title: str, chosen: Mapping[str, Value] | None = None) -> float | None:
        """Return the number that a stat shows; None where it shows that there is none."""
        ((target, query),) = self.queries(self.panel(title), chosen)
        assert target["queryType"] == "instant"
        series = self.backends.now(query, self.span.end)
        assert len(series) <= 1, "a stat shows one number"
        return float(series[0]["value"][1]) if series else None

    def table(self, title: str, grafana: Grafana, chosen: Mapping[str, Value] | None = None) -> Columns:
        """Return the columns of a table by their titles."""
        panel = self.panel(title)
        asked = list(self.queries(panel, chosen))
        frames = []
        for target, query in asked:
            if target["queryType"] == "instant":
                series = self.backends.now(query, self.span.end)
                frames.append(numbers_frame(target["refId"], series, alone=len(asked) == 1))
            else:
                frames.append(lines_frame(target["refId"], self.backends.lines(query, self.span, target["maxLines"])))
        return grafana.table(panel, frames)

    def over_time(self, title: str, chosen: Mapping[str, Value] | None = None) -> list[Series]:
        """Return the series of each query of a panel over time."""
        return [self.backends.over_time(query, self.span) for _, query in self.queries(self.panel(title), chosen)]


def rows(columns: Columns, *titles: str) -> list[tuple[Any, ...]]:
    """Return the rows of a table, of these columns only; a column that is not there is empty."""
    length = len(next(iter(columns.values()))) if columns else 0
    return list(zip(*(columns.get(title, [None] * length) for title in titles), strict=True))
