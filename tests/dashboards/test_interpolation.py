"""What the other tests rely on: values get into queries as Grafana itself puts them."""

import json
import re
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
from dashboards.render import FOLDER
from generated import HOSTILE
from grafana import Grafana
from interpolation import Span, current, follow, interpolate, query_parameters, strictly_encoded

pytest_plugins = ["trails"]

_SPAN = Span(1_000_000, 4_600_000)
_LISTED: dict[str, Any] = {"name": "verb", "type": "query", "allValue": ".*", "current": {"value": ["$__all"]}}
_BOX: dict[str, Any] = {"name": "text", "type": "textbox", "current": {"value": ""}}


@pytest.mark.servers
def test_query_parameters_are_those_of_grafana(grafana: Grafana) -> None:
    """The format `queryparam` is Grafana's own, for every hostile value."""
    for values in (["$__all"], [], list(HOSTILE), *([text] for text in HOSTILE)):
        assert query_parameters("user", values) == grafana.parameters({"var-user": values})


@pytest.mark.parametrize("text", HOSTILE)
def test_encoded_text_is_harmless_and_comes_back(text: str) -> None:
    """Percent-encoded text has no character that ends a string, and decodes to itself."""
    for encoded in (strictly_encoded(text), query_parameters("user", [text]).removeprefix("var-user=")):
        assert not set(encoded) & set("\"'`\\\n\r{}() ")
        assert unquote(encoded) == text


def test_values_in_queries() -> None:
    """Lists become regular expressions, `All` the value for all, built-in names numbers; other names stay."""

    def put(query: str, **chosen: Any) -> str:
        return interpolate(query, [_LISTED, _BOX], current([_LISTED, _BOX], chosen), _SPAN)

    assert put('{verb=~"$verb"}[$__auto] $other ${x:y}') == '{verb=~".*"}[60s] $other ${x:y}'
    assert put('{verb=~"$verb"}[$__range]', verb=["get", "a.b\\"]) == r'{verb=~"get|a\\.b\\\\"}[3600s]'
    assert put('"${text:percentencode}" ${__from}', text='a "b"') == '"a%20%22b%22" 1000000'


def test_links_carry_hostile_values() -> None:
    """A link from a row carries the values of the row as they are."""
    link = '/d/x?${__url_time_range}&var-a=${__data.fields["User"]:percentencode}&var-b=${__value.raw:percentencode}'
    for text in HOSTILE:
        url = follow(link, {"User": text}, text, _SPAN, {})
        assert parse_qs(url.partition("?")[2]) == {
            "from": ["1000000"],
            "to": ["4600000"],
            "var-a": [text],
            "var-b": [text],
        }


def test_no_other_format_is_used() -> None:
    """The dashboards use the formats that are tried here, and no others."""
    content = "".join(path.read_text() for path in (FOLDER / "json").glob("*.json"))
    used = set(re.findall(r"\$\{\w+:(\w+)\}", json.dumps(content)))
    assert used == {"queryparam", "percentencode"}
