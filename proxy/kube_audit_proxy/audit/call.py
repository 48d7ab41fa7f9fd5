"""One API call as it is recorded: what is known when it starts, and what its end adds.

A record is put together from serialized members. Much of what two calls say of themselves is the same, and what an
end repeats of its start always is: neither is serialized twice.
"""

from typing import Any, NamedTuple

import orjson

from kube_audit_proxy.audit.fields import Decision, Outcome, Stage
from kube_audit_proxy.audit.trace import server_span_id

_MESSAGE_LIMIT = 1024
_STAGE = {stage: b'"kind":"call","stage":"%b","stageTimestamp":"%%b",%%b' % stage.encode() for stage in Stage}


def members(values: dict[str, Any]) -> bytes:
    """The members of a JSON object, without its braces."""
    return orjson.dumps(values)[1:-1]


class CallRecord:
    """The record of one call: `add` what becomes known of it, then `start`, then what follows."""

    __slots__ = ("_known", "audit_id", "received")

    def __init__(self, audit_id: str, received: str) -> None:
        self.audit_id = audit_id
        self.received = received
        """requestReceivedTimestamp."""
        self._known = f'"auditID":"{audit_id}","requestReceivedTimestamp":"{received}"'.encode()

    def add(self, known: bytes) -> None:
        """Add members that the call's further lines are to have; empty is none."""
        if known:
            self._known += b"," + known

    def trace(self, trace: str) -> None:
        """Add the ids under which the call is traced; `trace` is the trace's."""
        self._known += f',"trace_id":"{trace}","span_id":"{server_span_id(self.audit_id)}"'.encode()

    def start(self) -> bytes:
        """The members of the line that has to be durable before the call goes on."""
        return _STAGE[Stage.REQUEST_RECEIVED] % (self.received.encode(), self._known)

    def response_started(self, now: str, status: int) -> bytes:
        """The members of the line that tells when a long-running call got its answer's head."""
        return _STAGE[Stage.RESPONSE_STARTED] % (now.encode(), self._known + b',"status":%d' % status)

    def end(self, now: str, end: "CallEnd") -> bytes:
        """The members of the last line."""
        stage = Stage.PANIC if end.outcome is Outcome.FAILED else Stage.RESPONSE_COMPLETE
        return _STAGE[stage] % (now.encode(), self._known + end.members())


class CallEnd(NamedTuple):
    """How a call ended. What does not apply is 0, None or empty and is left out, sizes and the duration excepted."""

    status: int
    decision: Decision
    decided_by: str
    outcome: Outcome
    duration_ms: float
    upstream_ms: float | None = None
    upstream_start_ms: float | None = None
    first_byte_ms: float | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    reason: str = ""
    message: str = ""
    subprotocol: str = ""
    exit_code: int | None = None
    ports: tuple[int, ...] = ()

    def members(self) -> bytes:
        """The members that apply, each after a comma."""
        text = (
            f',"decision":"{self.decision.value}","decided_by":"{self.decided_by}","outcome":"{self.outcome.value}"'
            f',"duration_ms":{self.duration_ms:.3f},"request_bytes":{self.request_bytes}'
            f',"response_bytes":{self.response_bytes}'
        )
        if self.status:
            text += f',"status":{self.status}'
        if self.upstream_start_ms is not None:
            text += f',"upstream_start_ms":{self.upstream_start_ms:.3f}'
        if self.upstream_ms is not None:
            text += f',"upstream_ms":{self.upstream_ms:.3f}'
        if self.first_byte_ms is not None:
            text += f',"first_byte_ms":{self.first_byte_ms:.3f}'
        said = {
            "reason": _encodable(self.reason),
            "message": _encodable(self.message[:_MESSAGE_LIMIT]),
            "subprotocol": self.subprotocol,
            "ports": self.ports,
        }
        rest: dict[str, Any] = {key: value for key, value in said.items() if value}
        if self.exit_code is not None:
            rest["exit_code"] = self.exit_code
        return text.encode() + (b"," + members(rest) if rest else b"")


def _encodable(text: str) -> str:
    """Text that can stand in a record whatever it came from: the end of a call must not fail to be written."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
