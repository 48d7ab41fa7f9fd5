"""The ids under which calls and commands are traced: derived from theirs, so that everybody comes to the same. Pure.

A trace is a command; a call without one is a trace of its own. Both are named by UUIDs, whose 128 bits are the trace's
id. The two halves of a UUID are never zero (one has the version, the other the variant), so each is a valid span id
(W3C Trace Context, 3.2.2.4).
"""

_RANDOM_BITS = 56
"""Of a trace id, the lowest bits are what samplers look at (W3C Trace Context Level 2, random-trace-id)."""


def trace_id(uuid: str) -> str:
    """Return the trace of a command, or of a call that belongs to none, by its UUID."""
    return uuid.replace("-", "")


def server_span_id(audit_id: str) -> str:
    """Return the span of a call as its client sees it."""
    return audit_id[19:23] + audit_id[24:]


def client_span_id(audit_id: str) -> str:
    """Return the span of what a call does upstream."""
    return audit_id[:8] + audit_id[9:13] + audit_id[14:18]


def command_span_id(command_id: str) -> str:
    """Return the span of a command, which its calls are children of."""
    return server_span_id(command_id)


def traceparent(trace: str, span: str, *, sampled: bool) -> str:
    """Return the header that makes an API server continue the trace (W3C Trace Context, 3.2)."""
    return f"00-{trace}-{span}-{'01' if sampled else '00'}"


def is_sampled(trace: str, ratio: float) -> bool:
    """Tell whether a trace is among the share of all that is kept; whoever asks comes to the same answer."""
    return ratio >= 1 or int(trace[-_RANDOM_BITS // 4 :], 16) < ratio * (1 << _RANDOM_BITS)
