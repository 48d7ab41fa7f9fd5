"""One API call as it is recorded: what is known when it starts, and what its end adds.

A line is put together from serialized parts, so that the end, which repeats the start, does not serialize it again.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

from kube_audit_proxy.audit.fields import Decision, Outcome, Stage

_MESSAGE_LIMIT = 1024


def _members(values: dict[str, Any]) -> bytes:
    """The members of a JSON object, without its braces."""
    return orjson.dumps(values)[1:-1]


@dataclass(slots=True)
class CallRecord:
    """The record of one call, filled in as the call becomes known, then frozen by its first line."""

    audit_id: str
    received: str
    """requestReceivedTimestamp."""
    fields: dict[str, Any] = field(default_factory=dict)
    _members: bytes = b""

    def start(self) -> bytes:
        """The members of the line that has to be durable before the call goes on; `fields` is final from here on."""
        return self._stage(Stage.REQUEST_RECEIVED, self.received)

    def relaxed(self) -> None:
        """Say in every further line that the call went on although its start was not durable."""
        self._members = self._repeated() + b',"relaxed":true'

    def response_started(self, now: str, status: int) -> bytes:
        """The members of the line that tells when a long-running call got its answer's head."""
        return self._stage(Stage.RESPONSE_STARTED, now) + b',"status":%d' % status

    def end(self, now: str, end: "CallEnd") -> bytes:
        """The members of the last line."""
        stage = Stage.PANIC if end.outcome is Outcome.FAILED else Stage.RESPONSE_COMPLETE
        return self._stage(stage, now) + b"," + _members(end.members())

    def _stage(self, stage: Stage, now: str) -> bytes:
        return b'"kind":"call","stage":"%b","stageTimestamp":"%b",%b' % (stage.encode(), now.encode(), self._repeated())

    def _repeated(self) -> bytes:
        """What every line of the call repeats, serialized once."""
        if not self._members:
            known = {"auditID": self.audit_id, "requestReceivedTimestamp": self.received}
            self._members = _members(known | self.fields)
        return self._members


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How a call ended; what does not apply is None, empty or 0 and is left out, sizes and durations excepted."""

    status: int
    decision: Decision
    decided_by: str
    outcome: Outcome
    duration_ms: float
    upstream_ms: float | None = None
    first_byte_ms: float | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    reason: str = ""
    message: str = ""
    subprotocol: str = ""
    exit_code: int | None = None
    ports: tuple[int, ...] = ()

    def members(self) -> dict[str, Any]:
        """The fields that apply."""
        members: dict[str, Any] = {
            "decision": self.decision,
            "decided_by": self.decided_by,
            "outcome": self.outcome,
            "duration_ms": round(self.duration_ms, 3),
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
        }
        if self.status:
            members["status"] = self.status
        if self.upstream_ms is not None:
            members["upstream_ms"] = round(self.upstream_ms, 3)
        if self.first_byte_ms is not None:
            members["first_byte_ms"] = round(self.first_byte_ms, 3)
        if self.reason:
            members["reason"] = self.reason
        if self.message:
            members["message"] = self.message[:_MESSAGE_LIMIT]
        if self.subprotocol:
            members["subprotocol"] = self.subprotocol
        if self.exit_code is not None:
            members["exit_code"] = self.exit_code
        if self.ports:
            members["ports"] = self.ports
        return members
