"""The ids of traces and spans: valid, and the same whoever derives them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_audit_proxy.audit.command import command_id
from kube_audit_proxy.audit.trace import (
    client_span_id,
    command_span_id,
    is_sampled,
    server_span_id,
    trace_id,
    traceparent,
)
from kube_audit_proxy.clock import UuidSource

AUDIT_ID = "5d2f2d0a-3f0e-4d65-9a3c-0f5f6b1c2d3e"


def test_ids_are_parts_of_the_uuid() -> None:
    """Anybody can come from a call to its trace with nothing but the call's id."""
    assert trace_id(AUDIT_ID) == "5d2f2d0a3f0e4d659a3c0f5f6b1c2d3e"
    assert server_span_id(AUDIT_ID) == "9a3c0f5f6b1c2d3e"
    assert client_span_id(AUDIT_ID) == "5d2f2d0a3f0e4d65"
    assert command_span_id(AUDIT_ID) == "9a3c0f5f6b1c2d3e"


def test_no_id_is_zero() -> None:
    """W3C Trace Context forbids ids that are all zero; those of our UUIDs cannot be."""
    nothing = UuidSource(bytes)()
    assert int(server_span_id(nothing), 16)
    assert int(client_span_id(nothing), 16)


def test_a_session_of_somebody_else_is_another_trace() -> None:
    """A client that sends another user's session id gets no call into that user's trace."""
    session = "b7d1ca6f-00e0-4f97-8f3d-6f0e6a535c1e"
    assert trace_id(command_id("alice", session)) != trace_id(command_id("mallory", session))
    assert trace_id(command_id("alice", session)) == trace_id(command_id("alice", session))


@pytest.mark.parametrize(("sampled", "flags"), [(True, "01"), (False, "00")])
def test_traceparent(flags: str, *, sampled: bool) -> None:
    """The header is what W3C Trace Context says, version 00."""
    header = traceparent(trace_id(AUDIT_ID), client_span_id(AUDIT_ID), sampled=sampled)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", header)
    assert header.endswith(flags)


@given(st.uuids(), st.floats(0, 1))
def test_sampling_is_monotonic(uuid: object, ratio: float) -> None:
    """A trace that is kept at a ratio is kept at every larger one; at 1 all are, at 0 none is."""
    trace = trace_id(str(uuid))
    assert is_sampled(trace, 1.0)
    assert not is_sampled(trace, 0.0)
    assert is_sampled(trace, 1.0) or not is_sampled(trace, ratio)
    if is_sampled(trace, ratio / 2):
        assert is_sampled(trace, ratio)
