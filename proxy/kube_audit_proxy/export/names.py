"""What the parts of a record are called in Loki and in traces: the one vocabulary of all that names them. Pure.

In Loki a record's fields keep their names (`audit/fields.py`). In spans, what OpenTelemetry's semantic conventions have
a name for gets that name; the rest is `kubeaudit.` and the field's name in snake case.
"""

import re
from enum import StrEnum

SERVICE = "kube-audit-proxy"

LABELS = ("kind", "cluster", "access_method", "verb")
"""The index labels of Loki's streams, beside `service_name`: few, and of few values (`lines.OTHER`)."""


class Kind(StrEnum):
    """What a line in Loki tells of."""

    CALL = "call"
    """A call that has ended: one line a call."""
    CALL_STARTED = "call_started"
    """A long-running call has got the head of its answer."""
    COMMAND = "command"
    """A command is over, or was thought to be: the line with the most calls is the last."""
    HEARTBEAT = "heartbeat"
    LOST = "lost"


class Signal(StrEnum):
    """What is shipped, each at its own pace."""

    LOGS = "logs"
    TRACES = "traces"


# https://opentelemetry.io/docs/specs/semconv/registry/attributes/, v1.44.0
SEMANTIC_CONVENTIONS = {
    "method": "http.request.method",
    "status": "http.response.status_code",
    "request_bytes": "http.request.body.size",
    "response_bytes": "http.response.body.size",
    "user": "user.name",
    "userAgent": "user_agent.original",
}
PREFIX = "kubeaudit."

_UPPER = re.compile(r"(?<=[a-z])[A-Z]+")


def attribute(field: str) -> str:
    """Return the name of a span's attribute for a field of the record."""
    return SEMANTIC_CONVENTIONS.get(field) or PREFIX + _UPPER.sub(lambda match: f"_{match[0].lower()}", field)
