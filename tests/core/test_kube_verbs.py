"""Which calls last, and which read, write or reach into a container."""

import pytest

from kube_audit_proxy.kube.requestinfo import request_info
from kube_audit_proxy.kube.verbs import VerbClass, is_long_running, verb_class

POD = "/api/v1/namespaces/x/pods/p"


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", POD, VerbClass.READ),
        ("GET", "/api/v1/pods", VerbClass.READ),
        ("GET", "/api/v1/pods?watch=1", VerbClass.READ),
        ("GET", f"{POD}/log?follow=true", VerbClass.READ),
        ("GET", f"{POD}/status", VerbClass.READ),
        ("GET", "/version", VerbClass.READ),
        ("HEAD", "/healthz", VerbClass.READ),
        ("POST", "/api/v1/namespaces/x/pods", VerbClass.WRITE),
        ("PUT", POD, VerbClass.WRITE),
        ("PATCH", POD, VerbClass.WRITE),
        ("DELETE", POD, VerbClass.WRITE),
        ("DELETE", "/api/v1/pods", VerbClass.WRITE),
        ("POST", f"{POD}/eviction", VerbClass.WRITE),
        ("OPTIONS", "/api/v1/pods", VerbClass.WRITE),
        ("POST", "/version", VerbClass.WRITE),
        ("WATCH", "/version", VerbClass.WRITE),
        ("POST", f"{POD}/exec", VerbClass.EXEC),
        ("GET", f"{POD}/exec?command=sh", VerbClass.EXEC),
        ("GET", f"{POD}/attach", VerbClass.EXEC),
        ("GET", f"{POD}/portforward", VerbClass.EXEC),
        ("GET", f"{POD}/proxy/x", VerbClass.EXEC),
        ("GET", "/api/v1/namespaces/x/services/s/proxy", VerbClass.EXEC),
        ("GET", "/api/v1/nodes/n/proxy/run/x/p/c", VerbClass.EXEC),
        ("PATCH", f"{POD}/ephemeralcontainers", VerbClass.EXEC),
        ("GET", "/api/v1/proxy/nodes/n", VerbClass.EXEC),
    ],
)
def test_verb_class(method: str, target: str, expected: VerbClass) -> None:
    """What leads into a container is exec whatever its verb; what is not known to only read is a write."""
    assert verb_class(request_info(method, target)) is expected


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "/api/v1/pods?watch=1", True),
        ("GET", "/api/v1/watch/pods", True),
        ("GET", "/api/v1/proxy/nodes/n", True),
        ("GET", f"{POD}/log", True),
        ("GET", f"{POD}/exec", True),
        ("POST", f"{POD}/attach", True),
        ("POST", f"{POD}/portforward", True),
        ("GET", "/api/v1/nodes/n/proxy/x", True),
        ("GET", "/debug/pprof/profile", True),
        ("GET", "/debug/pprof", False),
        ("GET", "/api/v1/pods", False),
        ("GET", POD, False),
        ("PATCH", f"{POD}/ephemeralcontainers", False),
        ("GET", "/logs/exec", False),
    ],
)
def test_is_long_running(method: str, target: str, expected: bool) -> None:
    """The calls that last are those of the API server's own set."""
    assert is_long_running(request_info(method, target)) is expected
