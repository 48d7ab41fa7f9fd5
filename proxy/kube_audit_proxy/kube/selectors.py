"""Field and label selectors, as far as they decide which object a list or watch is about."""

import re

_INT64 = re.compile(r"([+-]?)0*+([0-9]{0,19})")


def is_int64(text: str) -> bool:
    """Tell whether Go's strconv.ParseInt(text, 10, 64) takes the text."""
    match = _INT64.fullmatch(text)
    if match is None or not text[-1:].isdigit():
        return False
    sign, digits = match.groups()
    return int(digits or "0") <= (1 << 63) - (sign != "-")


# Field selectors: apimachinery, pkg/fields/selector.go.

_FIELD_TERM = re.compile(r"((?:[^\\,]|\\.|\\\Z)*)(?:,|\Z)", re.DOTALL)
_FIELD_OPERATOR = re.compile(r"!=|==|=")
_FIELD_VALUE = re.compile(r"(?:[^\\,=]|\\[\\,=])*")
_FIELD_ESCAPE = re.compile(r"\\(.)")


def required_field(selector: str, field: str) -> str | None:
    """Return the value that a field selector requires the field to have, or None (`Selector.RequiresExactMatch`).

    Where the field is required twice the term that sorts first counts. Raises ValueError where any term is wrong,
    whatever its field.
    """
    required = []
    for term in _FIELD_TERM.findall(selector):
        if not term:
            continue
        operator = _FIELD_OPERATOR.search(term)
        if operator is None:
            raise ValueError("a term of the field selector has no operator")
        value = term[operator.end() :]
        if _FIELD_VALUE.fullmatch(value) is None:
            raise ValueError("a value of the field selector is not escaped")
        if operator.group() != "!=" and term[: operator.start()] == field:
            required.append((term, value))
    if not required:
        return None
    return _FIELD_ESCAPE.sub(r"\1", min(required)[1])


# Label selectors: apimachinery, pkg/labels/selector.go; keys and values: pkg/api/validate/content/kube.go.
# All repetitions of blanks are possessive, so that no selector takes more than linear time. Those of groups are not:
# before Python 3.11.5 a group that is given up amid its text leaves the place in the middle (python/cpython#106052).

_BLANKS = r"[ \t\r\n]*+"
_LABEL_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_LABEL_KEY = rf"(?:(?=[^/]{{1,253}}/){_DNS_LABEL}(?:\.{_DNS_LABEL})*/)?{_LABEL_NAME}"
_LABEL_VALUE = rf"{_BLANKS}(?:{_LABEL_NAME})?{_BLANKS}"
_REQUIREMENT = (
    rf"(?:{_BLANKS}!{_BLANKS}{_LABEL_KEY}{_BLANKS}"
    rf"|{_BLANKS}{_LABEL_KEY}(?:"
    rf"{_BLANKS}(?:==|!=|=){_LABEL_VALUE}"
    rf"|{_BLANKS}[<>]{_BLANKS}[0-9]{{1,63}}{_BLANKS}"
    rf"|[ \t\r\n]++(?:in|notin){_BLANKS}\({_LABEL_VALUE}(?:,{_LABEL_VALUE})*\){_BLANKS}"
    rf"|{_BLANKS}))"
)
_LABEL_SELECTOR = re.compile(rf"{_REQUIREMENT}(?:,{_REQUIREMENT})*|{_BLANKS}")
_LABEL_BOUND = re.compile(rf"[<>]{_BLANKS}([0-9]+)")


def is_label_selector(selector: str) -> bool:
    """Tell whether the API server can parse a label selector (`labels.Parse`)."""
    return _LABEL_SELECTOR.fullmatch(selector) is not None and all(map(is_int64, _LABEL_BOUND.findall(selector)))
