"""The lines of one call: valid JSON, with the fields of the vocabulary and no others."""

import json
from typing import Any

import pytest

from kube_audit_proxy.audit.call import CallEnd, CallRecord, members
from kube_audit_proxy.audit.fields import END, EVERY, FIELDS, START, STARTED, Decision, Outcome
from kube_audit_proxy.audit.redaction import Redaction
from kube_audit_proxy.gateway.describe import (
    describe_client,
    describe_connection,
    describe_identity,
    describe_request,
    describe_user,
)
from kube_audit_proxy.identity.user import User
from kube_audit_proxy.journal.line import FIRST_PREVIOUS, build, head, parse
from kube_audit_proxy.telemetry.entries import Commons

AUDIT_ID = "5d2f2d0a-3f0e-4d65-9a3c-0f5f6b1c2d3e"
RECEIVED, LATER = "2026-11-23T10:15:02.131220Z", "2026-11-23T10:15:03.000001Z"
FULL = CallEnd(
    status=101,
    decision=Decision.ALLOW,
    decided_by="apiserver",
    outcome=Outcome.COMPLETE,
    duration_ms=21.68449,
    upstream_ms=20.9,
    upstream_start_ms=0.75,
    first_byte_ms=0.0004,
    request_bytes=7,
    response_bytes=48213,
    reason="NonZeroExitCode",
    message='it "failed"\n',
    subprotocol="v5.channel.k8s.io",
    exit_code=3,
    ports=(80, 8080),
)


def ended(**changes: Any) -> CallEnd:
    """Give an end of which next to nothing is known, but for these."""
    known: dict[str, Any] = {
        "status": 0,
        "decision": Decision.ERROR,
        "decided_by": "proxy",
        "outcome": Outcome.INTERRUPTED,
        "duration_ms": 0.0,
    }
    return CallEnd(**{**known, **changes})


MINIMAL = ended()


def names(*lines: str) -> set[str]:
    """Give the names of the fields that stand in these lines, without those that the journal itself adds."""
    return {field.name for field in FIELDS if field.lines in lines} - {"writer", "seq", "prev"}


def read(line: bytes) -> dict[str, Any]:
    """Read a record as it stands in the journal, no field twice."""
    whole = build(head("w0"), 1, FIRST_PREVIOUS.encode(), line)
    pairs: list[tuple[str, Any]] = json.loads(whole, object_pairs_hook=list)
    assert len(dict(pairs)) == len(pairs)
    assert dict(pairs) == parse(whole).record
    return {key: value for key, value in pairs if key not in {"writer", "seq", "prev"}}


def described(*, exec_call: bool) -> CallRecord:
    """Give the record of a call of which all is known, as the gateway puts it together."""
    path = (
        "/apis/apps/v1/namespaces/n/deployments?fieldSelector=metadata.name%3Dx&labelSelector=a"
        if not exec_call
        else "/api/v1/namespaces/n/pods/p/exec?command=ls&container=c&tty=true"
    )
    record = CallRecord(AUDIT_ID, RECEIVED)
    record.add(describe_connection("prod", "192.0.2.7"))
    record.add(describe_request("GET", path, Redaction.compile(())).members)
    record.add(describe_client("kubectl/v1", "kubectl exec", "websocket"))
    record.add(describe_user("alice", ("g",), "token"))
    record.add(b'"command_id":"0b5c6f0e-6a53-5c1e-9f6a-2f0d9d6c7b8a"')
    record.add(describe_identity(User("alice", ("g",), "token", frozenset(), impersonated=True), "proxy"))
    record.add(b'"relaxed":true')
    record.trace("0b5c6f0e6a535c1e9f6a2f0d9d6c7b8a")
    return record


def test_a_start_of_which_nothing_is_known() -> None:
    """A call whose head could not even be read has its id, its time and its stage."""
    assert read(CallRecord(AUDIT_ID, RECEIVED).start()) == {
        "kind": "call",
        "stage": "RequestReceived",
        "stageTimestamp": RECEIVED,
        "auditID": AUDIT_ID,
        "requestReceivedTimestamp": RECEIVED,
    }


def test_what_was_added_stands_in_every_later_line() -> None:
    """An end repeats everything of its start, so that one line tells the whole call; adding nothing is nothing."""
    record = CallRecord(AUDIT_ID, RECEIVED)
    record.add(members({"user": "a", "groups": ["%s", "}"]}))
    start = read(record.start())
    record.add(b"")
    assert read(record.start()) == start
    record.add(members({"verb": "get"}))
    common = {**start, "verb": "get", "stageTimestamp": LATER}
    assert start["groups"] == ["%s", "}"]
    assert read(record.response_started(LATER, 200)) == {**common, "stage": "ResponseStarted", "status": 200}
    assert read(record.end(LATER, MINIMAL)).items() >= {**common, "stage": "ResponseComplete"}.items()


def test_a_full_end() -> None:
    """All that an end can say is said, in the documented types; times have three decimals."""
    assert read(CallRecord(AUDIT_ID, RECEIVED).end(LATER, FULL)) == {
        "kind": "call",
        "stage": "ResponseComplete",
        "stageTimestamp": LATER,
        "auditID": AUDIT_ID,
        "requestReceivedTimestamp": RECEIVED,
        "decision": "allow",
        "decided_by": "apiserver",
        "outcome": "complete",
        "duration_ms": 21.684,
        "request_bytes": 7,
        "response_bytes": 48213,
        "status": 101,
        "upstream_ms": 20.9,
        "upstream_start_ms": 0.75,
        "first_byte_ms": 0.0,
        "reason": "NonZeroExitCode",
        "message": 'it "failed"\n',
        "subprotocol": "v5.channel.k8s.io",
        "exit_code": 3,
        "ports": [80, 8080],
    }


def test_a_minimal_end() -> None:
    """What does not apply is absent, sizes and the duration excepted."""
    end = read(CallRecord(AUDIT_ID, RECEIVED).end(LATER, MINIMAL))
    assert set(end) == {
        "kind", "stage", "stageTimestamp", "auditID", "requestReceivedTimestamp",
        "decision", "decided_by", "outcome", "duration_ms", "request_bytes", "response_bytes",
    }  # fmt: skip
    assert (end["duration_ms"], end["request_bytes"], end["response_bytes"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"exit_code": 0}, "exit_code", 0),
        ({"exit_code": -1}, "exit_code", -1),
        ({"upstream_ms": 0.0}, "upstream_ms", 0),
        ({"upstream_start_ms": 0.0}, "upstream_start_ms", 0),
        ({"first_byte_ms": 0.0}, "first_byte_ms", 0),
        ({"ports": (80,)}, "ports", [80]),
        ({"status": 503}, "status", 503),
        ({"reason": "Forbidden"}, "reason", "Forbidden"),
        ({"subprotocol": "v4"}, "subprotocol", "v4"),
        ({"message": "m" * 1025}, "message", "m" * 1024),
        ({"message": "\N{PILE OF POO}" * 2000}, "message", "\N{PILE OF POO}" * 1024),
        ({"duration_ms": 1e9}, "duration_ms", 1e9),
    ],
    ids=str,
)
def test_one_thing_known_is_one_field_more(changes: dict[str, Any], field: str, value: Any) -> None:
    """Each fact has its own field, a zero that was told is told, and a message has its limit."""
    plain = read(CallRecord(AUDIT_ID, RECEIVED).end(LATER, MINIMAL))
    found = read(CallRecord(AUDIT_ID, RECEIVED).end(LATER, ended(**changes)))
    assert found == {**plain, field: value}


@pytest.mark.parametrize("outcome", list(Outcome))
def test_stage_of_the_last_line(outcome: Outcome) -> None:
    """Only a fault of the proxy is a Panic."""
    end = read(CallRecord(AUDIT_ID, RECEIVED).end(LATER, ended(outcome=outcome)))
    assert end["stage"] == ("Panic" if outcome is Outcome.FAILED else "ResponseComplete")
    assert end["outcome"] == outcome.value


@pytest.mark.parametrize("decision", list(Decision))
def test_decisions_are_told_by_their_value(decision: Decision) -> None:
    """A decision is written as the vocabulary has it."""
    assert read(CallRecord(AUDIT_ID, RECEIVED).end(LATER, ended(decision=decision)))["decision"] == decision


@pytest.mark.parametrize(
    "text",
    ['"', "\\", "\n\r\t\0", '","user":"root', "}{", "%b%s%%", "\N{LINE SEPARATOR}", "\N{PILE OF POO}", "\x7f\x80\x9f"],
    ids=ascii,
)
def test_hostile_text_stays_one_line(text: str) -> None:
    """Whatever an answer says, a record is one line of JSON that gives it back."""
    record = CallRecord(AUDIT_ID, RECEIVED)
    record.add(members({"user": text}))
    line = record.end(LATER, ended(message=text, reason=text, subprotocol=text))
    assert b"\n" not in line
    found = read(line)
    assert [found[key] for key in ("user", "message", "reason", "subprotocol")] == [text] * 4


@pytest.mark.parametrize("field", ["message", "reason"])
def test_an_end_can_always_be_written(field: str) -> None:
    """Text with half a surrogate pair, which JSON bodies can escape, does not cost a call its end."""
    changes: dict[str, Any] = {field: "x\ud83d"}
    read(CallRecord(AUDIT_ID, RECEIVED).end(LATER, ended(**changes)))


def test_every_field_is_written_and_no_other() -> None:
    """The vocabulary is what calls write: no name beyond it, and none that no call ever has."""
    written: set[str] = set()
    for exec_call in (True, False):
        record = described(exec_call=exec_call)
        start, started, end = (
            set(read(line)) for line in (record.start(), record.response_started(LATER, 101), record.end(LATER, FULL))
        )
        assert start <= names(EVERY, START)
        assert started == start | names(STARTED)
        assert end == start | names(STARTED, END)
        written |= end
    assert written == names(EVERY, START, STARTED, END)


def test_fields_are_said_once() -> None:
    """No name stands twice in the vocabulary, and all that can be said of one is said."""
    assert len({field.name for field in FIELDS}) == len(FIELDS)
    assert all((field.type, field.lines, field.meaning, field.source) for field in FIELDS)
    assert {field.lines for field in FIELDS} >= {EVERY, START, STARTED, END}


@pytest.mark.parametrize("exec_call", [True, False])
def test_lines_are_in_an_order_that_can_be_taken_apart(*, exec_call: bool) -> None:
    """What is asked for and who asks stand together in a line, so that shipping parses what comes again once."""
    line = build(head("w0"), 1, FIRST_PREVIOUS.encode(), described(exec_call=exec_call).end(LATER, FULL))
    asked, client = Commons().split(line)[0]
    assert asked.record.keys() >= {"cluster", "method", "verb", "requestURI"}
    assert client.record.keys() >= {"userAgent", "access_method", "user", "groups"}
