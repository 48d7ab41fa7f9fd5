"""One API call as it is recorded: what is known when it starts, and what its end adds.

A record is put together from serialized members. Much of what two calls say of themselves is the same, and what an
end repeats of its start always is: neither is serialized twice.
"""

from typing import Any, Final

import orjson

from kube_audit_proxy.audit.digits import thousandths
from kube_audit_proxy.audit.fields import Decision, Outcome, Stage
from kube_audit_proxy.audit.trace import server_span_id

# Final, here and elsewhere: what is compiled finds it without a look into the module's names.
_MESSAGE_LIMIT: Final = 1024
_VERDICT: Final = {each: f',"decision":"{each.value}","decided_by":' for each in Decision}
_OUTCOME: Final = {each: f'","outcome":"{each.value}","duration_ms":' for each in Outcome}
_STAGE: Final = {stage: f'"kind":"call","stage":"{stage.value}","stageTimestamp":"' for stage in Stage}
_RECEIVED: Final = Stage.REQUEST_RECEIVED
_STARTED: Final = Stage.RESPONSE_STARTED
_COMPLETE: Final = Stage.RESPONSE_COMPLETE
_PANIC: Final = Stage.PANIC
_FAILED: Final = Outcome.FAILED


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
        self._known = [f'"auditID":"{audit_id}","requestReceivedTimestamp":"{received}"'.encode()]

    def add(self, known: bytes) -> None:
        """Add members that the call's further lines are to have; empty is none."""
        if known:
            self._known.append(known)

    def trace(self, trace: str) -> None:
        """Add the ids under which the call is traced; `trace` is the trace's."""
        self._known.append(f'"trace_id":"{trace}","span_id":"{server_span_id(self.audit_id)}"'.encode())

    def start(self) -> bytes:
        """The members of the line that has to be durable before the call goes on."""
        return self._line(_RECEIVED, self.received, b"")

    def response_started(self, now: str, status: int) -> bytes:
        """The members of the line that tells when a long-running call got its answer's head."""
        return self._line(_STARTED, now, b',"status":%d' % status)

    def end(self, now: str, end: "CallEnd") -> bytes:
        """The members of the last line."""
        stage = _PANIC if end.outcome is _FAILED else _COMPLETE
        return self._line(stage, now, end.members())

    def _line(self, stage: Stage, now: str, rest: bytes) -> bytes:
        known = b",".join(self._known)
        self._known = [known]
        return b"".join((f'{_STAGE[stage]}{now}",'.encode(), known, rest))


class CallEnd:
    """How a call ended. What does not apply is 0, None or empty and is left out, sizes and the duration excepted."""

    __slots__ = (
        "decided_by",
        "decision",
        "duration_ms",
        "exit_code",
        "first_byte_ms",
        "message",
        "outcome",
        "ports",
        "reason",
        "request_bytes",
        "response_bytes",
        "status",
        "subprotocol",
        "upstream_ms",
        "upstream_start_ms",
    )

    def __init__(
        self,
        *,
        status: int,
        decision: Decision,
        decided_by: str,
        outcome: Outcome,
        duration_ms: float,
        upstream_ms: float | None = None,
        upstream_start_ms: float | None = None,
        first_byte_ms: float | None = None,
        request_bytes: int = 0,
        response_bytes: int = 0,
        reason: str = "",
        message: str = "",
        subprotocol: str = "",
        exit_code: int | None = None,
        ports: tuple[int, ...] = (),
    ) -> None:
        self.status = status
        self.decision = decision
        self.decided_by = decided_by
        self.outcome = outcome
        self.duration_ms = duration_ms
        self.upstream_ms = upstream_ms
        self.upstream_start_ms = upstream_start_ms
        self.first_byte_ms = first_byte_ms
        self.request_bytes = request_bytes
        self.response_bytes = response_bytes
        self.reason = reason
        self.message = message
        self.subprotocol = subprotocol
        self.exit_code = exit_code
        self.ports = ports

    def members(self) -> bytes:
        """The members that apply, each after a comma."""
        # Put together at once: to append one by one would take twice as long.
        status = f',"status":{self.status}' if self.status else ""
        started, whole, first = self.upstream_start_ms, self.upstream_ms, self.first_byte_ms
        upstream_start = f',"upstream_start_ms":{thousandths(started)}' if started is not None else ""
        upstream = f',"upstream_ms":{thousandths(whole)}' if whole is not None else ""
        first_byte = f',"first_byte_ms":{thousandths(first)}' if first is not None else ""
        text = (
            f'{_VERDICT[self.decision]}"{self.decided_by}{_OUTCOME[self.outcome]}'
            f'{thousandths(self.duration_ms)},"request_bytes":{self.request_bytes}'
            f',"response_bytes":{self.response_bytes}{status}{upstream_start}{upstream}{first_byte}'
        )
        if not (self.reason or self.message or self.subprotocol or self.ports) and self.exit_code is None:
            return text.encode()
        said = {
            "reason": _encodable(self.reason),
            "message": _encodable(self.message[:_MESSAGE_LIMIT]),
            "subprotocol": self.subprotocol,
            "ports": self.ports,
        }
        rest: dict[str, Any] = {key: value for key, value in said.items() if value}
        if self.exit_code is not None:
            rest["exit_code"] = self.exit_code
        return text.encode() + b"," + members(rest)


def _encodable(text: str) -> str:
    """Text that can stand in a record whatever it came from: the end of a call must not fail to be written."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
