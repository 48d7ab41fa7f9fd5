"""The filters of a dashboard as one stage of a LogQL pipeline.

What people type or choose reaches Loki percent-encoded, inside a string of a template, which decodes it: no quote,
backtick, backslash or newline can end that string, and nothing is ever read as a regular expression. An empty filter
passes everything, and costs next to nothing: the first test of each condition decides alone.
"""

from collections.abc import Iterable


def stage(conditions: Iterable[str]) -> str:
    """Return the stage that lets the lines pass that fulfil all conditions."""
    return f"| label_format _m=`{{{{ if and {' '.join(conditions)} }}}}1{{{{ end }}}}` | _m=`1` | drop _m"


def typed(variable: str) -> str:
    """Return the text of a text box."""
    return f'(urldecode "${{{variable}:percentencode}}")'


def chosen(variable: str, *values: str) -> str:
    """Return the condition that a drop-down list has one of the values chosen, or all, or nothing.

    A value is an expression. Who chooses a value with `&var-<variable>=` in it sees the lines of more values than
    that, never of fewer.
    """
    choice = f'"${{{variable}:queryparam}}"'
    decoded = f'(printf "&%s&" (urldecode {choice}))'
    tests = [f'(eq {choice} "" "var-{variable}=$__all")', f'(contains "&var-{variable}=$__all&" {decoded})']
    tests += [f'(contains (printf "&var-{variable}=%s&" {value}) {decoded})' for value in values]
    return f"(or {' '.join(tests)})"


def listed(variable: str, *values: str) -> str:
    """Return the condition that a text box is empty, has one of the values, or lists it among others with commas."""
    text = f'(printf ",%s," (replace " " "" {typed(variable)}))'
    tests = [_empty(variable), *(f"(eq {value} {typed(variable)})" for value in values)]
    tests += [f'(contains (printf ",%s," {value}) {text})' for value in values]
    return f"(or {' '.join(tests)})"


def exactly(variable: str, field: str) -> str:
    """Return the condition that a field is what the text box says, and that it says something."""
    return f"(not {_empty(variable)}) (eq {field} {typed(variable)})"


def anywhere(variable: str, *fields: str) -> str:
    """Return the condition that a text box is empty, or one of the fields has the text in it, in whatever case."""
    lines = r"\n".join(["%s"] * len(fields))
    text = f'(printf "{lines}" {" ".join(fields)})'
    return f"(or {_empty(variable)} (contains (lower {typed(variable)}) (lower {text})))"


def slower_than(variable: str, field: str) -> str:
    """Return the condition that a number is above the one in the text box; above 0 where that is no number."""
    return f"(gt (float64 {field}) (float64 {typed(variable)}))"


def _empty(variable: str) -> str:
    return f'(eq "${{{variable}:percentencode}}" "")'


USER = chosen("user", ".user")
METHOD = chosen("method", ".method")
DECISION = chosen("decision", ".decision")
STATUS = chosen("status", ".status", '(printf "%sxx" (trunc 1 .status))')
NAMESPACE = listed("namespace", ".namespace")
RESOURCE = listed(
    "resource",
    '(trimSuffix "/" (printf "%s/%s" .resource .subresource))',
    '(printf "%s/*" .resource)',
    '(trimSuffix "/" (printf "%s.%s/%s" .resource .group .subresource))',
    '(printf "%s.%s/*" .resource .group)',
)
COMMAND_ID = listed("command_id", ".command_id")
TEXT = anywhere("text", ".user", ".name", ".requestURI", ".command", ".message", ".userAgent", ".exec_argv")
