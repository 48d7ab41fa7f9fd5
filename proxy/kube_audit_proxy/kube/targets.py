"""How the API server's HTTP library reads a request target: Go's net/url, in the parts that decide what a call is.

Go reads targets more leniently than Python's urllib in some places and more strictly in others. What is read here
decides what goes into the record, so it has to be the API server's reading.
"""

import re
from urllib.parse import unquote

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class BadTarget(ValueError):  # noqa: N818 - it says what is bad
    """A request target that the API server itself answers with an error."""


def decode_path(raw: str) -> str:
    """Percent-decode a path (net/url, `setPath`): escapes are UTF-8, wrong UTF-8 becomes U+FFFD, `+` stays.

    Raises BadTarget on an escape that is not two hexadecimal digits.
    """
    if "%" not in raw:
        return raw
    if _BAD_ESCAPE.search(raw):
        raise BadTarget("the path has a percent sign that is not followed by two hexadecimal digits")
    return unquote(raw, errors="replace")


def query_pairs(query: str) -> list[tuple[str, str]]:
    """Key and value of each pair of a query, in order, form-decoded (net/url, `ParseQuery`).

    As in Go, a pair that has a raw `;` or a wrong percent escape is left out and the others count.
    """
    pairs = []
    for pair in query.split("&"):
        if not pair or ";" in pair or ("%" in pair and _BAD_ESCAPE.search(pair)):
            continue
        key, _, value = pair.partition("=")
        pairs.append((decode_form(key), decode_form(value)))
    return pairs


def first_values(query: str) -> dict[str, str]:
    """Map each key of a query to its first value, which is the only one that the API server looks at."""
    values: dict[str, str] = {}
    for key, value in query_pairs(query):
        values.setdefault(key, value)
    return values


def query_bool(value: str) -> bool:
    """Tell whether a query parameter that is there means true (apimachinery, pkg/runtime/conversion.go).

    Everything does but `0` and `false` in any case; the empty string too is true.
    """
    return value != "0" and value.casefold() != "false"


def decode_form(text: str) -> str:
    """Form-decode a key or value; a wrong escape stays as it is, wrong UTF-8 becomes U+FFFD."""
    if "+" in text:
        text = text.replace("+", " ")
    return unquote(text, errors="replace") if "%" in text else text
