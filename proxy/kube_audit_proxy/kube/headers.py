"""What the request headers of kubectl and other clients say about the client. All of it is the client's own claim."""

import re

from kube_audit_proxy.audit.fields import AccessMethod

_LONGEST_USER_AGENT = 1024
_LONGEST_COMMAND = 256
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def access_method(user_agent: str, kubectl_command: str) -> AccessMethod:
    """Tell kubectl from other clients.

    kubectl sends Kubectl-Command (KEP-859), unless that is switched off; its User-Agent begins with the name of its
    binary, which need not be `kubectl` alone (`kubectl.1.33/v1.33.1 (linux/amd64) kubernetes/8adc0f0`).
    """
    if kubectl_command or user_agent.startswith("kubectl"):
        return AccessMethod.KUBECTL
    return AccessMethod.API


def truncate_user_agent(user_agent: str) -> str:
    """Cut a User-Agent as the API server does for its audit log (apiserver, pkg/audit/request.go)."""
    if len(user_agent) <= _LONGEST_USER_AGENT:
        return user_agent
    return f"{user_agent[:_LONGEST_USER_AGENT]}...TRUNCATED"


def kubectl_session(value: str) -> str | None:
    """Return a Kubectl-Session in lower case, or None if it is no UUID; kubectl sends version 4, any is taken."""
    return value.lower() if _UUID.fullmatch(value) else None


def kubectl_command(value: str) -> str:
    """Return a Kubectl-Command without characters that cannot be printed, and at most 256 characters of it."""
    printable = value if value.isprintable() else "".join(filter(str.isprintable, value))
    return printable.strip()[:_LONGEST_COMMAND]
