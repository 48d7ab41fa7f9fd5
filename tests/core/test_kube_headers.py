"""What is made of the headers that kubectl and other clients send about themselves."""

import pytest

from kube_audit_proxy.audit.fields import AccessMethod
from kube_audit_proxy.kube.headers import access_method, kubectl_command, kubectl_session, truncate_user_agent


@pytest.mark.parametrize(
    ("user_agent", "command", "expected"),
    [
        ("kubectl/v1.33.1 (linux/amd64) kubernetes/8adc0f0", "", AccessMethod.KUBECTL),
        ("kubectl.1.33/v1.33.1 (linux/amd64) kubernetes/8adc0f0", "", AccessMethod.KUBECTL),
        ("kubectl.exe/v1.33.1 (windows/amd64)", "", AccessMethod.KUBECTL),
        ("k/v1.33.1 (linux/amd64) kubernetes/8adc0f0", "kubectl get", AccessMethod.KUBECTL),
        ("", "kubectl get", AccessMethod.KUBECTL),
        ("", "", AccessMethod.API),
        ("Helm/3.18", "", AccessMethod.API),
        ("curl/8 kubectl/v1", "", AccessMethod.API),
    ],
)
def test_access_method(user_agent: str, command: str, expected: AccessMethod) -> None:
    """A kubectl is told by its header or by the first product of its User-Agent."""
    assert access_method(user_agent, command) is expected


@pytest.mark.parametrize(
    ("user_agent", "expected"),
    [("", ""), ("a" * 1024, "a" * 1024), ("a" * 1025, "a" * 1024 + "...TRUNCATED")],
)
def test_truncate_user_agent(user_agent: str, expected: str) -> None:
    """A User-Agent is cut after 1,024 characters and says so."""
    assert truncate_user_agent(user_agent) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("5b0efac0-9c8f-4b6f-9a44-38c5f1a1b6a2", "5b0efac0-9c8f-4b6f-9a44-38c5f1a1b6a2"),
        ("5B0EFAC0-9C8F-1B6F-9A44-38C5F1A1B6A2", "5b0efac0-9c8f-1b6f-9a44-38c5f1a1b6a2"),
        ("", None),
        ("5b0efac09c8f4b6f9a4438c5f1a1b6a2", None),
        ("{5b0efac0-9c8f-4b6f-9a44-38c5f1a1b6a2}", None),
        ("5b0efac0-9c8f-4b6f-9a44-38c5f1a1b6a2\n", None),
        ("5b0efac0-9c8f-4b6f-9a44-38c5f1a1b6ag", None),
    ],
)
def test_kubectl_session(value: str, expected: str | None) -> None:
    """A session is a UUID, whatever its version and case, or it is none."""
    assert kubectl_session(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ""),
        ("kubectl get", "kubectl get"),
        (" kubectl\tget\x1b[2J ", "kubectlget[2J"),
        ("\u202ekubectl\x00", "kubectl"),
        ("k" * 300, "k" * 256),
    ],
)
def test_kubectl_command(value: str, expected: str) -> None:
    """A command has nothing that cannot be printed, and is no longer than 256 characters."""
    assert kubectl_command(value) == expected
