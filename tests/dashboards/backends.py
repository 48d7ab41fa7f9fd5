"""Loki and Tempo, asked as Grafana's data sources ask them."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interpolation import Span

Series = dict[tuple[tuple[str, str], ...], dict[int, float]]


class RefusedError(Exception):
    """The backend refused a query; the message has its answer."""


@dataclass(frozen=True, slots=True)
class Backends:
    """Where Loki and Tempo are."""

    loki: str
    tempo: str

    def lines(self, query: str, span: Span, limit: int = 5000) -> list[dict[str, Any]]:
        """Return the streams of a query for lines."""
        parameters = {"start": span.start * 10**6, "end": span.end * 10**6, "limit": limit, "direction": "backward"}
        streams: list[dict[str, Any]] = self._loki("query_range", query, parameters)
        return streams

    def now(self, query: str, at: int) -> list[dict[str, Any]]:
        """Return the series of a query for one number each, at a time in milliseconds."""
        series: list[dict[str, Any]] = self._loki("query", query, {"time": at * 10**6})
        return series

    def over_time(self, query: str, span: Span) -> Series:
        """Return the numbers over time: by labels, by seconds since 1970."""
        parameters = {"start": span.start * 10**6, "end": span.end * 10**6, "step": f"{span.step}s"}
        return _series(self._loki("query_range", query, parameters))

    def label_values(self, label: str, selector: str, span: Span) -> list[str]:
        """Return the values of an index label."""
        parameters = {"query": selector, "start": span.start * 10**6, "end": span.end * 10**6}
        values: list[str] = _get(f"{self.loki}/loki/api/v1/label/{label}/values", parameters)["data"]
        return values

    def traced(self, query: str, span: Span) -> list[dict[str, Any]]:
        """Return the series of a query for numbers over time from traces."""
        parameters = {"q": query, "start": span.start // 1000, "end": span.end // 1000, "step": f"{span.step}s"}
        series: list[dict[str, Any]] = _get(f"{self.tempo}/api/metrics/query_range", parameters)["series"]
        return series

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Return the spans of a trace; none if there is no such trace."""
        try:
            batches = _get(f"{self.tempo}/api/traces/{trace_id}", {})["batches"]
        except RefusedError:
            return []
        return [span for batch in batches for scope in batch["scopeSpans"] for span in scope["spans"]]

    def search(self, query: str, span: Span) -> list[dict[str, Any]]:
        """Return the traces that a query finds."""
        parameters = {"q": query, "start": span.start // 1000, "end": span.end // 1000}
        traces: list[dict[str, Any]] = _get(f"{self.tempo}/api/search", parameters).get("traces", [])
        return traces

    def attribute_values(self, name: str, span: Span) -> list[str]:
        """Return the values of an attribute, wherever it stands."""
        parameters = {"start": span.start // 1000, "end": span.end // 1000}
        scopes = _get(f"{self.tempo}/api/v2/search/tags", parameters)["scopes"]
        scope = next(scope["name"] for scope in scopes if name in scope.get("tags", []))
        found = _get(f"{self.tempo}/api/v2/search/tag/{scope}.{name}/values", parameters)["tagValues"]
        return [each["value"] for each in found]

    def _loki(self, path: str, query: str, parameters: Mapping[str, object]) -> Any:
        body = urllib.parse.urlencode({"query": query, **parameters}).encode()
        return _answer(urllib.request.Request(f"{self.loki}/loki/api/v1/{path}", body))["data"]["result"]


def _series(result: Sequence[Mapping[str, Any]]) -> Series:
    return {
        tuple(sorted(each["metric"].items())): {int(time): float(value) for time, value in each["values"]}
        for each in result
    }


def _get(url: str, parameters: Mapping[str, object]) -> Any:
    return _answer(urllib.request.Request(f"{url}?{urllib.parse.urlencode(parameters)}"))


def _answer(request: urllib.request.Request) -> Any:
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise RefusedError(f"{error.code}: {error.read().decode(errors='replace')[:2000]}") from error
